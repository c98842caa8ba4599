//! The cores of an agent: one that follows each service, and for some agents the
//! one that keeps its segment.

use std::collections::BTreeSet;
use std::sync::Arc;

use waystation_balance::{Balancer, BalancerConfig, PolicyKind};
use waystation_base::{Backoff, Moment, ServiceName, hash64};
use waystation_membership::{
    Address, Follower, FollowerConfig, SubscriberId, View, ViewVersion, Watch,
};
use waystation_registry::limits::ROUTE_BACKOFF;
use waystation_segment::{Keeper, Place, RouteReader, RouteWriter, Word, zeroed};

type Words = Arc<Vec<Word>>;

/// Services of one agent, at most.
pub(super) const WATCHED_MAX: u32 = 16;

/// A service that an agent follows.
pub(super) struct Followed {
    /// Its number.
    pub(super) service: usize,
    pub(super) core: Follower,
    /// The version that callers saw last.
    pub(super) shown: ViewVersion,
    segment: Option<Segment>,
}

/// A segment in the memory of this process.
struct Segment {
    keeper: Keeper<Words, Words>,
    words: Words,
}

/// An agent and its connection.
pub(super) struct Agent {
    pub(super) followed: Vec<Followed>,
    /// Counts connections; what belongs to an earlier one is lost.
    pub(super) connection: u32,
    pub(super) is_up: bool,
    pub(super) up_since: Moment,
    pub(super) backoff: Backoff,
    /// The latest arrival in each direction: a connection keeps its order.
    pub(super) last: [Moment; 2],
}

/// Who an agent's watch of one service is to the server.
pub(super) fn subscriber(agent: u32, slot: usize) -> SubscriberId {
    SubscriberId(u128::from(agent * WATCHED_MAX) + slot as u128)
}

/// Whose watch that is.
pub(super) fn agent_of(subscriber: SubscriberId) -> (u32, usize) {
    let number = u32::try_from(subscriber.0).expect("ids are small");
    (number / WATCHED_MAX, (number % WATCHED_MAX) as usize)
}

impl Agent {
    pub(super) fn new(
        number: u32,
        services: impl IntoIterator<Item = (usize, ServiceName)>,
        per_service: u32,
        has_segments: bool,
        seed: u64,
    ) -> Self {
        let services = services.into_iter().enumerate();
        let followed = services.map(|(slot, (service, name))| {
            let (id, watch) = (subscriber(number, slot), Watch::Service(name));
            Followed {
                service,
                core: Follower::new(id, watch, FollowerConfig::default()),
                shown: ViewVersion::default(),
                segment: has_segments.then(|| Segment::new(per_service)),
            }
        });
        Self {
            followed: followed.collect(),
            connection: 0,
            is_up: false,
            up_since: Moment::ZERO,
            backoff: Backoff::new(ROUTE_BACKOFF, hash64(&number.to_le_bytes()) ^ seed),
            last: [Moment::ZERO; 2],
        }
    }
}

impl Followed {
    /// Callers see this from now on.
    pub(super) fn show(&mut self, now: Moment, view: &View) {
        self.shown = view.at;
        if let Some(segment) = &mut self.segment {
            segment.keeper.handle_view(now, view);
        }
    }

    /// Where callers may call by the segment, if there is one.
    pub(super) fn segment_hosts(&self) -> Option<BTreeSet<Address>> {
        let words = Arc::clone(&self.segment.as_ref()?.words);
        let reader = RouteReader::attach(words).expect("its own words");
        let hosts = reader.hosts().expect("nobody writes meanwhile");
        let place = |place: Place| match place {
            Place::Ip(address) => Address::from(address),
            Place::Unix(_) => unreachable!("all hosts have ports"),
        };
        Some(hosts.iter().map(|(host, _)| place(host.place)).collect())
    }
}

impl Segment {
    fn new(per_service: u32) -> Self {
        // What the guard keeps and what is new at once: some more.
        let hosts = per_service as usize * 3 / 2;
        let capacity = Keeper::<Words, Words>::capacity_for(hosts);
        let words = Arc::new(zeroed(RouteWriter::<Words>::words(capacity)));
        let writer = RouteWriter::create(Arc::clone(&words), capacity, 1, 1);
        let policy = PolicyKind::default().build(1);
        let balancer = Balancer::new(BalancerConfig::default(), policy, 1);
        Self {
            keeper: Keeper::new(balancer, writer.expect("there is room")),
            words,
        }
    }
}
