//! A hub whose disk fails while it runs: publishers and operators hear it, nothing
//! that was acknowledged is lost, and sites go on.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, Place, append, wait_for_row, wait_until};
use waystation_base::Seq;
use waystation_net::Address;
use waystation_sync::adapter::MemoryDatabase;
use waystation_sync::client::{ClientError, HubClient};
use waystation_sync::hub::{HubServer, Operation};
use waystation_sync::{Files, Folder, LogFile};
use waystation_wire::Status;

/// How the disk fails.
#[derive(Debug, Default)]
struct Disk {
    /// No file can be made.
    is_full: AtomicBool,
    /// The next syncs of batches fail, so many.
    syncs_failing: AtomicUsize,
    /// The folder cannot be opened, so many times.
    opens_failing: AtomicUsize,
    /// While somebody holds it, syncs of batches do not return.
    hanging: Mutex<()>,
}

/// Takes one off a count.
fn counts(count: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    let order = Ordering::SeqCst;
    count.fetch_update(order, order, less).is_ok()
}

struct FaultyFolder {
    inner: Folder,
    disk: Arc<Disk>,
}

struct FaultyFile {
    inner: File,
    disk: Arc<Disk>,
    /// Whether what was written last is a batch, and not a segment's header.
    is_batch: AtomicBool,
}

impl FaultyFolder {
    fn file(&self, inner: File) -> FaultyFile {
        FaultyFile {
            inner,
            disk: Arc::clone(&self.disk),
            is_batch: AtomicBool::new(false),
        }
    }
}

impl Files for FaultyFolder {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<FaultyFile> {
        if self.disk.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.inner.create(name, bytes)?;
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<FaultyFile> {
        let file = Files::open(&self.inner, name)?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.inner.sync_folder()
    }
}

impl LogFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.is_batch.store(offset > 0, Ordering::SeqCst);
        self.inner.write_at(offset, data)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        LogFile::read_at(&self.inner, offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_batch.load(Ordering::SeqCst) {
            drop(self.disk.hanging.lock().unwrap());
            if counts(&self.disk.syncs_failing) {
                return Err(io::Error::other("the disk is broken"));
            }
        }
        self.inner.sync()
    }
}

/// A hub on a disk that fails when it is told to, and two sites with equal copies.
struct World {
    place: Place,
    disk: Arc<Disk>,
    hub: HubServer,
    client: HubClient,
    tables: [MemoryDatabase; 2],
    _sites: Vec<waystation_sync::site::SiteServer>,
}

impl World {
    fn new() -> Self {
        Self::patient(PATIENCE)
    }

    /// The hub waits for so long for its disk.
    fn patient(answer_wait: Duration) -> Self {
        let mut place = Place::new();
        // Each entry needs a segment of its own, and so a new file.
        place.options.log.segment_bytes = 4096;
        place.options.answer_wait = answer_wait;
        let disk = Arc::new(Disk::default());
        let (faults, dir) = (Arc::clone(&disk), place.options.dir.clone());
        let files = move || open(&dir, &faults);
        let hub = HubServer::start_in(&place.options, files).unwrap();
        let tables = [MemoryDatabase::new(), MemoryDatabase::new()];
        let names = ["master", "room"].into_iter();
        let sites = names.zip(&tables);
        let sites = sites.map(|(name, table)| place.site(name, table)).collect();
        let world = Self {
            client: place.client(),
            place,
            disk,
            hub,
            tables,
            _sites: sites,
        };
        world.publish("a", "1").unwrap();
        world.wait_for("1");
        world
    }

    /// Publishes a large value under a key, once.
    fn publish(&self, key: &str, value: &str) -> Result<Seq, ClientError> {
        let payload = append("row", &long(value));
        let at = self
            .client
            .publish(Some(key.as_bytes()), &payload, PATIENCE)?;
        Ok(at.seq)
    }

    fn wait_for(&self, values: &str) {
        let expected: String = values.split(' ').map(long).collect();
        for table in &self.tables {
            wait_for_row(table, "row", &expected);
        }
    }

    fn fence(&self) -> Result<serde_json::Value, ClientError> {
        let site = "room".to_owned();
        self.client.operate(Operation::Fence { site }, PATIENCE)
    }

    /// The folder is let go of, and what it holds is what was told.
    fn end(self, values: &str) {
        wait_until("the copies are equal", || {
            self.client.verify(PATIENCE).is_ok_and(|one| one.is_equal)
        });
        self.wait_for(values);
        let end = self.client.status(PATIENCE).unwrap().end;
        self.hub.drain();
        let hub = self.place.start();
        let status = self.client.status(PATIENCE).unwrap();
        assert_eq!(status.end, end);
        drop(hub);
    }
}

fn open(dir: &Path, disk: &Arc<Disk>) -> io::Result<FaultyFolder> {
    if counts(&disk.opens_failing) {
        return Err(io::Error::other("the disk is away"));
    }
    let (inner, disk) = (Folder::open(dir)?, Arc::clone(disk));
    Ok(FaultyFolder { inner, disk })
}

/// A value that fills most of a segment.
fn long(value: &str) -> String {
    value.repeat(3000)
}

/// The story: a disk was full, the publisher was told "OK", and the number that was
/// lost left a gap.
#[test]
fn a_publish_that_finds_a_full_disk_is_refused_and_goes_again_under_its_key() {
    let world = World::new();
    world.disk.is_full.store(true, Ordering::SeqCst);
    let payload = append("row", &long("2"));
    // Shorter than the wait for room: it is tried again until then.
    let short = Duration::from_millis(300);
    let refused = world.client.publish(Some(b"b"), &payload, short);
    assert!(refused.is_err(), "{refused:?}");
    // Who is refused is told so, and sites are there all the while.
    let status = world.client.status(PATIENCE).unwrap();
    assert_eq!(status.end, 1);
    assert!(status.sites.iter().all(|one| one.is_connected));
    world.disk.is_full.store(false, Ordering::SeqCst);
    assert_eq!(world.publish("b", "2").unwrap(), Seq(2));
    assert_eq!(world.publish("b", "2").unwrap(), Seq(2));
    assert_eq!(world.publish("c", "3").unwrap(), Seq(3));
    world.end("1 2 3");
}

/// The story: a sync failed, nobody knew what was stored, and "OK" was answered. The
/// log is opened anew, as soon as it can be, and everyone comes back.
#[test]
fn after_a_sync_that_failed_the_hub_opens_its_log_anew_and_sites_go_on() {
    let world = World::new();
    world.disk.opens_failing.store(2, Ordering::SeqCst);
    world.disk.syncs_failing.store(1, Ordering::SeqCst);
    // The client hears that nobody knows, and sends the same key again.
    assert_eq!(world.publish("b", "2").unwrap(), Seq(2));
    assert_eq!(world.disk.opens_failing.load(Ordering::SeqCst), 0);
    assert_eq!(world.publish("b", "2").unwrap(), Seq(2));
    assert_eq!(world.publish("c", "3").unwrap(), Seq(3));
    world.end("1 2 3");
}

/// The story: `sync fence` was answered as done while the log stood, and the next hub
/// let the site write.
#[test]
fn a_fence_that_the_disk_does_not_take_is_not_answered_as_done() {
    let world = World::new();
    let site = "room".to_owned();
    let grant = Operation::Grant { site };
    let granted: serde_json::Value = world.client.operate(grant, PATIENCE).unwrap();
    assert_eq!(granted["done"], true);
    world.disk.opens_failing.store(1, Ordering::SeqCst);
    world.disk.syncs_failing.store(1, Ordering::SeqCst);
    let refused = world.fence().unwrap_err();
    // The second if a position was saved right before, and that failed.
    let statuses = [Status::OutcomeUnknown, Status::Unavailable];
    assert!(
        matches!(&refused, ClientError::Refused { status, .. } if statuses.contains(status)),
        "{refused}"
    );
    let room = |world: &World| {
        let status = world.client.status(PATIENCE).unwrap();
        status.sites.into_iter().find(|one| one.name == "room")
    };
    // Whether it was done or not is seen; doing it again is answered once it is.
    wait_until("it is fenced", || {
        world.fence().is_ok_and(|done| done["done"] == true)
    });
    assert!(!room(&world).unwrap().may_write);
    world.publish("b", "2").unwrap();
    world.end("1 2");
}

/// The story: a disk hung, and a publisher by HTTP waited for ever.
#[test]
fn who_publishes_to_a_disk_that_hangs_hears_that_nobody_knows() {
    let world = World::patient(Duration::from_millis(200));
    let payload = append("row", &long("2"));
    {
        let _hanging = world.disk.hanging.lock().unwrap();
        let Address::Unix(path) = world.place.address() else {
            panic!("hubs of tests listen on Unix sockets");
        };
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /v1/publish HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\
             idempotency-key: b\r\ncontent-length: {}\r\n\r\n",
            payload.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&payload).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        let site = "room".to_owned();
        let refused = world
            .client
            .operate::<serde_json::Value>(Operation::Fence { site }, PATIENCE);
        let unknown = Status::OutcomeUnknown;
        assert!(
            matches!(&refused, Err(ClientError::Refused { status, .. }) if *status == unknown),
            "{refused:?}"
        );
    }
    // Once the disk answers the key tells which entry it became.
    wait_until("the disk answers", || {
        matches!(world.publish("b", "2"), Ok(Seq(2)))
    });
    world.end("1 2");
}
