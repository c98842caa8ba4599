//! What is read from the tables.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::forms::{Forms, lars_row};
use super::{literal, standing};
use crate::batch::{Found, HistoryQuery, HistoryRow, KeyRow, Loaded, Told};
use crate::key::KeyName;
use crate::limits::STATEMENT_ROWS_MAX;
use crate::store::{StoreError, signed};
use crate::totals::Totals;

const KEYS: &str =
    "SELECT id, service, host, caller, source, ok, failed, ts, is_out FROM waystation_call_keys";

const LARS: &str = "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload \
                    FROM ServerCallStatus";

/// All that is known, at most `keys_max` keys.
pub(super) async fn load(conn: &mut Conn, keys_max: usize) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded {
        standing: standing(conn, "").await?,
        ..Loaded::default()
    };
    let sql = format!("{KEYS} ORDER BY seen DESC LIMIT {keys_max}");
    let mut take = |row: Row| match key_row(&row) {
        Some(row) => loaded.keys.push(row),
        None => loaded.skipped += 1,
    };
    conn.exec_iter(sql, ()).await?.for_each(&mut take).await?;
    let sql = format!("{LARS} ORDER BY ts DESC LIMIT {keys_max}");
    let mut take = |row: Row| match lars_row(&row) {
        Some(row) => loaded.lars.push(row),
        None => loaded.skipped += 1,
    };
    conn.exec_iter(sql, ()).await?.for_each(&mut take).await?;
    let rows = loaded.keys.len().max(loaded.lars.len()) as u64 + loaded.skipped;
    loaded.is_cut = rows >= keys_max as u64;
    let sql = "SELECT ifnull(max(id), 0) FROM waystation_call_keys";
    loaded.last_id = conn.query_first(sql).await?.unwrap_or_default();
    Ok(loaded)
}

/// What is known of some keys.
pub(super) async fn find(
    conn: &mut Conn,
    forms: Forms,
    names: &[KeyName],
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for names in names.chunks(STATEMENT_ROWS_MAX) {
        let places = names.iter().map(|name| {
            // The column's own character set, so that its index serves.
            let [service, host, caller] = name.texts().map(|text| literal(&text));
            format!("(service=_ascii {service} AND host=_ascii {host} AND caller=_ascii {caller})")
        });
        let places: Vec<String> = places.collect();
        // Of several rows of one key, the one that was told last comes last.
        let sql = format!("{KEYS} WHERE {} ORDER BY seen", places.join(" OR "));
        let take = |row: Row| found.keys.extend(key_row(&row));
        conn.exec_iter(sql, ()).await?.for_each(take).await?;
        let places = names.iter().filter_map(|name| match name {
            KeyName::Lars(key) => forms.place(key),
            KeyName::Named { .. } => None,
        });
        let places: Vec<String> = places.collect();
        if !places.is_empty() {
            let sql = format!("{LARS} WHERE {}", places.join(" OR "));
            let take = |row: Row| found.lars.extend(lars_row(&row));
            conn.exec_iter(sql, ()).await?.for_each(take).await?;
        }
    }
    Ok(found)
}

fn key_row(row: &Row) -> Option<KeyRow> {
    let text = |at: usize| row.get_opt::<String, _>(at)?.ok();
    let number = |at: usize| u64::try_from(row.get_opt::<i64, _>(at)?.ok()?).ok();
    Some(KeyRow {
        id: row.get_opt(0)?.ok()?,
        name: KeyName::of_texts(&text(1)?, &text(2)?, &text(3)?).ok()?,
        told: Told {
            source: row.get_opt(4)?.ok()?,
            totals: Totals::new(number(5)?, number(6)?),
            ts: number(7)?,
            is_out: number(8)? != 0,
        },
    })
}

/// What was counted when, the latest first.
pub(super) async fn history(
    conn: &mut Conn,
    query: &HistoryQuery,
) -> Result<Vec<HistoryRow>, StoreError> {
    let sql = format!(
        "SELECT c.start, k.service, k.host, k.caller, c.ok, c.failed FROM {} c \
         JOIN waystation_call_keys k ON k.id = c.key_id \
         WHERE c.start >= ? AND c.start < ? AND (? IS NULL OR k.service = ?) \
         ORDER BY c.start DESC, k.service, k.host, k.caller LIMIT {}",
        query.span.table(),
        query.limit
    );
    let service = &query.service;
    let given = (signed(query.since), signed(query.until), service, service);
    let mut found = Vec::new();
    let take = |row: Row| found.push(row);
    conn.exec_iter(sql, given).await?.for_each(take).await?;
    let row = |row: &Row| {
        let text = |at: usize| row.get_opt::<String, _>(at)?.ok();
        let number = |at: usize| u64::try_from(row.get_opt::<i64, _>(at)?.ok()?).ok();
        Some(HistoryRow {
            start: number(0)?,
            service: text(1)?,
            host: text(2)?,
            caller: text(3)?,
            ok: number(4)?,
            failed: number(5)?,
        })
    };
    Ok(found.iter().filter_map(row).collect())
}
