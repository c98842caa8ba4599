//! The tables, made where they are missing.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::store::StoreError;

/// The tables of Lars that routes stand in.
const LARS: [(&str, &str); 3] = [
    (
        "RouteData",
        "CREATE TABLE RouteData (
            id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            modid INT UNSIGNED NOT NULL,
            cmdid INT UNSIGNED NOT NULL,
            serverip INT UNSIGNED NOT NULL,
            serverport INT UNSIGNED NOT NULL
        )",
    ),
    (
        "RouteVersion",
        "CREATE TABLE RouteVersion (
            id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            version INT UNSIGNED NOT NULL
        )",
    ),
    (
        "RouteChange",
        "CREATE TABLE RouteChange (
            id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            modid INT UNSIGNED NOT NULL,
            cmdid INT UNSIGNED NOT NULL,
            version BIGINT UNSIGNED NOT NULL
        )",
    ),
];

/// What Lars' tables cannot hold. Texts compare by their bytes.
const OWN: [(&str, &str); 2] = [
    (
        "WaystationRoute",
        "CREATE TABLE WaystationRoute (
            service VARCHAR(128) NOT NULL,
            address VARCHAR(128) NOT NULL,
            modid INT,
            cmdid INT,
            weight INT NOT NULL DEFAULT 100,
            site VARCHAR(64),
            zone VARCHAR(64),
            metadata TEXT NOT NULL,
            PRIMARY KEY (service, address)
        ) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    ),
    (
        "WaystationVersion",
        "CREATE TABLE WaystationVersion (
            id INT NOT NULL PRIMARY KEY,
            version BIGINT NOT NULL
        )",
    ),
];

/// The server's code for a table that is there already: another server made it
/// meanwhile.
const EXISTS: u16 = 1050;

/// Makes the tables that are missing; whether those of our own are there. A
/// database in which nothing may be created serves if Lars' are.
pub(super) async fn create_missing(conn: &mut Conn) -> Result<bool, StoreError> {
    // To create a table that is there needs the right to create one.
    let text = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
    let there: Vec<String> = conn.query(text).await?;
    for (name, text) in LARS {
        if !there.iter().any(|one| one == name) {
            create(conn, text)
                .await
                .map_err(|error| StoreError::Schema {
                    what: format!("cannot make table {name}"),
                    why: error.to_string(),
                })?;
        }
    }
    for (name, text) in OWN {
        if !there.iter().any(|one| one == name)
            && let Err(error) = create(conn, text).await
        {
            tracing::warn!(
                name, %error,
                "cannot make a table; routes have no more than Lars' tables hold"
            );
            return Ok(false);
        }
    }
    // Both may be made by another server at the same time.
    let first = "INSERT IGNORE INTO WaystationVersion (id, version) VALUES (1, 1)";
    let made = conn.query_drop(first).await;
    if let Err(error) = made {
        tracing::debug!(%error, "the counter of changes cannot be written");
    }
    Ok(true)
}

async fn create(conn: &mut Conn, text: &str) -> Result<(), mysql_async::Error> {
    match conn.query_drop(text).await {
        Err(mysql_async::Error::Server(error)) if error.code == EXISTS => Ok(()),
        other => other,
    }
}
