//! A copy from which an entry was left out, and what makes it whole again.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::{PATIENCE, Place, append, change, wait_for_row, wait_until};
use waystation_replica::{ApplierConfig, Policy};
use waystation_sync::adapter::{MemoryDatabase, MemoryFaults};
use waystation_sync::site::SiteServer;

/// A site that leaves out what fails.
fn skipping(place: &Place, table: &MemoryDatabase) -> SiteServer {
    place.site_with("room", table, |options| {
        options.core.applier = ApplierConfig {
            policy: Policy::Skip,
            tries_max: 1,
            ..ApplierConfig::default()
        };
    })
}

/// Entries for this row are refused from now on.
fn refuse(table: &MemoryDatabase, key: &str) {
    table.set_faults(MemoryFaults {
        poisoned: [key.as_bytes().to_vec()].into(),
        ..MemoryFaults::default()
    });
}

/// The story: an entry was skipped, somebody put the row right, every proof found the
/// copies equal, and the copy counted as differing, and was nobody's donor, until an
/// operator said what the proof had said.
#[test]
fn a_copy_that_a_proof_finds_equal_differs_no_more() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let _master = place.site("master", &first);
    let client = place.client();
    let publish = |key: &str, value: &str| {
        let payload = append(key, value);
        client.publish(None, &payload, PATIENCE).unwrap();
    };
    publish("row", "1");
    let room = skipping(&place, &second);
    wait_for_row(&second, "row", "1");
    refuse(&second, "bad");
    publish("bad", "x");
    wait_until("the entry is left out", || {
        room.view().unwrap().is_differing
    });
    let proof = client.verify(PATIENCE).unwrap();
    assert!(!proof.is_equal, "{proof:?}");
    // What comes behind it is applied, and repairs nothing.
    publish("row", "2");
    wait_for_row(&second, "row", "12");
    assert!(room.view().unwrap().is_differing);
    second.write(&[change("bad", "x")]);
    let proof = client.verify(PATIENCE).unwrap();
    assert!(proof.is_equal, "{proof:?}");
    wait_until("the site knows that it is equal", || {
        !room.view().unwrap().is_differing
    });
    wait_until("the hub knows it, too", || {
        let status = client.status(PATIENCE).unwrap();
        !status.sites.iter().any(|one| one.is_differing)
    });
    // It is stored, and counts for that entry alone.
    room.stop();
    let room = skipping(&place, &second);
    assert!(!room.view().unwrap().is_differing);
    publish("bad", "y");
    wait_until("another entry is left out", || {
        room.view().unwrap().is_differing
    });
}

/// The story: a hub's folder was lost, and the next hub gave its numbers again: copies
/// of the old history took entries of the new one for those that they had.
#[test]
fn copies_of_a_history_that_is_lost_are_refused_and_begin_anew_when_told() {
    let place = Place::new();
    let hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let master = place.site("master", &first);
    let client = place.client();
    let publish = |key: &str, value: &str| {
        let payload = append(key, value);
        client.publish(Some(value.as_bytes()), &payload, PATIENCE)
    };
    publish("row", "1").unwrap();
    let room = place.site("room", &second);
    wait_for_row(&second, "row", "1");
    let lost = hub.epoch();
    hub.drain();
    std::fs::remove_dir_all(&place.options.dir).unwrap();
    let hub = place.start();
    assert_ne!(hub.epoch(), lost);
    // Its number is that of what both have.
    let at = publish("row", "2").unwrap();
    assert_eq!((at.epoch, at.seq.0), (hub.epoch(), 1));
    for site in [&master, &room] {
        wait_until("the copy is refused", || site.view().unwrap().is_barred);
    }
    for table in [&first, &second] {
        wait_for_row(table, "row", "1");
    }
    // What the first of all has is what the new history begins with.
    master.rejoin().unwrap();
    wait_for_row(&first, "row", "12");
    room.rejoin().unwrap();
    publish("row", "3").unwrap();
    wait_for_row(&second, "row", "123");
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).unwrap().is_equal
    });
}
