//! Tests of the log: order, torn tails, damage, trimming, power loss.

mod damage;
mod power;
mod vain;

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use waystation_replica::{ClientKey, LifeId, Origin, Phase, Position, SiteName};

use super::*;

const EPOCH: Epoch = Epoch(3);

fn entry(seq: u64, bytes: usize) -> Arc<Entry> {
    Arc::new(Entry {
        position: Position::new(EPOCH.0, seq),
        origin: Origin::Client {
            key: Some(ClientKey::new(&seq.to_le_bytes())),
        },
        payload: vec![u8::try_from(seq % 251).unwrap(); bytes].into(),
    })
}

fn batch(range: std::ops::RangeInclusive<u64>, bytes: usize) -> Batch {
    Batch {
        entries: range.map(|seq| entry(seq, bytes)).collect(),
        records: Vec::new(),
    }
}

fn record(site: u16, at: u64) -> SiteRecord {
    SiteRecord {
        site: SiteId(site),
        name: SiteName::new("room").unwrap(),
        life: LifeId(1),
        phase: Phase::Live,
        at: Seq(at),
        token: waystation_base::FencingToken(1),
        may_write: false,
        source: 0,
        has_rows: true,
    }
}

/// Small segments, so that a few entries fill several.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        spare_max: 2,
        index_bytes: 512,
        ..LogConfig::default()
    }
}

fn open(path: &Path) -> Result<Log<Folder>, LogError> {
    Log::open(Folder::open(path)?, config(), EPOCH)
}

fn seqs<F: Files>(log: &Log<F>) -> Vec<u64> {
    let found = log.read(log.start(), log.end(), u64::MAX).unwrap();
    found.iter().map(|one| one.position.seq.0).collect()
}

/// A folder with entries 1 to 30 in several segments.
fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    for first in (1..=30).step_by(3) {
        log.append(&batch(first..=first + 2, 300)).unwrap();
    }
    assert!(log.reader.view().segments.len() > 2);
    folder
}

fn segments(folder: &TempDir) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(folder.path()).unwrap();
    let mut all: Vec<_> = all.map(|one| one.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|one| one == "segment"));
    all.sort();
    all
}

fn change(path: &Path, at: impl Fn(&[u8]) -> usize) {
    let mut data = fs::read(path).unwrap();
    let at = at(&data);
    data[at] ^= 0x40;
    fs::write(path, data).unwrap();
}

/// The last byte that is not zero: of the last batch.
fn last_byte(data: &[u8]) -> usize {
    data.iter().rposition(|byte| *byte != 0).unwrap()
}

#[test]
fn what_was_appended_is_read_after_the_log_was_opened_anew() {
    let folder = filled();
    let log = open(folder.path()).unwrap();
    assert_eq!((log.start(), log.end()), (Seq(0), Seq(30)));
    assert_eq!(seqs(&log), (1..=30).collect::<Vec<u64>>());
    for after in 0..30 {
        let found = log.read(Seq(after), Seq(30), 1).unwrap();
        assert_eq!(found, [entry(after + 1, 300)]);
    }
    let found = log.read(Seq(4), Seq(9), 1 << 20).unwrap();
    assert_eq!(found.len(), 5);
}

#[test]
fn entries_of_no_bytes_and_of_more_than_a_segment_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.append(&batch(1..=1, 0)).unwrap();
    log.append(&batch(2..=2, 20_000)).unwrap();
    log.append(&batch(3..=3, 10)).unwrap();
    drop(log);
    let log = open(folder.path()).unwrap();
    let found = log.read(Seq(0), Seq(3), 1 << 20).unwrap();
    assert_eq!(found, [entry(1, 0), entry(2, 20_000), entry(3, 10)]);
}

#[test]
fn records_of_sites_outlive_the_segments_they_were_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    let records = vec![Record::Site(record(1, 0)), Record::Site(record(2, 0))];
    log.append(&Batch {
        entries: Vec::new(),
        records,
    })
    .unwrap();
    let forgotten = vec![Record::Forgotten(SiteId(2)), Record::Site(record(1, 7))];
    log.append(&Batch {
        entries: Vec::new(),
        records: forgotten,
    })
    .unwrap();
    (1..=30).for_each(|seq| log.append(&batch(seq..=seq, 300)).unwrap());
    log.trim(Seq(29)).unwrap();
    assert!(log.start() > Seq(10));
    drop(log);
    let mut log = open(folder.path()).unwrap();
    let restored = log.restored(Moment::ZERO, 0);
    assert_eq!(restored.sites, [record(1, 7)]);
}

#[test]
fn trimmed_segments_are_written_again_and_their_old_batches_never_come_back() {
    let folder = filled();
    let mut log = open(folder.path()).unwrap();
    log.trim(Seq(28)).unwrap();
    let start = log.start();
    assert!(start > Seq(0) && start <= Seq(28));
    assert!(matches!(
        log.read(Seq(0), Seq(30), 1),
        Err(ReadError::Trimmed { start: one }) if one == start
    ));
    assert_eq!(log.spare.len(), 2);
    let mut last = 30;
    while !log.spare.is_empty() {
        last += 1;
        log.append(&batch(last..=last, 300)).unwrap();
    }
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(log.end(), Seq(last));
    assert_eq!(seqs(&log), (start.0 + 1..=last).collect::<Vec<u64>>());
}

#[test]
fn a_torn_tail_is_erased_and_the_log_goes_on() {
    let folder = filled();
    let path = segments(&folder).pop().unwrap();
    change(&path, last_byte);
    let mut log = open(folder.path()).unwrap();
    assert_eq!(log.end(), Seq(27));
    log.append(&batch(28..=28, 10)).unwrap();
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(seqs(&log), (1..=28).collect::<Vec<u64>>());
}

#[test]
fn a_flipped_bit_before_a_whole_batch_is_damage_and_no_tail() {
    for at in [64, 70, 90, 200] {
        let folder = filled();
        change(&segments(&folder)[0], |_| at);
        let refused = open(folder.path()).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, LogError::Corrupt { segment: 1, .. }),
            "byte {at}: {refused}"
        );
    }
    let folder = filled();
    change(&segments(&folder)[1], |_| 9);
    assert!(matches!(
        open(folder.path()).map(|_| ()),
        Err(LogError::Corrupt { segment: 2, .. })
    ));
}

#[test]
fn a_damaged_header_of_the_only_segment_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.append(&batch(1..=3, 10)).unwrap();
    drop(log);
    change(&segments(&folder)[0], |_| 20);
    assert!(matches!(
        open(folder.path()).map(|_| ()),
        Err(LogError::Corrupt { segment: 1, .. })
    ));
}

#[test]
fn a_missing_or_truncated_segment_is_damage() {
    let folder = filled();
    fs::remove_file(&segments(&folder)[1]).unwrap();
    assert!(matches!(
        open(folder.path()).map(|_| ()),
        Err(LogError::Corrupt { .. })
    ));
    let folder = filled();
    let path = &segments(&folder)[0];
    let data = fs::read(path).unwrap();
    fs::write(path, &data[..1000]).unwrap();
    assert!(matches!(
        open(folder.path()).map(|_| ()),
        Err(LogError::Corrupt { .. })
    ));
}

#[test]
fn a_segment_of_another_history_is_refused_and_the_folder_tells_its_own() {
    let folder = filled();
    let files = Folder::open(folder.path()).unwrap();
    let log = Log::open(files, config(), Epoch(9)).unwrap();
    assert_eq!(log.epoch(), EPOCH, "the log that is there counts");
    drop(log);
    let other = tempfile::tempdir().unwrap();
    let files = Folder::open(other.path()).unwrap();
    let mut log = Log::open(files, config(), Epoch(4)).unwrap();
    for first in (1..=30).step_by(3) {
        let mut batch = batch(first..=first + 2, 300);
        for entry in &mut batch.entries {
            Arc::make_mut(entry).position.epoch = Epoch(4);
        }
        log.append(&batch).unwrap();
    }
    fs::copy(&segments(&other)[1], &segments(&folder)[1]).unwrap();
    let (expected, found) = (EPOCH, Epoch(4));
    assert!(matches!(
        open(folder.path()),
        Err(LogError::OtherEpoch { expected: one, found: other }) if (one, other) == (expected, found)
    ));
}

#[test]
fn a_second_hub_on_the_folder_is_refused() {
    let folder = filled();
    let _first = open(folder.path()).unwrap();
    let refused = open(folder.path()).map(|_| ()).unwrap_err();
    let LogError::Io(error) = refused else {
        panic!("another fault: {refused}");
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(error.to_string().starts_with("another hub uses the log"));
}
