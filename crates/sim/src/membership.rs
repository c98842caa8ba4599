//! One registry, several nodes and subscribers in a seeded world: a network that
//! delays, loses and partitions, and processes that restart or stand still.
//! Checked after each step: a view is never empty because a source was lost, and
//! no two holders of an id have one token. After healing: every live node is
//! visible again within a bound.

use std::collections::BTreeMap;
use std::time::Duration;

use waystation_base::{Epoch, FencingToken, Moment, Rng, ServiceName};
use waystation_membership::{
    Attempt, Command, Content, Directory, DirectoryConfig, Follower, FollowerConfig,
    FollowerOutput, Granted, HolderError, Instance, InstanceId, Output, Owner, OwnerId, Refusal,
    Register, Registration, RegistrationConfig, Renewed, SubscriberId, View, ViewAck, ViewVersion,
    Watch,
};

const NODES: usize = 4;
const FOLLOWERS: usize = 3;
const STEP: Duration = Duration::from_millis(50);
const FAULTY_STEPS: u32 = 600;
/// Longest back-off, an answer that is lost, and the guard's time.
const HEALED_STEPS: u32 = 800;

#[derive(Clone, Debug)]
enum Message {
    Register(usize, Attempt, Register),
    Renew(usize, Attempt, FencingToken),
    Granted(usize, Attempt, Result<Granted, Refusal>),
    Renewed(usize, Attempt, Result<Renewed, HolderError>),
    Subscribe(usize, Watch, Option<ViewVersion>),
    Resync(usize),
    Ack(ViewAck),
    Push(usize, Content),
}

impl Message {
    /// The peer of the registry that sent it or gets it: nodes first.
    fn peer(&self) -> usize {
        match self {
            Self::Register(n, ..)
            | Self::Renew(n, ..)
            | Self::Granted(n, ..)
            | Self::Renewed(n, ..) => *n,
            Self::Subscribe(n, ..) | Self::Resync(n) | Self::Push(n, _) => NODES + n,
            Self::Ack(ack) => NODES + index(ack.subscriber),
        }
    }
}

fn index(subscriber: SubscriberId) -> usize {
    usize::try_from(subscriber.0).expect("ids are small")
}

fn service() -> ServiceName {
    ServiceName::new("logic").expect("a valid name")
}

struct World {
    seed: u64,
    rng: Rng,
    now: Moment,
    epoch: u64,
    directory: Directory,
    disk: BTreeMap<InstanceId, (Instance, Duration)>,
    nodes: Vec<Registration>,
    followers: Vec<Follower>,
    /// Per peer: whether its connection is up, and the earliest next delivery,
    /// so that a connection keeps its order.
    is_up: Vec<bool>,
    last: Vec<Moment>,
    wire: Vec<(Moment, u64, Message)>,
    sent: u64,
    holders: BTreeMap<(InstanceId, FencingToken), Owner>,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Moment::from_millis(1000);
        let node = |n: usize| registration(n, 1, seed);
        let follower = |n: usize| {
            let id = SubscriberId(n as u128);
            Follower::new(id, Watch::Service(service()), FollowerConfig::default())
        };
        Self {
            seed,
            rng: Rng::from_seed(seed),
            now,
            epoch: 1,
            directory: Directory::new(now, Epoch(1), DirectoryConfig::default()),
            disk: BTreeMap::new(),
            nodes: (0..NODES).map(node).collect(),
            followers: (0..FOLLOWERS).map(follower).collect(),
            is_up: vec![false; NODES + FOLLOWERS],
            last: vec![now; NODES + FOLLOWERS],
            wire: Vec::new(),
            sent: 0,
            holders: BTreeMap::new(),
        }
    }

    fn send(&mut self, message: Message) {
        let peer = message.peer();
        if !self.is_up[peer] {
            return;
        }
        let delay = Duration::from_millis(self.rng.range(1..200));
        let at = (self.now + delay).max(self.last[peer]);
        self.last[peer] = at;
        self.sent += 1;
        self.wire.push((at, self.sent, message));
    }

    fn connect(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.is_up[peer], true) {
            match peer.checked_sub(NODES) {
                None => self.nodes[peer].handle_connected(self.now),
                Some(n) => self.followers[n].handle_connected(self.now),
            }
        }
    }

    /// What was on the way is lost with the connection.
    fn disconnect(&mut self, peer: usize) {
        if std::mem::replace(&mut self.is_up[peer], false) {
            self.wire.retain(|(_, _, message)| message.peer() != peer);
            match peer.checked_sub(NODES) {
                None => self.nodes[peer].handle_disconnected(self.now),
                Some(n) => {
                    self.followers[n].handle_disconnected();
                    self.directory
                        .handle_lost(self.now, SubscriberId(n as u128));
                }
            }
        }
    }

    fn fault(&mut self) {
        let peers = (NODES + FOLLOWERS) as u64;
        let peer = usize::try_from(self.rng.below(peers)).expect("small");
        match self.rng.below(40) {
            0..6 => self.disconnect(peer),
            6..16 => self.connect(peer),
            16 => (0..NODES + FOLLOWERS).for_each(|peer| self.disconnect(peer)),
            17 => self.restart_registry(),
            18 if peer < NODES => {
                self.disconnect(peer);
                let incarnation = self.nodes[peer].instance().owner.incarnation + 1;
                self.nodes[peer] = registration(peer, incarnation, self.seed);
            }
            // The whole machine stands still, or its clock jumps.
            19 => self.now += Duration::from_millis(self.rng.below(20_000)),
            // A request or an answer is lost. Pushes are not: a connection that
            // loses one is lost itself.
            20 => {
                let is_node = |one: &(Moment, u64, Message)| one.2.peer() < NODES;
                if let Some(at) = self.wire.iter().position(is_node) {
                    self.wire.remove(at);
                }
            }
            _ => {}
        }
    }

    fn restart_registry(&mut self) {
        (0..NODES + FOLLOWERS).for_each(|peer| self.disconnect(peer));
        if self.rng.chance(0.3) {
            self.disk.clear(); // emptied by hand
        }
        self.now += Duration::from_millis(self.rng.below(15_000));
        self.epoch += 1;
        let config = DirectoryConfig::default();
        self.directory = Directory::new(self.now, Epoch(self.epoch), config);
        for (instance, ttl) in self.disk.values() {
            self.directory.restore(self.now, instance.clone(), *ttl);
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.wire.sort_by_key(|(at, order, _)| (*at, *order));
        while self.wire.first().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, _, message) = self.wire.remove(0);
            self.deliver(message);
            self.drain_outputs();
        }
        self.directory.handle_timeout(self.now);
        self.nodes
            .iter_mut()
            .for_each(|one| one.handle_timeout(self.now));
        for follower in &mut self.followers {
            follower.handle_timeout(self.now);
        }
        self.drain_outputs();
    }

    fn deliver(&mut self, message: Message) {
        let now = self.now;
        let directory = &mut self.directory;
        match message {
            Message::Register(n, attempt, register) => {
                let owner = register.instance.owner;
                let id = register.instance.id.clone();
                let granted = directory.handle_register(now, register);
                if let Ok(granted) = granted {
                    let holder = self.holders.insert((id, granted.token), owner);
                    assert!(
                        holder.is_none_or(|one| one == owner),
                        "seed {}: one token, two holders",
                        self.seed
                    );
                }
                self.send(Message::Granted(n, attempt, granted));
            }
            Message::Renew(n, attempt, token) => {
                let id = self.nodes[n].instance().id.clone();
                let renewed = directory.handle_renew(now, &id, token);
                self.send(Message::Renewed(n, attempt, renewed));
            }
            Message::Granted(n, attempt, Ok(granted)) => {
                self.nodes[n].handle_granted(now, attempt, granted);
            }
            Message::Granted(n, _, Err(refusal)) => self.nodes[n].handle_refused(now, refusal),
            Message::Renewed(n, attempt, Ok(renewed)) => {
                self.nodes[n].handle_renewed(now, attempt, renewed);
            }
            Message::Renewed(n, _, Err(error)) => self.nodes[n].handle_unheld(now, error),
            Message::Subscribe(n, watch, have) => {
                let id = SubscriberId(n as u128);
                directory
                    .handle_subscribe(now, id, &watch, have)
                    .expect("there is room");
            }
            Message::Resync(n) => {
                directory.handle_resync(now, SubscriberId(n as u128), &service());
            }
            Message::Ack(ack) => directory.handle_ack(now, &ack),
            Message::Push(n, content) => self.followers[n].handle_push(now, &content),
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.directory.poll_output() {
            match output {
                Output::Push {
                    subscriber,
                    content,
                } => {
                    self.send(Message::Push(index(subscriber), content));
                }
                Output::Save { instance, ttl } => {
                    let id = instance.id.clone();
                    self.disk.insert(id, ((*instance).clone(), ttl));
                }
                Output::Erase { id } => drop(self.disk.remove(&id)),
                Output::SaveEpoch { epoch } => self.epoch = epoch.0,
                _ => {}
            }
        }
        for n in 0..NODES {
            while let Some(command) = self.nodes[n].poll_output() {
                match command {
                    Command::Register { attempt, register } => {
                        self.send(Message::Register(n, attempt, *register));
                    }
                    Command::Renew { attempt, token } => {
                        self.send(Message::Renew(n, attempt, token));
                    }
                    _ => {}
                }
            }
        }
        for n in 0..FOLLOWERS {
            while let Some(output) = self.followers[n].poll_output() {
                match output {
                    FollowerOutput::Subscribe { watch, have } => {
                        self.send(Message::Subscribe(n, watch, have));
                    }
                    FollowerOutput::Resync { .. } => self.send(Message::Resync(n)),
                    FollowerOutput::Ack(ack) => self.send(Message::Ack(ack)),
                    _ => {}
                }
            }
        }
    }
}

fn registration(n: usize, incarnation: u64, seed: u64) -> Registration {
    let owner = Owner {
        id: OwnerId(n as u128),
        incarnation,
    };
    let id = InstanceId::new(&format!("node-{n}")).expect("a valid id");
    let address = "10.0.0.1:7000".parse().expect("a valid address");
    let instance = Instance::new(id, service(), address, owner);
    Registration::new(instance, RegistrationConfig::default(), seed ^ n as u64)
}

/// How many hosts a view has.
fn hosts(view: Option<&std::sync::Arc<View>>) -> usize {
    view.map_or(0, |view| view.instances.len())
}

/// Runs one world.
///
/// # Panics
/// Names the promise that was broken.
pub(crate) fn run(seed: u64) {
    let mut world = World::new(seed);
    (0..NODES + FOLLOWERS).for_each(|peer| world.connect(peer));
    for _ in 0..FAULTY_STEPS {
        let before: Vec<usize> = followers(&world);
        world.fault();
        world.step();
        for (n, (was, is)) in before.iter().zip(followers(&world)).enumerate() {
            let is_up = world.is_up[NODES + n];
            assert!(
                is_up || *was == 0 || is > 0,
                "seed {seed}: emptied by a lost source"
            );
        }
        for node in &world.nodes {
            let holder = world.directory.lease(&node.instance().id);
            let fenced_late = node.may_serve(world.now)
                && holder
                    .is_some_and(|one| one.owner.incarnation > node.instance().owner.incarnation);
            assert!(!fenced_late, "seed {seed}: two incarnations serve");
        }
    }
    (0..NODES + FOLLOWERS).for_each(|peer| world.connect(peer));
    for _ in 0..HEALED_STEPS {
        world.step();
    }
    for n in 0..FOLLOWERS {
        let view = world.followers[n].view("logic");
        assert_eq!(
            hosts(view),
            NODES,
            "seed {seed}: follower {n} misses a node"
        );
        assert_eq!(
            view,
            world.directory.view("logic").as_ref(),
            "seed {seed}: views differ"
        );
    }
    assert!(
        world.nodes.iter().all(|node| node.may_serve(world.now)),
        "seed {seed}: fenced"
    );
}

fn followers(world: &World) -> Vec<usize> {
    (world.followers.iter())
        .map(|one| hosts(one.view("logic")))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn promises_hold_for_hundreds_of_seeds() {
        for seed in 0..200 {
            super::run(seed);
        }
    }
}
