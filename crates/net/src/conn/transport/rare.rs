//! What few connections need, and those not for long.

use waystation_base::Moment;

use super::super::CloseReason;
use super::super::ending::Ending;
use super::Transport;

/// State of a connection that ends, drains, receives a message in several
/// frames, or has a peer that takes nothing.
#[derive(Default)]
pub(super) struct Rare {
    /// An end that is under way.
    ending: Option<Ending>,
    /// When the peer was told of a drain.
    drain_told: Option<Moment>,
    /// When the oldest message began that comes in several frames and is not
    /// complete.
    unfinished: Option<Moment>,
    /// When output last made progress, while some is waiting.
    blocked: Option<Moment>,
    /// When output that had been waiting last made progress: the peer took
    /// something, which is a sign of life.
    taken: Moment,
    /// Bytes that the session holds outside the input.
    held: usize,
}

impl Rare {
    /// Nothing in it matters any more to a connection that received something
    /// at that moment.
    fn is_over(&self, received: Moment) -> bool {
        let unset = self.ending.is_none()
            && self.drain_told.is_none()
            && self.unfinished.is_none()
            && self.blocked.is_none();
        unset && self.held == 0 && self.taken <= received
    }
}

impl Transport {
    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Frees the box when nothing in it matters any more.
    pub(super) fn rest_rare(&mut self) {
        let received = self.conn.received();
        self.rare.take_if(|rare| rare.is_over(received));
    }

    pub(in crate::conn) fn ending(&self) -> Option<Ending> {
        self.rare.as_ref()?.ending
    }

    pub(in crate::conn) fn ending_reason(&self) -> Option<CloseReason> {
        self.ending().map(|ending| ending.reason)
    }

    pub(in crate::conn) fn set_ending(&mut self, ending: Ending) {
        self.rare_mut().ending = Some(ending);
    }

    pub(super) fn drain_told(&self) -> Option<Moment> {
        self.rare.as_ref()?.drain_told
    }

    pub(super) fn set_drain_told(&mut self, at: Moment) {
        self.rare_mut().drain_told = Some(at);
    }

    /// The next session is to be told of a drain, though one was before.
    pub(crate) fn forget_drain(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.drain_told = None;
        }
    }

    pub(super) fn unfinished(&self) -> Option<Moment> {
        self.rare.as_ref()?.unfinished
    }

    pub(super) fn set_unfinished(&mut self, since: Option<Moment>) {
        if since.is_some() || self.rare.is_some() {
            self.rare_mut().unfinished = since;
        }
    }

    pub(super) fn blocked(&self) -> Option<Moment> {
        self.rare.as_ref()?.blocked
    }

    /// The peer takes no more, now or since before.
    pub(super) fn set_blocked(&mut self) {
        let now = self.shard().now();
        self.rare_mut().blocked.get_or_insert(now);
    }

    /// No output waits.
    pub(super) fn set_unblocked(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.blocked = None;
        }
    }

    /// The peer took something.
    pub(super) fn set_taken(&mut self) {
        if let Some(rare) = &mut self.rare
            && rare.blocked.take().is_some()
        {
            rare.taken = self.conn.shard().now();
        }
    }

    /// When the peer last gave a sign of life.
    pub(super) fn alive(&self) -> Moment {
        let taken = self.rare.as_ref().map(|rare| rare.taken);
        self.conn.received().max(taken.unwrap_or_default())
    }

    pub(super) fn held_len(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.held)
    }

    pub(super) fn set_held(&mut self, held: usize) {
        if held > 0 || self.rare.is_some() {
            self.rare_mut().held = held;
        }
    }
}
