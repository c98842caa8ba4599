//! The ledger against a store in memory that may fail, and against itself after
//! a restart.

use proptest::prelude::*;
use waystation_wire::calls::{HostCounts, ServiceCounts};
use waystation_wire::lars::HostCallResult;

use super::*;
use crate::batch::{Found, Loaded, Span};

/// A store that does what the trait says, in memory.
#[derive(Clone, Debug, Default)]
struct Shelf {
    loaded: Loaded,
    /// History of 10 s, by bucket and key.
    counts: HashMap<(u64, u32), Totals>,
    batches: Vec<(u64, usize)>,
}

impl Shelf {
    fn write(&mut self, batch: &Batch) {
        assert_eq!(batch.seq, self.loaded.standing.seq + 1);
        self.loaded.standing.seq = batch.seq;
        self.batches.push((batch.start, batch.counts.len()));
        for row in &batch.keys {
            self.loaded.keys.retain(|known| known.id != row.id);
            self.loaded.keys.push(row.clone());
            self.loaded.last_id = self.loaded.last_id.max(row.id);
        }
        for row in &batch.lars {
            self.loaded.lars.retain(|known| known.key != row.key);
            self.loaded.lars.push(*row);
        }
        for row in &batch.counts {
            *self.counts.entry((batch.start, row.key)).or_default() += row.added;
        }
    }

    fn flush(&mut self, ledger: &mut Ledger, now_s: u64) {
        loop {
            let asked = ledger.poll_unknown(3);
            if !asked.is_empty() {
                ledger.handle_found(now_s, &asked, self.find(&asked));
            }
            match ledger.poll_batch(now_s, 7) {
                Some(batch) => self.write(&batch),
                None if ledger.is_loaded() && ledger.is_behind() => {}
                None => return,
            }
        }
    }

    fn find(&self, asked: &[KeyName]) -> Found {
        let (keys, lars) = (self.loaded.keys.iter(), self.loaded.lars.iter());
        Found {
            keys: keys
                .filter(|row| asked.contains(&row.name))
                .cloned()
                .collect(),
            lars: lars
                .filter(|row| asked.contains(&KeyName::Lars(row.key)))
                .copied()
                .collect(),
        }
    }

    fn sum(&self) -> u64 {
        self.counts.values().map(|one| one.ok + one.failed).sum()
    }
}

fn ledger() -> Ledger {
    Ledger::new(LedgerConfig::default())
}

fn loaded(shelf: &Shelf, now_s: u64) -> Ledger {
    let mut ledger = ledger();
    ledger.handle_loaded(now_s, shelf.loaded.clone());
    ledger
}

fn report(hosts: impl IntoIterator<Item = (i32, u32, u32)>) -> ReportStatusRequest {
    let results = hosts.into_iter().map(|(ip, succ, err)| HostCallResult {
        ip,
        port: 7000,
        succ,
        err,
        overload: err > succ,
    });
    ReportStatusRequest {
        modid: -1,
        cmdid: 2,
        caller: 9,
        results: results.collect(),
        ts: 77,
    }
}

fn counts(source: u64, ok: u64) -> CallCounts {
    CallCounts {
        source,
        caller: "m1".to_owned(),
        services: vec![ServiceCounts {
            service: "pay".to_owned(),
            hosts: vec![HostCounts {
                host: "10.0.0.1:1".to_owned(),
                ok,
                failed: 0,
                is_out: false,
            }],
        }],
    }
}

/// In Lars one report caused a write for each host of the service, and the queue
/// of them had no bound: 500 MB in 40 s, and statistics that were 41 s late.
#[test]
fn many_reports_are_few_rows() {
    let mut shelf = Shelf::default();
    let mut ledger = loaded(&shelf, 1_000);
    for turn in 1..=1_000 {
        ledger.handle_lars(1_003, 1, &report((0..10).map(|ip| (ip, turn, 0))));
    }
    shelf.flush(&mut ledger, 1_003);
    assert_eq!(shelf.batches, [(1_000, 10)]);
    assert_eq!(shelf.sum(), 10_000);
    let row = shelf
        .loaded
        .lars
        .iter()
        .find(|row| row.key.ip == 3)
        .unwrap();
    assert_eq!((row.told.totals, row.told.ts), (Totals::new(1_000, 0), 77));
    assert_eq!(ledger.counters().records, 10_000);
}

#[test]
fn a_batch_is_bounded_and_the_rest_comes_next() {
    let config = LedgerConfig {
        batch_cells_max: 7,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    let mut shelf = Shelf::default();
    ledger.handle_loaded(0, Loaded::default());
    ledger.handle_lars(5, 1, &report((0..20).map(|ip| (ip, 1, 1))));
    shelf.flush(&mut ledger, 5);
    let sizes: Vec<usize> = shelf.batches.iter().map(|(_, size)| *size).collect();
    assert_eq!(sizes, [7, 7, 6]);
    assert_eq!(shelf.sum(), 40);
}

/// While the store is down counts wait. Beyond the bound their buckets become
/// one: the counts are all there, at a later time.
#[test]
fn counts_wait_for_the_store_in_bounded_memory() {
    let config = LedgerConfig {
        cells_max: 30,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    ledger.handle_loaded(0, Loaded::default());
    for turn in 1..=100_u32 {
        let now_s = u64::from(turn) * 10;
        ledger.handle_lars(now_s, 1, &report((0..10).map(|ip| (ip, turn, 0))));
        assert!(ledger.counters().waiting_cells <= 30 + 10);
    }
    assert!(ledger.counters().merged_buckets > 90);
    let mut shelf = Shelf::default();
    shelf.flush(&mut ledger, 1_000);
    assert_eq!(shelf.sum(), 1_000);
    let mut last = 0;
    for (start, _) in &shelf.batches {
        assert!(*start >= last, "in the order of time");
        last = *start;
    }
}

#[test]
fn keys_are_bounded_and_refused_ones_counted() {
    let config = LedgerConfig {
        keys_max: 5,
        ..LedgerConfig::default()
    };
    let mut ledger = Ledger::new(config);
    ledger.handle_loaded(0, Loaded::default());
    ledger.handle_lars(1, 1, &report((0..9).map(|ip| (ip, 1, 0))));
    ledger.handle_named(1, &counts(1, 1));
    let counters = ledger.counters();
    assert_eq!(
        (counters.keys, counters.refused_keys, counters.records),
        (5, 5, 5)
    );
}

#[test]
fn a_long_silence_makes_room() {
    let mut shelf = Shelf::default();
    let mut ledger = loaded(&shelf, 0);
    ledger.handle_named(10, &counts(1, 1));
    ledger.handle_lars(10, 1, &report([(1, 1, 0)]));
    let later = 10 + FORGET_AFTER.as_secs() + 1;
    ledger.handle_lars(later, 1, &report([(2, 1, 0)]));
    assert_eq!(
        ledger.counters().forgotten,
        0,
        "counts wait under their keys"
    );
    shelf.flush(&mut ledger, later);
    ledger.handle_lars(later + FORGET_EVERY_S, 1, &report([(2, 2, 0)]));
    assert_eq!(
        (ledger.counters().forgotten, ledger.counters().keys),
        (2, 1)
    );
    // Their places are used again.
    ledger.handle_named(later + FORGET_EVERY_S, &counts(2, 5));
    shelf.flush(&mut ledger, later + FORGET_EVERY_S);
    assert_eq!(shelf.sum(), 1 + 1 + 2 + 5);
}

/// Story: after a day without a word a key was forgotten with what it had told, and
/// the whole of its running total was counted again when it was told next: after one
/// call, or when an agent connected anew and told all.
#[test]
fn a_total_that_is_told_again_after_a_long_silence_adds_what_is_new() {
    for is_lars in [true, false] {
        let mut shelf = Shelf::default();
        let mut ledger = loaded(&shelf, 0);
        let tell = |ledger: &mut Ledger, now_s, reporter, ok: u32| {
            if is_lars {
                ledger.handle_lars(now_s, reporter, &report([(1, ok, 0)]));
            } else {
                ledger.handle_named(now_s, &counts(1, ok.into()));
            }
        };
        tell(&mut ledger, 10, 1, 100);
        shelf.flush(&mut ledger, 10);
        let mut now_s = 10;
        for (reporter, ok) in [(1, 100), (2, 101), (3, 101), (3, 150)] {
            now_s += FORGET_AFTER.as_secs() + FORGET_EVERY_S;
            let forgotten = ledger.counters().forgotten;
            assert!(ledger.poll_batch(now_s, 7).is_none());
            assert_eq!(ledger.counters().forgotten, forgotten + 1);
            tell(&mut ledger, now_s, reporter, ok);
            // More comes before the store is asked.
            tell(&mut ledger, now_s, reporter, ok);
            assert!(ledger.is_behind() && ledger.poll_batch(now_s, 7).is_none());
            shelf.flush(&mut ledger, now_s);
            assert_eq!(shelf.sum(), u64::from(ok));
        }
        assert_eq!(shelf.loaded.keys.len(), 1, "it keeps its number");
    }
}

/// What a server did not load, for want of room, its store knows all the same.
#[test]
fn a_key_that_was_not_loaded_goes_on_from_the_store() {
    let mut shelf = Shelf::default();
    let mut first = loaded(&shelf, 0);
    first.handle_lars(1, 1, &report((0..5).map(|ip| (ip, 10, 0))));
    first.handle_named(1, &counts(3, 10));
    shelf.flush(&mut first, 1);
    let mut second = ledger();
    second.handle_lars(20, 1, &report([(1, 11, 0), (9, 1, 0)]));
    second.handle_loaded(
        30,
        Loaded {
            keys: Vec::new(),
            lars: Vec::new(),
            is_cut: true,
            ..shelf.loaded.clone()
        },
    );
    second.handle_lars(31, 1, &report([(2, 12, 0)]));
    second.handle_named(31, &counts(3, 13));
    shelf.flush(&mut second, 31);
    assert_eq!(shelf.sum(), 60 + 1 + 1 + 2 + 3);
}

/// What came before the store could be read may be known there.
#[test]
fn counts_from_before_the_store_was_there_are_told_from_known_ones() {
    let mut shelf = Shelf::default();
    let mut first = loaded(&shelf, 0);
    first.handle_lars(1, 1, &report([(1, 10, 0), (2, 5, 0)]));
    first.handle_named(1, &counts(3, 10));
    shelf.flush(&mut first, 1);
    assert_eq!(shelf.sum(), 25);
    // It is killed, and another one starts without its store.
    let mut second = ledger();
    second.handle_lars(20, 1, &report([(1, 12, 0), (3, 7, 0)]));
    second.handle_lars(21, 1, &report([(1, 13, 0), (3, 8, 0)]));
    second.handle_named(21, &counts(3, 11));
    second.handle_named(22, &counts(4, 100));
    assert!(second.poll_batch(30, 7).is_none(), "not before it was read");
    second.handle_loaded(30, shelf.loaded.clone());
    second.handle_lars(31, 1, &report([(2, 6, 0)]));
    shelf.flush(&mut second, 31);
    assert_eq!(shelf.sum(), 25 + 3 + 8 + 1 + 100 + 1);
}

/// History that is summed up gets nothing more, whatever the clock does.
#[test]
fn a_clock_that_goes_back_adds_to_the_present_bucket() {
    let mut shelf = Shelf::default();
    let mut ledger = loaded(&shelf, 0);
    ledger.handle_lars(100, 1, &report([(1, 1, 0)]));
    ledger.handle_lars(40, 1, &report([(1, 2, 0)]));
    assert_eq!(ledger.complete_before(40), 100);
    shelf.flush(&mut ledger, 40);
    assert_eq!(
        shelf.counts.keys().map(|(start, _)| *start).max(),
        Some(100)
    );
    shelf.loaded.standing.folded = 200;
    let mut next = loaded(&shelf, 50);
    next.handle_lars(50, 1, &report([(1, 3, 0)]));
    shelf.flush(&mut next, 50);
    assert_eq!(shelf.counts.len(), 2);
    assert!(shelf.counts.keys().any(|(start, _)| *start == 200));
}

#[test]
fn bad_names_are_counted_and_the_rest_of_the_message_is_taken() {
    let mut ledger = ledger();
    let mut message = counts(1, 5);
    let mut bad = message.services[0].clone();
    bad.service = "1/2".to_owned();
    message.services.insert(0, bad);
    ledger.handle_named(1, &message);
    let counters = ledger.counters();
    assert_eq!((counters.bad_names, counters.records), (1, 1));
}

#[test]
fn present_counts_are_told_by_service() {
    let mut ledger = ledger();
    ledger.handle_lars(1, 1, &report([(2, 3, 4), (1, 1, 0)]));
    ledger.handle_named(1, &counts(1, 5));
    let (rows, count) = ledger.calls(Some("-1/2"), 10);
    assert_eq!(count, 2);
    assert_eq!((rows[0].host.as_str(), rows[1].failed), ("0.0.0.1:7000", 4));
    assert!(rows[1].is_out && !rows[0].is_out);
    assert_eq!(ledger.calls(None, 1).1, 3);
    assert_eq!(ledger.calls(Some("pay"), 9).0[0].caller, "m1");
}

#[test]
fn spans_are_multiples_of_a_bucket() {
    for span in Span::ALL {
        assert_eq!(span.seconds() % BUCKET_S, 0);
        assert_eq!(Span::of_name(span.name()), Some(span));
    }
}

proptest! {
    /// Agents count on while the server is killed, restarted with and without
    /// its store, and reconnected to, and are silent for days. In the end each call is counted once.
    #[test]
    fn every_call_is_counted_once_whatever_the_server_does(
        steps in proptest::collection::vec((0_u8..10, 0_usize..3, 1_u32..50), 1..120)
    ) {
        let mut shelf = Shelf::default();
        let mut server = loaded(&shelf, 0);
        let mut totals = [0_u32; 3];
        let mut connections = [1_u64, 2, 3];
        let mut last_connection = 3;
        let mut now_s = 100;
        for (step, who, more) in steps {
            now_s += 3;
            match step {
                0 => shelf.flush(&mut server, now_s),
                1 => {
                    // Killed. Agents connect anew and tell all.
                    server = ledger();
                    for connection in &mut connections {
                        last_connection += 1;
                        *connection = last_connection;
                    }
                }
                2 if !server.is_loaded() => server.handle_loaded(now_s, shelf.loaded.clone()),
                3 => {
                    last_connection += 1;
                    connections[who] = last_connection;
                }
                4 => {
                    now_s += FORGET_AFTER.as_secs() + FORGET_EVERY_S;
                    let told = server.poll_batch(now_s, 7);
                    if let Some(batch) = told {
                        shelf.write(&batch);
                    }
                }
                _ => {
                    totals[who] += more;
                    // Each has a key of its own.
                    let ip = i32::try_from(who).unwrap();
                    server.handle_lars(now_s, connections[who], &report([(ip, totals[who], 0)]));
                    server.handle_named(now_s, &{
                        let mut counts = counts(1 + who as u64, totals[who].into());
                        counts.caller = format!("m{who}");
                        counts
                    });
                }
            }
        }
        if !server.is_loaded() {
            server.handle_loaded(now_s, shelf.loaded.clone());
        }
        for (who, &total) in totals.iter().enumerate() {
            let ip = i32::try_from(who).unwrap();
            server.handle_lars(now_s, connections[who], &report([(ip, total, 0)]));
            let mut counts = counts(1 + who as u64, total.into());
            counts.caller = format!("m{who}");
            server.handle_named(now_s, &counts);
        }
        shelf.flush(&mut server, now_s);
        let all: u64 = totals.iter().map(|&total| u64::from(total)).sum();
        prop_assert_eq!(shelf.sum(), 2 * all);
    }
}
