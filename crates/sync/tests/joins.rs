//! Joins as they run: whom a joiner copies from, and a copy that takes long.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{PATIENCE, Place, append, change, row, wait_for_row, wait_until};
use rusqlite::Connection;
use waystation_replica::{Refusal, SiteConfig, SiteEvent, SiteName};
use waystation_sync::adapter::{MemoryChange, MemoryDatabase, SqliteDatabase};
use waystation_sync::client::HubClient;
use waystation_sync::hub::Operation;
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

fn file(place: &Place, name: &str) -> PathBuf {
    place.folder.path().join(format!("{name}.db"))
}

fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

fn options(place: &Place, name: &str) -> SiteOptions {
    let core = SiteConfig::new(SiteName::new(name).unwrap());
    SiteOptions::new(place.address(), core)
}

/// Writes that a program may make for each chunk that comes.
const WRITES_PER_CHUNK: u64 = 24;

/// Changes rows one after another, as many as it may, until it may not any more.
fn write_rows(file: &Path, budget: &AtomicU64) {
    let app = open(file);
    let sql = "UPDATE item SET note = ?1 WHERE id = ?2";
    let (_never, pause) = channel::<()>();
    let mut written = 0;
    loop {
        let most = budget.load(Ordering::Relaxed);
        if most == u64::MAX {
            return;
        }
        if written < most {
            written += 1;
            let note = format!("{written:01000}");
            app.execute(
                sql,
                rusqlite::params![note, (written * 37 % 3000).cast_signed()],
            )
            .unwrap();
        }
        let _ = pause.recv_timeout(Duration::from_millis(1));
    }
}

/// The story: a snapshot of a file that programs wrote to held writes that the log had not
/// yet, at any moment. It could not be followed: a copy that took longer than the log keeps
/// entries was evicted and began anew, for ever.
#[test]
fn a_copy_of_a_file_that_is_written_to_takes_longer_than_the_log_keeps_entries_and_ends() {
    let mut place = Place::new();
    place.options.hub.retain_bytes_max = 128 << 10;
    place.options.hub.retain_age_min = Duration::ZERO;
    let _hub = place.start();
    let app = open(&file(&place, "master"));
    app.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, note TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2999)
         INSERT INTO item SELECT i, hex(zeroblob(500)) FROM n",
    )
    .unwrap();
    let mut master = options(&place, "master");
    master.core.donor_bytes_per_second = Some(1 << 20);
    let target = SqliteDatabase::new(&file(&place, "master")).captured();
    let master = SiteServer::start(master, Arc::new(target)).unwrap();
    let client = place.client();
    wait_until("the master is live", || {
        load_of(&client, "master").is_some()
    });
    let site = "master".to_owned();
    let _: serde_json::Value = client.operate(Operation::Grant { site }, PATIENCE).unwrap();
    wait_until("it may publish", || master.view().unwrap().token.is_some());
    let mut room = options(&place, "room");
    room.core.joiner.renew_after = Duration::from_millis(1);
    let budget = AtomicU64::new(WRITES_PER_CHUNK);
    std::thread::scope(|scope| {
        scope.spawn(|| write_rows(&file(&place, "master"), &budget));
        let target = SqliteDatabase::new(&file(&place, "room"));
        let room = SiteServer::start(room, Arc::new(target)).unwrap();
        let mut chunks = 0;
        for _ in 0..PATIENCE.as_millis() / 10 {
            let view = room.view().unwrap();
            chunks = view.joined_chunks;
            budget.store((chunks + 1) * WRITES_PER_CHUNK, Ordering::Relaxed);
            if chunks > 0 && !view.is_joining {
                break;
            }
            let (_never, pause) = channel::<()>();
            let _ = pause.recv_timeout(Duration::from_millis(10));
        }
        budget.store(u64::MAX, Ordering::Relaxed);
        assert!(
            !room.view().unwrap().is_joining,
            "{chunks} chunks, and no end"
        );
        assert!(chunks * WRITES_PER_CHUNK > 128, "more than the log keeps");
        assert!(!was_evicted(&room));
        wait_until("the copies are equal", || {
            client.verify(PATIENCE).is_ok_and(|proof| proof.is_equal)
        });
    });
}
