//! The pause in a donor's increments while its snapshot opens.

use std::sync::Arc;

use waystation_base::{Moment, Seq};

use super::{Flow, Report, Session};
use crate::entry::SnapshotSize;
use crate::ids::{Ahead, Position, SnapshotId};
use crate::limits::DUMP_HOLDS_MAX;
use crate::message::{ToSite, Violation};

/// How far a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dump {
    None,
    /// The site may write, and was asked to hold still. Increments flow.
    Preparing {
        snapshot: SnapshotId,
        at_least: Seq,
        by: Moment,
    },
    /// Waits for what is in flight, and for the site to be far enough.
    Draining {
        snapshot: SnapshotId,
        at_least: Seq,
        by: Moment,
    },
    /// The site was asked.
    Asked {
        snapshot: SnapshotId,
        by: Moment,
    },
}

impl Dump {
    pub(super) fn deadline(&self) -> Option<Moment> {
        match *self {
            Self::None => None,
            Self::Preparing { by, .. } | Self::Draining { by, .. } | Self::Asked { by, .. } => {
                Some(by)
            }
        }
    }

    /// Up to where entries may be sent.
    pub(super) fn limit(&self) -> Option<Seq> {
        match *self {
            Self::None | Self::Preparing { .. } => None,
            Self::Draining { at_least, .. } => Some(at_least),
            Self::Asked { .. } => Some(Seq(0)),
        }
    }

    /// Whether what was read must wait, once `sent` was sent.
    pub(super) fn holds(&self, sent: Seq) -> bool {
        self.limit().is_some_and(|limit| sent >= limit)
    }

    fn snapshot(&self) -> Option<SnapshotId> {
        match *self {
            Self::None => None,
            Self::Preparing { snapshot, .. }
            | Self::Draining { snapshot, .. }
            | Self::Asked { snapshot, .. } => Some(snapshot),
        }
    }
}

impl Session {
    pub(super) fn begin_dump(&mut self, now: Moment, snapshot: SnapshotId, at_least: Seq) {
        if self.dump != Dump::None {
            let error = "another dump is under way".into();
            return self.report(Report::SnapshotFailed { snapshot, error });
        }
        self.holds_left = DUMP_HOLDS_MAX;
        self.prepare(now, snapshot, at_least);
    }

    fn prepare(&mut self, now: Moment, snapshot: SnapshotId, at_least: Seq) {
        if self.may_write && self.flow == Flow::Live {
            let by = now + self.config.prepare_max;
            self.dump = Dump::Preparing {
                snapshot,
                at_least,
                by,
            };
            return self.send(ToSite::PrepareSnapshot { snapshot });
        }
        self.drain(now, snapshot, at_least);
    }

    fn drain(&mut self, now: Moment, snapshot: SnapshotId, at_least: Seq) {
        let by = now + self.config.drain_max;
        self.dump = Dump::Draining {
            snapshot,
            at_least,
            by,
        };
    }

    /// The site holds still, or cannot. What it wrote is in the log by now, as far as it
    /// is known here: it must have come back before the snapshot is opened.
    pub(super) fn take_prepared(&mut self, now: Moment, snapshot: SnapshotId, is_held: bool) {
        match self.dump {
            Dump::Preparing {
                snapshot: one,
                at_least,
                ..
            } if one == snapshot => {
                let at_least = if is_held {
                    at_least.max(self.end)
                } else {
                    self.holds_left = 0;
                    at_least
                };
                self.drain(now, snapshot, at_least);
            }
            // It came after the deadline.
            _ => {}
        }
    }

    /// Asks the site once nothing is in flight: the snapshot is then exactly where
    /// the increments stopped.
    pub(super) fn advance_dump(&mut self, now: Moment) {
        let Dump::Draining {
            snapshot, at_least, ..
        } = self.dump
        else {
            return;
        };
        if self.acked < self.sent || self.acked < at_least {
            return;
        }
        let by = now + self.config.open_max;
        self.dump = Dump::Asked { snapshot, by };
        self.send(ToSite::OpenSnapshot { snapshot });
    }

    pub(super) fn take_opened(
        &mut self,
        now: Moment,
        snapshot: SnapshotId,
        position: Position,
        ahead: Option<Ahead>,
        size: SnapshotSize,
    ) {
        if self.dump.snapshot() != Some(snapshot) {
            // It came after the deadline.
            return self.send(ToSite::CloseSnapshot { snapshot });
        }
        if ahead.is_some() && self.may_write && self.holds_left > 0 {
            // Somebody wrote in between.
            self.holds_left -= 1;
            self.send(ToSite::CloseSnapshot { snapshot });
            return self.prepare(now, snapshot, self.acked);
        }
        self.dump = Dump::None;
        let expected = Position {
            epoch: self.epoch,
            seq: self.acked,
        };
        if position != expected {
            self.send(ToSite::CloseSnapshot { snapshot });
            let found = position;
            let error = Violation::SnapshotPosition { expected, found };
            let error = error.to_string().into();
            return self.report(Report::SnapshotFailed { snapshot, error });
        }
        self.open.insert(snapshot);
        self.report(Report::SnapshotOpened {
            snapshot,
            position,
            ahead,
            size,
        });
    }

    /// A failed dump ends neither the donor nor its increments.
    pub(super) fn take_failed(&mut self, snapshot: SnapshotId, error: Arc<str>) {
        let was_asked = self.dump.snapshot() == Some(snapshot);
        if was_asked {
            self.dump = Dump::None;
        }
        if self.open.remove(&snapshot) || was_asked {
            self.report(Report::SnapshotFailed { snapshot, error });
        }
    }

    pub(super) fn close_snapshot(&mut self, snapshot: SnapshotId) {
        let was_asked = match self.dump {
            Dump::Preparing { snapshot: one, .. } | Dump::Asked { snapshot: one, .. } => {
                one == snapshot
            }
            Dump::None | Dump::Draining { .. } => false,
        };
        if self.dump.snapshot() == Some(snapshot) {
            self.dump = Dump::None;
        }
        if self.open.remove(&snapshot) || was_asked {
            self.send(ToSite::CloseSnapshot { snapshot });
        }
    }

    pub(super) fn expire_dump(&mut self, now: Moment) {
        let Some(by) = self.dump.deadline() else {
            return;
        };
        if now < by {
            return;
        }
        let error = match self.dump {
            Dump::None => return,
            Dump::Preparing {
                snapshot, at_least, ..
            } => {
                self.holds_left = 0;
                return self.drain(now, snapshot, at_least);
            }
            Dump::Draining { .. } => "the donor did not acknowledge in time",
            Dump::Asked { snapshot, .. } => {
                self.send(ToSite::CloseSnapshot { snapshot });
                "the donor did not open a snapshot in time"
            }
        };
        if let Some(snapshot) = self.dump.snapshot() {
            let error = error.into();
            self.report(Report::SnapshotFailed { snapshot, error });
        }
        self.dump = Dump::None;
    }
}
