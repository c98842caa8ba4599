//! Publishes captured changes in their order, each once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use waystation_base::{Backoff, BackoffConfig, FencingToken, Moment};

use crate::message::{PublishRefusal, ToHub};

/// Most changes of one publish.
const PUBLISH_CHANGES_MAX: usize = 256;

/// For how long an answer is waited for. A publish that is sent again is taken
/// once, so that this may be too short without harm.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What an outbox wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Send(ToHub),
    /// Read the changes after this one.
    Read {
        after: u64,
        changes_max: usize,
    },
    /// The changes up to here are durable in the log.
    Erase {
        through: u64,
    },
    Refused(PublishRefusal),
}

/// Captured changes on their way to the hub.
///
/// A change leaves the copy's outbox only when the hub has it durably, and the
/// hub takes each number once, so that neither a crash nor a lost answer loses or
/// doubles one. Without a token nothing is published: changes wait.
#[derive(Debug)]
pub(super) struct Outbox {
    backoff: Backoff,
    is_connected: bool,
    token: Option<FencingToken>,
    /// What the hub has, as it said.
    published: u64,
    /// What the copy has captured.
    captured: u64,
    is_reading: bool,
    /// Sent up to here, and not answered; it is sent again at this moment.
    sent: Option<(u64, Moment)>,
    retry_at: Option<Moment>,
    wishes: VecDeque<Wish>,
}

impl Outbox {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            backoff: Backoff::new(BackoffConfig::default(), seed),
            is_connected: false,
            token: None,
            published: 0,
            captured: 0,
            is_reading: false,
            sent: None,
            retry_at: None,
            wishes: VecDeque::new(),
        }
    }

    pub(super) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.retry_at.or(self.sent.map(|(_, by)| by))
    }

    pub(super) fn token(&self) -> Option<FencingToken> {
        self.token
    }

    /// What the hub has.
    pub(super) fn published_through(&self) -> u64 {
        self.published
    }

    /// What the copy has captured.
    pub(super) fn last_captured(&self) -> u64 {
        self.captured
    }

    /// The hub tells the token, and what it has.
    pub(super) fn connected(&mut self, token: Option<FencingToken>, source: u64) {
        self.is_connected = true;
        self.token = token;
        self.sent = None;
        self.retry_at = None;
        self.note_published(source);
        self.advance();
    }

    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        self.sent = None;
        self.retry_at = None;
    }

    /// The copy has captured changes up to `last`.
    pub(super) fn captured(&mut self, last: u64) {
        self.captured = self.captured.max(last);
        self.advance();
    }

    /// The copy's own outbox is empty, and its numbers begin anew.
    pub(super) fn cleared(&mut self) {
        self.captured = self.published;
    }

    /// Changes that were asked for: numbered from `first` without a gap; none if
    /// there are none.
    pub(super) fn read(&mut self, now: Moment, first: u64, payloads: Vec<Bytes>) {
        self.is_reading = false;
        let Some(token) = self.token.filter(|_| self.is_connected) else {
            return;
        };
        // The hub had more than was known when this was asked for.
        if first != self.published + 1 || payloads.is_empty() || self.sent.is_some() {
            return self.advance();
        }
        let through = self.published + payloads.len() as u64;
        self.sent = Some((through, now + ANSWER_MAX));
        self.wishes.push_back(Wish::Send(ToHub::Publish {
            token,
            first,
            payloads,
        }));
    }

    /// They could not be read: they are asked for again, after a pause.
    pub(super) fn not_read(&mut self, now: Moment) {
        self.is_reading = false;
        self.retry_at = Some(now + self.backoff.next_delay());
    }

    pub(super) fn published(&mut self, through: u64) {
        self.backoff.reset();
        self.note_published(through);
        if self.sent.is_some_and(|(sent, _)| sent <= self.published) {
            self.sent = None;
        }
        self.advance();
    }

    fn note_published(&mut self, through: u64) {
        if through > self.published {
            self.published = through;
            self.captured = self.captured.max(through);
            self.wishes.push_back(Wish::Erase { through });
        }
    }

    pub(super) fn refused(&mut self, now: Moment, refusal: PublishRefusal) {
        self.sent = None;
        match refusal {
            PublishRefusal::Fenced { .. } => self.token = None,
            _ => self.retry_at = Some(now + self.backoff.next_delay()),
        }
        self.wishes.push_back(Wish::Refused(refusal));
    }

    pub(super) fn handle_timeout(&mut self, now: Moment) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
        }
        if self.sent.is_some_and(|(_, by)| now >= by) {
            self.sent = None;
        }
        self.advance();
    }

    fn advance(&mut self) {
        let is_waiting = self.is_reading || self.sent.is_some() || self.retry_at.is_some();
        let may = self.is_connected && self.token.is_some();
        if !may || is_waiting || self.captured <= self.published {
            return;
        }
        self.is_reading = true;
        self.wishes.push_back(Wish::Read {
            after: self.published,
            changes_max: PUBLISH_CHANGES_MAX,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_millis(1000);

    fn wishes(outbox: &mut Outbox) -> Vec<Wish> {
        std::iter::from_fn(|| outbox.poll_wish()).collect()
    }

    fn read(after: u64) -> Wish {
        Wish::Read {
            after,
            changes_max: PUBLISH_CHANGES_MAX,
        }
    }

    fn payloads(count: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"x"); count]
    }

    #[test]
    fn a_change_is_erased_only_when_the_hub_has_it() {
        let mut outbox = Outbox::new(1);
        outbox.captured(2);
        assert_eq!(wishes(&mut outbox), [], "not connected");
        outbox.connected(Some(FencingToken(1)), 0);
        assert_eq!(wishes(&mut outbox), [read(0)]);
        outbox.read(NOW, 1, payloads(2));
        let sent = wishes(&mut outbox);
        assert!(matches!(
            sent[..],
            [Wish::Send(ToHub::Publish { first: 1, .. })]
        ));
        outbox.published(1);
        assert_eq!(wishes(&mut outbox), [Wish::Erase { through: 1 }]);
        outbox.published(2);
        assert_eq!(wishes(&mut outbox), [Wish::Erase { through: 2 }]);
    }

    #[test]
    fn an_answer_that_was_lost_is_learnt_at_the_next_connection() {
        let mut outbox = Outbox::new(1);
        outbox.connected(Some(FencingToken(1)), 0);
        outbox.captured(3);
        outbox.read(NOW, 1, payloads(3));
        outbox.disconnected();
        wishes(&mut outbox);
        outbox.connected(Some(FencingToken(1)), 2);
        assert_eq!(wishes(&mut outbox), [Wish::Erase { through: 2 }, read(2)]);
    }

    #[test]
    fn without_a_token_changes_wait() {
        let mut outbox = Outbox::new(1);
        outbox.connected(None, 0);
        outbox.captured(1);
        assert_eq!(wishes(&mut outbox), []);
        outbox.connected(Some(FencingToken(2)), 0);
        outbox.read(NOW, 1, payloads(1));
        wishes(&mut outbox);
        let token = FencingToken(2);
        outbox.refused(NOW, PublishRefusal::Fenced { token });
        outbox.captured(2);
        let only_told = wishes(&mut outbox);
        assert!(matches!(only_told[..], [Wish::Refused(_)]));
    }

    #[test]
    fn a_publish_without_an_answer_is_sent_again() {
        let mut outbox = Outbox::new(1);
        outbox.connected(Some(FencingToken(1)), 0);
        outbox.captured(1);
        outbox.read(NOW, 1, payloads(1));
        wishes(&mut outbox);
        let at = outbox.poll_timeout().expect("a deadline");
        outbox.handle_timeout(at);
        assert_eq!(wishes(&mut outbox), [read(0)]);
    }

    /// Captured writes that could not be read were asked for again at once, for ever.
    #[test]
    fn what_cannot_be_read_is_asked_for_again_after_a_pause() {
        let mut outbox = Outbox::new(1);
        outbox.connected(Some(FencingToken(1)), 0);
        outbox.captured(1);
        assert_eq!(wishes(&mut outbox), [read(0)]);
        outbox.not_read(NOW);
        outbox.captured(2);
        assert_eq!(wishes(&mut outbox), []);
        let at = outbox.poll_timeout().expect("a retry");
        assert!(at > NOW);
        outbox.handle_timeout(at);
        assert_eq!(wishes(&mut outbox), [read(0)]);
    }

    #[test]
    fn a_full_log_is_tried_again_later() {
        let mut outbox = Outbox::new(1);
        outbox.connected(Some(FencingToken(1)), 0);
        outbox.captured(1);
        outbox.read(NOW, 1, payloads(1));
        outbox.refused(NOW, PublishRefusal::Busy);
        wishes(&mut outbox);
        let at = outbox.poll_timeout().expect("a retry");
        outbox.handle_timeout(at);
        assert_eq!(wishes(&mut outbox), [read(0)]);
    }
}
