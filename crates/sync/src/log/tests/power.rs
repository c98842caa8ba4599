//! Power loss at every call. SIGKILL keeps the page cache and proves nothing
//! about what was synced; here what was not synced is dropped, torn or reordered.
//! Before the power goes the writer is killed, disks fail, and the log is opened
//! again on what can be read, which is not what is durable.

use waystation_base::Rng;

use super::*;
use crate::log::recorded::{Call, Disk, Fault, KILLED, LeftOut, Recorded, after_power_loss};

/// Histories that are tried, each up to every call.
const SEEDS: std::ops::Range<u64> = 0..12;

/// An entry of a history.
struct Told {
    bytes: usize,
    /// How many calls were made before it was appended.
    begun: usize,
    /// And before it was acknowledged, or told by a log that was opened anew.
    acked: usize,
}

/// What a log acknowledged, and after how many calls.
struct History {
    base: Disk,
    calls: Vec<Call>,
    entries: Vec<Told>,
    /// After so many calls entries up to this might be trimmed.
    trims: Vec<(usize, Seq)>,
}

/// A log that is killed, whose disk fails, and that is opened again on what can be
/// read.
struct Writer<'a> {
    files: Recorded,
    log: Log<Recorded>,
    rng: &'a mut Rng,
    entries: Vec<Told>,
    trims: Vec<(usize, Seq)>,
    /// The batch on its way: how many calls were made before, bytes of its entries.
    trying: Option<(usize, usize)>,
}

impl<'a> Writer<'a> {
    fn new(rng: &'a mut Rng, left_out: LeftOut) -> Self {
        let files = Recorded::new(left_out);
        Self {
            log: files.open_log(config(), EPOCH).unwrap(),
            files,
            rng,
            entries: Vec::new(),
            trims: Vec::new(),
            trying: None,
        }
    }

    /// From here on one of the next calls may fail, or the process be killed.
    fn draw_fault(&mut self) {
        let fault = self.rng.chance(0.25).then(|| Fault {
            after: usize::try_from(self.rng.below(5)).unwrap(),
            kind: if self.rng.chance(0.5) {
                KILLED
            } else {
                io::ErrorKind::Other
            },
        });
        self.files.fault.set(fault);
    }

    /// Everything that an opened log has is told to sites and publishers.
    fn reopen(&mut self) {
        // One call fails at most, so that the second try is not refused.
        let opened = (0..2).find_map(|_| self.files.open_log(config(), EPOCH).ok());
        self.log = opened.expect("a log that can be opened");
        let end = usize::try_from(self.log.end().0).unwrap();
        let acked = self.files.count();
        if let Some((begun, bytes)) = self.trying.take() {
            while self.entries.len() < end {
                self.entries.push(Told {
                    bytes,
                    begun,
                    acked,
                });
            }
        }
        assert_eq!(self.entries.len(), end, "what was told is read");
    }

    fn append(&mut self, round: u64) {
        let next = self.log.end().0 + 1;
        let last = next + self.rng.below(3);
        let bytes = usize::try_from(self.rng.below(700)).unwrap();
        let mut batch = batch(next..=last, bytes);
        if round.is_multiple_of(3) {
            batch.records = vec![Record::Site(record(1, round))];
        }
        let begun = self.files.count();
        self.trying = Some((begun, bytes));
        let acked = match self.log.append(&batch) {
            Ok(()) => self.files.count(),
            // The same log goes on, as its hub does, unless it was killed.
            Err(AppendError::NotStored(error)) if error.kind() != KILLED => return,
            Err(_) => return self.reopen(),
        };
        self.trying = None;
        for _ in next..=last {
            self.entries.push(Told {
                bytes,
                begun,
                acked,
            });
        }
    }

    fn trim(&mut self) {
        let through = Seq(self.rng.below(self.log.end().0 + 1));
        self.trims.push((self.files.count(), through));
        let trimmed = self.log.trim(through);
        if trimmed.is_err_and(|error| error.kind() == KILLED) {
            self.reopen();
        }
    }
}

/// A log that fills segments, is trimmed, and writes trimmed segments again.
fn history(rng: &mut Rng, left_out: LeftOut) -> History {
    let mut writer = Writer::new(rng, left_out);
    for round in 0..40 {
        writer.draw_fault();
        writer.append(round);
        if writer.rng.chance(0.2) {
            writer.trim();
        }
    }
    History {
        base: writer.files.base.clone(),
        calls: writer.files.calls.borrow().clone(),
        entries: writer.entries,
        trims: writer.trims,
    }
}

impl History {
    /// Checks what a log holds after the power was lost after `count` calls, and
    /// returns it with its folder.
    fn check(
        &self,
        count: usize,
        left_out: LeftOut,
        rng: &mut Rng,
    ) -> Result<(Recorded, Log<Recorded>), String> {
        let disk = after_power_loss(&self.base, &self.calls[..count], rng);
        let files = Recorded::on(disk, left_out);
        let log = files.open_log(config(), EPOCH);
        let log = log.map_err(|error| format!("after {count} calls: {error}"))?;
        let acked = self.entries.iter().filter(|one| one.acked <= count);
        let begun = self.entries.iter().filter(|one| one.begun < count);
        let (acked, begun) = (acked.count() as u64, begun.count() as u64);
        let trimmed = self.trims.iter().filter(|(at, _)| *at <= count);
        let trimmed = trimmed.map(|(_, seq)| *seq).max().unwrap_or_default();
        let (start, end) = (log.start(), log.end());
        if end.0 < acked || end.0 > begun {
            return Err(format!(
                "after {count} calls: {acked} acknowledged, {begun} begun, {end} there"
            ));
        }
        if start > trimmed {
            return Err(format!("after {count} calls: trimmed up to {start}"));
        }
        let found = log.read(start, end, u64::MAX);
        let found = found.map_err(|error| format!("after {count} calls: {error}"))?;
        let told = &self.entries[usize::try_from(start.0).unwrap()..];
        let expected = (start.0 + 1..=end.0).zip(told);
        let expected = expected.map(|(seq, one)| entry(seq, one.bytes));
        if !found.iter().cloned().eq(expected) {
            return Err(format!("after {count} calls: other entries are there"));
        }
        Ok((files, log))
    }

    /// The log goes on after a power loss, until the next one. What was torn never
    /// comes back.
    fn check_twice(&self, count: usize, left_out: LeftOut, rng: &mut Rng) -> Result<(), String> {
        let (files, mut log) = self.check(count, left_out, rng)?;
        let opened = files.count();
        let end = usize::try_from(log.end().0).unwrap();
        let told = self.entries[..end].iter();
        let mut entries: Vec<Told> = told
            .map(|one| Told {
                bytes: one.bytes,
                begun: 0,
                acked: opened,
            })
            .collect();
        for bytes in [20, 300] {
            let next = log.end().0 + 1;
            let begun = files.count();
            log.append(&batch(next..=next, bytes))
                .map_err(|error| format!("after {count} calls: {error}"))?;
            let acked = files.count();
            entries.push(Told {
                bytes,
                begun,
                acked,
            });
        }
        let again = Self {
            base: files.base.clone(),
            calls: files.calls.borrow().clone(),
            entries,
            trims: vec![(0, log.start())],
        };
        let more = again.calls.len() - opened + 1;
        let second = opened + usize::try_from(rng.below(more as u64)).unwrap();
        again
            .check(second, left_out, rng)
            .map_err(|error| format!("after {count} calls, and again {error}"))?;
        Ok(())
    }
}

fn check_every_prefix(seed: u64, left_out: LeftOut) -> Result<(), String> {
    let mut rng = Rng::from_seed(seed);
    let history = history(&mut rng, left_out);
    for prefix in 0..=history.calls.len() {
        for _ in 0..4 {
            history.check_twice(prefix, left_out, &mut rng)?;
        }
    }
    Ok(())
}

/// The stories: a hub was killed between the write of a batch and its sync, the next
/// one read the batch from the system's memory and told of it, and then the power
/// went. A sync failed, the log was opened anew, found the batch, and no later sync
/// ever wrote it.
#[test]
fn no_power_loss_takes_what_was_acknowledged_or_brings_what_was_never_written() {
    for seed in SEEDS.take(6) {
        let checked = check_every_prefix(seed, LeftOut::Nothing);
        checked.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A proof that holds without the syncs proves nothing: each of them is left out
/// alone.
#[test]
fn without_any_one_sync_acknowledged_entries_are_lost() {
    for left_out in LeftOut::ALL {
        let mut seeds = SEEDS;
        let is_lost = seeds.any(|seed| check_every_prefix(seed, left_out).is_err());
        assert!(is_lost, "nothing was lost with {left_out:?}");
    }
}
