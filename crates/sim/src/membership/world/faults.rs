//! What goes wrong in a world.

use std::time::Duration;

use waystation_base::{Epoch, Moment};
use waystation_membership::{Directory, DirectoryConfig};

use super::{Doing, FOLLOWERS, Message, Mutant, NODES, World, registration};

impl World {
    pub(in super::super) fn fault(&mut self) {
        let peers = (NODES + FOLLOWERS) as u64;
        let peer = usize::try_from(self.rng.below(peers)).expect("small");
        match self.rng.below(40) {
            0..6 => self.disconnect(peer),
            6..16 => self.connect(peer),
            16 => (0..NODES + FOLLOWERS).for_each(|peer| self.disconnect(peer)),
            17 => self.restart_registry(),
            18 if peer < NODES => {
                self.disconnect(peer);
                self.restart_node(peer);
            }
            // The whole machine stands still, or its clock jumps.
            19 => self.now += Duration::from_millis(self.rng.below(20_000)),
            // A request or an answer is lost. Pushes are not: a connection that
            // loses one is lost itself.
            20 => {
                let is_asked = |one: &(Moment, u64, Message)| one.2.is_asked_again();
                if let Some(at) = self.wire.iter().position(is_asked) {
                    self.wire.remove(at);
                }
            }
            21 => self.is_stuck[peer] = [self.rng.chance(0.5), self.rng.chance(0.5)],
            22..24 => self.is_stuck[peer] = [false; 2],
            26 => {
                self.stands_until[peer] = self.now + Duration::from_millis(self.rng.below(15_000));
            }
            // By its own word, or by an operator's.
            24 if peer < NODES => self.nodes[peer].handle_drain(),
            25 if peer < NODES => {
                let id = self.nodes[peer].instance().id.clone();
                // It may be unknown, which the operator is told.
                let _ = self.directory.handle_drain(self.now, &id, None);
            }
            _ => {}
        }
    }

    pub(super) fn restart_node(&mut self, n: usize) {
        let incarnation = self.nodes[n].instance().owner.incarnation + 1;
        self.nodes[n] = registration(n, incarnation, self.seed, self.mutant);
        self.doing[n] = Doing::default();
        self.stands_until[n] = self.now;
        self.told[n] = None;
        self.tell(n);
    }

    fn restart_registry(&mut self) {
        (0..NODES + FOLLOWERS).for_each(|peer| self.disconnect(peer));
        self.store.lose_unwritten(&mut self.rng);
        if self.rng.chance(0.3) {
            self.store.wipe(); // emptied by hand
        }
        self.checks.restarted(self.store.kept());
        let killed_at = self.now;
        self.now += Duration::from_millis(self.rng.below(15_000));
        if self.mutant != Mutant::EpochStands {
            self.epoch += 1;
        }
        let config = DirectoryConfig::default();
        for until in &mut self.known_until {
            // What it has on its disk tells it to wait for them.
            let is_waited_for = *until > killed_at && !self.store.is_empty();
            let linger = is_waited_for.then(|| self.now + config.linger);
            *until = linger.unwrap_or(Moment::ZERO);
        }
        self.directory = Directory::new(self.now, Epoch(self.epoch), self.mutant.restarted());
        for (instance, ttl) in self.store.kept() {
            let token = self.mutant.told(instance.token);
            self.tokens.insert(instance.id.clone(), token);
            let instance = self.mutant.restored(instance.clone());
            self.directory.restore(self.now, instance, *ttl);
        }
    }
}
