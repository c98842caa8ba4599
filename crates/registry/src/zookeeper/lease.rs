//! Sessions that keep registrations alive, apart from the one that watches: each
//! as long as the lease that its registrations ask for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use waystation_base::Moment;
use waystation_net::{Shard, WaitsFor, until, waiting};

use super::store::Shared;
use super::wire::{Attached, Fault, Wire};
use crate::limits::{ZOOKEEPER_LEASES_MAX, ZOOKEEPER_SIGNS};
use crate::store::backoff;

/// A session for registrations. It ends when nobody holds this any more.
pub(super) struct Lease {
    inner: Rc<Inner>,
}

struct Inner {
    length: Duration,
    wire: RefCell<Option<Wire>>,
    wired: Notify,
    signs: RefCell<Signs>,
    is_over: Cell<bool>,
    ending: Notify,
}

/// The leases of one client.
#[derive(Default)]
pub(super) struct Leases {
    by_length: BTreeMap<Duration, Weak<Lease>>,
}

impl Leases {
    /// The lease of this length; its session is opened if it is the first.
    pub(super) fn of(&mut self, shared: &Rc<Shared>, length: Duration) -> Rc<Lease> {
        self.by_length.retain(|_, lease| lease.strong_count() > 0);
        let known = self.by_length.get(&length).and_then(Weak::upgrade);
        if let Some(lease) = known {
            return lease;
        }
        if self.by_length.len() >= ZOOKEEPER_LEASES_MAX {
            let longer = self.by_length.range(length..).next();
            let nearest = longer.or_else(|| self.by_length.last_key_value());
            if let Some(lease) = nearest.and_then(|(_, lease)| lease.upgrade()) {
                return lease;
            }
        }
        let inner = Rc::new(Inner {
            length,
            wire: RefCell::default(),
            wired: Notify::new(),
            signs: RefCell::default(),
            is_over: Cell::new(false),
            ending: Notify::new(),
        });
        let lease = Rc::new(Lease {
            inner: Rc::clone(&inner),
        });
        self.by_length.insert(length, Rc::downgrade(&lease));
        shared.spawn_session(run(Rc::clone(shared), inner));
        lease
    }
}

impl Lease {
    /// Its session, as soon as there is a connection; `None` when there is none
    /// until then.
    pub(super) async fn wire_until(&self, shard: &Shard, deadline: Moment) -> Option<Wire> {
        let wired = async {
            loop {
                let notified = self.inner.wired.notified();
                if let Some(wire) = self.inner.wire.borrow().clone() {
                    return wire;
                }
                notified.await;
            }
        };
        let wired = waiting(WaitsFor::plain("zookeeper session"), wired);
        until(shard, deadline, wired).await.ok()
    }

    /// The leader has answered something that was asked at `sent`.
    pub(super) fn answered(&self, wire: &Wire, sent: Moment) {
        let mut signs = self.inner.signs.borrow_mut();
        signs.answered(sent, wire.length());
    }

    /// For how long the session surely lives, counted from `asked`.
    pub(super) fn ttl(&self, wire: &Wire, asked: Moment) -> Duration {
        let signs = self.inner.signs.borrow();
        (signs.heard + wire.length()).saturating_since(asked)
    }
}

/// Since when the leader surely knows that the session lives.
///
/// It is the leader that ends sessions. Another server tells it every half tick
/// which sessions it has heard of since it last did, by that and by nothing else,
/// and goes on answering reads until it notices that the leader is gone. So an
/// answer that took the way over the leader does not prove that its own question
/// counts, but that what the server told last before it was heard: no more than
/// half a tick earlier. A session has two ticks at least, so that is a quarter of
/// it at most.
#[derive(Debug)]
struct Signs {
    /// Signs of life in order, the first of them a whole session back or more.
    sent: VecDeque<Moment>,
    heard: Moment,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            sent: VecDeque::new(),
            heard: Moment::ZERO,
        }
    }
}

impl Signs {
    /// The leader has opened the session, or looked it up, since `at`.
    fn attached(&mut self, at: Moment) {
        self.sent.clear();
        self.sent.push_back(at);
        self.heard = at;
    }

    /// The leader has answered what was asked at `at`, in a session of this
    /// length.
    ///
    /// Which half of a tick it is, between none and a quarter, is not known here.
    /// If the server's last word to the leader had signs to tell of, these are no
    /// older than a quarter. If not, none came in the half tick before that word:
    /// then it is a word before it that was heard last, of the sign before the
    /// gap. That is so for a gap that is longer than the time from its end to
    /// `at`, since the half tick lies between the two.
    fn answered(&mut self, at: Moment, length: Duration) {
        let quarter = length / 4;
        let mut after = at;
        let mut surely = None;
        for sign in self.sent.iter().rev().filter(|sign| **sign < at) {
            let since = at.saturating_since(after);
            if since >= quarter {
                break;
            }
            if after.saturating_since(*sign) > since {
                surely = Some(*sign);
            }
            after = *sign;
        }
        if at.saturating_since(after) < quarter {
            // Not enough is known from before.
            return self.note(at, length);
        }
        let by_word = Moment(at.0.saturating_sub(nanos(quarter)));
        let surely = surely.map_or(by_word, |sign| sign.min(by_word));
        self.heard = self.heard.max(surely);
        self.note(at, length);
    }

    /// Remembers a sign of life. Registrations share a session; so not each of
    /// their signs is worth a place, and what is left out makes a gap at most.
    fn note(&mut self, at: Moment, length: Duration) {
        let is_news = |last: &Moment| *last + length / 32 <= at;
        if self.sent.back().is_none_or(is_news) {
            self.sent.push_back(at);
        }
        // An answer may come behind later signs; one that took longer than this is
        // worth nothing.
        let is_enough = |sign: &Moment| at.saturating_since(*sign) >= length;
        while self.sent.get(1).is_some_and(is_enough) {
            self.sent.pop_front();
        }
    }
}

/// A session's length is far below the 580 years that this holds.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.is_over.set(true);
        self.inner.ending.notify_one();
    }
}

impl Inner {
    async fn over(&self) {
        let notified = self.ending.notified();
        if !self.is_over.get() {
            notified.await;
        }
    }

    /// Gives signs of life that renewals build upon.
    async fn show_life(&self, wire: &Wire) -> Fault {
        let pause = wire.length() / ZOOKEEPER_SIGNS;
        loop {
            self.signs.borrow_mut().note(wire.now(), wire.length());
            // Two signs of one pause are not to be.
            let (shown, ()) = futures_util::join!(wire.show_life(), wire.pause(pause));
            match shown {
                // One that is only slow is judged by whoever needs its answer.
                Ok(()) | Err(Fault::Late) => {}
                Err(fault) => return fault,
            }
        }
    }
}

async fn run(shared: Rc<Shared>, inner: Rc<Inner>) {
    let mut backoff = backoff(&shared.shard);
    let mut known = None;
    loop {
        let began = shared.shard.now();
        let attaching = Attached::new(
            &shared.shard,
            &shared.store.place,
            inner.length,
            known.clone(),
        );
        let fault = tokio::select! {
            biased;
            () = shared.closed() => return,
            () = inner.over() => return,
            attached = attaching => match attached {
                Ok(mut attached) => {
                    known = Some(attached.known.clone());
                    backoff.reset();
                    let end = tokio::select! {
                        biased;
                        fault = serve(&inner, &mut attached, began) => Some(fault),
                        () = shared.closed() => None,
                        () = inner.over() => None,
                    };
                    *inner.wire.borrow_mut() = None;
                    match end {
                        Some(fault) => fault,
                        None => return attached.close().await,
                    }
                }
                Err(fault) => fault,
            },
        };
        tracing::debug!(%fault, "a session of registrations has no connection");
        if matches!(fault, Fault::Expired) {
            known = None;
        }
        let pause = shared.shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = shared.closed() => return,
            () = inner.over() => return,
            () = waiting(WaitsFor::plain("zookeeper pause"), pause) => {}
        }
    }
}

/// Lets registrations use the session until its connection, which was asked for
/// when this `began`, is over.
async fn serve(inner: &Inner, attached: &mut Attached, began: Moment) -> Fault {
    let wire = attached.wire.clone();
    let sent = wire.now();
    // What is read from here on is not older than what was granted elsewhere.
    let synced = tokio::select! {
        biased;
        fault = attached.over() => return fault,
        synced = wire.sync() => synced,
    };
    if let Err(fault) = synced {
        return fault;
    }
    inner.signs.borrow_mut().attached(began);
    inner.signs.borrow_mut().note(sent, wire.length());
    *inner.wire.borrow_mut() = Some(wire.clone());
    inner.wired.notify_waiters();
    tokio::select! {
        biased;
        fault = attached.over() => fault,
        fault = inner.show_life(&wire) => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(4);

    fn at(ms: u64) -> Moment {
        Moment::from_millis(10_000 + ms)
    }

    /// What the leader heard last of a session with these signs of life, when a
    /// question at `asked` reaches it: its server tells it of what came since its
    /// last word every `half_tick`, first at `first`.
    fn truly_heard(signs: &[u64], asked: u64, half_tick: u64, first: u64) -> u64 {
        let words = (0..).map(|number| first + number * half_tick);
        let has_signs = |word: &u64| {
            let mut signs = signs.iter();
            signs.any(|sign| sign <= word && sign + half_tick > *word)
        };
        let words = words.take_while(|word| *word < asked);
        words.filter(has_signs).last().unwrap_or(0)
    }

    /// A server that was cut off from the leader went on answering, and each of
    /// its answers prolonged a lease that the leader was about to end.
    #[test]
    fn an_answer_prolongs_by_what_was_told_before_it() {
        let mut signs = Signs::default();
        signs.attached(at(0));
        for (sent, heard) in [
            // Too early to know more than that it was opened.
            (100, 0),
            (500, 0),
            (1500, 500),
            (2500, 1500),
            // A word just behind 1500 has told of that one; the next, half a tick
            // of 950 later, had nothing to tell.
            (3400, 1500),
            (4800, 3400),
            (4900, 3400),
            (5900, 4800),
            // Signs that are close to each other leave no such gaps.
            (6400, 4800),
            (6800, 4800),
            (7200, 6200),
        ] {
            signs.answered(at(sent), LENGTH);
            assert_eq!(signs.heard, at(heard), "by what was asked at {sent}");
        }
        signs.attached(at(20_000));
        assert_eq!(signs.heard, at(20_000));
    }

    #[test]
    fn many_registrations_leave_few_signs() {
        let mut signs = Signs::default();
        signs.attached(at(0));
        for ms in 0..10_000 {
            signs.answered(at(ms), LENGTH);
            assert!(signs.sent.len() <= 34, "{}", signs.sent.len());
        }
        assert_eq!(signs.heard, at(8_999));
    }

    /// Answers took so long that further signs had been given, and those before the
    /// question were forgotten: the lease ran out although all of it was answered.
    #[test]
    fn an_answer_counts_behind_later_signs() {
        let mut signs = Signs::default();
        signs.attached(at(0));
        for number in 1..=8 {
            signs.note(at(number * 500), LENGTH);
        }
        signs.answered(at(2100), LENGTH);
        assert_eq!(signs.heard, at(1100));
    }

    proptest::proptest! {
        /// Whenever a server tells its leader of sessions, and how often up to
        /// every quarter of them: the leader has heard what is taken for heard.
        #[test]
        fn nothing_is_taken_for_heard_that_was_not(
            gaps in proptest::collection::vec(0..2_500_u64, 1..30),
            half_tick in 1..=1_000_u64,
            first in 0..=1_000_u64,
            late in 0..3_000_u64,
        ) {
            let first = first % half_tick + 1;
            let (mut signs, mut sent, mut now) = (Signs::default(), vec![0], 0);
            signs.attached(at(0));
            for gap in gaps {
                now += gap;
                signs.note(at(now), LENGTH);
                sent.push(now);
                // The answer comes behind this and perhaps further ones.
                let asked = now.saturating_sub(late);
                let before: Vec<u64> = sent.iter().copied().filter(|one| *one < asked).collect();
                signs.answered(at(asked), LENGTH);
                let truly = truly_heard(&before, asked, half_tick, first);
                proptest::prop_assert!(signs.heard <= at(truly), "{signs:?} and {truly}");
            }
        }
    }
}
