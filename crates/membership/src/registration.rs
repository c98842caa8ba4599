//! A node's core: keeps one instance registered until it is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use waystation_base::{Backoff, BackoffConfig, FencingToken, Moment};

use crate::directory::{DrainStep, Granted, Refusal, Register, Renewed};
use crate::instance::{Instance, State, Update};
use crate::lease::{GrantError, HolderError};

/// How a registration behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegistrationConfig {
    /// The lease asked for. Default 6 s. Longer rides out longer cuts; a dead
    /// node stays visible for that long.
    pub ttl: Duration,
    /// How much earlier than the end of its lease, at which peers may evict it, the
    /// node fences itself. Default 1 s. It must exceed what the two clocks may
    /// drift apart within a lease.
    pub fence_margin: Duration,
    /// For how long an answer is waited for. Default 2 s.
    pub answer_max: Duration,
    /// How attempts are spaced.
    pub backoff: BackoffConfig,
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(6),
            fence_margin: Duration::from_secs(1),
            answer_max: Duration::from_secs(2),
            backoff: BackoffConfig::default(),
        }
    }
}

/// What a registration wants the backend to do, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Register; answer with [`Registration::handle_granted`] or
    /// [`Registration::handle_refused`].
    Register {
        /// Goes back with the answer.
        attempt: Attempt,
        /// What to ask.
        register: Box<Register>,
    },
    /// Renew; answer with [`Registration::handle_renewed`] or
    /// [`Registration::handle_unheld`].
    Renew {
        /// Goes back with the answer.
        attempt: Attempt,
        /// The lease's token.
        token: FencingToken,
    },
    /// Change what is registered; answer only a failure, with
    /// [`Registration::handle_unheld`] or [`Registration::handle_refused`].
    Update {
        /// The lease's token.
        token: FencingToken,
        /// The change.
        update: Update,
    },
    /// Begin to drain; comes again as long as renewals do not tell of it.
    Drain {
        /// The lease's token.
        token: FencingToken,
    },
    /// No request is in flight any more.
    Idle {
        /// The lease's token.
        token: FencingToken,
    },
    /// Others see the instance, under this token.
    Registered {
        /// The lease's token.
        token: FencingToken,
    },
    /// Take nothing new and write nothing: others may soon take this node for
    /// gone. Ends with the next [`Command::Registered`].
    Fence,
    /// The registry refuses; attempts go on.
    Refused(Refusal),
    /// Every subscriber has acknowledged the drain: once nothing is in flight,
    /// call [`Registration::handle_idle`].
    Drained,
    /// The drain is over. Nothing more comes.
    Ended,
}

/// Ties an answer to its request: the lease counts from when that was sent, so
/// an answer to an earlier one must not be taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What is asked and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Register,
    Renew,
}

/// The core of a registration.
///
/// Calling order: a `handle_*` with the present moment, then
/// [`Registration::poll_output`] until `None`, then sleep until
/// [`Registration::poll_timeout`]. After a sleep call
/// [`Registration::handle_timeout`] first: if the process was paused, the lease
/// may be over.
///
/// It never gives up: refused, disconnected, expired or superseded, it asks
/// again, further and further apart up to the back-off's maximum. It ends only
/// when its drain is over or it is dropped.
///
/// The node is fenced before its peers may evict it: its lease counts from the
/// moment at which the answered request was *sent*, theirs from its arrival,
/// which is later.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may hold with any other"
)]
pub struct Registration {
    config: RegistrationConfig,
    instance: Instance,
    /// What it came with: of another registry.
    lift: FencingToken,
    /// The highest token that this one has granted.
    granted: FencingToken,
    backoff: Backoff,
    is_connected: bool,
    /// Whether the present lease is ours, as far as is known.
    is_registered: bool,
    is_fenced: bool,
    asked: Option<(Asked, Moment)>,
    attempt: Attempt,
    ask_at: Option<Moment>,
    fence_at: Option<Moment>,
    drain: Option<DrainStep>,
    is_idle: bool,
    /// What changed since the registration that is asked for was sent.
    unsent: Option<Update>,
    outputs: VecDeque<Command>,
}

impl Registration {
    /// A registration that is neither connected nor registered. An instance that
    /// comes with a token was granted that by another registry, and is granted a
    /// higher one. `rng_seed` spreads the attempts of nodes that failed together.
    pub fn new(instance: Instance, config: RegistrationConfig, rng_seed: u64) -> Self {
        Self {
            backoff: Backoff::new(config.backoff, rng_seed),
            config,
            lift: instance.token,
            granted: FencingToken(0),
            instance,
            is_connected: false,
            is_registered: false,
            is_fenced: true,
            asked: None,
            attempt: Attempt::default(),
            ask_at: None,
            fence_at: None,
            drain: None,
            is_idle: false,
            unsent: None,
            outputs: VecDeque::new(),
        }
    }

    /// The backend is connected, for the first time or again.
    pub fn handle_connected(&mut self, now: Moment) {
        self.fence_if_due(now);
        self.is_connected = true;
        // A lease that may live is asked for too: registering again keeps its
        // token, and finds out at once if it is gone.
        self.is_registered = false;
        self.asked = None;
        self.ask_at = Some(now);
        self.handle_timeout(now);
    }

    /// Another registry, which is used beside this one, has granted this instance
    /// `token`: this one is asked for a higher one. The node goes on meanwhile under
    /// what it has.
    pub fn handle_lift(&mut self, now: Moment, token: FencingToken) {
        if token <= self.lift.max(self.instance.token) {
            return;
        }
        self.lift = token;
        if self.is_connected && !self.has_ended() {
            self.is_registered = false;
            self.asked = None;
            self.ask_at = Some(now);
            self.handle_timeout(now);
        }
    }

    /// The backend is disconnected.
    pub fn handle_disconnected(&mut self) {
        self.is_connected = false;
        self.asked = None;
        self.ask_at = None;
    }

    /// The registration was granted. An answer to an attempt other than the
    /// present one is ignored.
    pub fn handle_granted(&mut self, now: Moment, attempt: Attempt, granted: Granted) {
        let Some((Asked::Register, sent_at)) = self.asked else {
            return;
        };
        if attempt != self.attempt {
            return;
        }
        self.granted = self.granted.max(granted.token);
        self.instance.token = self.instance.token.max(granted.token);
        if granted.token < self.instance.token {
            return self.ask_again(now);
        }
        self.is_registered = true;
        self.answered(now, sent_at, granted.ttl);
        if let Some(update) = self.unsent.take() {
            let token = granted.token;
            self.outputs.push_back(Command::Update { token, update });
        }
        if granted.state == State::Draining {
            self.advance_drain(DrainStep::Waiting);
        } else {
            self.tell_drain();
        }
    }

    /// The lease was renewed. An answer to an attempt other than the present one
    /// is ignored.
    pub fn handle_renewed(&mut self, now: Moment, attempt: Attempt, renewed: Renewed) {
        let Some((Asked::Renew, sent_at)) = self.asked else {
            return;
        };
        if attempt != self.attempt {
            return;
        }
        self.answered(now, sent_at, renewed.ttl);
        let Some(step) = renewed.drain else {
            // Whoever should have told the registry was not heard.
            return self.tell_drain();
        };
        if step == DrainStep::Acknowledged && self.drain == Some(step) {
            // The registry still waits: the word of it may have been lost.
            self.tell_idle();
        }
        self.advance_drain(step);
    }

    /// The registry has lifted all its tokens, this one's too: another node came with
    /// a token of another registry, or the store was found to have gone back. The
    /// lease is ours as before, and the node serves on, under the higher token. A
    /// lower one is ignored.
    pub fn handle_raised(&mut self, token: FencingToken) {
        self.granted = self.granted.max(token);
        self.instance.token = self.instance.token.max(token);
    }

    /// The registration was refused: it is asked for again. If another has the
    /// id the node is fenced at once, whatever is left of its lease.
    pub fn handle_refused(&mut self, now: Moment, refusal: Refusal) {
        if refusal == Refusal::Drained {
            return self.end();
        }
        if let Refusal::Lease { error, .. } = &refusal
            && matches!(
                error,
                GrantError::Held { .. } | GrantError::Superseded { .. }
            )
        {
            self.fence();
        }
        self.outputs.push_back(Command::Refused(refusal));
        if matches!(self.asked, Some((Asked::Register, _))) {
            self.ask_again(now);
        }
    }

    /// The registry says that the lease is not ours: it expired, or another has
    /// the id. The node is fenced at once, and registers again.
    pub fn handle_unheld(&mut self, now: Moment, _error: HolderError) {
        if self.drain == Some(DrainStep::Acknowledged) {
            return self.end();
        }
        self.fence();
        self.is_registered = false;
        self.ask_again(now);
    }

    /// Changes what is registered, now or with the next registration.
    pub fn handle_update(&mut self, update: Update) {
        update.apply(&mut self.instance);
        if self.is_registered {
            let token = self.instance.token;
            self.outputs.push_back(Command::Update { token, update });
        } else if let Some(unsent) = &mut self.unsent {
            unsent.merge(update);
        } else if self.asked.is_some() {
            // What is on its way does not say so.
            self.unsent = Some(update);
        }
    }

    /// Begins to drain, now or as soon as it is registered.
    pub fn handle_drain(&mut self) {
        if self.drain.is_none() {
            self.drain = Some(DrainStep::Waiting);
            if self.is_registered {
                self.tell_drain();
            }
        }
    }

    /// The registry tells how far the drain is.
    pub fn handle_drain_step(&mut self, step: DrainStep) {
        self.advance_drain(step);
    }

    /// Nothing is in flight any more.
    pub fn handle_idle(&mut self) {
        self.is_idle = true;
        self.tell_idle();
    }

    /// Fences, asks again, gives up waiting for an answer: whatever is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.fence_if_due(now);
        if self.has_ended() {
            return;
        }
        if let Some((_, sent_at)) = self.asked
            && now >= sent_at + self.config.answer_max
        {
            self.asked = None;
            self.ask_again(now);
        }
        let is_due = self.ask_at.is_some_and(|at| at <= now);
        if self.is_connected && self.asked.is_none() && is_due {
            self.ask(now);
        }
    }

    /// When to call [`Registration::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.has_ended() {
            return None;
        }
        let answer = self.asked.map(|(_, at)| at + self.config.answer_max);
        let ask = self.ask_at.filter(|_| self.asked.is_none());
        let fence = self.fence_at.filter(|_| !self.is_fenced);
        [answer, ask, fence].into_iter().flatten().min()
    }

    /// What to do next. Call until `None`.
    pub fn poll_output(&mut self) -> Option<Command> {
        self.outputs.pop_front()
    }

    /// Whether the node may serve at `now`, whether or not the timer has been
    /// handled.
    pub fn may_serve(&self, now: Moment) -> bool {
        self.serves_until().is_some_and(|until| now < until)
    }

    /// Until when the node may serve, unless it hears from the registry before;
    /// `None` when it is fenced. What [`Registration::may_serve`] compares with.
    pub fn serves_until(&self) -> Option<Moment> {
        self.fence_at.filter(|_| !self.is_fenced)
    }

    /// How far its drain is, if it is draining.
    pub const fn drain(&self) -> Option<DrainStep> {
        self.drain
    }

    /// The instance as it is or will be registered, with its latest token.
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Whether its drain is over.
    pub fn has_ended(&self) -> bool {
        self.drain == Some(DrainStep::Ended)
    }
}

/// Helpers, in the order in which they are called.
impl Registration {
    fn fence_if_due(&mut self, now: Moment) {
        if self.fence_at.is_some_and(|at| at <= now) {
            self.fence();
        }
    }

    fn fence(&mut self) {
        self.fence_at = None;
        if !self.is_fenced {
            self.is_fenced = true;
            self.outputs.push_back(Command::Fence);
        }
    }

    fn ask(&mut self, now: Moment) {
        self.ask_at = None;
        self.attempt.0 += 1;
        let attempt = self.attempt;
        if self.is_registered {
            self.asked = Some((Asked::Renew, now));
            let token = self.instance.token;
            self.outputs.push_back(Command::Renew { attempt, token });
        } else {
            self.asked = Some((Asked::Register, now));
            self.unsent = None;
            let register = Box::new(Register {
                instance: self.instance.clone(),
                ttl: self.config.ttl,
                token_seen: self.granted,
                lift: self.lift,
            });
            (self.outputs).push_back(Command::Register { attempt, register });
        }
    }

    fn ask_again(&mut self, now: Moment) {
        self.asked = None;
        if self.is_connected && !self.has_ended() {
            self.ask_at = Some(now + self.backoff.next_delay());
        }
    }

    /// A registration or renewal sent at `sent_at` was granted for `ttl`.
    fn answered(&mut self, now: Moment, sent_at: Moment, ttl: Duration) {
        self.asked = None;
        self.backoff.reset();
        let fence_at = sent_at + ttl.saturating_sub(self.config.fence_margin);
        self.fence_at = Some(fence_at);
        self.ask_at = Some(sent_at + ttl / 3);
        // The answer may come so late that it is worth nothing.
        if fence_at <= now {
            self.fence();
        } else if self.is_fenced {
            self.is_fenced = false;
            let token = self.instance.token;
            self.outputs.push_back(Command::Registered { token });
        }
    }

    /// A drain only goes forward.
    fn advance_drain(&mut self, step: DrainStep) {
        if self.drain >= Some(step) {
            return;
        }
        self.drain = Some(step);
        self.instance.state = State::Draining;
        match step {
            DrainStep::Waiting => {}
            DrainStep::Acknowledged => {
                self.outputs.push_back(Command::Drained);
                self.tell_idle();
            }
            DrainStep::Ended => self.finish(),
        }
    }

    fn tell_drain(&mut self) {
        if self.drain.is_some() {
            let token = self.instance.token;
            self.outputs.push_back(Command::Drain { token });
        }
    }

    fn tell_idle(&mut self) {
        if self.is_idle && self.drain == Some(DrainStep::Acknowledged) {
            let token = self.instance.token;
            self.outputs.push_back(Command::Idle { token });
        }
    }

    fn end(&mut self) {
        self.advance_drain(DrainStep::Ended);
    }

    fn finish(&mut self) {
        self.asked = None;
        self.ask_at = None;
        self.fence_at = None;
        self.is_registered = false;
        self.is_fenced = true;
        self.outputs.push_back(Command::Ended);
    }
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;
