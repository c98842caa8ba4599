//! What the world is asked: who shows, serves and fenced what.

use std::sync::Arc;

use waystation_base::{FencingToken, ServiceName};
use waystation_membership::{Instance, InstanceId, Registration, State};

use super::{FOLLOWERS, IDS, SERVICES, World, watch_of};

impl World {
    /// Nobody that the registry waits for sends a drained node anything new.
    pub(super) fn check_acknowledged(&self, id: &InstanceId) {
        let token = self.directory.lease(id).map(|lease| lease.token);
        let known = (0..FOLLOWERS).filter(|f| self.known_until[*f] > self.now);
        for follower in known {
            let mut views = SERVICES
                .iter()
                .filter_map(|(name, _)| self.followers[follower].view(name));
            let shown = views.find_map(|view| view.instances.get(id));
            let is_served =
                shown.is_some_and(|one| one.state == State::Serving && Some(one.token) == token);
            assert!(
                !is_served,
                "seed {}: follower {follower} shows {id} after it acknowledged its drain",
                self.seed
            );
        }
    }

    /// Who is evicted has fenced itself before.
    pub(super) fn check_evicted(&self, id: &InstanceId, token: FencingToken) {
        let serves = |node: &&Registration| {
            let instance = node.instance();
            instance.id == *id && instance.token == token && node.may_serve(self.now)
        };
        assert!(
            self.nodes.iter().find(serves).is_none(),
            "seed {}: {id} is evicted while it serves",
            self.seed
        );
    }

    /// Whether every subscriber shows just the nodes of what it watches, all of
    /// them serving, and the same as the registry.
    pub(in super::super) fn check_healed(&self) {
        let seed = self.seed;
        for (n, (service, nodes)) in (0..FOLLOWERS).flat_map(|n| SERVICES.map(|one| (n, one))) {
            let view = self.followers[n].view(service);
            if !watch_of(n).covers(&ServiceName::new(service).expect("a valid name")) {
                assert_eq!(view, None, "seed {seed}: follower {n} is shown {service}");
                continue;
            }
            let is_serving = |one: &&Arc<Instance>| one.state == State::Serving;
            let there = view.map_or(0, |view| view.instances.values().filter(is_serving).count());
            assert_eq!(there, nodes, "seed {seed}: follower {n} misses a {service}");
            assert_eq!(
                view,
                self.directory.view(service).as_ref(),
                "seed {seed}: views of {service} differ"
            );
        }
        let serving = || self.nodes.iter().filter(|node| node.may_serve(self.now));
        let waits = serving().find(|node| node.drain().is_some());
        let waits = waits.map(|node| &node.instance().id);
        assert_eq!(waits, None, "seed {seed}: it still waits for its drain");
        let mut ids: Vec<&InstanceId> = serving().map(|node| &node.instance().id).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!((count, ids.len()), (IDS, IDS), "seed {seed}: {ids:?} serve");
    }
}
