//! Files in memory that record every call, and what a power loss leaves of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use waystation_base::Rng;

use crate::log::{Files, LogFile};

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;

/// A call, in the order in which it was made. Files are numbered.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Create(String, usize, u64),
    Rename(String, String),
    Remove(String),
    SyncFolder,
    Write(usize, u64, Vec<u8>),
    Sync(usize),
}

type Names = BTreeMap<String, usize>;

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    names: Names,
    files: BTreeMap<usize, Vec<u8>>,
}

/// Syncs that are left out, to see that a test notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LeftOut {
    #[default]
    Nothing,
    SyncsOfFiles,
    SyncsOfNames,
}

/// A call that is to fail: how many go before it, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) after: usize,
    pub(super) kind: io::ErrorKind,
}

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    pub(super) disk: Rc<RefCell<Disk>>,
    pub(super) calls: Rc<RefCell<Vec<Call>>>,
    left_out: LeftOut,
    pub(super) fault: Rc<Cell<Option<Fault>>>,
}

#[derive(Debug)]
pub(super) struct RecordedFile {
    number: usize,
    folder: Recorded,
}

impl Recorded {
    /// An empty folder that leaves out some syncs.
    pub(super) fn new(left_out: LeftOut) -> Self {
        Self {
            left_out,
            ..Self::default()
        }
    }

    pub(super) fn on(disk: Disk) -> Self {
        Self {
            disk: Rc::new(RefCell::new(disk)),
            ..Self::default()
        }
    }

    fn note(&self, call: Call) -> io::Result<()> {
        if let Some(fault) = self.fault.get() {
            if fault.after == 0 {
                self.fault.set(None);
                // What fails may leave a part.
                if let Call::Write(number, offset, data) = &call {
                    let part = data[..data.len() / 2].to_vec();
                    let part = Call::Write(*number, *offset, part);
                    apply(&mut self.disk.borrow_mut(), &part);
                }
                return Err(fault.kind.into());
            }
            let after = fault.after - 1;
            self.fault.set(Some(Fault { after, ..fault }));
        }
        apply(&mut self.disk.borrow_mut(), &call);
        self.calls.borrow_mut().push(call);
        Ok(())
    }

    /// Changes the bytes of a file behind the log's back.
    pub(super) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.borrow_mut();
        let number = disk.names[name];
        change(disk.files.get_mut(&number).unwrap());
    }

    pub(super) fn bytes(&self, name: &str) -> usize {
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
        Call::SyncFolder | Call::Sync(_) => {}
        Call::Write(number, offset, data) => {
            let begin = usize::try_from(*offset).unwrap();
            let file = disk.files.get_mut(number).unwrap();
            file[begin..begin + data.len()].copy_from_slice(data);
        }
    }
}

/// What the disk holds when the power is lost after these calls: what was synced,
/// and of the rest any part, in any order.
pub(super) fn after_power_loss(calls: &[Call], rng: &mut Rng) -> Disk {
    let mut disk = Disk::default();
    let is_synced = |at: usize, number: usize| {
        let mut later = calls[at..].iter();
        later.any(|one| matches!(one, Call::Sync(synced) if *synced == number))
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

    fn create(&self, name: &str, bytes: u64) -> io::Result<RecordedFile> {
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
        if self.left_out == LeftOut::SyncsOfNames {
            return Ok(());
        }
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
        if self.folder.left_out == LeftOut::SyncsOfFiles {
            return Ok(());
        }
        self.folder.note(Call::Sync(self.number))
    }
}
