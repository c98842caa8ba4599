//! What the tests of a whole report server share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use waystation_base::{Clock as _, Moment};
use waystation_net::MonotonicClock;
use waystation_report::{
    Batch, CountRow, HistoryQuery, KeyName, KeyRow, LarsKey, LarsRow, ReportConfig, ReportServer,
    Retention, Span, Store, StoreError, StoreUrl, Told, Totals, ask_status,
};
use waystation_wire::lars::{HostCallResult, Message, ReportStatusRequest};

/// No wait of a test is meant to come near this.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Looks until it is so.
///
/// # Panics
/// When it is not in [`WAIT`].
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline: Moment = MonotonicClock.now() + WAIT;
    while !is_so() {
        assert!(MonotonicClock.now() < deadline, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) fn config(store: &str) -> ReportConfig {
    let store: StoreUrl = store.parse().unwrap();
    let mut config = ReportConfig::new("127.0.0.1:0".parse().unwrap(), store);
    config.flush = Duration::from_millis(20);
    config
}

pub(crate) fn start(store: &str) -> ReportServer {
    ReportServer::start(&config(store)).unwrap()
}

pub(crate) fn status(server: &ReportServer) -> Value {
    ask_status(server.address(), WAIT).unwrap()
}

/// Waits until so many results came and all of them are in the store.
pub(crate) fn until_stored(server: &ReportServer, records: u64) {
    until("results are stored", || {
        let status = status(server);
        status["records"] == records && status["waiting_cells"] == 0 && status["store"]["is_up"] == true
            // One batch may be under way.
            && status["store"]["written"] == status["batches"]
    });
}

/// A report of one pair: hosts `10.0.0.N:7000` with these counts.
pub(crate) fn report(pair: (i32, i32), hosts: &[(u8, u32, u32)]) -> Message {
    let ip = |last: u8| 0x0a00_0000 | i32::from(last);
    let results = hosts.iter().map(|&(last, succ, err)| HostCallResult {
        ip: ip(last),
        port: 7000,
        succ,
        err,
        overload: err > succ,
    });
    Message::ReportStatusRequest(ReportStatusRequest {
        modid: pair.0,
        cmdid: pair.1,
        // 200.0.0.9: negative on the wire.
        caller: 0xc800_0009_u32.cast_signed(),
        results: results.collect(),
        ts: 1_700_000_000,
    })
}

pub(crate) fn bytes_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes).unwrap();
    bytes
}

/// A connection of Lars' agent.
pub(crate) struct Agent(pub(crate) TcpStream);

impl Agent {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub(crate) fn tell(&mut self, message: &Message) {
        self.0.write_all(&bytes_of(message)).unwrap();
    }
}

pub(crate) fn all(span: Span) -> HistoryQuery {
    HistoryQuery {
        span,
        service: None,
        since: 0,
        until: u64::MAX >> 1,
        limit: 10_000,
    }
}

fn batch(seq: u64, start: u64, counts: &[(u32, u64)]) -> Batch {
    let key = |id: u32| KeyRow {
        id,
        name: KeyName::named("pay", &format!("h{id}:1"), "m1").unwrap(),
        told: Told::default(),
    };
    Batch {
        seq,
        owner: 5,
        start,
        now: start,
        keys: counts.iter().map(|(id, _)| key(*id)).collect(),
        lars: Vec::new(),
        counts: counts
            .iter()
            .map(|&(key, ok)| CountRow {
                key,
                added: Totals::new(ok, 0),
            })
            .collect(),
    }
}

fn lars_row(last: u8) -> LarsRow {
    LarsRow {
        key: LarsKey {
            modid: -1,
            cmdid: 2,
            // From 128.0.0.0 on.
            ip: (0xc800_0000_u32 | u32::from(last)).cast_signed(),
            port: 7000,
            caller: -7,
        },
        told: Told {
            totals: Totals::new(last.into(), 1),
            ..Told::default()
        },
    }
}

/// Keys of both kinds are found by their names, with what was told last.
pub(crate) fn finds_keys(store: &mut dyn Store) {
    store.open().unwrap();
    let mut first = batch(1, 3600, &[(1, 10), (2, 1)]);
    first.lars = (0..9).map(lars_row).collect();
    first.keys.push(KeyRow {
        id: 3,
        name: lars_row(4).key.into(),
        told: Told::default(),
    });
    store.write(&first).unwrap();
    let named = |host: &str| KeyName::named("pay", host, "m1").unwrap();
    let lars = |last| KeyName::from(lars_row(last).key);
    let found = store.find(&[named("h9:1"), named("h2:1"), lars(4), lars(5), lars(99)]);
    let found = found.unwrap();
    let mut ids: Vec<u32> = found.keys.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    let mut rows = found.lars;
    rows.sort_by_key(|row| row.key.ip);
    assert_eq!(rows, [lars_row(4), lars_row(5)]);
}

/// Counts go to an earlier time again, and none is summed up twice when the later time
/// comes.
pub(crate) fn begins_anew(store: &mut dyn Store) {
    store.open().unwrap();
    store.write(&batch(1, 3_600, &[(1, 10)])).unwrap();
    store.write(&batch(2, 90_000, &[(1, 5)])).unwrap();
    store.fold(90_000).unwrap();
    store.write(&batch(3, 90_010, &[(1, 1)])).unwrap();
    store.begin_anew(3_610).unwrap();
    let sum = |store: &mut dyn Store, span| -> u64 {
        let rows = store.history(&all(span)).unwrap();
        rows.iter().map(|row| row.ok).sum()
    };
    assert_eq!(sum(store, Span::TenSeconds), 10);
    assert_eq!(store.open().unwrap().folded, 3_610);
    store.write(&batch(4, 3_610, &[(1, 2)])).unwrap();
    store.write(&batch(5, 90_000, &[(1, 3)])).unwrap();
    store.fold(100_000).unwrap();
    for span in [Span::Minute, Span::Hour] {
        assert_eq!(sum(store, span), 21, "{span:?}");
    }
    let rows = store.history(&all(Span::Hour)).unwrap();
    let of_one: Vec<(u64, u64)> = rows.iter().map(|row| (row.start, row.ok)).collect();
    assert_eq!(of_one, [(90_000, 9), (3_600, 12)]);
}

/// The part of the suite that every store passes.
pub(crate) fn folds_and_expires(store: &mut dyn Store) {
    let standing = store.open().unwrap();
    assert_eq!(standing.seq, 0);
    let mut seq = 0;
    // Two minutes of an hour, and a bucket of the next hour.
    for start in [3600, 3610, 3650, 3660, 7200] {
        seq += 1;
        store.write(&batch(seq, start, &[(1, 10), (2, 1)])).unwrap();
        store.write(&batch(seq, start, &[(1, 10), (2, 1)])).unwrap();
    }
    let other = Batch {
        owner: 6,
        ..batch(seq, 7200, &[(1, 10)])
    };
    assert!(matches!(
        store.write(&other),
        Err(StoreError::Elsewhere {
            found: 5,
            expected: 4
        })
    ));
    let told = |store: &mut dyn Store, span| -> Vec<(u64, u64)> {
        let rows = store.history(&all(span)).unwrap();
        let of_one = rows.iter().filter(|row| row.host == "h1:1");
        of_one.map(|row| (row.start, row.ok)).collect()
    };
    assert_eq!(told(store, Span::Minute), []);
    store.fold(3660).unwrap();
    assert_eq!(told(store, Span::Minute), [(3600, 30)]);
    assert_eq!(told(store, Span::Hour), [(3600, 30)]);
    store.fold(7300).unwrap();
    store.fold(7300).unwrap();
    assert_eq!(
        told(store, Span::Minute),
        [(7200, 10), (3660, 10), (3600, 30)]
    );
    assert_eq!(told(store, Span::Hour), [(7200, 10), (3600, 40)]);
    let loaded = store.load(100).unwrap();
    assert_eq!((loaded.standing.seq, loaded.standing.folded), (5, 7300));
    assert_eq!((loaded.keys.len(), loaded.last_id), (2, 2));
    let keeps = Retention {
        ten_seconds_s: 100,
        minutes_s: 3_600,
        hours_s: 1_000_000,
    };
    while store.expire(7_250, &keeps).unwrap() {}
    assert_eq!(told(store, Span::TenSeconds), [(7200, 10)]);
    assert_eq!(told(store, Span::Minute), [(7200, 10), (3660, 10)]);
    assert_eq!(told(store, Span::Hour).len(), 2);
}
