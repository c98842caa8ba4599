//! Joins as they run: whom a joiner copies from, and a copy that takes long.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use common::{PATIENCE, Place, append, change, row, wait_for_row, wait_until};
use waystation_replica::{Refusal, SiteEvent};
use waystation_sync::adapter::{MemoryChange, MemoryDatabase};
use waystation_sync::client::HubClient;
use waystation_sync::site::{SiteOptions, SiteServer};

fn idle() -> u16 {
    0
}

/// A machine on which everything waits.
fn busy() -> u16 {
    5_000
}

fn load_of(client: &HubClient, name: &str) -> Option<u16> {
    let status = client.status(PATIENCE).unwrap();
    let mut sites = status.sites.iter();
    let site = sites.find(|one| one.name == name && one.phase == "live");
    site.map(|one| one.load_permille)
}

/// A master and a room, each with these settings, and a joiner: from whom it took its
/// copy.
fn donor_of(
    master: impl FnOnce(&mut SiteOptions),
    room: impl FnOnce(&mut SiteOptions),
    load_of_master: u16,
) -> String {
    let place = Place::new();
    let _hub = place.start();
    let tables = [(); 3].map(|()| MemoryDatabase::new());
    tables[0].write(&[change("base", "there")]);
    let client = place.client();
    let _master = place.site_with("master", &tables[0], master);
    wait_until("the master is known to be as busy as it is", || {
        load_of(&client, "master") == Some(load_of_master)
    });
    let _room = place.site_with("room", &tables[1], room);
    wait_for_row(&tables[1], "base", "there");
    wait_until("the room is live and idle", || {
        load_of(&client, "room") == Some(0)
    });
    // Written behind the log's back: the copy tells whose it is.
    tables[0].write(&[change("donor", "master")]);
    tables[1].write(&[change("donor", "room")]);
    let _joiner = place.site_with("joiner", &tables[2], |options| {
        options.core.zone = "east".into();
        options.load_permille = idle;
    });
    wait_until("the copy is there", || row(&tables[2], "donor").is_some());
    let donor = row(&tables[2], "donor").unwrap();
    std::str::from_utf8(&donor).unwrap().to_owned()
}

fn site(zone: &'static str, load_permille: fn() -> u16) -> impl FnOnce(&mut SiteOptions) {
    move |options| {
        options.core.zone = zone.into();
        options.load_permille = load_permille;
    }
}

/// The story: nothing ever told the load, and no site had a zone: of equals the
/// first one served every copy.
#[test]
fn a_joiner_copies_from_the_site_that_is_near_and_idle() {
    assert_eq!(
        donor_of(site("east", idle), site("east", idle), 0),
        "master"
    );
    assert_eq!(donor_of(site("west", idle), site("east", idle), 0), "room");
    let busy_master = site("east", busy);
    assert_eq!(donor_of(busy_master, site("east", idle), 5_000), "room");
    // From afar rather than from one that has no time.
    let busy_master = site("east", busy);
    assert_eq!(donor_of(busy_master, site("west", idle), 5_000), "room");
}

/// Rows of about 3 MB, a dozen chunks.
fn fill(table: &MemoryDatabase) {
    let rows: Vec<MemoryChange> = (0..3000)
        .map(|n| change(&format!("row{n:04}"), &"x".repeat(1000)))
        .collect();
    table.write(&rows);
}

fn was_evicted(site: &SiteServer) -> bool {
    let events = site.events().unwrap();
    events
        .iter()
        .any(|one| matches!(one, SiteEvent::Refused(Refusal::MustReseed { .. })))
}

/// The story: a copy took longer than the log keeps what is written meanwhile. Its
/// site was evicted, began anew, and was evicted again, for ever.
#[test]
fn a_copy_that_takes_longer_than_the_log_keeps_entries_ends() {
    let mut place = Place::new();
    place.options.hub.retain_bytes_max = 64 << 10;
    place.options.hub.retain_age_min = Duration::ZERO;
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    fill(&first);
    let _master = place.site_with("master", &first, |options| {
        options.core.donor_bytes_per_second = Some(1 << 20);
    });
    let client = place.client();
    let room = place.site_with("room", &second, |options| {
        options.core.joiner.renew_after = Duration::from_millis(1);
    });
    // A sixth of what the log keeps is written for each chunk that comes.
    let (mut chunks, mut written) = (0, 0);
    let value = "y".repeat(1000);
    wait_until("the copy is complete", || {
        let view = room.view().unwrap();
        while chunks < view.joined_chunks {
            chunks += 1;
            for _ in 0..10 {
                written += 1;
                let key = format!("row{:04}", written * 37 % 3000);
                let payload = append(&key, &value);
                client.publish(None, &payload, PATIENCE).unwrap();
            }
        }
        chunks > 0 && !view.is_joining
    });
    assert!(written > 64, "more than the log keeps");
    assert!(!was_evicted(&room));
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).is_ok_and(|proof| proof.is_equal)
    });
    assert!(!was_evicted(&room));
}
