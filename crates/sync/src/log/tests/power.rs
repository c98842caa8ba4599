//! Power loss at every call. SIGKILL keeps the page cache and proves nothing
//! about what was synced; here what was not synced is dropped, torn or reordered.

use waystation_base::Rng;

use super::recorded::{LeftOut, Recorded, after_power_loss};
use super::*;

/// What a log acknowledged, and after how many calls.
struct History {
    files: Recorded,
    /// For each entry: how many calls were made before it was appended, and
    /// before it was acknowledged.
    entries: Vec<(usize, usize)>,
    /// After so many calls entries up to this might be trimmed.
    trims: Vec<(usize, Seq)>,
}

/// A log that fills segments, is trimmed, and writes trimmed segments again.
fn history(rng: &mut Rng, left_out: LeftOut) -> History {
    let files = Recorded::new(left_out);
    let mut log = Log::open(files.clone(), config(), EPOCH).unwrap();
    let calls = |files: &Recorded| files.calls.borrow().len();
    let (mut entries, mut trims) = (Vec::new(), Vec::new());
    let mut next = 1;
    for round in 0..40 {
        let last = next + rng.below(3);
        let before = calls(&files);
        let mut batch = batch(next..=last, usize::try_from(rng.below(700)).unwrap());
        if round % 3 == 0 {
            batch.records = vec![Record::Site(record(1, round))];
        }
        log.append(&batch).unwrap();
        let after = calls(&files);
        (next..=last).for_each(|_| entries.push((before, after)));
        next = last + 1;
        if rng.chance(0.2) {
            let through = Seq(rng.below(next));
            trims.push((calls(&files), through));
            log.trim(through).unwrap();
        }
    }
    History {
        files,
        entries,
        trims,
    }
}

/// Checks what a log holds after the power was lost after `count` calls.
fn check(history: &History, count: usize, rng: &mut Rng) -> Result<(), String> {
    let disk = after_power_loss(&history.files.calls.borrow()[..count], rng);
    let mut log = Log::open(Recorded::on(disk), config(), EPOCH)
        .map_err(|error| format!("after {count} calls: {error}"))?;
    let acked = history.entries.iter().filter(|(_, after)| *after <= count);
    let begun = history.entries.iter().filter(|(before, _)| *before < count);
    let (acked, begun) = (acked.count() as u64, begun.count() as u64);
    let trimmed = history.trims.iter().filter(|(at, _)| *at <= count);
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
    let expected: Vec<u64> = (start.0 + 1..=end.0).collect();
    if seqs(&log) != expected {
        return Err(format!("after {count} calls: {:?} are there", seqs(&log)));
    }
    // It goes on, and what was torn never comes back.
    let next = end.0 + 1;
    log.append(&batch(next..=next, 20))
        .map_err(|error| format!("after {count} calls: {error}"))?;
    let files = log.files.clone();
    let again = Log::open(files, config(), EPOCH).map_err(|error| error.to_string())?;
    let found = again
        .read(end, Seq(next), 1)
        .map_err(|error| error.to_string())?;
    if again.end() != Seq(next) || found != [entry(next, 20)] {
        return Err(format!("after {count} calls: the next entry is not there"));
    }
    Ok(())
}

fn check_every_prefix(seed: u64, left_out: LeftOut) -> Result<(), String> {
    let mut rng = Rng::from_seed(seed);
    let history = history(&mut rng, left_out);
    let count = history.files.calls.borrow().len();
    for prefix in 0..=count {
        for _ in 0..4 {
            check(&history, prefix, &mut rng)?;
        }
    }
    Ok(())
}

#[test]
fn no_power_loss_takes_what_was_acknowledged_or_brings_what_was_never_written() {
    for seed in 0..12 {
        let checked = check_every_prefix(seed, LeftOut::Nothing);
        checked.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A proof that holds without the syncs proves nothing.
#[test]
fn without_any_one_kind_of_sync_acknowledged_entries_are_lost() {
    for left_out in [LeftOut::SyncsOfFiles, LeftOut::SyncsOfNames] {
        let is_lost = (0..12).any(|seed| check_every_prefix(seed, left_out).is_err());
        assert!(is_lost, "nothing was lost with {left_out:?}");
    }
}
