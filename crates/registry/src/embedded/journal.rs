//! What an embedded registry keeps of its instances over restarts: a journal of
//! lines. See `docs/formats/registry-journal.md`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waystation_base::hash64;
use waystation_membership::{Instance, InstanceId};

use crate::limits::{JOURNAL_BYTES_MIN, JOURNAL_FACTOR};
use crate::replace::replace_file;
use crate::text::{instance_from_json, instance_to_json};

/// One change to what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Save(Arc<Instance>, Duration),
    Erase(InstanceId),
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    save: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erase: Option<String>,
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// The lines that still count.
    kept: BTreeMap<InstanceId, String>,
    kept_bytes: u64,
    file_bytes: u64,
    /// A write failed: the file may end within a line.
    is_torn: bool,
}

/// What a journal said when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) journal: Journal,
    pub(super) instances: Vec<(Instance, Duration)>,
    /// Lines that were skipped, by number, and why.
    pub(super) skipped: Vec<(usize, String)>,
}

impl Journal {
    /// Reads what is kept, and begins a file without what no longer counts.
    /// Blocks. A line that is broken is skipped; so is a last one that was cut
    /// short by a crash.
    pub(super) fn open(path: PathBuf) -> io::Result<Opened> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut found: BTreeMap<InstanceId, (Instance, Duration)> = BTreeMap::new();
        let mut skipped = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            match parse(line) {
                Ok(Read::Save(instance, ttl)) => {
                    found.insert(instance.id.clone(), (*instance, ttl));
                }
                Ok(Read::Erase(id)) => drop(found.remove(&id)),
                Err(reason) => skipped.push((index + 1, reason)),
            }
        }
        let lines = found.iter().map(|(id, (instance, ttl))| {
            let record = Record::Save(Arc::new(instance.clone()), *ttl);
            (id.clone(), line_of(&record))
        });
        let kept: BTreeMap<InstanceId, String> = lines.collect();
        let file = rewrite(&path, &kept)?;
        let kept_bytes = kept.values().map(|line| line.len() as u64).sum();
        let journal = Self {
            path,
            file,
            kept,
            kept_bytes,
            file_bytes: kept_bytes,
            is_torn: false,
        };
        Ok(Opened {
            journal,
            instances: found.into_values().collect(),
            skipped,
        })
    }

    /// Adds records; durable when this returns. Blocks.
    ///
    /// # Errors
    /// What the system answers. The records count all the same, and are stored
    /// with the next that can be.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut text = String::new();
        for record in records {
            let line = line_of(record);
            text.push_str(&line);
            self.keep(record, line);
        }
        let bound = JOURNAL_BYTES_MIN.max(self.kept_bytes.saturating_mul(JOURNAL_FACTOR));
        if self.is_torn || self.file_bytes + text.len() as u64 > bound {
            self.is_torn = true;
            self.file = rewrite(&self.path, &self.kept)?;
            self.file_bytes = self.kept_bytes;
            self.is_torn = false;
            return Ok(());
        }
        self.is_torn = true;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.file_bytes += text.len() as u64;
        self.is_torn = false;
        Ok(())
    }

    fn keep(&mut self, record: &Record, line: String) {
        let old = match record {
            Record::Save(instance, _) => {
                self.kept_bytes += line.len() as u64;
                self.kept.insert(instance.id.clone(), line)
            }
            Record::Erase(id) => self.kept.remove(id),
        };
        self.kept_bytes -= old.map_or(0, |line| line.len() as u64);
    }
}

fn rewrite(path: &Path, kept: &BTreeMap<InstanceId, String>) -> io::Result<File> {
    let text: String = kept.values().map(String::as_str).collect();
    replace_file(path, |out| out.write_all(text.as_bytes()))?;
    OpenOptions::new().append(true).open(path)
}

enum Read {
    Save(Box<Instance>, Duration),
    Erase(InstanceId),
}

/// The line of a record, its end included: a hash of 16 digits, a space, JSON.
fn line_of(record: &Record) -> String {
    let saved;
    let line = match record {
        Record::Save(instance, ttl) => {
            saved = RawValue::from_string(instance_to_json(instance)).expect("it is JSON");
            Line {
                save: Some(&saved),
                ttl_ms: Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
                erase: None,
            }
        }
        Record::Erase(id) => Line {
            save: None,
            ttl_ms: None,
            erase: Some(id.to_string()),
        },
    };
    let json = serde_json::to_string(&line).expect("texts and numbers are JSON");
    format!("{:016x} {json}\n", hash64(json.as_bytes()))
}

fn parse(line: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let (hash, json) = text.split_once(' ').ok_or("it has no hash")?;
    if hash != format!("{:016x}", hash64(json.as_bytes())) {
        return Err("its hash is wrong".to_owned());
    }
    let line: Line<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    match line {
        Line {
            save: Some(instance),
            ttl_ms: Some(ttl_ms),
            ..
        } => {
            let instance = instance_from_json(instance.get()).map_err(|e| e.to_string())?;
            Ok(Read::Save(
                Box::new(instance),
                Duration::from_millis(ttl_ms),
            ))
        }
        Line {
            erase: Some(id), ..
        } => {
            let id = InstanceId::new(&id).map_err(|error| error.to_string())?;
            Ok(Read::Erase(id))
        }
        _ => Err("it neither saves nor erases".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{full_instance, instance};

    const TTL: Duration = Duration::from_secs(6);

    fn save(id: &str) -> Record {
        Record::Save(Arc::new(instance("a", id)), TTL)
    }

    fn ids(opened: &Opened) -> Vec<&str> {
        let all = opened.instances.iter();
        all.map(|(one, _)| one.id.as_str()).collect()
    }

    #[test]
    fn what_was_saved_and_not_erased_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.jsonl");
        let mut journal = Journal::open(path.clone()).unwrap().journal;
        let full = Record::Save(Arc::new(full_instance()), TTL);
        journal.append(&[save("a-1"), full, save("a-2")]).unwrap();
        journal
            .append(&[Record::Erase("a-1".parse().unwrap())])
            .unwrap();
        for _ in 0..2 {
            let opened = Journal::open(path.clone()).unwrap();
            assert_eq!(ids(&opened), ["a-2", "logic-1"]);
            assert_eq!(opened.instances[1], (full_instance(), TTL));
            assert_eq!(opened.skipped, []);
        }
    }

    /// A registry that was killed while it wrote must start with all but the
    /// last line.
    #[test]
    fn a_journal_cut_anywhere_loses_only_what_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.jsonl");
        let mut journal = Journal::open(path.clone()).unwrap().journal;
        journal.append(&[save("a-1"), save("a-2")]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let first = 1 + bytes.iter().position(|byte| *byte == b'\n').unwrap();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let opened = Journal::open(path.clone()).unwrap();
            // A line is whole without its end.
            let whole = usize::from(length + 1 >= first) + usize::from(length + 1 >= bytes.len());
            assert_eq!(opened.instances.len(), whole, "cut at {length}");
        }
    }

    #[test]
    fn a_line_that_was_changed_is_skipped_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.jsonl");
        let mut journal = Journal::open(path.clone()).unwrap().journal;
        journal.append(&[save("a-1"), save("a-2")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("10.0.0.1", "10.0.0.2", 1) + "x\n").unwrap();
        let opened = Journal::open(path).unwrap();
        assert_eq!(ids(&opened), ["a-2"]);
        let named: Vec<usize> = opened.skipped.iter().map(|(line, _)| *line).collect();
        assert_eq!(named, [1, 3]);
    }

    #[test]
    fn a_journal_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances.jsonl");
        let mut journal = Journal::open(path.clone()).unwrap().journal;
        let records: Vec<Record> = (0..500).map(|_| save("a-1")).collect();
        for _ in 0..40 {
            journal.append(&records).unwrap();
        }
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes <= JOURNAL_BYTES_MIN, "{bytes} bytes for one instance");
        assert_eq!(ids(&Journal::open(path).unwrap()), ["a-1"]);
    }
}
