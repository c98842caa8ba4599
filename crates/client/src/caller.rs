//! Picks and reports for one service, by the best way there is.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_segment::{AttachError, Chosen, Ledger, Miss, Picker, RouteReader};

use crate::clock::{machine_now, machine_now_coarse};
use crate::error::Error;
use crate::lars::LarsCaller;
use crate::mapping::{Access, ForkMark, Mapping};
use crate::protocol::{Answer, Code, End, HostRef, Request, service_hash, socket_address};
use crate::socket::Socket;

/// Where the agent is, and what is asked of it.
#[derive(Clone, Debug)]
pub struct CallerConfig {
    /// The service's name.
    pub service: String,
    /// The agent's Unix socket.
    pub socket: PathBuf,
    /// The service's numbers in the Lars protocol and the agent's UDP ports, as
    /// the last resort; `None` goes without.
    pub lars: Option<LarsCaller>,
    /// How long an answer of the agent is waited for. Default 500 ms.
    pub timeout: Duration,
    /// How long after a failed attempt the agent is left alone. Default 200 ms.
    pub pause: Duration,
}

impl CallerConfig {
    /// For `service`, asked at the agent's `socket`, with the defaults.
    pub fn new(service: &str, socket: impl Into<PathBuf>) -> Self {
        Self {
            service: service.to_owned(),
            socket: socket.into(),
            lars: None,
            timeout: Duration::from_millis(500),
            pause: Duration::from_millis(200),
        }
    }
}

/// Which way a pick went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Shared memory: no system call.
    Segment,
    /// The agent's Unix socket.
    Socket,
    /// The agent's UDP port, by Lars' protocol.
    Udp,
}

impl Source {
    /// A short name, for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Socket => "socket",
            Self::Udp => "udp",
        }
    }
}

/// A host for one call. Report its end with [`Caller::report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickedHost {
    /// Where to call it.
    pub address: SocketAddr,
    /// Which way the pick went.
    pub source: Source,
    /// In which attachment, for picks from a segment.
    attachment: u64,
    chosen: Option<Chosen>,
    host: HostRef,
}

impl PickedHost {
    /// What decided, for a pick from shared memory.
    pub fn reason(&self) -> Option<waystation_balance::Reason> {
        self.chosen.map(|chosen| chosen.reason)
    }
}

type Memory = Arc<Mapping>;

/// What the agent gave to this process.
struct Attachment {
    /// The agent takes this process for alive while it is open.
    _socket: Socket,
    routes: RouteReader<Memory>,
    ledger: Ledger<Memory>,
}

/// What all callers of a service in this process share.
struct Shared {
    config: CallerConfig,
    state: Mutex<State>,
    /// Counts attachments; callers look here before each pick.
    attachment: AtomicU64,
    mark: Option<ForkMark>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Attachment>>,
    /// For picks by socket.
    socket: Option<Socket>,
    tried_at: Option<Moment>,
    socket_tried_at: Option<Moment>,
    seeds: u64,
}

/// Picks hosts of one service.
///
/// From shared memory where the agent gives it, else by its Unix socket, else by
/// UDP; the better way is tried again by itself. Clones are for other threads:
/// they share what the agent gave to this process. A process that was forked
/// attaches anew. Cost of a pick from shared memory: about 30 ns, no system call.
pub struct Caller {
    shared: Arc<Shared>,
    attachment: u64,
    picker: Option<Picker<Memory, Memory>>,
    last: Option<Source>,
}

impl Caller {
    /// For the service that `config` says. The agent need not be there yet.
    pub fn new(config: CallerConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                state: Mutex::default(),
                attachment: AtomicU64::new(0),
                // Without it forked processes are not noticed; no kernel since
                // 4.14 refuses it.
                mark: ForkMark::new().ok(),
            }),
            attachment: 0,
            picker: None,
            last: None,
        }
    }

    /// Which way the last pick went.
    pub const fn source(&self) -> Option<Source> {
        self.last
    }

    /// The host for the next call, which counts as sent from here on.
    ///
    /// # Errors
    /// [`Error`] of the last way that was tried.
    #[inline]
    pub fn pick(&mut self) -> Result<PickedHost, Error> {
        let is_child = self.shared.mark.as_ref().is_some_and(ForkMark::is_child);
        if !is_child
            && self.attachment == self.shared.attachment.load(Ordering::Relaxed)
            && let Some(picker) = &mut self.picker
            && let Ok(chosen) = picker.pick(machine_now_coarse())
        {
            self.last = Some(Source::Segment);
            return Ok(self.picked(chosen));
        }
        self.pick_slowly(is_child)
    }

    /// A call ended, after `latency` from its pick if it was timed; `load` is what
    /// the reply told.
    #[inline]
    pub fn report(
        &mut self,
        picked: &PickedHost,
        end: CallEnd,
        latency: Option<Duration>,
        load: Load,
    ) {
        match (&picked.chosen, &self.picker) {
            (Some(chosen), Some(picker)) if picked.attachment == self.attachment => {
                let latency_ns = latency.and_then(|one| u64::try_from(one.as_nanos()).ok());
                picker.report(chosen, end, latency_ns, load);
            }
            // The agent that counted its pick has counted its end as well: it
            // knows that the ledger is gone.
            (Some(_), _) => {}
            (None, _) => self.report_slowly(picked, end, latency),
        }
    }

    fn picked(&self, chosen: Chosen) -> PickedHost {
        PickedHost {
            address: chosen.address,
            source: Source::Segment,
            attachment: self.attachment,
            chosen: Some(chosen),
            host: HostRef {
                slot: chosen.slot,
                generation: chosen.generation,
            },
        }
    }

    #[cold]
    fn pick_slowly(&mut self, is_child: bool) -> Result<PickedHost, Error> {
        if is_child {
            self.begin_anew();
        }
        for _ in 0..2 {
            if let Err(error) = self.attach() {
                if matches!(
                    &error,
                    Error::Refused {
                        code: Code::NoHosts,
                        ..
                    }
                ) {
                    return Err(error);
                }
                break;
            }
            let Some(picker) = &mut self.picker else {
                break;
            };
            match picker.pick(machine_now()) {
                Ok(chosen) => {
                    self.last = Some(Source::Segment);
                    return Ok(self.picked(chosen));
                }
                Err(miss @ Miss::NoHosts) => return Err(miss.into()),
                Err(Miss::AskAgent) => break,
                Err(_) => self.leave(),
            }
        }
        let asked = self.ask_for_pick();
        match (&asked, self.shared.config.lars.clone()) {
            (Err(Error::Refused { .. }) | Ok(_), _) | (_, None) => asked,
            (Err(_), Some(lars)) => {
                let address = lars.get_host()?;
                self.last = Some(Source::Udp);
                Ok(PickedHost {
                    address,
                    source: Source::Udp,
                    attachment: 0,
                    chosen: None,
                    host: HostRef {
                        slot: 0,
                        generation: 0,
                    },
                })
            }
        }
    }

    /// In a child: what the parent has is the parent's.
    fn begin_anew(&mut self) {
        let config = self.shared.config.clone();
        // The descriptors of the copy are closed with it; memory that is mapped
        // here stays that of the parent and is let go.
        *self = Self::new(config);
    }

    /// Uses what this process has, or asks the agent for it.
    fn attach(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared.state);
        if state.current.is_none() {
            may_try(&mut state.tried_at, shared.config.pause)?;
            state.current = Some(Arc::new(attach(&shared.config)?));
            state.tried_at = None;
            shared.attachment.fetch_add(1, Ordering::Relaxed);
        }
        let now = shared.attachment.load(Ordering::Relaxed);
        if self.picker.is_none() || self.attachment != now {
            let Some(current) = &state.current else {
                return Ok(());
            };
            let (routes, ledger) = (current.routes.clone(), current.ledger.clone());
            state.seeds += 1;
            let number = state.seeds.to_le_bytes();
            let seed = machine_now().as_nanos() ^ waystation_base::hash64(&number);
            self.picker = Some(Picker::new(routes, ledger, seed)?);
            self.attachment = now;
        }
        Ok(())
    }

    /// The segment is of no use any more; the next pick attaches anew.
    fn leave(&mut self) {
        let mut state = lock(&self.shared.state);
        if self.attachment == self.shared.attachment.load(Ordering::Relaxed) {
            state.current = None;
            self.shared.attachment.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        self.picker = None;
    }

    fn ask_for_pick(&mut self) -> Result<PickedHost, Error> {
        let service = self.shared.config.service.clone();
        let answer = ask(&self.shared, &Request::Pick { service })?;
        let Answer::Picked { host, address, .. } = answer else {
            return Err(Error::BadAnswer(format!("{answer:?}")));
        };
        let address = socket_address(&address).ok_or(Error::BadAnswer(address))?;
        self.last = Some(Source::Socket);
        Ok(PickedHost {
            address,
            source: Source::Socket,
            attachment: 0,
            chosen: None,
            host,
        })
    }

    fn report_slowly(&self, picked: &PickedHost, end: CallEnd, latency: Option<Duration>) {
        if picked.source == Source::Udp {
            if let Some(lars) = &self.shared.config.lars {
                lars.report(picked.address, end == CallEnd::Ok);
            }
            return;
        }
        let request = Request::Report {
            service: self.shared.config.service.clone(),
            host: picked.host,
            end: end_of(end),
            latency_us: latency.and_then(|one| u64::try_from(one.as_micros()).ok()),
        };
        let mut state = lock(&self.shared.state);
        if let Some(socket) = &mut state.socket
            && socket.tell(&request).is_err()
        {
            state.socket = None;
        }
    }
}

impl Clone for Caller {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            attachment: 0,
            // Its own, with its own randomness, at the first pick.
            picker: None,
            last: self.last,
        }
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("service", &self.shared.config.service)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an attempt may be made now, which then counts as made.
fn may_try(tried_at: &mut Option<Moment>, pause: Duration) -> Result<(), Error> {
    let now = machine_now();
    if tried_at.is_some_and(|at| now.saturating_since(at) < pause) {
        return Err(Error::Unreachable(std::io::ErrorKind::NotConnected.into()));
    }
    *tried_at = Some(now);
    Ok(())
}

fn attach(config: &CallerConfig) -> Result<Attachment, Error> {
    let mut socket = Socket::connect(&config.socket, config.timeout)?;
    let request = Request::Attach {
        service: config.service.clone(),
    };
    let (answer, descriptors) = socket.ask(&request)?;
    let two: Result<[OwnedFd; 2], _> = descriptors.try_into();
    let (Answer::Attached, Ok([routes, ledger])) = (answer, two) else {
        return Err(Error::BadAnswer("no memory came with it".into()));
    };
    let map = |file: &OwnedFd, access| {
        let mapping = Mapping::attach(file.as_fd(), access);
        mapping.map(Arc::new).map_err(Error::Unreachable)
    };
    let routes = RouteReader::attach(map(&routes, Access::Read)?)?;
    let ledger = Ledger::attach(map(&ledger, Access::Write)?)?;
    if routes.names() != ledger.names() || routes.names().0 != service_hash(&config.service) {
        return Err(AttachError::Mismatch.into());
    }
    Ok(Attachment {
        _socket: socket,
        routes,
        ledger,
    })
}

/// Asks over the connection that this process keeps for it.
fn ask(shared: &Shared, request: &Request) -> Result<Answer, Error> {
    let mut state = lock(&shared.state);
    let mut socket = match state.socket.take() {
        Some(socket) if !socket.is_closed() => socket,
        _ => {
            may_try(&mut state.socket_tried_at, shared.config.pause)?;
            let socket = Socket::connect(&shared.config.socket, shared.config.timeout)?;
            state.socket_tried_at = None;
            socket
        }
    };
    let asked = socket.ask(request);
    if matches!(asked, Ok(_) | Err(Error::Refused { .. })) {
        state.socket = Some(socket);
    }
    asked.map(|(answer, _)| answer)
}

fn end_of(end: CallEnd) -> End {
    match end {
        CallEnd::Ok => End::Ok,
        CallEnd::Failed => End::Failed,
        CallEnd::Overloaded => End::Overloaded,
        CallEnd::Refused => End::Refused,
        CallEnd::TimedOut => End::TimedOut,
        CallEnd::Cancelled => End::Cancelled,
    }
}

impl From<End> for CallEnd {
    fn from(end: End) -> Self {
        match end {
            End::Ok => Self::Ok,
            End::Failed => Self::Failed,
            End::Overloaded => Self::Overloaded,
            End::Refused => Self::Refused,
            End::TimedOut => Self::TimedOut,
            End::Cancelled => Self::Cancelled,
        }
    }
}
