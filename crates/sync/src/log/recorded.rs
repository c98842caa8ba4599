//! Files in memory that record every call, and what a power loss leaves of them: for
//! tests of the log, and for simulation.

#![allow(
    clippy::missing_errors_doc,
    clippy::unwrap_used,
    missing_docs,
    reason = "it is compiled for tests and the simulation alone, which may panic"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use waystation_base::{Epoch, Rng};

use super::{Files, Log, LogConfig, LogError, LogFile};

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;

/// A call, in the order in which it was made. Files are numbered.
#[derive(Clone, Debug)]
pub enum Call {
    Create(String, usize, u64),
    Rename(String, String),
    Remove(String),
    SyncFolder,
    Write(usize, u64, Vec<u8>),
    Sync(usize),
    /// A sync that failed: the system will not write again what was written before
    /// it, and no later sync covers it, though it can be read.
    SyncFailed(usize),
}

type Names = BTreeMap<String, usize>;

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    names: Names,
    files: BTreeMap<usize, Vec<u8>>,
}

/// One call of the log that is left out, to see that a test notices. They are told
/// apart by what was called before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeftOut {
    #[default]
    Nothing,
    /// After a batch was appended.
    SyncOfAppend,
    /// After the header of a new segment was written.
    SyncOfRoll,
    /// After a new segment got its name.
    NamesOfRoll,
    /// After trimmed segments lost their names.
    NamesOfTrim,
    /// When a log is opened: of the last segment.
    SyncOfOpen,
    /// When a log is opened: the last batch, which is written again.
    WriteOfOpen,
    /// When a log is opened: of the folder.
    NamesOfOpen,
}

impl LeftOut {
    pub const ALL: [Self; 7] = [
        Self::SyncOfAppend,
        Self::SyncOfRoll,
        Self::NamesOfRoll,
        Self::NamesOfTrim,
        Self::SyncOfOpen,
        Self::WriteOfOpen,
        Self::NamesOfOpen,
    ];
}

/// A call that is to fail: how many go before it, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub after: usize,
    pub kind: io::ErrorKind,
}

/// The kind of a [`Fault`] that is a kill of the process: the call is not made, nor is any
/// other before a log is opened again.
pub const KILLED: io::ErrorKind = io::ErrorKind::Interrupted;

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub disk: Rc<RefCell<Disk>>,
    pub calls: Rc<RefCell<Vec<Call>>>,
    /// What the disk held before the calls.
    pub base: Disk,
    left_out: LeftOut,
    /// Whether a log is being opened.
    is_opening: Rc<Cell<bool>>,
    pub fault: Rc<Cell<Option<Fault>>>,
    /// Whether the process was killed.
    is_killed: Rc<Cell<bool>>,
    /// The file that was made before it was asked for.
    prepared: Rc<Cell<Option<usize>>>,
    /// No new file has room, nor one that is made beside the log.
    pub is_full: Rc<Cell<bool>>,
}

#[derive(Debug)]
pub struct RecordedFile {
    number: usize,
    folder: Recorded,
}

impl Recorded {
    /// An empty folder that leaves out some syncs.
    pub fn new(left_out: LeftOut) -> Self {
        Self {
            left_out,
            ..Self::default()
        }
    }

    /// A folder on a disk that holds something, which leaves out some syncs.
    pub fn on(disk: Disk, left_out: LeftOut) -> Self {
        Self {
            left_out,
            disk: Rc::new(RefCell::new(disk.clone())),
            base: disk,
            ..Self::default()
        }
    }

    /// Opens a log on this folder. Calls are told apart only of logs that are opened
    /// so.
    pub fn open_log(&self, config: LogConfig, epoch: Epoch) -> Result<Log<Self>, LogError> {
        self.is_killed.set(false);
        self.is_opening.set(true);
        let log = Log::open(self.clone(), config, epoch);
        self.is_opening.set(false);
        log
    }

    /// Calls made so far.
    pub fn count(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_left_out(&self, call: &Call) -> bool {
        let calls = self.calls.borrow();
        let site = match call {
            Call::Write(_, offset, data) if self.is_opening.get() => {
                // What is erased is overwritten with zeros.
                let is_batch = *offset > 0 && data.iter().any(|byte| *byte != 0);
                is_batch.then_some(LeftOut::WriteOfOpen)
            }
            Call::Sync(_) if self.is_opening.get() => Some(LeftOut::SyncOfOpen),
            Call::SyncFolder if self.is_opening.get() => Some(LeftOut::NamesOfOpen),
            Call::Sync(_) => match calls.last() {
                Some(Call::Write(_, 0, _)) => Some(LeftOut::SyncOfRoll),
                _ => Some(LeftOut::SyncOfAppend),
            },
            Call::SyncFolder => match calls.last() {
                Some(Call::Rename(_, to)) if to.ends_with(".segment") => Some(LeftOut::NamesOfRoll),
                _ => Some(LeftOut::NamesOfTrim),
            },
            _ => None,
        };
        site == Some(self.left_out)
    }

    fn note(&self, call: Call) -> io::Result<()> {
        if self.is_killed.get() {
            return Err(KILLED.into());
        }
        if let Some(fault) = self.fault.get() {
            if fault.after == 0 {
                self.fault.set(None);
                self.is_killed.set(fault.kind == KILLED);
                self.note_failed(&call, fault.kind);
                return Err(fault.kind.into());
            }
            let after = fault.after - 1;
            self.fault.set(Some(Fault { after, ..fault }));
        }
        if !self.is_left_out(&call) {
            apply(&mut self.disk.borrow_mut(), &call);
            self.calls.borrow_mut().push(call);
        }
        Ok(())
    }

    /// What fails may leave a part.
    fn note_failed(&self, call: &Call, kind: io::ErrorKind) {
        let left = match call {
            Call::Write(number, offset, data) => {
                let part = data[..data.len() / 2].to_vec();
                Call::Write(*number, *offset, part)
            }
            Call::Sync(number) if kind != KILLED => Call::SyncFailed(*number),
            _ => return,
        };
        apply(&mut self.disk.borrow_mut(), &left);
        self.calls.borrow_mut().push(left);
    }

    /// Changes the bytes of a file behind the log's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.borrow_mut();
        let number = disk.names[name];
        change(disk.files.get_mut(&number).unwrap());
    }

    pub fn bytes(&self, name: &str) -> usize {
        let disk = self.disk.borrow();
        disk.files[&disk.names[name]].len()
    }

    fn file(&self, number: usize) -> RecordedFile {
        RecordedFile {
            number,
            folder: self.clone(),
        }
    }
}

fn apply(disk: &mut Disk, call: &Call) {
    match call {
        Call::Create(name, number, bytes) => {
            disk.names.insert(name.clone(), *number);
            let length = usize::try_from(*bytes).unwrap();
            disk.files.insert(*number, vec![0; length]);
        }
        Call::Rename(from, to) => {
            if let Some(number) = disk.names.remove(from) {
                disk.names.insert(to.clone(), number);
            }
        }
        Call::Remove(name) => {
            disk.names.remove(name);
        }
        Call::SyncFolder | Call::Sync(_) | Call::SyncFailed(_) => {}
        Call::Write(number, offset, data) => {
            let begin = usize::try_from(*offset).unwrap();
            let file = disk.files.get_mut(number).unwrap();
            file[begin..begin + data.len()].copy_from_slice(data);
        }
    }
}

/// What the disk holds when the power is lost after these calls: what was synced,
/// and of the rest any part, in any order.
/// `base` is what the disk held before them.
pub fn after_power_loss(base: &Disk, calls: &[Call], rng: &mut Rng) -> Disk {
    let mut disk = base.clone();
    let is_synced = |at: usize, number: usize| {
        let syncs = calls[at..].iter().filter_map(|one| match one {
            Call::Sync(synced) if *synced == number => Some(true),
            Call::SyncFailed(synced) if *synced == number => Some(false),
            _ => None,
        });
        // Only the first counts: what a sync that failed dropped stays dropped.
        syncs.take(1).any(|is_good| is_good)
    };
    let folder_synced = calls
        .iter()
        .rposition(|one| matches!(one, Call::SyncFolder));
    // Names change in order, so that those not synced are lost from some point
    // on.
    let names = calls.len() - folder_synced.unwrap_or(0);
    let names_end = folder_synced.unwrap_or(0) + index(rng, names + 1);
    for (at, call) in calls.iter().enumerate() {
        match call {
            Call::Create(_, number, bytes) => {
                // The file is made and synced as one; its name may be lost.
                let length = usize::try_from(*bytes).unwrap();
                disk.files.insert(*number, vec![0; length]);
                if at < names_end {
                    apply(&mut disk, call);
                }
            }
            Call::Rename(..) | Call::Remove(_) if at < names_end => apply(&mut disk, call),
            Call::Write(number, ..) if is_synced(at, *number) => apply(&mut disk, call),
            Call::Write(number, offset, data) => tear(&mut disk, *number, *offset, data, rng),
            _ => {}
        }
    }
    disk
}

/// Writes some sectors of a write, or none, or all.
fn tear(disk: &mut Disk, number: usize, offset: u64, data: &[u8], rng: &mut Rng) {
    let kept = [0.0, 0.5, 1.0][index(rng, 3)];
    let mut at = 0;
    while at < data.len() {
        let begin = usize::try_from(offset).unwrap() + at;
        let length = (SECTOR - begin % SECTOR).min(data.len() - at);
        if rng.chance(kept) {
            let piece = data[at..at + length].to_vec();
            apply(disk, &Call::Write(number, begin as u64, piece));
        }
        at += length;
    }
}

fn index(rng: &mut Rng, below: usize) -> usize {
    usize::try_from(rng.below(below as u64)).unwrap()
}

impl Files for Recorded {
    type File = RecordedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.borrow().names.keys().cloned().collect())
    }

    fn prepare(&self, name: &str, bytes: u64) {
        if self.is_full.get() {
            return;
        }
        // It is made beside the log: a call that is to fail is one of the log's own.
        let fault = self.fault.take();
        let _ = self.create(name, bytes);
        self.fault.set(fault);
        self.prepared
            .set(self.disk.borrow().names.get(name).copied());
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<RecordedFile> {
        if let Some(prepared) = self.prepared.take() {
            let disk = self.disk.borrow();
            let length = disk.files[&prepared].len() as u64;
            if disk.names.get(name) == Some(&prepared) && length >= bytes {
                return Ok(self.file(prepared));
            }
        }
        if self.is_full.get() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let last = self.disk.borrow().files.keys().next_back().copied();
        let number = last.map_or(0, |last| last + 1);
        self.note(Call::Create(name.to_owned(), number, bytes))?;
        Ok(self.file(number))
    }

    fn open(&self, name: &str) -> io::Result<RecordedFile> {
        let number = self.disk.borrow().names.get(name).copied();
        number
            .map(|number| self.file(number))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.disk.borrow().names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.note(Call::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(Call::Remove(name.to_owned()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.note(Call::SyncFolder)
    }
}

impl LogFile for RecordedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.folder.disk.borrow().files[&self.number].len() as u64)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = Call::Write(self.number, offset, data.to_vec());
        self.folder.note(write)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let disk = self.folder.disk.borrow();
        let begin = usize::try_from(offset).unwrap();
        let found = disk.files[&self.number].get(begin..begin + data.len());
        let found = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        data.copy_from_slice(found);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.note(Call::Sync(self.number))
    }
}
