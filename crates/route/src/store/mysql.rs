//! Routes in `MariaDB` or `MySQL`, in the tables of Lars.
//!
//! A database that Lars has used serves as it is. What its tables cannot hold, a
//! name, a weight, a zone, IPv6, stands in one more, `WaystationRoute`; a route
//! with a pair and an IPv4 address has a row in `RouteData` in any case, which is
//! what other readers see, and is gone once that row is. The tables stand in
//! `docs/formats/route-store.md`.
//!
//! A change is noticed by the version, which has seconds only, by the last row of
//! `RouteChange`, and by a counter of our own. Nothing is deleted that another
//! server may not have read.

mod change;
mod tables;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};

use super::{Answer, Change, Loaded, Outcome, Refusal, RouteStore, StoreError};
use crate::limits::{CHANGE_TRIES, ROUTES_MAX};
use crate::row::{RawRow, Route, lars_number, shorten};
use waystation_membership::LarsPair;

/// A row of `RouteData`: pair, address, port.
type LarsKey = (LarsPair, u32, u16);

/// A store in `MariaDB` or `MySQL`.
pub struct MysqlStore {
    url: String,
    open: Option<Conn>,
    /// Whether the table of our own is there.
    has_own: bool,
    seen: Option<Stamp>,
}

/// Which state of the database it is. Any difference is a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// `RouteVersion`.
    version: Option<i128>,
    /// The last row of `RouteChange`.
    last_change: Option<i128>,
    /// `WaystationVersion`.
    own: Option<i128>,
}

/// The server's codes of a deadlock and of a lock that was not given.
const CONTENDED: [u16; 2] = [1213, 1205];

impl MysqlStore {
    /// A store at this URL.
    pub fn new(url: String) -> Self {
        Self {
            url,
            open: None,
            has_own: false,
            seen: None,
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        self.open = None;
        let opts = Opts::from_url(&self.url).map_err(mysql_async::Error::from)?;
        // A socket of this machine may be another server than the one named.
        let opts = OptsBuilder::from_opts(opts).prefer_socket(false);
        let mut conn = Conn::new(opts).await?;
        self.has_own = tables::create_missing(&mut conn).await?;
        self.open = Some(conn);
        Ok(())
    }

    /// The connection. Whoever takes it puts it back when all went well: one that
    /// was left in the middle of something is not used again.
    fn take(&mut self) -> Result<Conn, StoreError> {
        self.open.take().ok_or(StoreError::Closed)
    }

    async fn read(&mut self) -> Result<Loaded, StoreError> {
        let mut conn = self.take()?;
        let snapshot = "START TRANSACTION WITH CONSISTENT SNAPSHOT";
        conn.query_drop("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            .await?;
        conn.query_drop(snapshot).await?;
        // Before the rows, for tables without transactions: what is written
        // meanwhile is news.
        let stamp = stamp(&mut conn, self.has_own).await?;
        let mut loaded = Loaded::default();
        let mut own = OwnRoutes::default();
        if self.has_own {
            let text = format!("{} LIMIT {}", change::OWN, ROUTES_MAX + 1);
            for row in conn.query::<Row, _>(text).await? {
                own.add(&row, &mut loaded);
            }
        }
        let text = format!(
            "SELECT id, modid, cmdid, serverip, serverport FROM RouteData ORDER BY id LIMIT {}",
            ROUTES_MAX + 1
        );
        for row in conn.query::<Row, _>(text).await? {
            let name = || format!("RouteData id {}", shown(&row, 0));
            match lars_row(&row) {
                Ok(key) => own.add_lars(key, name, &mut loaded),
                Err(why) => loaded.add(name, Err(why)),
            }
        }
        conn.query_drop("COMMIT").await?;
        own.finish(&mut loaded);
        self.seen = Some(stamp);
        self.open = Some(conn);
        Ok(loaded)
    }

    async fn look(&mut self) -> Result<bool, StoreError> {
        let mut conn = self.take()?;
        let now = stamp(&mut conn, self.has_own).await?;
        self.open = Some(conn);
        Ok(self.seen != Some(now))
    }

    async fn apply(&mut self, change: &Change) -> Result<Outcome, StoreError> {
        let mut conn = self.take()?;
        for _ in 0..CHANGE_TRIES {
            let made = change::make(&mut conn, change, self.has_own).await;
            let server = match made {
                Ok(outcome) => {
                    self.open = Some(conn);
                    return Ok(outcome);
                }
                Err(StoreError::Mysql(mysql_async::Error::Server(server))) => server,
                Err(error) => return Err(error),
            };
            if !CONTENDED.contains(&server.code) {
                // Its rules forbid the change; the connection is as it was.
                self.open = Some(conn);
                let told = shorten(&server.message);
                let refusal = Refusal::Unable(format!("the database refuses: {told}"));
                return Ok(Outcome::Refused(refusal));
            }
        }
        self.open = Some(conn);
        Err(StoreError::Contended)
    }
}

impl RouteStore for MysqlStore {
    fn open(&mut self) -> Answer<'_, ()> {
        Box::pin(self.connect())
    }

    fn load(&mut self) -> Answer<'_, Loaded> {
        Box::pin(self.read())
    }

    fn has_news(&mut self) -> Answer<'_, bool> {
        Box::pin(self.look())
    }

    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome> {
        Box::pin(self.apply(change))
    }
}

async fn stamp(conn: &mut Conn, has_own: bool) -> Result<Stamp, StoreError> {
    let own = if has_own {
        "(SELECT version FROM WaystationVersion WHERE id = 1)"
    } else {
        "NULL"
    };
    let text = format!(
        "SELECT (SELECT version FROM RouteVersion WHERE id = 1), \
         (SELECT MAX(id) FROM RouteChange), {own}"
    );
    let row: Option<Row> = conn.query_first(text).await?;
    let at = |at| row.as_ref().and_then(|row| number(row, at));
    Ok(Stamp {
        version: at(0),
        last_change: at(1),
        own: at(2),
    })
}

/// Routes of our own table, until it is known which have a row in `RouteData`.
#[derive(Default)]
struct OwnRoutes {
    in_lars: std::collections::BTreeMap<LarsKey, Vec<(Route, bool)>>,
}

impl OwnRoutes {
    fn add(&mut self, row: &Row, loaded: &mut Loaded) {
        let raw = match raw(row) {
            Ok(raw) => raw,
            Err((name, why)) => return loaded.skipped.add(name, why),
        };
        match raw.route() {
            Ok(route) => match route.in_lars() {
                Some(key) => self.in_lars.entry(key).or_default().push((route, false)),
                None => loaded.add(|| raw.name(), Ok(route)),
            },
            Err(why) => loaded.skipped.add(raw.name(), why),
        }
    }

    /// A row of `RouteData`: that of our routes there, or one without a name.
    fn add_lars(&mut self, key: LarsKey, name: impl Fn() -> String, loaded: &mut Loaded) {
        let Some(known) = self.in_lars.get_mut(&key) else {
            let (pair, ip, port) = key;
            return loaded.add(name, Route::of_lars(pair, ip, port));
        };
        for (route, is_there) in known {
            // The table has no unique key: a row may stand there twice.
            if !std::mem::replace(is_there, true) {
                loaded.add(&name, Ok(route.clone()));
            }
        }
    }

    /// What is left was deleted by somebody who knows Lars' tables only.
    fn finish(self, loaded: &mut Loaded) {
        for (route, is_there) in self.in_lars.into_values().flatten() {
            if !is_there {
                let name = RawRow::of(&route).name();
                let why = "its row of RouteData was deleted";
                loaded.skipped.add(name, why.to_owned());
            }
        }
    }
}

fn lars_row(row: &Row) -> Result<LarsKey, String> {
    let of = |at: usize, what: &str| {
        number(row, at).ok_or_else(|| format!("{what} {} is no number", shown(row, at)))
    };
    let pair = LarsPair {
        modid: lars_number("modid", of(1, "modid")?)?,
        cmdid: lars_number("cmdid", of(2, "cmdid")?)?,
    };
    let ip = lars_number("serverip", of(3, "serverip")?)?.cast_unsigned();
    let port = of(4, "serverport")?;
    let port = u16::try_from(port).map_err(|_| format!("serverport {port} is out of range"))?;
    Ok((pair, ip, port))
}

/// The columns of a row of our own table, in the order of [`change::OWN`]; else
/// the row's name, and what is wrong.
fn raw(row: &Row) -> Result<RawRow, (String, String)> {
    let name = || format!("{} {}", shown(row, 0), shown(row, 1));
    let fault = |what: &str| (name(), format!("{what} is of another type"));
    let integer = |at: usize| number(row, at).and_then(|number| i64::try_from(number).ok());
    let is_null = |at: usize| matches!(row.as_ref(at), Some(Value::NULL));
    let maybe_integer = |at, what| match integer(at) {
        None if !is_null(at) => Err(fault(what)),
        found => Ok(found),
    };
    let maybe_text = |at, what| match text(row, at) {
        None if !is_null(at) => Err(fault(what)),
        found => Ok(found),
    };
    Ok(RawRow {
        service: text(row, 0).ok_or_else(|| fault("service"))?,
        address: text(row, 1).ok_or_else(|| fault("address"))?,
        modid: maybe_integer(2, "modid")?,
        cmdid: maybe_integer(3, "cmdid")?,
        weight: integer(4).ok_or_else(|| fault("weight"))?,
        site: maybe_text(5, "site")?,
        zone: maybe_text(6, "zone")?,
        metadata: text(row, 7).ok_or_else(|| fault("metadata"))?,
    })
}

fn text(row: &Row, at: usize) -> Option<String> {
    match row.as_ref(at) {
        Some(Value::Bytes(bytes)) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// A whole number, however the server sends it.
fn number(row: &Row, at: usize) -> Option<i128> {
    match row.as_ref(at)? {
        Value::Int(number) => Some((*number).into()),
        Value::UInt(number) => Some((*number).into()),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// A value, for people.
fn shown(row: &Row, at: usize) -> String {
    match row.as_ref(at) {
        Some(Value::Bytes(bytes)) => shorten(&String::from_utf8_lossy(bytes)),
        Some(Value::NULL) | None => "NULL".to_owned(),
        Some(other) => shorten(&other.as_sql(true)),
    }
}
