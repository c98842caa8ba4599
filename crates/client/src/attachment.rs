//! What an agent gave to this process.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waystation_base::Moment;
use waystation_membership::Address;
use waystation_segment::{
    AttachError, Chosen, Ledger, Place, RouteReader, STALE_AFTER, SegmentState,
};

use crate::clock::machine_now_coarse;
use crate::config::CallerConfig;
use crate::error::Error;
use crate::mapping::{Access, Mapping};
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
    /// Names it among those of the process.
    pub(crate) number: u64,
    /// The agent takes this process for alive while it is open.
    socket: Socket,
    /// The descriptors of both, for the agent after this one.
    files: [OwnedFd; 2],
    pub(crate) routes: RouteReader<Memory>,
    pub(crate) ledger: Ledger<Memory>,
    known: Mutex<Known>,
}

impl Attachment {
    /// Asks the agent for one, which has no number yet.
    pub(crate) fn open(config: &CallerConfig, until: Moment) -> Result<Self, Error> {
        let mut socket = Socket::connect(&config.socket, config.timeout)?;
        let request = Request::Attach {
            service: config.service.clone(),
        };
        let (answer, descriptors) = socket.ask_until(&request, until)?;
        let two: Result<[OwnedFd; 2], _> = descriptors.try_into();
        let (Answer::Attached, Ok(files)) = (answer, two) else {
            return Err(Error::BadAnswer("no memory came with it".into()));
        };
        let map = |file: &OwnedFd, access| {
            let mapping = Mapping::attach(file.as_fd(), access);
            mapping.map(Arc::new).map_err(Error::Unreachable)
        };
        let routes = RouteReader::attach(map(&files[0], Access::Read)?)?;
        let ledger = Ledger::attach(map(&files[1], Access::Write)?)?;
        if routes.names() != ledger.names() || routes.names().0 != service_hash(&config.service) {
            return Err(AttachError::Mismatch.into());
        }
        Ok(Self {
            number: 0,
            socket,
            files,
            routes,
            ledger,
            known: Mutex::default(),
        })
    }

    /// Whether its agent has been silent for too long, or has let go of it.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_silent() || self.routes.state() == SegmentState::Retired
    }

    /// Whether it is of the memory that another is of as well, which is in use.
    pub(crate) fn is_of_same_memory(&self, other: &Self) -> bool {
        self.routes.names() == other.routes.names() && self.routes.state() != SegmentState::Retired
    }

    /// Whether its agent has been silent for too long.
    pub(crate) fn is_silent(&self) -> bool {
        let silence = machine_now_coarse().saturating_since(self.routes.beat());
        silence > STALE_AFTER
    }

    /// Whether the agent has let go of it, or is gone. Cost: a system call.
    pub(crate) fn is_closed(&self) -> bool {
        self.socket.is_closed()
    }

    /// Hands what an agent gave that is gone to the agent of this one, which counts
    /// it on. False when that refuses, nothing when no answer came.
    pub(crate) fn take_over(&mut self, other: &Self, service: &str, until: Moment) -> Option<bool> {
        let service = service.to_owned();
        let files = other.files.each_ref().map(AsFd::as_fd);
        let asked = self
            .socket
            .ask_with(&Request::HandOver { service }, &files, until);
        match asked {
            Ok((answer, _)) => Some(matches!(answer, Answer::TakenOver)),
            Err(Error::Refused { .. }) => Some(false),
            Err(_) => None,
        }
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

    /// The Unix socket of a host that was picked; `None` when it has left since.
    pub(crate) fn path(&self, place: (u32, u32)) -> Option<Address> {
        let known = self.known();
        let is_it = |host: &&KnownHost| (host.chosen.slot, host.chosen.generation) == place;
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

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attachments without an agent.
#[cfg(test)]
pub(crate) mod fake {
    use waystation_segment::{
        Route, RouteWriter, Routes, SegmentState, create_ledger, ledger_words,
    };

    use super::*;

    const HOSTS: u32 = 64;

    /// One with a host, of an agent that listens and has never said that it is well.
    pub(crate) fn attachment(
        config: &CallerConfig,
        number: u64,
    ) -> (RouteWriter<Mapping>, Attachment) {
        let names = (service_hash(&config.service), number);
        let words = RouteWriter::<Mapping>::words(HOSTS);
        let (mapping, routes) = Mapping::create("routes", words, Access::Read).unwrap();
        let mut writer = RouteWriter::create(mapping, HOSTS, names.0, names.1).unwrap();
        let mut all = Routes::default();
        all.hosts.push(Route {
            slot: 0,
            generation: 1,
            place: Place::Ip("10.0.0.1:80".parse().unwrap()),
        });
        all.eligible[0].push(0);
        all.shares[0] = 1.0;
        writer.publish_routes(&all);
        writer.set_state(SegmentState::Live);
        writer.beat(Moment::ZERO);
        let (mapping, ledger) =
            Mapping::create("ledger", ledger_words(HOSTS), Access::Write).unwrap();
        create_ledger(&mapping, HOSTS, names).unwrap();
        let files = [routes, ledger];
        let map = |file: &OwnedFd, access| Arc::new(Mapping::attach(file.as_fd(), access).unwrap());
        let attachment = Attachment {
            number,
            socket: Socket::connect(&config.socket, config.timeout).unwrap(),
            routes: RouteReader::attach(map(&files[0], Access::Read)).unwrap(),
            ledger: Ledger::attach(map(&files[1], Access::Write)).unwrap(),
            files,
            known: Mutex::default(),
        };
        (writer, attachment)
    }
}
