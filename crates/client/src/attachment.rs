//! What an agent gave to this process, and what all callers of a service share.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_membership::Address;
use waystation_segment::{
    AttachError, Chosen, Ledger, Place, RouteReader, STALE_AFTER, SegmentState,
};

use crate::caller::{CallerConfig, PickedHost, Source};
use crate::clock::{machine_now, machine_now_coarse};
use crate::error::Error;
use crate::mapping::{Access, ForkMark, Mapping};
use crate::protocol::{Answer, Request, service_hash};
use crate::socket::Socket;

pub(crate) type Memory = Arc<Mapping>;

/// A host of a service, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHost {
    /// Where to call it.
    pub address: Address,
    /// Whether it may be picked: it serves, and nothing speaks against it.
    pub may_be_picked: bool,
    pub(crate) chosen: Chosen,
}

/// The hosts of one content of the routes.
#[derive(Default)]
struct Known {
    content: u64,
    hosts: Option<Arc<[KnownHost]>>,
    by_address: HashMap<Address, usize>,
}

/// What the agent gave to this process.
pub(crate) struct Attachment {
    /// The agent takes this process for alive while it is open.
    _socket: Socket,
    pub(crate) routes: RouteReader<Memory>,
    pub(crate) ledger: Ledger<Memory>,
    known: Mutex<Known>,
}

impl Attachment {
    pub(crate) fn open(config: &CallerConfig) -> Result<Self, Error> {
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
        Ok(Self {
            _socket: socket,
            routes,
            ledger,
            known: Mutex::default(),
        })
    }

    /// Whether its agent has been silent for too long, or has let go of it.
    pub(crate) fn is_stale(&self) -> bool {
        let silence = machine_now_coarse().saturating_since(self.routes.beat());
        silence > STALE_AFTER || self.routes.state() == SegmentState::Retired
    }

    /// The hosts; `None` when the memory never came to rest. Cost: a load while
    /// nothing changed, else O(hosts).
    pub(crate) fn hosts(&self) -> Option<Arc<[KnownHost]>> {
        self.known().hosts.clone()
    }

    /// The host at an address. Cost: as [`Attachment::hosts`], and a look into a
    /// table.
    pub(crate) fn find(&self, address: &Address) -> Option<KnownHost> {
        let known = self.known();
        let at = *known.by_address.get(address)?;
        known.hosts.as_ref()?.get(at).cloned()
    }

    /// Where a host is that was chosen; `None` when it has left since.
    #[inline]
    pub(crate) fn address(&self, chosen: &Chosen) -> Option<Address> {
        match chosen.place {
            Place::Ip(address) => Some(address.into()),
            Place::Unix(_) => self.path(chosen),
        }
    }

    fn path(&self, chosen: &Chosen) -> Option<Address> {
        let known = self.known();
        let is_it = |host: &&KnownHost| {
            (host.chosen.slot, host.chosen.generation) == (chosen.slot, chosen.generation)
        };
        // Those at sockets are few, and the list is of this machine.
        let host = known.hosts.as_ref()?.iter().find(is_it)?;
        Some(host.address.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = lock(&self.known);
        let content = self.routes.content();
        if known.hosts.is_some() && known.content == content {
            return known;
        }
        known.hosts = self.read();
        known.content = content;
        known.by_address.clear();
        let hosts = known.hosts.clone();
        for (at, host) in hosts.iter().flat_map(|hosts| hosts.iter().enumerate()) {
            known.by_address.insert(host.address.clone(), at);
        }
        known
    }

    fn read(&self) -> Option<Arc<[KnownHost]>> {
        let routes = self.routes.hosts()?;
        let hosts = routes.into_iter().filter_map(|(route, may_be_picked)| {
            let address = match route.place {
                Place::Ip(address) => address.into(),
                Place::Unix(_) => {
                    Address::Unix(self.routes.path(route.slot, route.generation)?.into())
                }
            };
            let chosen = Chosen {
                slot: route.slot,
                generation: route.generation,
                place: route.place,
                reason: waystation_balance::Reason::Key,
            };
            Some(KnownHost {
                address,
                may_be_picked,
                chosen,
            })
        });
        Some(hosts.collect())
    }
}

/// What all callers of a service in this process share.
pub(crate) struct Shared {
    pub(crate) config: CallerConfig,
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

/// A caller's part of an attachment.
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) seed: u64,
}

impl Shared {
    pub(crate) fn new(config: CallerConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
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

    /// What this process has, without waiting for anybody.
    pub(crate) fn present(&self) -> Option<Part> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let attachment = state.current.clone()?;
        Some(self.part(&mut state, attachment))
    }

    /// What this process has, or what the agent gives it now.
    pub(crate) fn attach(&self) -> Result<Part, Error> {
        let mut state = lock(&self.state);
        let current = state.current.clone().filter(|one| !one.is_stale());
        let attachment = if let Some(current) = current {
            current
        } else {
            // Who never picks finds out nowhere else that its agent is gone.
            if state.current.take().is_some() {
                self.attachment.fetch_add(1, Ordering::Relaxed);
            }
            may_try(&mut state.tried_at, self.config.pause)?;
            let current = Arc::new(Attachment::open(&self.config)?);
            state.current = Some(Arc::clone(&current));
            state.tried_at = None;
            self.attachment.fetch_add(1, Ordering::Relaxed);
            current
        };
        Ok(self.part(&mut state, attachment))
    }

    fn part(&self, state: &mut State, attachment: Arc<Attachment>) -> Part {
        state.seeds += 1;
        let number = state.seeds.to_le_bytes();
        Part {
            number: self.number(),
            attachment,
            seed: machine_now().as_nanos() ^ waystation_base::hash64(&number),
        }
    }

    /// The attachment of this number is of no use any more.
    pub(crate) fn leave(&self, number: u64) {
        let mut state = lock(&self.state);
        if number == self.number() {
            state.current = None;
            self.attachment.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks over the connection that this process keeps for it.
    pub(crate) fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let mut state = lock(&self.state);
        let mut socket = match state.socket.take() {
            Some(socket) if !socket.is_closed() => socket,
            _ => {
                may_try(&mut state.socket_tried_at, self.config.pause)?;
                let socket = Socket::connect(&self.config.socket, self.config.timeout)?;
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
        if picked.source == Source::Udp {
            if let (Some(lars), Address::V4(address)) = (&self.config.lars, &picked.address) {
                lars.report((*address).into(), end == CallEnd::Ok);
            }
            return;
        }
        let request = Request::Report {
            service: self.config.service.clone(),
            host: picked.host,
            end: end.into(),
            latency_us: latency.and_then(|one| u64::try_from(one.as_micros()).ok()),
            load: load.into(),
        };
        let mut state = lock(&self.state);
        if let Some(socket) = &mut state.socket
            && socket.tell(&request).is_err()
        {
            state.socket = None;
        }
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
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
