//! A caller: a balancer of its own, or one that an agent keeps and from which it
//! picks by shared memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use waystation_balance::{
    BalanceCounters, Balancer, Ejection, HostName, Load, Outcome, Reason, Table,
};
use waystation_base::Moment;
use waystation_membership::View;
use waystation_segment::{
    Chosen, Keeper, Ledger, Picker, RouteReader, RouteWriter, Word, create_ledger, ledger_words,
    zeroed,
};

type Words = Arc<Vec<Word>>;

/// Who picks in a world.
pub(crate) enum Caller {
    /// One process that decides at each call by all it knows.
    Alone(Box<Balancer>),
    /// A process beside an agent. The agent hears of calls, and the process of
    /// costs, when the agent has its turn.
    Shared(Box<Shared>),
}

pub(crate) struct Shared {
    keeper: Keeper<Words, Words>,
    picker: Picker<Words, Words>,
    /// A turn is planned.
    is_awake: bool,
}

const NAMES: (u64, u64) = (1, 1);

impl Caller {
    pub(crate) fn new(balancer: Balancer, hosts: usize, seed: u64, is_shared: bool) -> Self {
        if !is_shared {
            return Self::Alone(Box::new(balancer));
        }
        let capacity = Keeper::<Words, Words>::capacity_for(hosts);
        let routes = Arc::new(zeroed(RouteWriter::<Words>::words(capacity)));
        let (service, owner) = NAMES;
        let writer = RouteWriter::create(Arc::clone(&routes), capacity, service, owner)
            .expect("the memory suffices");
        let mut keeper = Keeper::new(balancer, writer);
        let ledger = Arc::new(zeroed(ledger_words(capacity)));
        create_ledger(&ledger, capacity, NAMES).expect("the memory suffices");
        keeper.attach(Arc::clone(&ledger)).expect("it fits");
        let picker = Picker::new(
            RouteReader::attach(routes).expect("it was made"),
            Ledger::attach(ledger).expect("it was made"),
            seed,
        );
        let picker = picker.expect("they belong together");
        Self::Shared(Box::new(Shared {
            keeper,
            picker,
            is_awake: false,
        }))
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        match self {
            Self::Alone(balancer) => balancer,
            Self::Shared(shared) => shared.keeper.balancer(),
        }
    }

    fn balancer_mut(&mut self) -> &mut Balancer {
        match self {
            Self::Alone(balancer) => balancer,
            Self::Shared(shared) => shared.keeper.balancer_mut(),
        }
    }

    pub(crate) fn table(&self) -> &Table {
        self.balancer().table()
    }

    pub(crate) fn ejection(&self) -> Option<&Ejection> {
        self.balancer().ejection()
    }

    pub(crate) fn is_panic(&self) -> bool {
        self.balancer().is_panic()
    }

    pub(crate) fn counters(&self) -> &BalanceCounters {
        self.balancer().counters()
    }

    pub(crate) fn handle_view(&mut self, now: Moment, view: &View) {
        match self {
            Self::Alone(balancer) => drop(balancer.handle_view(now, view)),
            Self::Shared(shared) => drop(shared.keeper.handle_view(now, view)),
        }
    }

    /// The host for a call, if there is one.
    pub(crate) fn pick(&mut self, now: Moment) -> Option<HostName> {
        match self {
            Self::Alone(balancer) => balancer.pick(now, None).ok().map(|picked| picked.name),
            Self::Shared(shared) => {
                let chosen = shared.picker.pick(now).ok()?;
                Some(HostName {
                    slot: chosen.slot,
                    generation: chosen.generation,
                })
            }
        }
    }

    pub(crate) fn report(&mut self, now: Moment, name: HostName, outcome: &Outcome) {
        match self {
            // The host may have left the view; then the result is of no use.
            Self::Alone(balancer) => drop(balancer.report(now, name, outcome)),
            Self::Shared(shared) => {
                let chosen = Chosen {
                    slot: name.slot,
                    generation: name.generation,
                    // Not looked at.
                    place: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0).into(),
                    reason: Reason::Only,
                };
                let latency_ns = outcome
                    .latency
                    .and_then(|latency| u64::try_from(latency.as_nanos()).ok());
                shared
                    .picker
                    .report(&chosen, outcome.end, latency_ns, outcome.load);
            }
        }
    }

    /// Something happened: whether the agent's turn is to be planned for it.
    pub(crate) fn wake(&mut self) -> bool {
        match self {
            Self::Alone(_) => false,
            Self::Shared(shared) => !std::mem::replace(&mut shared.is_awake, true),
        }
    }

    /// The agent's turn, when there is one.
    pub(crate) fn handle_turn(&mut self, now: Moment) {
        if let Self::Shared(shared) = self {
            shared.is_awake = false;
            shared.keeper.handle_turn(now);
        }
    }

    /// Time passed. An agent's turns without anything that happened are the ones
    /// in which it writes anew.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        match self {
            Self::Alone(balancer) => balancer.handle_timeout(now),
            Self::Shared(shared) => {
                shared.keeper.handle_turn(now);
            }
        }
    }

    pub(crate) fn poll_probe(&mut self, now: Moment) -> Option<HostName> {
        match self {
            Self::Alone(balancer) => balancer.poll_probe(now),
            Self::Shared(shared) => shared.keeper.poll_probe(now),
        }
    }

    pub(crate) fn handle_probe_answered(&mut self, now: Moment, name: HostName, load: Load) {
        self.balancer_mut().handle_probe_answered(now, name, load);
    }

    pub(crate) fn handle_probe_refused(&mut self, now: Moment, name: HostName) {
        self.balancer_mut().handle_probe_refused(now, name);
    }
}
