//! Whole runs against a stand-in for Entry that breaks the contract on order.

use waystation_net::{Faults, MemoryIo};

use super::*;
use crate::client::stand_in::{Mischief, StandIn};

fn config(io: &Arc<MemoryIo>) -> Config {
    Config {
        clients: 12,
        seconds: 1,
        rate: 120,
        // It ends as soon as everything has arrived.
        settle: Duration::from_secs(30),
        seed: 5,
        io: io.clone(),
        ..Config::new(StandIn::address())
    }
}

fn report(mischief: Mischief) -> (Report, u32) {
    let io = Arc::new(MemoryIo::new(3, Faults::default()));
    let entry = StandIn::start(&io);
    entry.set(mischief);
    let mut config = config(&io);
    if !matches!(
        mischief,
        Mischief::None | Mischief::CutBeforeAnswer | Mischief::RefuseSome
    ) {
        config.settle = Duration::from_secs(1);
    }
    let report = run(&config, &Stop::default()).unwrap();
    let committed = entry.script.lock().unwrap().committed;
    (report, committed)
}

#[test]
fn a_good_entry_has_a_clean_report() {
    let (report, _) = report(Mischief::None);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.sent, report.acknowledged), (120, 120));
    assert!(report.delivered > 240, "{report}");
    assert_eq!((report.errors, report.reconnects), (0, 0));
    assert!(report.p50_us > 0 && report.p50_us <= report.p99_us);
    assert!(report.ack_p50_us > 0 && report.p99_us <= report.max_us);
}

#[test]
fn trouble_within_the_contract_has_a_clean_report() {
    std::thread::scope(|scope| {
        for mischief in [Mischief::CutBeforeAnswer, Mischief::RefuseSome] {
            scope.spawn(move || {
                let (report, committed) = report(mischief);
                assert!(report.is_clean(), "{mischief:?}: {report}");
                assert_eq!((report.acknowledged, report.errors), (120, 0), "{report}");
                assert!(committed > 20 && report.retries >= u64::from(committed));
            });
        }
    });
}

#[test]
fn several_threads_see_the_same() {
    let io = Arc::new(MemoryIo::new(3, Faults::default()));
    let _entry = StandIn::start(&io);
    let config = Config {
        shards: 3,
        ..config(&io)
    };
    let report = run(&config, &Stop::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.acknowledged, 120);
}

/// Each kind of fault, made once by the server, is reported as what it is.
#[test]
fn every_kind_of_fault_is_reported() {
    type Count = fn(&Report) -> u64;
    let cases: [(Mischief, Count); 6] = [
        (Mischief::Lose, |report| report.lost),
        (Mischief::Duplicate, |report| report.duplicated),
        (Mischief::StoreTwice, |report| report.duplicated),
        (Mischief::Swap, |report| report.out_of_order),
        (Mischief::Corrupt, |report| report.corrupted),
        (Mischief::Misdeliver, |report| report.misdelivered),
    ];
    let check = |(mischief, count): (Mischief, Count)| {
        let (report, committed) = report(mischief);
        assert_eq!(committed, 1, "{mischief:?}");
        assert!(count(&report) > 0, "{mischief:?}: {report}");
        assert!(!report.is_clean() && !report.faults.is_empty());
        let others = cases.iter().map(|(_, count)| count(&report));
        let kinds = others.filter(|count| *count > 0).count();
        // Duplicate and StoreTwice share their count.
        let expected = 1 + usize::from(report.duplicated > 0);
        assert_eq!(kinds, expected, "{mischief:?}: {report}");
    };
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || check(case));
        }
    });
}

#[test]
fn a_stopped_run_reports_what_it_did() {
    let io = Arc::new(MemoryIo::new(3, Faults::default()));
    let entry = StandIn::start(&io);
    let stop = Stop::default();
    let config = Config {
        seconds: 3_600,
        ..config(&io)
    };
    let stopper = stop.clone();
    let script = entry.script.clone();
    let watcher = std::thread::spawn(move || {
        while script.lock().unwrap().stored.len() < 3 {
            std::thread::yield_now();
        }
        stopper.request();
    });
    let report = run(&config, &stop).unwrap();
    watcher.join().unwrap();
    assert!(report.is_clean() && report.acknowledged == report.sent);
    assert!(report.seconds < 3_600.0);
}

#[test]
fn without_an_entry_the_error_names_address_and_cause() {
    let io = Arc::new(MemoryIo::new(3, Faults::default()));
    let config = Config {
        entry_wait: Duration::from_millis(200),
        ..config(&io)
    };
    let error = run(&config, &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("memory:entry: 0 of 12"), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn settings_that_make_no_run_are_refused_before_anything_starts() {
    let io = Arc::new(MemoryIo::new(3, Faults::default()));
    let changes: [fn(&mut Config); 6] = [
        |c| c.clients = 1,
        |c| c.rate = 0,
        |c| c.seconds = 0,
        |c| c.shards = 0,
        |c| c.body_bytes = 16,
        |c| (c.rate, c.seconds) = (2_000_000, 51),
    ];
    for change in changes {
        let mut config = config(&io);
        change(&mut config);
        let error = run(&config, &Stop::default()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    let mut much = config(&io);
    (much.clients, much.rate, much.seconds) = (100, 10_000, 5_000);
    let error = run(&much, &Stop::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooMuch {
                expected: 200_000_000..
            }
        ),
        "{error}"
    );
}
