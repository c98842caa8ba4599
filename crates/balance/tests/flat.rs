//! A pick costs as much among ten thousand hosts as among ten.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::cell::Cell;

use common::{after, view};
use waystation_balance::{
    AverageConfig, Candidates, Host, Hosts, Load, Locality, Offer, PolicyKind, Table, Trace,
};
use waystation_base::Rng;

/// A table that counts how many hosts are read.
struct Counted {
    table: Table,
    reads: Cell<usize>,
}

impl Hosts for Counted {
    fn host(&self, slot: u32) -> Host {
        self.reads.set(self.reads.get() + 1);
        self.table.host(slot)
    }

    fn hash(&self, slot: u32) -> u64 {
        self.table.hash(slot)
    }

    fn recent(&self) -> &[u32] {
        self.table.recent()
    }
}

/// The most hosts that any of 100 picks reads.
fn reads_max(kind: PolicyKind, hosts: u32) -> usize {
    let mut rng = Rng::from_seed(1);
    let mut table = Table::new(AverageConfig::default(), Locality::default());
    table.handle_view(&view(hosts));
    let names = table.names().to_vec();
    let load = Load {
        in_flight: 1,
        latency_us: 1000,
    };
    for &name in names.iter().take(100) {
        table.handle_load(after(0), name, load, true);
    }
    let counted = Counted {
        table,
        reads: Cell::new(0),
    };
    let candidates = Candidates::of(0..hosts);
    let mut policy = kind.build::<Counted>(1);
    policy.handle_candidates(after(0), &counted, &names, &candidates);
    for &name in names.iter().take(100) {
        policy.handle_load(after(0), name.slot, load, true, &mut rng);
    }
    let reads = (0..100).map(|key| {
        let offer = Offer {
            now: after(1),
            hosts: &counted,
            candidates: &candidates,
            tier: 0,
            key: Some(key),
            discarded: &[],
        };
        counted.reads.set(0);
        policy.choose(&offer, &mut rng, &mut Trace::off()).unwrap();
        counted.reads.get()
    });
    reads.max().unwrap()
}

#[test]
fn a_pick_reads_no_more_hosts_among_ten_thousand_than_among_a_hundred() {
    for kind in PolicyKind::ALL {
        let few = reads_max(kind, 100);
        assert_eq!(reads_max(kind, 10_000), few, "{kind}");
        assert!(
            few <= waystation_balance::limits::RECENT_MAX,
            "{kind}: {few}"
        );
    }
    // The counter counts.
    assert_eq!(reads_max(PolicyKind::P2c, 10), 2);
}
