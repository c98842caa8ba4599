//! Routes in `PostgreSQL`. Whoever changes its table, with whatever program, has
//! all servers on it notified by a trigger. The tables stand in
//! `docs/formats/route-store.md`.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, IsolationLevel, NoTls, Row, Transaction};

use super::{Answer, Change, Loaded, Outcome, Refusal, RouteStore, StoreError};
use crate::limits::ROUTES_MAX;
use crate::row::{RawRow, Route, RouteKey, shorten};

/// Makes what is missing. Two servers that start at the same time stand in line
/// at the lock.
const SCHEMA: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(8246151);
CREATE TABLE IF NOT EXISTS waystation_route (
    service text NOT NULL,
    address text NOT NULL,
    modid bigint,
    cmdid bigint,
    weight bigint NOT NULL DEFAULT 100,
    site text,
    zone text,
    metadata text NOT NULL DEFAULT '{}',
    PRIMARY KEY (service, address)
);
CREATE TABLE IF NOT EXISTS waystation_route_version (
    id integer PRIMARY KEY,
    version bigint NOT NULL
);
INSERT INTO waystation_route_version (id, version) VALUES (1, 1) ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION waystation_route_changed() RETURNS trigger AS $$
BEGIN
    UPDATE waystation_route_version SET version = version + 1 WHERE id = 1;
    PERFORM pg_notify('waystation_route', '');
    RETURN NULL;
END
$$ LANGUAGE plpgsql;
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgname = 'waystation_route_changed' AND tgrelid = 'waystation_route'::regclass
    ) THEN
        CREATE TRIGGER waystation_route_changed
            AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON waystation_route
            FOR EACH STATEMENT EXECUTE FUNCTION waystation_route_changed();
    END IF;
END
$$;
COMMIT;
";

const COLUMNS: &str = "service, address, modid, cmdid, weight, site, zone, metadata";

/// A store in `PostgreSQL`.
pub struct PostgresStore {
    url: String,
    open: Option<Open>,
    /// The version at the last load.
    seen: Option<i64>,
}

struct Open {
    client: Client,
    signal: Arc<Signal>,
}

/// What the connection's task has to say.
#[derive(Default)]
struct Signal {
    notify: Notify,
    has_ended: AtomicBool,
}

impl PostgresStore {
    /// A store at this URL.
    pub fn new(url: String) -> Self {
        Self {
            url,
            open: None,
            seen: None,
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        self.open = None;
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        let signal = Arc::new(Signal::default());
        let its = Arc::clone(&signal);
        tokio::spawn(async move {
            let mut connection = connection;
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notification(_))) => its.notify.notify_one(),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
            its.has_ended.store(true, Ordering::Release);
            its.notify.notify_one();
        });
        client.batch_execute(SCHEMA).await?;
        // Before the first load, so that nothing is missed between.
        client.batch_execute("LISTEN waystation_route").await?;
        self.open = Some(Open { client, signal });
        Ok(())
    }

    fn client(&mut self) -> Result<&mut Client, StoreError> {
        let open = self.open.as_mut().ok_or(StoreError::Closed)?;
        if open.signal.has_ended.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(&mut open.client)
    }

    async fn read(&mut self) -> Result<Loaded, StoreError> {
        let client = self.client()?;
        let snapshot = client.build_transaction();
        let snapshot = snapshot.isolation_level(IsolationLevel::RepeatableRead);
        let transaction = snapshot.read_only(true).start().await?;
        let seen = version(
            &transaction
                .query(
                    "SELECT version FROM waystation_route_version WHERE id = 1",
                    &[],
                )
                .await?,
        );
        let text = format!(
            "SELECT {COLUMNS} FROM waystation_route LIMIT {}",
            ROUTES_MAX + 1
        );
        let rows = transaction.query(&text, &[]).await?;
        transaction.commit().await?;
        let mut loaded = Loaded::default();
        for row in &rows {
            match raw(row) {
                Ok(raw) => loaded.add(|| raw.name(), raw.route()),
                Err((name, why)) => loaded.skipped.add(name, why),
            }
        }
        self.seen = seen;
        Ok(loaded)
    }

    async fn look(&mut self) -> Result<bool, StoreError> {
        let seen = self.seen;
        let text = "SELECT version FROM waystation_route_version WHERE id = 1";
        let rows = self.client()?.query(text, &[]).await?;
        Ok(version(&rows) != seen || seen.is_none())
    }

    async fn apply(&mut self, change: &Change) -> Result<Outcome, StoreError> {
        let transaction = self.client()?.transaction().await?;
        match make(&transaction, change).await {
            Ok(outcome @ Outcome::Done { .. }) => {
                transaction.commit().await?;
                Ok(outcome)
            }
            Ok(refused) => {
                transaction.rollback().await?;
                Ok(refused)
            }
            Err(error) => match error.as_db_error() {
                // Its rules forbid the change; the connection is as it was.
                Some(fault) => {
                    let told = shorten(fault.message());
                    transaction.rollback().await?;
                    let refusal = Refusal::Unable(format!("the database refuses: {told}"));
                    Ok(Outcome::Refused(refusal))
                }
                None => Err(error.into()),
            },
        }
    }
}

impl RouteStore for PostgresStore {
    fn open(&mut self) -> Answer<'_, ()> {
        Box::pin(self.connect())
    }

    fn load(&mut self) -> Answer<'_, Loaded> {
        Box::pin(self.read())
    }

    fn has_news(&mut self) -> Answer<'_, bool> {
        Box::pin(self.look())
    }

    fn notified(&mut self) -> LocalBoxFuture<'_, ()> {
        let signal = self.open.as_ref().map(|open| Arc::clone(&open.signal));
        Box::pin(async move {
            match signal {
                Some(signal) => signal.notify.notified().await,
                None => std::future::pending().await,
            }
        })
    }

    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome> {
        Box::pin(self.apply(change))
    }
}

async fn make(
    transaction: &Transaction<'_>,
    change: &Change,
) -> Result<Outcome, tokio_postgres::Error> {
    let refused = |refusal| Ok(Outcome::Refused(refusal));
    let (route, old) = match change {
        Change::Add(route) => (route.clone(), false),
        Change::Edit { key, patch } => {
            let text = format!(
                "SELECT {COLUMNS} FROM waystation_route \
                 WHERE service = $1 AND address = $2 FOR UPDATE"
            );
            let (service, address) = texts(key);
            let found = transaction.query_opt(&text, &[&service, &address]).await?;
            let Some(row) = found else {
                return refused(Refusal::Missing(key.clone()));
            };
            let route = raw(&row)
                .map_err(|(_, why)| why)
                .and_then(|raw| raw.route());
            match route {
                Ok(route) => (route.patched(patch), true),
                Err(why) => return refused(Refusal::Unable(why)),
            }
        }
        Change::Remove(key) => {
            let text = "DELETE FROM waystation_route WHERE service = $1 AND address = $2";
            let (service, address) = texts(key);
            let deleted = transaction.execute(text, &[&service, &address]).await?;
            if deleted == 0 {
                return refused(Refusal::Missing(key.clone()));
            }
            return Ok(Outcome::Done {
                put: Vec::new(),
                gone: vec![key.clone()],
            });
        }
    };
    if let Err(why) = route.validate() {
        return refused(Refusal::Invalid(why));
    }
    if !write(transaction, &route, old).await? {
        return refused(Refusal::Exists(route.key()));
    }
    Ok(Outcome::Done {
        put: vec![route],
        gone: Vec::new(),
    })
}

/// Writes a row, in place of `old` or as a new one; false when it is there.
async fn write(
    transaction: &Transaction<'_>,
    route: &Route,
    old: bool,
) -> Result<bool, tokio_postgres::Error> {
    let on_conflict = if old {
        "DO UPDATE SET modid = $3, cmdid = $4, weight = $5, site = $6, zone = $7, metadata = $8"
    } else {
        "DO NOTHING"
    };
    let text = format!(
        "INSERT INTO waystation_route ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (service, address) {on_conflict}"
    );
    let raw = RawRow::of(route);
    let row: [&(dyn ToSql + Sync); 8] = [
        &raw.service,
        &raw.address,
        &raw.modid,
        &raw.cmdid,
        &raw.weight,
        &raw.site,
        &raw.zone,
        &raw.metadata,
    ];
    Ok(transaction.execute(&text, &row).await? > 0)
}

fn texts(key: &RouteKey) -> (String, String) {
    (key.service.to_string(), key.address.to_string())
}

fn version(rows: &[Row]) -> Option<i64> {
    rows.first().and_then(|row| row.try_get(0).ok())
}

/// The columns of a row; else its name, and what is wrong.
fn raw(row: &Row) -> Result<RawRow, (String, String)> {
    let text = |at: usize| row.try_get::<_, Option<String>>(at);
    let name = || {
        let part = |at| text(at).ok().flatten().unwrap_or_else(|| "?".to_owned());
        format!("{} {}", shorten(&part(0)), shorten(&part(1)))
    };
    let fault = |what: &str| (name(), format!("{what} is of another type"));
    let needed = |at, what: &str| text(at).ok().flatten().ok_or_else(|| fault(what));
    let number = |at: usize, what: &str| {
        let found = row.try_get::<_, Option<i64>>(at);
        found.map_err(|_| fault(what))
    };
    Ok(RawRow {
        service: needed(0, "service")?,
        address: needed(1, "address")?,
        modid: number(2, "modid")?,
        cmdid: number(3, "cmdid")?,
        weight: number(4, "weight")?.ok_or_else(|| fault("weight"))?,
        site: text(5).map_err(|_| fault("site"))?,
        zone: text(6).map_err(|_| fault("zone"))?,
        metadata: needed(7, "metadata")?,
    })
}

/// What went wrong: the error's own text says no more than where.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(fault), _) => fault.to_string(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
