//! Counts in a real `MariaDB`, beside the table that Lars' readers know.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use common::{Agent, WAIT, all, report, start, status, until, until_stored};
use mysql_async::prelude::{FromRow, Queryable};
use waystation_report::{MySqlStore, Span, Store as _, ask_history};
use waystation_test_process::MariaDb;

/// The one server of this run; tests take turns, each with a database of its own.
/// Nothing without a server to run.
fn server() -> Option<MutexGuard<'static, MariaDb>> {
    static SERVER: OnceLock<Option<Mutex<MariaDb>>> = OnceLock::new();
    let server = SERVER.get_or_init(|| MariaDb::start(&[]).map(Mutex::new));
    let server = server.as_ref()?;
    Some(server.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs statements and returns the rows of the last.
fn rows<T: FromRow + Send + 'static>(url: &str, statements: &[&str]) -> Vec<T> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(async {
        let mut conn = mysql_async::Conn::from_url(url).await.unwrap();
        let (last, before) = statements.split_last().unwrap();
        for statement in before {
            conn.query_drop(*statement).await.unwrap();
        }
        let rows = conn.query(*last).await.unwrap();
        conn.disconnect().await.unwrap();
        rows
    })
}

/// A new database of this name.
fn database(server: &MariaDb, name: &str) -> String {
    let create = format!("CREATE DATABASE {name}");
    let _none: Vec<(u8,)> = rows(&server.url(""), &[&create]);
    server.url(name)
}

fn sum(address: SocketAddr, span: Span) -> u64 {
    let (rows, _) = ask_history(address, &all(span), WAIT).unwrap();
    rows.iter().map(|row| row.ok + row.failed).sum()
}

type LarsRow = (i64, i64, i64, i64, i64, i64, i64, i64, String);

const LARS: &str = "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload \
                    FROM ServerCallStatus ORDER BY modid, cmdid, ip, port, caller";

#[test]
fn needs_mariadb_lars_readers_see_what_was_told_last() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "readers");
    let server = start(&url);
    let mut agent = Agent::connect(server.address());
    agent.tell(&report((1, 2), &[(1, 10, 1), (2, 0, 5)]));
    agent.tell(&report((1, 2), &[(1, 12, 1)]));
    until_stored(&server, 3);
    let told: Vec<LarsRow> = rows(&url, &[LARS]);
    let row = |ip: i64, succ, err, overload: &str| {
        let caller = 0xc800_0009;
        (
            1,
            2,
            ip,
            7000,
            caller,
            succ,
            err,
            1_700_000_000,
            overload.to_owned(),
        )
    };
    assert_eq!(
        told,
        [row(0x0a00_0001, 12, 1, "0"), row(0x0a00_0002, 0, 5, "1")]
    );
    assert_eq!(sum(server.address(), Span::TenSeconds), 12 + 1 + 5);
}

/// The table of an existing database of Lars: all columns without `unsigned`, and
/// strict mode. An address from 128.0.0.0 on is negative there.
#[test]
fn needs_mariadb_a_database_of_lars_serves_unchanged() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "existing");
    let table = "CREATE TABLE ServerCallStatus (modid int(11) NOT NULL, cmdid int(11) NOT NULL, \
        ip int(11) NOT NULL, port int(11) NOT NULL, caller int(11) NOT NULL, \
        succ_cnt int(11) NOT NULL, err_cnt int(11) NOT NULL, ts bigint(20) NOT NULL, \
        overload char(1) NOT NULL, PRIMARY KEY (modid, cmdid, ip, port, caller))";
    let before =
        "INSERT INTO ServerCallStatus VALUES (1, 2, 167772161, 7000, -939524087, 40, 2, 5, '0')";
    let shape = "SHOW CREATE TABLE ServerCallStatus";
    let was: Vec<(String, String)> = rows(&url, &[table, before, shape]);
    let server = start(&url);
    until("it was read", || server.store_state().is_up);
    let mut agent = Agent::connect(server.address());
    agent.tell(&report((1, 2), &[(1, 43, 2)]));
    agent.tell(&report((-1, i32::MIN), &[(1, u32::MAX, 0)]));
    until_stored(&server, 2);
    let told: Vec<LarsRow> = rows(&url, &[LARS]);
    assert_eq!(told.len(), 2);
    assert_eq!(
        (told[0].0, told[0].5),
        (-1, i64::from(i32::MAX)),
        "cut to what fits"
    );
    assert_eq!((told[1].4, told[1].5), (-939_524_087, 43));
    let is: Vec<(String, String)> = rows(&url, &[shape]);
    assert_eq!(is, was, "the table is as it was");
    // Forty and two were counted by another program before.
    assert_eq!(
        sum(server.address(), Span::TenSeconds),
        3 + u64::from(u32::MAX)
    );
}

/// Columns that cannot hold a key: the row is left out, counted, and no other row
/// of its statement is lost.
#[test]
fn needs_mariadb_rows_that_a_table_cannot_hold_are_left_out_and_counted() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "narrow");
    let table = "CREATE TABLE ServerCallStatus (modid int unsigned NOT NULL, \
        cmdid int unsigned NOT NULL, ip int unsigned NOT NULL, port int unsigned NOT NULL, \
        caller int unsigned NOT NULL, succ_cnt int unsigned NOT NULL, \
        err_cnt int unsigned NOT NULL, ts bigint NOT NULL, overload char(1) NOT NULL, \
        PRIMARY KEY (modid, cmdid, ip, port, caller))";
    let _none: Vec<(u8,)> = rows(&url, &[table]);
    let server = start(&url);
    let mut agent = Agent::connect(server.address());
    agent.tell(&report((-1, 2), &[(1, 1, 0)]));
    agent.tell(&report((1, 2), &[(1, 1, 0)]));
    until_stored(&server, 2);
    let told: Vec<LarsRow> = rows(&url, &[LARS]);
    assert_eq!(told.len(), 1);
    assert!(server.store_state().unstorable_rows >= 1);
    assert_eq!(
        sum(server.address(), Span::TenSeconds),
        2,
        "it counts all the same"
    );
}

#[test]
fn needs_mariadb_counts_outlive_a_database_that_is_killed() {
    let Some(mut mariadb) = server() else { return };
    let url = database(&mariadb, "killed");
    let server = start(&url);
    let mut agent = Agent::connect(server.address());
    for round in 0..5_u32 {
        let ok = 100 * (round + 1);
        // It dies with a batch under way or without, wherever that is.
        agent.tell(&report((1, 1), &[(1, ok - 50, 0)]));
        mariadb.kill();
        agent.tell(&report((1, 1), &[(1, ok, 0)]));
        until("the server knows", || {
            status(&server)["store"]["is_up"] == false
        });
        mariadb.restart();
        until_stored(&server, u64::from(round + 1) * 2);
        assert_eq!(sum(server.address(), Span::TenSeconds), u64::from(ok));
    }
}

#[test]
fn needs_mariadb_a_restart_counts_nothing_twice() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "restarts");
    for ok in [100, 100, 130, 500] {
        let server = start(&url);
        Agent::connect(server.address()).tell(&report((1, 1), &[(1, ok, 0)]));
        until_stored(&server, 1);
        assert_eq!(sum(server.address(), Span::TenSeconds), u64::from(ok));
    }
}

#[test]
fn needs_mariadb_a_second_server_waits_until_the_first_ends() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "second");
    let first = start(&url);
    until("the first has it", || first.store_state().is_up);
    let second = start(&url);
    until("the second is told", || {
        let fault = second.store_state().fault.unwrap_or_default();
        fault.contains("another report server")
    });
    Agent::connect(second.address()).tell(&report((1, 1), &[(1, 3, 0)]));
    first.drain();
    until_stored(&second, 1);
}

/// A way to the database that can break without the database knowing.
struct Way {
    address: SocketAddr,
    /// Ends towards callers, to be broken.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let its = Arc::clone(&open);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&target).unwrap();
                its.lock().unwrap().push(near.try_clone().unwrap());
                let ends = [&near, &far].map(|one| one.try_clone().unwrap());
                let [mut from, mut to] = ends;
                std::thread::spawn(move || {
                    let _broken = std::io::copy(&mut from, &mut to);
                    // What the database sees stays open, until the process ends.
                    loop {
                        std::thread::park();
                    }
                });
                let (mut from, mut to) = (far, near);
                std::thread::spawn(move || {
                    let _broken = std::io::copy(&mut from, &mut to);
                });
            }
        });
        Self { address, open }
    }

    fn break_all(&self) {
        for near in self.open.lock().unwrap().drain(..) {
            near.shutdown(Shutdown::Both).unwrap();
        }
    }
}

/// Story: after a break in the network the database still held the lock of the session
/// that was lost, so that the report server took itself for another one, for as long as
/// eight hours. And it could not serve at all as a user who may not create tables,
/// although they were there.
#[test]
fn needs_mariadb_a_break_in_the_network_and_a_user_without_rights_are_no_obstacles() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "broken");
    MySqlStore::writer(&url).unwrap().open().unwrap();
    let user = "CREATE USER reporter@'%' IDENTIFIED BY 'secret'";
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON broken.* TO reporter@'%'";
    let _none: Vec<(u8,)> = rows(&url, &[user, grant]);
    let target = url.trim_start_matches("mysql://root@");
    let way = Way::to(target.trim_end_matches("/broken").to_owned());
    let server = start(&format!(
        "mysql://reporter:secret@{}/broken?prefer_socket=false",
        way.address
    ));
    let mut agent = Agent::connect(server.address());
    for round in 1..=4 {
        agent.tell(&report((1, 1), &[(1, 100 * round, 0)]));
        until_stored(&server, round.into());
        way.break_all();
    }
    agent.tell(&report((1, 1), &[(1, 500, 0)]));
    until_stored(&server, 5);
    let total: Vec<(u64,)> = rows(
        &url,
        &["SELECT CAST(SUM(ok) AS UNSIGNED) FROM waystation_calls_10s"],
    );
    assert_eq!(total, [(500,)]);
    assert!(server.store_state().failures > 0);
}

#[test]
fn needs_mariadb_a_clock_that_was_ahead_is_left_behind() {
    let Some(mariadb) = server() else { return };
    let mut store = MySqlStore::writer(&database(&mariadb, "ahead")).unwrap();
    common::begins_anew(&mut store);
}

#[test]
fn needs_mariadb_history_is_folded_once_and_expires() {
    let Some(mariadb) = server() else { return };
    let mut store = MySqlStore::writer(&database(&mariadb, "folds")).unwrap();
    common::folds_and_expires(&mut store);
}

#[test]
fn needs_mariadb_keys_are_found_by_their_names() {
    let Some(mariadb) = server() else { return };
    let mut store = MySqlStore::writer(&database(&mariadb, "finds")).unwrap();
    common::finds_keys(&mut store);
}

/// A database that lies: what stands in its tables makes no sense.
#[test]
fn needs_mariadb_rows_that_make_no_sense_are_left_alone_and_counted() {
    let Some(mariadb) = server() else { return };
    let url = database(&mariadb, "lies");
    let mut store = MySqlStore::writer(&url).unwrap();
    store.open().unwrap();
    let alter = "ALTER TABLE ServerCallStatus MODIFY modid bigint NULL, DROP PRIMARY KEY";
    let _none: Vec<(u8,)> = rows(
        &url,
        &[
            alter,
            "INSERT INTO ServerCallStatus VALUES (NULL, 1, 5, 99, 0, 5, 5, 0, '0')",
            "INSERT INTO ServerCallStatus VALUES (9999999999, 1, 5, 99, 0, 5, 5, 0, '0')",
            "INSERT INTO ServerCallStatus VALUES (1, 1, 5, 99, 0, 5, 5, -7, '0')",
            "INSERT INTO ServerCallStatus VALUES (1, 1, 5, 7000, 0, 5, 5, 7, '1')",
            "INSERT INTO waystation_call_keys VALUES (7, 'no name', 'h', 'c', 0, 0, 0, 0, 0, 0)",
        ],
    );
    let loaded = store.load(100).unwrap();
    assert_eq!(
        (loaded.lars.len(), loaded.keys.len(), loaded.skipped),
        (1, 0, 4)
    );
    assert_eq!(loaded.last_id, 7, "its number is taken all the same");
    assert!(loaded.lars[0].told.is_out);
}
