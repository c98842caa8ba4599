//! One step of the writer after the other, by clocks of the test's own.

use std::sync::mpsc::{SyncSender, sync_channel};

use waystation_wire::calls::{CallCounts, HostCounts, ServiceCounts};

use super::*;
use crate::batch::{HistoryQuery, HistoryRow, Span};
use crate::ledger::LedgerConfig;
use crate::limits::EXPIRE_WAIT;
use crate::store::{EVER, SqliteStore};

const DAYS_100: i64 = 100 * 24 * 3600;

const START: u64 = 1_700_000_000;

/// A server without its network, on a file.
struct World {
    folder: tempfile::TempDir,
    /// Seconds since the start, and how far the calendar is off.
    clocks: Arc<Mutex<(u64, i64)>>,
    writer: Writer,
    _stop: SyncSender<()>,
    /// Calls made so far.
    ok: u64,
}

fn writer(folder: &tempfile::TempDir, clocks: &Arc<Mutex<(u64, i64)>>) -> (Writer, SyncSender<()>) {
    let clocks = Arc::clone(clocks);
    let read = move || {
        let (now, off) = *clocks.lock().unwrap();
        let told = Duration::from_secs((START + now).strict_add_signed(off));
        (told, Moment::from_millis(1_000 * (1 + now)))
    };
    let (stop, stopped) = sync_channel(1);
    let ledger = Ledger::new(LedgerConfig::default());
    let writer = Writer {
        store: Box::new(SqliteStore::writer(folder.path().join("r.db"))),
        shared: Arc::new(Shared::new(ledger, Box::new(read))),
        flush: Duration::ZERO,
        retention: Retention::default(),
        stop: stopped,
        owner: 7,
        is_open: false,
        folded: 0,
    };
    (writer, stop)
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clocks = Arc::default();
        let (writer, stop) = writer(&folder, &clocks);
        Self {
            folder,
            clocks,
            writer,
            _stop: stop,
            ok: 0,
        }
    }

    /// The server is killed and another one begins.
    fn restart(self) -> Self {
        let Self {
            folder,
            clocks,
            ok,
            writer: old,
            _stop,
        } = self;
        drop(old);
        let (writer, stop) = writer(&folder, &clocks);
        Self {
            folder,
            clocks,
            writer,
            _stop: stop,
            ok,
        }
    }

    /// Time passes, with a call and a step of the writer every ten seconds.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.clocks.lock().unwrap().0 += 10;
            self.ok += 1;
            let host = HostCounts {
                host: "10.0.0.1:1".to_owned(),
                ok: self.ok,
                ..HostCounts::default()
            };
            let counts = CallCounts {
                source: 1,
                caller: "m1".to_owned(),
                services: vec![ServiceCounts {
                    service: "pay".to_owned(),
                    hosts: vec![host],
                }],
            };
            let shared = &self.writer.shared;
            let now_s = shared.now_s();
            shared.ledger().handle_named(now_s, &counts);
            let mut under_way = None;
            while self.writer.step(&mut under_way).unwrap() {}
        }
    }

    /// The calendar is this far off from here on.
    fn set(&self, off: i64) {
        self.clocks.lock().unwrap().1 = off;
    }

    fn now(&self) -> u64 {
        START + self.clocks.lock().unwrap().0
    }

    fn history(&mut self, span: Span) -> Vec<HistoryRow> {
        let query = HistoryQuery {
            span,
            service: None,
            since: 0,
            until: EVER,
            limit: 100_000,
        };
        self.writer.store.history(&query).unwrap()
    }

    fn sum(&mut self, span: Span) -> u64 {
        self.history(span).iter().map(|row| row.ok).sum()
    }

    /// The present bucket is the last, and all that went before is summed up once.
    fn assert_whole(&mut self) {
        let last = self.history(Span::TenSeconds)[0].start;
        assert_eq!(last, self.now() / BUCKET_S * BUCKET_S);
        for span in [Span::Minute, Span::Hour] {
            // The present bucket is not summed up yet.
            assert_eq!(self.sum(span), self.ok - 1, "{span:?}");
        }
    }
}

/// Story: the clock jumped ahead by 100 days and back. All history was deleted, and
/// until the 100 days were over what was counted went to one bucket of the future, in
/// the next server as well.
#[test]
fn a_clock_that_jumps_ahead_and_back_deletes_nothing_and_moves_nothing() {
    let mut world = World::new();
    world.pass(3 * 3600);
    world.set(DAYS_100);
    world.pass(60);
    world.set(0);
    world.pass(60);
    let left = world.history(Span::TenSeconds).len() as u64;
    assert!(
        left >= Retention::default().ten_seconds_s / BUCKET_S,
        "{left}"
    );
    world.assert_whole();
    let mut world = world.restart();
    world.pass(60);
    world.assert_whole();
}

/// A wrong clock that lasts is followed. When it is right again, the next counts are
/// dated right, nothing is counted twice, and only the finest history is lost, of the
/// time by the wrong clock.
#[test]
fn a_clock_that_was_wrong_for_long_is_left_behind() {
    for is_killed in [false, true] {
        let mut world = World::new();
        world.pass(600);
        world.set(DAYS_100);
        world.pass(CLOCK_WAIT.as_secs() + 600);
        let last = world.history(Span::TenSeconds)[0].start;
        assert!(last > world.now() + 99 * 24 * 3600, "it was followed");
        assert!(!world.history(Span::Hour).is_empty());
        world.set(0);
        if is_killed {
            world = world.restart();
        }
        world.pass(2 * CLOCK_WAIT.as_secs() + 600);
        world.assert_whole();
    }
}

/// What is older than it is kept goes, once the time is sure to be right.
#[test]
fn history_is_deleted_by_a_time_that_has_lasted() {
    let mut world = World::new();
    world.pass(600);
    world.clocks.lock().unwrap().0 += 100 * 24 * 3600;
    let mut world = world.restart();
    world.pass(600);
    assert_eq!(world.sum(Span::Hour), world.ok - 1, "it may be wrong yet");
    world.pass(EXPIRE_WAIT.as_secs());
    assert_eq!(world.sum(Span::Hour), world.ok - 1 - 60);
}
