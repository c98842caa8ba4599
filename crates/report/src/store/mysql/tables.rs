//! The tables, made where they are missing, and the lock of the one that writes.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::store::StoreError;

const TABLES: [(&str, &str); 6] = [
    (
        "ServerCallStatus",
        "CREATE TABLE IF NOT EXISTS ServerCallStatus (
  modid int NOT NULL, cmdid int NOT NULL, ip int unsigned NOT NULL, port int NOT NULL,
  caller int unsigned NOT NULL, succ_cnt int unsigned NOT NULL, err_cnt int unsigned NOT NULL,
  ts bigint NOT NULL, overload char(1) NOT NULL,
  PRIMARY KEY (modid, cmdid, ip, port, caller)) ENGINE=InnoDB DEFAULT CHARSET=utf8",
    ),
    (
        "waystation_call_keys",
        "CREATE TABLE IF NOT EXISTS waystation_call_keys (
  id int unsigned NOT NULL PRIMARY KEY, service varchar(128) NOT NULL, host varchar(128) NOT NULL,
  caller varchar(128) NOT NULL, source bigint unsigned NOT NULL, ok bigint NOT NULL,
  failed bigint NOT NULL, ts bigint NOT NULL, is_out tinyint NOT NULL, seen bigint NOT NULL,
  KEY names (service, host, caller)) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin",
    ),
    (
        "waystation_calls_10s",
        "CREATE TABLE IF NOT EXISTS waystation_calls_10s (start bigint NOT NULL,
  key_id int unsigned NOT NULL, ok bigint NOT NULL, failed bigint NOT NULL,
  PRIMARY KEY (start, key_id)) ENGINE=InnoDB",
    ),
    (
        "waystation_calls_1m",
        "CREATE TABLE IF NOT EXISTS waystation_calls_1m (start bigint NOT NULL,
  key_id int unsigned NOT NULL, ok bigint NOT NULL, failed bigint NOT NULL,
  PRIMARY KEY (start, key_id)) ENGINE=InnoDB",
    ),
    (
        "waystation_calls_1h",
        "CREATE TABLE IF NOT EXISTS waystation_calls_1h (start bigint NOT NULL,
  key_id int unsigned NOT NULL, ok bigint NOT NULL, failed bigint NOT NULL,
  PRIMARY KEY (start, key_id)) ENGINE=InnoDB",
    ),
    (
        "waystation_call_state",
        "CREATE TABLE IF NOT EXISTS waystation_call_state (id tinyint NOT NULL PRIMARY KEY,
  batch bigint NOT NULL, owner bigint NOT NULL, folded bigint NOT NULL) ENGINE=InnoDB",
    ),
];

/// The name of the lock of the one that writes.
const LOCK: &str = "CONCAT('waystation report ', DATABASE())";

/// Seconds after which the database gives up a session that says nothing, and with
/// it the lock; the one that writes speaks every ten. And seconds for which a
/// statement waits for rows that such a session holds.
const SESSION: &str = "SET SESSION wait_timeout = 60, innodb_lock_wait_timeout = 5";

/// Takes the lock of the one that writes, which ends with the connection, and makes
/// missing tables. `earlier` is the connection that held the lock for us before: the
/// database may not know yet that it is gone.
pub(super) async fn prepare(
    conn: &mut Conn,
    name: &str,
    earlier: Option<u32>,
) -> Result<(), StoreError> {
    conn.query_drop(SESSION).await?;
    let sql = format!("SELECT IS_USED_LOCK({LOCK})");
    let holder: Option<Option<u32>> = conn.query_first(sql).await?;
    if let (Some(holder), Some(earlier)) = (holder.flatten(), earlier)
        && holder == earlier
    {
        let ended = conn.query_drop(format!("KILL {earlier}")).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "our earlier session cannot be ended; its time will");
        }
    }
    // One that was just ended lets go of it in a moment.
    let wait_s = if earlier.is_some() { 5 } else { 0 };
    let sql = format!("SELECT GET_LOCK({LOCK}, {wait_s})");
    let is_ours: Option<Option<i64>> = conn.query_first(sql).await?;
    if is_ours.flatten() != Some(1) {
        return Err(StoreError::InUse(name.to_owned()));
    }
    // To create a table that is there needs the right to create one.
    let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
    let there: Vec<String> = conn.query(sql).await?;
    for (name, create) in TABLES {
        if !there.iter().any(|one| one.eq_ignore_ascii_case(name)) {
            conn.query_drop(create).await?;
        }
    }
    let first = "INSERT IGNORE INTO waystation_call_state VALUES (1, 0, 0, 0)";
    Ok(conn.query_drop(first).await?)
}
