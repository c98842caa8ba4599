//! What becomes of counts when the store or the server is lost.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{
    Agent, WAIT, all, begins_anew, config, finds_keys, folds_and_expires, report, start, status,
    until, until_stored,
};
use waystation_report::{
    Batch, Found, HistoryQuery, HistoryRow, KeyName, Loaded, ReportServer, Retention, Span,
    SqliteStore, Standing, Store, StoreError, ask_history,
};

fn history(server: &ReportServer, span: Span) -> Vec<HistoryRow> {
    ask_history(server.address(), &all(span), WAIT).unwrap().0
}

fn sum(rows: &[HistoryRow]) -> u64 {
    rows.iter().map(|row| row.ok + row.failed).sum()
}

/// A store that fails when it is told to, before or after it did its work.
struct Faulty {
    store: SqliteStore,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    is_down: AtomicBool,
    /// Batches whose outcome the writer does not learn.
    unknown: Mutex<u32>,
}

impl Faulty {
    fn is_up(&self) -> Result<(), StoreError> {
        if self.faults.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::TimedOut);
        }
        Ok(())
    }
}

impl Store for Faulty {
    fn open(&mut self) -> Result<Standing, StoreError> {
        self.is_up()?;
        self.store.open()
    }

    fn load(&mut self, keys_max: usize) -> Result<Loaded, StoreError> {
        self.is_up()?;
        self.store.load(keys_max)
    }

    fn find(&mut self, names: &[KeyName]) -> Result<Found, StoreError> {
        self.is_up()?;
        self.store.find(names)
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.is_up()?;
        self.store.write(batch)?;
        let mut unknown = self.faults.unknown.lock().unwrap();
        if *unknown > 0 {
            *unknown -= 1;
            return Err(StoreError::TimedOut);
        }
        Ok(())
    }

    fn fold(&mut self, before: u64) -> Result<(), StoreError> {
        self.is_up()?;
        self.store.fold(before)
    }

    fn begin_anew(&mut self, start: u64) -> Result<(), StoreError> {
        self.is_up()?;
        self.store.begin_anew(start)
    }

    fn expire(&mut self, now_s: u64, retention: &Retention) -> Result<bool, StoreError> {
        self.is_up()?;
        self.store.expire(now_s, retention)
    }

    fn history(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError> {
        self.store.history(query)
    }
}

fn faulty(folder: &tempfile::TempDir) -> (ReportServer, Arc<Faults>) {
    let path = folder.path().join("r.db");
    let faults = Arc::<Faults>::default();
    let store = Faulty {
        store: SqliteStore::writer(path.clone()),
        faults: Arc::clone(&faults),
    };
    let config = config(&format!("sqlite://{}", path.display()));
    let reader = Box::new(SqliteStore::reader(path));
    (
        ReportServer::start_with(&config, Box::new(store), reader).unwrap(),
        faults,
    )
}

/// The connection was lost in the middle of a commit, the batch was written
/// again, and its counts were there twice.
#[test]
fn a_batch_whose_outcome_is_unknown_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let (server, faults) = faulty(&folder);
    let mut agent = Agent::connect(server.address());
    for turn in 1..=20 {
        *faults.unknown.lock().unwrap() = 2;
        agent.tell(&report((1, 1), &[(1, turn, turn), (2, turn, 0)]));
        until_stored(&server, u64::from(turn) * 2);
    }
    assert_eq!(sum(&history(&server, Span::TenSeconds)), 60);
    assert!(server.store_state().failures >= 20);
}

#[test]
fn counts_that_came_while_the_store_was_down_are_stored_later() {
    let folder = tempfile::tempdir().unwrap();
    let (server, faults) = faulty(&folder);
    let mut agent = Agent::connect(server.address());
    agent.tell(&report((1, 1), &[(1, 10, 0)]));
    until_stored(&server, 1);
    faults.is_down.store(true, Ordering::SeqCst);
    for turn in 11..=500 {
        agent.tell(&report((1, 1), &[(1, turn, 0)]));
    }
    until("the server knows that its store is down", || {
        let status = status(&server);
        status["store"]["is_up"] == false && status["records"] == 491
    });
    assert_eq!(sum(&history(&server, Span::TenSeconds)), 10);
    faults.is_down.store(false, Ordering::SeqCst);
    until_stored(&server, 491);
    assert_eq!(sum(&history(&server, Span::TenSeconds)), 500);
}

#[test]
fn a_server_that_starts_without_its_store_takes_counts() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/r.db", folder.path().display());
    let first = start(&url);
    Agent::connect(first.address()).tell(&report((1, 1), &[(1, 10, 0)]));
    until_stored(&first, 1);
    first.drain();
    let faults = Arc::<Faults>::default();
    faults.is_down.store(true, Ordering::SeqCst);
    let path = folder.path().join("r.db");
    let store = Faulty {
        store: SqliteStore::writer(path.clone()),
        faults: Arc::clone(&faults),
    };
    let reader = Box::new(SqliteStore::reader(path));
    let server = ReportServer::start_with(&config(&url), Box::new(store), reader).unwrap();
    let mut agent = Agent::connect(server.address());
    agent.tell(&report((1, 1), &[(1, 12, 0)]));
    until("it was counted", || status(&server)["records"] == 1);
    faults.is_down.store(false, Ordering::SeqCst);
    agent.tell(&report((1, 1), &[(1, 15, 0)]));
    until_stored(&server, 2);
    assert_eq!(sum(&history(&server, Span::TenSeconds)), 15);
}

/// Agents of Lars tell running totals. After a restart of the report server all of
/// them was counted again.
#[test]
fn a_restart_counts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/r.db", folder.path().display());
    for (run, ok) in (1..=5_u32).zip([100, 100, 130, 131, 500]) {
        let server = start(&url);
        Agent::connect(server.address()).tell(&report((1, 1), &[(1, ok, run)]));
        until_stored(&server, 1);
        assert_eq!(
            sum(&history(&server, Span::TenSeconds)),
            u64::from(ok + run)
        );
        // Every other one gets no chance to write more.
        if run % 2 == 0 {
            server.drain();
        }
    }
}

#[test]
fn a_drain_stores_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/r.db", folder.path().display());
    let mut slow = config(&url);
    slow.flush = WAIT * 100;
    let server = ReportServer::start(&slow).unwrap();
    Agent::connect(server.address()).tell(&report((1, 1), &[(1, 7, 0)]));
    until("it was counted", || status(&server)["records"] == 1);
    server.drain();
    assert_eq!(sum(&history(&start(&url), Span::TenSeconds)), 7);
}

#[test]
fn a_second_server_on_one_file_is_refused_until_the_first_ends() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/r.db", folder.path().display());
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

#[test]
fn sqlite_folds_history_once_and_expires_it() {
    let folder = tempfile::tempdir().unwrap();
    folds_and_expires(&mut SqliteStore::writer(folder.path().join("r.db")));
}

#[test]
fn sqlite_leaves_a_clock_that_was_ahead_behind() {
    let folder = tempfile::tempdir().unwrap();
    begins_anew(&mut SqliteStore::writer(folder.path().join("r.db")));
}

#[test]
fn sqlite_finds_keys_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    finds_keys(&mut SqliteStore::writer(folder.path().join("r.db")));
}

#[test]
fn rows_that_make_no_sense_are_left_alone_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.db");
    SqliteStore::writer(path.clone()).open().unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "INSERT INTO ServerCallStatus VALUES (1, 1, -5, 99, 0, 5, 5, 0, '0');
         INSERT INTO ServerCallStatus VALUES (9999999999, 1, 5, 99, 0, 5, 5, 0, '0');
         INSERT INTO ServerCallStatus VALUES (1, 1, 5, 7000, 0, 5, 5, 'x', '0');
         INSERT INTO ServerCallStatus VALUES (1, 1, 167772161, 7000, 3355443209, 5, 0, 0, '0');
         INSERT INTO waystation_call_keys VALUES (7, 'no name', 'h', 'c', 0, 0, 0, 0, 0, 0);",
    )
    .unwrap();
    let server = start(&format!("sqlite://{}", path.display()));
    until("it read them", || server.store_state().skipped_rows == 4);
    // The one that makes sense is what counts go on from.
    Agent::connect(server.address()).tell(&report((1, 1), &[(1, 6, 0)]));
    until_stored(&server, 1);
    assert_eq!(sum(&history(&server, Span::TenSeconds)), 1);
}
