//! What all callers of a service in this process share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::{Moment, hash64};
use waystation_membership::Address;
use waystation_segment::{Chosen, report};

use crate::attachment::{Attachment, KnownHost};
use crate::caller::PickedHost;
use crate::clock::machine_now;
use crate::config::{CallerConfig, Source};
use crate::error::Error;
use crate::mapping::ForkMark;
use crate::protocol::{Answer, Request};
use crate::socket::Socket;

/// Earlier attachments that are kept for the ends of their calls. The oldest is
/// let go for one more: the agent counts what is in flight there as given up, and
/// what nobody has taken over is lost.
const FORMER_MAX: usize = 4;

/// For how long an earlier attachment is kept at least. What ends later than that
/// may be counted as given up.
const FORMER_FOR: Duration = Duration::from_mins(1);

/// An earlier attachment: its service outgrew it, or its agent is gone or silent.
/// Calls that were picked there may be in flight.
struct Former {
    attachment: Arc<Attachment>,
    since: Moment,
    /// Whether the agent after its own has it.
    is_taken_over: bool,
}

impl Former {
    /// Whether its agent is gone, and nobody counts what is in it.
    fn is_left(&self) -> bool {
        !self.is_taken_over && self.attachment.is_closed()
    }
}

/// What all callers of a service in this process share.
pub(crate) struct Shared {
    pub(crate) config: CallerConfig,
    /// Never locked while somebody waits for the agent.
    state: Mutex<State>,
    /// Somebody's word with the agent is over.
    over: Condvar,
    /// Counts attachments; callers look here before each pick.
    attachment: AtomicU64,
    mark: Option<ForkMark>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Attachment>>,
    former: VecDeque<Former>,
    /// The number of the last attachment that was lost, and its hosts.
    kept: Option<(u64, Arc<[KnownHost]>)>,
    /// For picks by socket, and its number.
    socket: Option<(u64, Socket)>,
    sockets: u64,
    attaching: Attempt,
    asking: Attempt,
    by_udp: Attempt,
    seeds: u64,
}

/// A kind of word with the agent, which one thread has at a time.
#[derive(Default)]
struct Attempt {
    is_under_way: bool,
    failed_at: Option<Moment>,
}

impl Attempt {
    /// Begins one, unless the last one failed just now.
    fn begin(&mut self, pause: Duration) -> Result<(), Error> {
        let now = machine_now();
        if (self.failed_at).is_some_and(|at| now.saturating_since(at) < pause) {
            return Err(Error::Unreachable(std::io::ErrorKind::NotConnected.into()));
        }
        self.is_under_way = true;
        Ok(())
    }
}

/// Somebody's attempt. It has failed unless it is said to be good, so that its
/// end is noted whatever becomes of its thread.
struct Turn<'a> {
    shared: &'a Shared,
    of: fn(&mut State) -> &mut Attempt,
    is_good: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let attempt = (self.of)(&mut state);
        attempt.is_under_way = false;
        // From its end on: the attempt may have taken longer than the pause.
        attempt.failed_at = (!self.is_good).then(machine_now);
        drop(state);
        self.shared.over.notify_all();
    }
}

/// A caller's part of an attachment.
pub(crate) struct Part {
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) seed: u64,
}

impl Shared {
    pub(crate) fn new(config: CallerConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            over: Condvar::new(),
            attachment: AtomicU64::new(0),
            // Without it forked processes are not noticed; no kernel since 4.14
            // refuses it.
            mark: ForkMark::new().ok(),
        }
    }

    /// Whether this process was forked from the one that made it: what is here
    /// is the parent's.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        self.mark.as_ref().is_some_and(ForkMark::is_child)
    }

    /// The number of the present attachment.
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
        let mut state = self.lock();
        loop {
            if let Some(current) = state.current.clone() {
                if !current.is_stale() {
                    return Ok(state.part(current));
                }
                // Who never picks finds out nowhere else that its agent is gone.
                self.retire(&mut state);
            }
            if !state.attaching.is_under_way {
                break;
            }
            state = self.wait(state, until)?;
        }
        state.attaching.begin(self.config.pause)?;
        drop(state);
        let mut turn = self.turn(|state| &mut state.attaching);
        let opened = Attachment::open(&self.config, until);
        if matches!(opened, Err(Error::Unreachable(_) | Error::TimedOut)) {
            // The same agent would be asked for a pick.
            self.lock().asking.failed_at = Some(machine_now());
        }
        let mut opened = opened?;
        turn.is_good = true;
        self.hand_over(&mut opened, until);
        let mut state = self.lock();
        opened.number = self.attachment.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = Arc::new(opened);
        state.current = Some(Arc::clone(&opened));
        Ok(state.part(opened))
    }

    /// Gives what agents that are gone had given to this one, so that the ends are
    /// counted that those did not live to tell.
    fn hand_over(&self, opened: &mut Attachment, until: Moment) {
        let left: Vec<_> = {
            let state = self.lock();
            let left = state.former.iter().filter(|one| one.is_left());
            left.map(|one| Arc::clone(&one.attachment)).collect()
        };
        for attachment in left {
            if !opened.take_over(&attachment, &self.config.service, until) {
                // Another time: its answer may still come here, and be taken for
                // the next one.
                return;
            }
            let mut state = self.lock();
            let same = |one: &&mut Former| Arc::ptr_eq(&one.attachment, &attachment);
            if let Some(one) = state.former.iter_mut().find(same) {
                one.is_taken_over = true;
            }
        }
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
        chosen: &Chosen,
        end: CallEnd,
        latency_ns: Option<u64>,
        load: Load,
    ) {
        if let Some(one) = self.find(number) {
            report(&one.routes, &one.ledger, chosen, end, latency_ns, load);
        }
    }

    /// The attachment of this number, while it is kept.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Attachment>> {
        let state = self.lock();
        let former = state.former.iter().map(|one| &one.attachment);
        let mut all = state.current.iter().chain(former);
        all.find(|one| one.number == number).cloned()
    }

    /// One of the hosts that the last attachment had when it was lost, each in
    /// its turn: those that could be picked, else any. With the attachment's
    /// number, in which the call counts as sent.
    pub(crate) fn kept(&self) -> Option<(u64, KnownHost)> {
        let mut state = self.lock();
        state.seeds += 1;
        let turn = usize::try_from(state.seeds).unwrap_or(0);
        let (number, hosts) = state.kept.clone()?;
        drop(state);
        let good: Vec<_> = hosts.iter().filter(|one| one.may_be_picked).collect();
        let drawn = good.get(turn % good.len().max(1)).copied();
        let host = drawn.or_else(|| hosts.get(turn % hosts.len().max(1)))?;
        if let Some(one) = self.find(number) {
            one.ledger.handle_sent(host.chosen.slot);
        }
        Some((number, host.clone()))
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
        if matches!(asked, Ok(_) | Err(Error::Refused { .. })) {
            turn.is_good = true;
            self.lock().socket = Some((number, socket));
        }
        asked.map(|(answer, _)| (answer, number))
    }

    /// Does it by UDP, unless that failed just now and there are hosts without it.
    /// Nobody waits for another's answer.
    pub(crate) fn by_udp<T>(&self, ask: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.lock();
        if state.kept.is_some() {
            state.by_udp.begin(self.config.pause)?;
        }
        drop(state);
        let mut turn = self.turn(|state| &mut state.by_udp);
        let asked = ask();
        turn.is_good = matches!(asked, Ok(_) | Err(Error::Refused { .. }));
        asked
    }

    /// The end of a call that was not picked from shared memory.
    pub(crate) fn report(
        &self,
        picked: &PickedHost,
        end: CallEnd,
        latency: Option<Duration>,
        load: Load,
    ) {
        if self.is_child() {
            return;
        }
        match picked.source {
            Source::Socket => {}
            Source::Udp => {
                if let (Some(lars), Address::V4(address)) = (&self.config.lars, &picked.address) {
                    lars.report((*address).into(), end == CallEnd::Ok);
                }
                return;
            }
            // They are counted in shared memory, or nobody is there to count them.
            Source::Segment | Source::Kept => return,
        }
        let request = Request::Report {
            service: self.config.service.clone(),
            host: picked.host,
            end: end.into(),
            latency_us: latency.and_then(|one| u64::try_from(one.as_micros()).ok()),
            load: load.into(),
        };
        if self.tell(picked.attachment, &request) || end == CallEnd::Cancelled {
            return;
        }
        // The connection that the host was picked over has ended, and the agent
        // has given the call up with it; its result counts all the same.
        let by_address = Request::ReportAddress {
            service: self.config.service.clone(),
            address: picked.address.to_string(),
            end: end.into(),
        };
        let _unheard = self.ask(&by_address, self.until());
    }

    /// Says something over the connection of this number, if that is still
    /// there; false when it is not.
    fn tell(&self, number: u64, request: &Request) -> bool {
        let Ok((mut turn, kept)) = self.take_socket(self.until()) else {
            return false;
        };
        let Some((its_number, mut socket)) = kept else {
            turn.is_good = true;
            return false;
        };
        let is_told = its_number == number && !socket.is_closed() && socket.tell(request).is_ok();
        if is_told || its_number != number {
            self.lock().socket = Some((its_number, socket));
        }
        turn.is_good = true;
        is_told
    }

    /// The connection for questions, which is the caller's until its turn ends.
    fn take_socket(&self, until: Moment) -> Result<(Turn<'_>, Option<(u64, Socket)>), Error> {
        let mut state = self.lock();
        while state.asking.is_under_way {
            state = self.wait(state, until)?;
        }
        state.asking.begin(self.config.pause)?;
        let socket = state.socket.take();
        drop(state);
        Ok((self.turn(|state| &mut state.asking), socket))
    }

    const fn turn(&self, of: fn(&mut State) -> &mut Attempt) -> Turn<'_> {
        Turn {
            shared: self,
            of,
            is_good: false,
        }
    }

    /// The present attachment is of no use any more. It stays for the ends of calls
    /// that were picked there.
    fn retire(&self, state: &mut State) {
        let Some(one) = state.current.take() else {
            return;
        };
        self.attachment.fetch_add(1, Ordering::Relaxed);
        if let Some(hosts) = one.hosts().filter(|hosts| !hosts.is_empty()) {
            state.kept = Some((one.number, hosts));
        }
        let now = machine_now();
        let is_recent = |since: Moment| now.saturating_since(since) < FORMER_FOR;
        (state.former).retain(|one| is_recent(one.since) || one.is_left());
        state.former.push_back(Former {
            attachment: one,
            since: now,
            is_taken_over: false,
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
    fn part(&mut self, attachment: Arc<Attachment>) -> Part {
        self.seeds += 1;
        Part {
            attachment,
            seed: machine_now().as_nanos() ^ hash64(&self.seeds.to_le_bytes()),
        }
    }
}
