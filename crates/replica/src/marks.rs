//! Bytes and age of stretches of the log, in little memory.

use std::collections::VecDeque;
use std::time::Duration;

use waystation_base::{Moment, Seq};

use crate::limits::MARKS_MAX;

/// The log up to a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last sequence of the stretch.
    pub seq: Seq,
    /// Bytes of all entries up to it, since the log began.
    pub bytes: u64,
    /// When its first entry became durable.
    pub at: Moment,
}

/// Marks in order. Figures between two marks are interpolated from below: bytes
/// that a site lacks are never told too low by more than one stretch.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    /// Where the marks begin.
    base: Mark,
    marks: VecDeque<Mark>,
}

impl Marks {
    pub(crate) fn new(base: Mark) -> Self {
        Self {
            base,
            marks: VecDeque::new(),
        }
    }

    fn last(&self) -> Mark {
        self.marks.back().copied().unwrap_or(self.base)
    }

    /// The log grew to `seq` by `bytes`.
    pub(crate) fn push(&mut self, now: Moment, seq: Seq, bytes: u64) {
        let bytes = self.last().bytes + bytes;
        let at = now;
        self.marks.push_back(Mark { seq, bytes, at });
        if self.marks.len() > MARKS_MAX {
            self.merge();
        }
    }

    /// Merges neighbours: half as many marks, each with the earlier moment.
    fn merge(&mut self) {
        let old = std::mem::take(&mut self.marks);
        let mut pair: Option<Mark> = None;
        for mark in old {
            match pair.take() {
                None => pair = Some(mark),
                Some(first) => self.marks.push_back(Mark {
                    at: first.at,
                    ..mark
                }),
            }
        }
        self.marks.extend(pair);
    }

    /// Forgets what lies at or below `seq`.
    pub(crate) fn trim(&mut self, seq: Seq) {
        while let Some(&first) = self.marks.front()
            && first.seq <= seq
        {
            self.base = first;
            self.marks.pop_front();
        }
    }

    /// Bytes after `seq`, at most one stretch too many. Cost: O(log marks).
    pub(crate) fn bytes_after(&self, seq: Seq) -> u64 {
        let at = self.marks.partition_point(|mark| mark.seq <= seq);
        let before = match at.checked_sub(1) {
            Some(at) => self.marks[at],
            None => self.base,
        };
        self.last().bytes - before.bytes
    }

    /// How old the first entry after `seq` is; zero when there is none.
    pub(crate) fn age_after(&self, now: Moment, seq: Seq) -> Duration {
        let at = self.marks.partition_point(|mark| mark.seq <= seq);
        (self.marks.get(at)).map_or(Duration::ZERO, |mark| now.saturating_since(mark.at))
    }

    /// The lowest sequence after which at most `bytes_max` bytes follow that are
    /// younger than `age_max`; a stretch is kept or given up as a whole.
    pub(crate) fn within(&self, now: Moment, bytes_max: u64, age_max: Duration) -> Seq {
        let end = self.last().bytes;
        let mut floor = self.base;
        for mark in &self.marks {
            let is_within =
                end - floor.bytes <= bytes_max && now.saturating_since(mark.at) < age_max;
            if is_within {
                break;
            }
            floor = *mark;
        }
        floor.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        let mut marks = Marks::new(Mark::default());
        for seq in 1..=10 {
            marks.push(Moment::from_millis(seq * 1000), Seq(seq), 100);
        }
        marks
    }

    #[test]
    fn lag_is_told_in_bytes_and_time() {
        let mut marks = marks();
        let now = Moment::from_millis(12_000);
        assert_eq!(marks.bytes_after(Seq(0)), 1000);
        assert_eq!(marks.bytes_after(Seq(8)), 200);
        assert_eq!(marks.age_after(now, Seq(8)), Duration::from_secs(3));
        assert_eq!(marks.age_after(now, Seq(10)), Duration::ZERO);
        marks.trim(Seq(5));
        assert_eq!(marks.bytes_after(Seq(8)), 200);
        assert_eq!(marks.bytes_after(Seq(0)), 500, "what is trimmed is not lag");
    }

    #[test]
    fn what_is_kept_is_bounded_by_bytes_and_by_age() {
        let marks = marks();
        let now = Moment::from_millis(10_000);
        let long = Duration::from_secs(100);
        assert_eq!(marks.within(now, 1000, long), Seq(0));
        assert_eq!(marks.within(now, 300, long), Seq(7));
        assert_eq!(marks.within(now, 1000, Duration::from_secs(4)), Seq(6));
        assert_eq!(marks.within(now, 0, long), Seq(10));
    }

    #[test]
    fn many_marks_take_bounded_memory_and_lose_no_bytes() {
        let mut marks = Marks::new(Mark::default());
        for seq in 1..=3 * MARKS_MAX as u64 {
            marks.push(Moment::from_nanos(seq), Seq(seq), 1);
        }
        assert!(marks.marks.len() <= MARKS_MAX + 1);
        assert_eq!(marks.bytes_after(Seq(0)), 3 * MARKS_MAX as u64);
    }
}
