//! What all callers of a service in this process share.

mod awake;
mod sending;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::{Moment, hash64};
use waystation_segment::report;

use crate::attachment::{Attachment, KnownHost};
use crate::attempt::{Attempt, Outcome, Word};
use crate::clock::machine_now;
use crate::config::CallerConfig;
use crate::ends::Ends;
use crate::error::Error;
use crate::former::{FORMER_MAX, Former};
use crate::mapping::ForkMark;
use crate::protocol::{Answer, Request};
use crate::socket::Socket;

/// A caller's part of an attachment.
pub(crate) struct Part {
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) seed: u64,
}

/// What all callers of a service in this process share.
pub(crate) struct Shared {
    pub(crate) config: CallerConfig,
    /// Never locked while somebody waits for the agent.
    state: Mutex<State>,
    /// Somebody's word with the agent is over.
    over: Condvar,
    /// The number of the present attachment, 0 without one; callers look here before
    /// each pick.
    attachment: AtomicU64,
    mark: Option<ForkMark>,
    me: Weak<Self>,
}

struct State {
    current: Option<Arc<Attachment>>,
    former: VecDeque<Former>,
    /// Attachments until now.
    attachments: u64,
    /// The number of the last attachment that was lost, and its hosts.
    kept: Option<(u64, Arc<[KnownHost]>)>,
    /// For picks by socket, and its number.
    socket: Option<(u64, Socket)>,
    sockets: u64,
    /// Ends of calls that were picked by socket.
    ends: Ends,
    /// A thread sends what is left of them.
    is_sent_later: bool,
    attaching: Attempt,
    asking: Attempt,
    by_udp: Attempt,
    /// The agent did not answer last, or its memory says that it does nothing.
    is_silent: bool,
    seeds: u64,
    /// Which of the hosts that are kept is the next, in a count of its own: with one that
    /// something else moves on, too, every second host was passed over. Processes
    /// do not all begin with the same host.
    turn: u64,
}

/// Somebody's attempt. It has found silence unless something else is said, so that
/// its end is noted whatever becomes of its thread.
struct Turn<'a> {
    shared: &'a Shared,
    word: Word,
    outcome: Outcome,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.attempt(self.word).end(self.outcome);
        if self.word != Word::Udp {
            state.is_silent = self.outcome == Outcome::Silence;
        }
        if self.word == Word::Attach {
            // The same agent would be asked for a pick.
            state.settle_asking(self.outcome);
        }
        drop(state);
        self.shared.over.notify_all();
        // What came meanwhile, by who may wait.
        while self.shared.send_some() {}
    }
}

impl Shared {
    pub(crate) fn new(config: CallerConfig) -> Arc<Self> {
        let state = State::new(config.pause);
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            config,
            state: Mutex::new(state),
            over: Condvar::new(),
            attachment: AtomicU64::new(0),
            // Without it forked processes are not noticed; no kernel since 4.14
            // refuses it.
            mark: ForkMark::new().ok(),
        })
    }

    /// Whether this process was forked from the one that made it: what is here
    /// is the parent's.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        self.mark.as_ref().is_some_and(ForkMark::is_child)
    }

    /// The number of the present attachment, 0 without one.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.attachment.load(Ordering::Relaxed)
    }

    /// When an answer is waited for no longer that is asked for now.
    pub(crate) fn until(&self) -> Moment {
        machine_now() + self.config.timeout
    }

    /// What this process has, without waiting for anybody.
    pub(crate) fn present(&self) -> Option<Part> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let attachment = state.current.clone()?;
        Some(state.part(attachment))
    }

    /// What this process has, or what the agent gives it now. Who comes while
    /// another thread asks for it waits for what comes of that.
    pub(crate) fn attach(&self, until: Moment) -> Result<Part, Error> {
        self.attach_or(until, |_| false)
    }

    /// As [`Shared::attach`], for a pick: nobody waits for what another thread
    /// hopes to hear of an agent that is silent, as long as there are hosts without
    /// it.
    pub(crate) fn attach_for_pick(&self, until: Moment) -> Result<Part, Error> {
        self.attach_or(until, State::is_in_vain)
    }

    fn attach_or(&self, until: Moment, is_in_vain: impl Fn(&State) -> bool) -> Result<Part, Error> {
        let mut state = self.lock();
        loop {
            if let Some(current) = state.current.clone() {
                if !current.is_stale() {
                    return Ok(state.part(current));
                }
                // Who never picks finds out nowhere else that its agent is gone.
                self.retire(&mut state);
            }
            if let Some(part) = self.awake(&mut state) {
                return Ok(part);
            }
            state.drop_old(machine_now());
            if is_in_vain(&state) {
                return Err(silent());
            }
            if !state.attaching.is_under_way {
                break;
            }
            state = self.wait(state, until)?;
        }
        state.attaching.begin()?;
        drop(state);
        let mut turn = self.turn(Word::Attach);
        let mut opened = Attachment::open(&self.config, until).inspect_err(|error| {
            // It may be there, and have no memory for this process.
            turn.outcome = self.outcome_of_refusal(error);
        })?;
        turn.outcome = Outcome::Answered;
        if let Some(part) = self.awake_already(&opened) {
            return Ok(part);
        }
        let taken = self.hand_over(&mut opened, until);
        let mut state = self.lock();
        // What another thread took back meanwhile is of another agent, or outgrown.
        self.retire(&mut state);
        state.attachments += 1;
        opened.number = state.attachments;
        self.attachment.store(opened.number, Ordering::Relaxed);
        let opened = Arc::new(opened);
        for one in &mut state.former {
            if taken.iter().any(|it| Arc::ptr_eq(it, &one.attachment)) {
                one.taker = Some(Arc::clone(&opened));
            }
        }
        state.current = Some(Arc::clone(&opened));
        Ok(state.part(opened))
    }

    /// What came of asking for memory in vain.
    fn outcome_of_refusal(&self, error: &Error) -> Outcome {
        match error {
            Error::Unreachable(_) | Error::TimedOut => Outcome::Silence,
            error if self.is_as_silence(error) => Outcome::Silence,
            _ => Outcome::Useless,
        }
    }

    /// Whether an agent that answers so is as good as silent: it knows nothing yet,
    /// says so late, and there are hosts without it.
    fn is_as_silence(&self, error: &Error) -> bool {
        error.is_not_yet() && self.lock().spare().is_some()
    }

    /// Gives what agents that are gone had given to this one, so that the ends are
    /// counted that those did not live to tell. Returns what it has taken.
    fn hand_over(&self, opened: &mut Attachment, until: Moment) -> Vec<Arc<Attachment>> {
        let mut left: Vec<_> = {
            let state = self.lock();
            let left = state.former.iter().filter(|one| one.is_left());
            left.map(|one| Arc::clone(&one.attachment)).collect()
        };
        let service = &self.config.service;
        let mut is_silent = false;
        left.retain(|one| {
            // Without an answer the rest waits for another time: it may still come,
            // and be taken for the next one.
            let taken = if is_silent {
                None
            } else {
                opened.take_over(one, service, until)
            };
            is_silent |= taken.is_none();
            taken == Some(true)
        });
        left
    }

    /// The attachment of this number is of no use any more.
    pub(crate) fn leave(&self, number: u64) {
        let mut state = self.lock();
        if number == self.number() {
            self.retire(&mut state);
        }
    }

    /// A call that was picked in the attachment of this number ended, and its
    /// caller has another one now, or none yet. The next agent counts what its own
    /// can no more.
    pub(crate) fn report_late(
        &self,
        number: u64,
        place: (u32, u32),
        end: CallEnd,
        latency_ns: Option<u64>,
        load: Load,
    ) {
        if let Some(one) = self.find(number) {
            report(&one.routes, &one.ledger, place, end, latency_ns, load);
        }
    }

    /// The attachment of this number, while it is kept.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Attachment>> {
        let state = self.lock();
        let former = state.former.iter().map(|one| &one.attachment);
        let mut all = state.current.iter().chain(former);
        all.find(|one| one.number == number).cloned()
    }

    /// One of the hosts that are known without a word with the agent, each in its
    /// turn: those that could be picked, else any. With the attachment's number, in
    /// which the call counts as sent.
    pub(crate) fn kept(&self) -> Option<(u64, KnownHost)> {
        let mut state = self.lock();
        state.turn = state.turn.wrapping_add(1);
        let turn = usize::try_from(state.turn).unwrap_or(0);
        let (number, hosts) = state.spare()?;
        drop(state);
        let good: Vec<_> = hosts.iter().filter(|one| one.may_be_picked).collect();
        let drawn = good.get(turn % good.len().max(1)).copied();
        let host = drawn.or_else(|| hosts.get(turn % hosts.len().max(1)))?;
        if let Some(one) = self.find(number) {
            one.ledger.handle_sent(host.chosen.slot);
            // Its agent may be there, and have no answer.
            one.ledger.mark(host.chosen.slot);
        }
        Some((number, host.clone()))
    }

    /// The hosts that are known without a word with the agent.
    pub(crate) fn hosts(&self) -> Option<Arc<[KnownHost]>> {
        self.lock().spare().map(|(_, hosts)| hosts)
    }

    /// Asks over the connection that this process keeps for it, and tells its
    /// number.
    pub(crate) fn ask(&self, request: &Request, until: Moment) -> Result<(Answer, u64), Error> {
        if until <= machine_now() {
            return Err(Error::TimedOut);
        }
        let (mut turn, kept) = self.take_socket(until)?;
        let (number, mut socket) = match kept {
            Some((number, socket)) if !socket.is_closed() => (number, socket),
            _ => {
                let socket = Socket::connect(&self.config.socket, self.config.timeout)?;
                let mut state = self.lock();
                state.sockets += 1;
                (state.sockets, socket)
            }
        };
        let asked = socket.ask_until(request, until);
        turn.outcome = Outcome::of(&asked);
        if turn.outcome == Outcome::Answered {
            self.lock().keep(number, socket);
        }
        if let Err(error) = &asked
            && self.is_as_silence(error)
        {
            turn.outcome = Outcome::Silence;
        }
        asked.map(|(answer, _)| (answer, number))
    }

    /// Does it by UDP, unless that failed just now, or another thread is at it, and
    /// there are hosts without it. Nobody waits for another's answer.
    pub(crate) fn by_udp<T>(&self, ask: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.lock();
        if state.spare().is_some() {
            if state.by_udp.is_under_way {
                return Err(silent());
            }
            state.by_udp.begin()?;
        }
        drop(state);
        let mut turn = self.turn(Word::Udp);
        let asked = ask();
        turn.outcome = Outcome::of(&asked);
        asked
    }

    /// The connection for questions, which is the caller's until its turn ends.
    fn take_socket(&self, until: Moment) -> Result<(Turn<'_>, Option<(u64, Socket)>), Error> {
        let mut state = self.lock();
        loop {
            if state.is_in_vain() {
                return Err(silent());
            }
            if !state.asking.is_under_way {
                break;
            }
            state = self.wait(state, until)?;
        }
        state.asking.begin()?;
        let socket = state.socket.take();
        drop(state);
        Ok((self.turn(Word::Ask), socket))
    }

    const fn turn(&self, word: Word) -> Turn<'_> {
        Turn {
            shared: self,
            word,
            outcome: Outcome::Silence,
        }
    }

    /// The present attachment is of no use any more. It stays for the ends of calls
    /// that were picked there.
    fn retire(&self, state: &mut State) {
        let Some(one) = state.current.take() else {
            return;
        };
        self.attachment.store(0, Ordering::Relaxed);
        state.is_silent |= one.is_silent();
        state.kept = some_of(&one).or_else(|| state.kept.take());
        let now = machine_now();
        for former in &mut state.former {
            if former
                .taker
                .as_ref()
                .is_some_and(|it| Arc::ptr_eq(it, &one))
            {
                // Its agent may still go without having told it.
                former.since = now;
            }
        }
        state.drop_old(now);
        state.former.push_back(Former {
            attachment: one,
            since: now,
            taker: None,
        });
        if state.former.len() > FORMER_MAX {
            state.former.pop_front();
        }
    }

    /// Waits for the end of another thread's word with the agent.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Moment,
    ) -> Result<MutexGuard<'a, State>, Error> {
        let left = until.saturating_since(machine_now());
        if left.is_zero() {
            return Err(Error::TimedOut);
        }
        let waited = self.over.wait_timeout(state, left);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(pause: Duration) -> Self {
        // Processes that lost their agent together come back apart.
        let seed = machine_now().as_nanos() ^ hash64(&std::process::id().to_le_bytes());
        let attempt = || Attempt::new(pause, seed);
        Self {
            current: None,
            former: VecDeque::new(),
            attachments: 0,
            kept: None,
            socket: None,
            sockets: 0,
            ends: Ends::default(),
            is_sent_later: false,
            attaching: attempt(),
            asking: attempt(),
            by_udp: attempt(),
            is_silent: false,
            seeds: 0,
            turn: hash64(&machine_now().as_nanos().to_le_bytes()),
        }
    }

    const fn attempt(&mut self, word: Word) -> &mut Attempt {
        match word {
            Word::Attach => &mut self.attaching,
            Word::Ask => &mut self.asking,
            Word::Udp => &mut self.by_udp,
        }
    }

    /// What came of attaching says whether it is of use to ask.
    fn settle_asking(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => self.asking.note(outcome),
            Outcome::Useless => {}
            Outcome::Silence => self.asking.rest_with(&self.attaching),
        }
    }

    /// Whether somebody waits for an agent that is silent, and others need not:
    /// there are hosts without it.
    fn is_in_vain(&self) -> bool {
        let is_waited_for = self.attaching.is_under_way || self.asking.is_under_way;
        self.is_silent && is_waited_for && self.spare().is_some()
    }

    /// The hosts that are known without a word with the agent, and the number of the
    /// attachment that they are of. An agent that was killed is not taken for gone
    /// before it has been silent for a while; until then it may be that of the
    /// present one. Cost: as [`Attachment::hosts`].
    fn spare(&self) -> Option<(u64, Arc<[KnownHost]>)> {
        let present = self.current.as_deref().and_then(some_of);
        present.or_else(|| self.kept.clone())
    }

    fn part(&mut self, attachment: Arc<Attachment>) -> Part {
        self.seeds += 1;
        Part {
            attachment,
            seed: machine_now().as_nanos() ^ hash64(&self.seeds.to_le_bytes()),
        }
    }
}

/// The number of an attachment and its hosts, unless there are none.
fn some_of(one: &Attachment) -> Option<(u64, Arc<[KnownHost]>)> {
    let hosts = one.hosts().filter(|hosts| !hosts.is_empty())?;
    Some((one.number, hosts))
}

/// The agent is silent, and somebody else looks after it.
fn silent() -> Error {
    Error::Unreachable(std::io::ErrorKind::NotConnected.into())
}
