//! A connection's bytes to a whole report server: agents of Lars, our own, and who
//! asks by HTTP.
//!
//! The first byte is the size of the pieces. As many messages and results are taken
//! in as the bytes hold, whatever the cut; agents of Lars hear nothing; memory stays
//! within the bounds that the server was given.
#![no_main]

mod support;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use support::sockets;
use waystation_report::{
    Batch, Found, HistoryQuery, HistoryRow, KeyName, LedgerConfig, Loaded, ReportConfig,
    ReportServer, Retention, Standing, Store, StoreError,
};
use waystation_wire::lars::{Message, Scan, scan};
use waystation_wire::{FirstByte, classify};

const BOUNDS: LedgerConfig = LedgerConfig {
    keys_max: 1_000,
    cells_max: 500,
    batch_cells_max: 100,
};

static SERVER: LazyLock<ReportServer> = LazyLock::new(|| {
    // The URL is not opened: the stores are given.
    let store = "sqlite:///nowhere".parse().expect("a store");
    let mut config = ReportConfig::new("127.0.0.1:0".parse().expect("an address"), store);
    config.ledger = BOUNDS;
    let stores = [(); 2].map(|()| Box::new(Taken::default()));
    let [store, reader] = stores;
    ReportServer::start_with(&config, store, reader).expect("it starts")
});

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let (said, taken) = tell(bytes, bytes.len());
    let (_, in_pieces) = tell(bytes, usize::from(cut));
    assert_eq!(taken, in_pieces, "it depends on the cut");
    match bytes.first().map(|first| classify(*first)) {
        Some(FirstByte::Http) => {
            let is_http = said.is_empty() || said.starts_with(b"HTTP/1.");
            assert!(is_http, "{}", String::from_utf8_lossy(&said));
            assert_eq!(taken, (0, 0));
        }
        Some(FirstByte::Native) => {}
        _ => {
            assert_eq!(said, b"", "a report has no answer");
            assert_eq!(taken, reported(bytes));
        }
    }
});

/// Sends this, and says what came back and how many messages and results were
/// counted.
fn tell(bytes: &[u8], cut: usize) -> (Vec<u8>, (u64, u64)) {
    let server = &*SERVER;
    let before = server.counters();
    let said = sockets::exchange(sockets::tcp(server.address()), bytes, cut);
    let after = server.counters();
    assert!(after.keys <= BOUNDS.keys_max as u64);
    assert!(after.waiting_cells <= BOUNDS.cells_max as u64);
    let counters = server.server().expect("it runs").counters();
    assert_eq!(counters[0].panics.get(), 0);
    // Those without room for their key, and under names that are none, came as well.
    let results = |of: &waystation_report::Counters| of.records + of.refused_keys + of.bad_names;
    let taken = (
        after.messages - before.messages,
        results(&after) - results(&before),
    );
    (said, taken)
}

/// Messages and results of a stream of Lars.
fn reported(mut stream: &[u8]) -> (u64, u64) {
    let (mut messages, mut results) = (0, 0);
    while let Ok(Scan::Frame(frame)) = scan(stream) {
        if let Ok(Message::ReportStatusRequest(report)) = Message::parse(frame.id, frame.body) {
            messages += 1;
            results += report.results.len() as u64;
        }
        stream = &stream[frame.len()..];
    }
    (messages, results)
}

/// A store that takes everything and keeps nothing.
#[derive(Default)]
struct Taken(Standing);

impl Store for Taken {
    fn open(&mut self) -> Result<Standing, StoreError> {
        Ok(self.0)
    }

    fn load(&mut self, _: usize) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    fn find(&mut self, _: &[KeyName]) -> Result<Found, StoreError> {
        Ok(Found::default())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        (self.0.seq, self.0.owner) = (batch.seq, batch.owner);
        Ok(())
    }

    fn fold(&mut self, before: u64) -> Result<(), StoreError> {
        self.0.folded = before;
        Ok(())
    }

    fn begin_anew(&mut self, start: u64) -> Result<(), StoreError> {
        self.0.folded = start;
        Ok(())
    }

    fn expire(&mut self, _: u64, _: &Retention) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn history(&mut self, _: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError> {
        Ok(Vec::new())
    }
}
