//! A segment that was begun in vain: it has its name, and the log goes on without it.

use waystation_base::Rng;

use super::*;
use crate::log::recorded::{Fault, LeftOut, Recorded, after_power_loss};

/// What a log has acknowledged.
#[derive(Default)]
struct Acked {
    /// Bytes of each entry.
    entries: Vec<usize>,
    site: Option<SiteRecord>,
}

impl Acked {
    /// Appends an entry of so many bytes, and a record of a site if one is given.
    fn append(
        &mut self,
        log: &mut Log<Recorded>,
        bytes: usize,
        site: Option<SiteRecord>,
    ) -> Result<(), AppendError> {
        let next = self.entries.len() as u64 + 1;
        let mut batch = batch(next..=next, bytes);
        batch.records = site.iter().cloned().map(Record::Site).collect();
        log.append(&batch)?;
        self.entries.push(bytes);
        self.site = site.or(self.site.take());
        Ok(())
    }

    /// A change of a site goes to the log without an entry.
    fn append_record(&mut self, log: &mut Log<Recorded>, site: SiteRecord) {
        let records = vec![Record::Site(site.clone())];
        let entries = Vec::new();
        log.append(&Batch { entries, records }).unwrap();
        self.site = Some(site);
    }

    /// Whoever opens the log finds all of it.
    fn check(&self, files: &Recorded, told: &str) {
        let log = files.open_log(config(), EPOCH);
        let mut log = log.unwrap_or_else(|error| panic!("{told}: {error}"));
        let (start, end) = (log.start(), log.end());
        let found = log.read(start, end, u64::MAX).unwrap();
        let all = (1..).zip(&self.entries);
        let expected = all.map(|(seq, bytes)| entry(seq, *bytes));
        let first = usize::try_from(start.0).unwrap();
        assert!(found.into_iter().eq(expected.skip(first)), "{told}");
        let sites = log.restored(Moment::ZERO, 0).sites;
        assert_eq!(sites.first(), self.site.as_ref(), "{told}");
    }

    /// The hub is killed, or the power goes.
    fn check_all(&self, files: &Recorded, told: &str) {
        let read = files.disk.borrow().clone();
        self.check(&Recorded::on(read, LeftOut::Nothing), told);
        let mut rng = Rng::from_seed(1);
        for _ in 0..4 {
            let left = after_power_loss(&files.base, &files.calls.borrow(), &mut rng);
            self.check(&Recorded::on(left, LeftOut::Nothing), told);
        }
    }
}

/// What comes after the batch that was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Small,
    Record,
    Trim,
}

/// Fills segments on a disk that fails once; whether it did.
fn run(fault: Fault, next: Next) -> bool {
    let told = format!("{fault:?}, {next:?}");
    let files = Recorded::new(LeftOut::Nothing);
    let mut log = files.open_log(config(), EPOCH).unwrap();
    let mut acked = Acked::default();
    files.fault.set(Some(fault));
    for round in 1..=24 {
        // Large enough that a segment is left with room for a small one.
        match acked.append(&mut log, 700, Some(record(1, round))) {
            Ok(()) => {}
            Err(AppendError::NotStored(_)) => {
                match next {
                    Next::Small => acked.append(&mut log, 20, None).unwrap(),
                    Next::Record => acked.append_record(&mut log, record(1, 100 + round)),
                    Next::Trim => log.trim(Seq(round / 2)).unwrap(),
                }
                acked.check_all(&files, &told);
            }
            Err(_) => {
                log = files.open_log(config(), EPOCH).unwrap();
                if log.end().0 > acked.entries.len() as u64 {
                    acked.entries.push(700);
                    acked.site = Some(record(1, round));
                }
            }
        }
        if round.is_multiple_of(8) {
            let _ = log.trim(Seq(round - 5));
            acked.check_all(&files, &told);
        }
    }
    files.fault.take().is_none()
}

/// The story: a new segment had its name when the sync of its folder failed. The batch
/// was refused, a smaller one found room in the segment before, and was acknowledged. The
/// next start found that segment to end later than the new one said, and refused the log.
#[test]
fn after_a_segment_that_was_begun_in_vain_the_log_goes_on_and_is_opened_again() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for next in [Next::Small, Next::Record, Next::Trim] {
            let mut calls = 0;
            while run(Fault { after: calls, kind }, next) {
                calls += 1;
            }
            assert!(calls > 50, "{calls} calls failed");
        }
    }
}

/// A disk that has no room but what a trim has set aside: it must not be lost.
#[test]
fn a_segment_that_was_begun_in_vain_costs_no_room() {
    for after in 0..4 {
        let files = Recorded::new(LeftOut::Nothing);
        let mut log = files.open_log(config(), EPOCH).unwrap();
        let mut acked = Acked::default();
        while log.reader.view().segments.len() < 2 {
            acked.append(&mut log, 700, None).unwrap();
        }
        let first = log.reader.view().segments[0].last;
        log.trim(first).unwrap();
        assert_eq!(log.spare.len(), 1);
        files.is_full.set(true);
        while log.place(800, START_BATCH_BYTES).is_some() {
            acked.append(&mut log, 700, None).unwrap();
        }
        let kind = io::ErrorKind::StorageFull;
        files.fault.set(Some(Fault { after, kind }));
        let refused = acked.append(&mut log, 700, None);
        assert!(
            matches!(refused, Err(AppendError::NotStored(_))),
            "call {after}"
        );
        acked.append(&mut log, 700, None).unwrap();
        acked.check_all(&files, &format!("call {after}"));
    }
}
