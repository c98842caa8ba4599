//! One registry, nodes of two services and subscribers of one or of all in a
//! seeded world: a network that delays, loses and partitions, also one way only,
//! processes that restart or stand still, and nodes that are drained.
//! Checked after each step: a view is never empty because a source was lost, no
//! two holders of an id have one token, and who acknowledged a drain shows the
//! node as serving no more. After healing: every live node is visible again
//! within a bound, and the same to everybody.

use std::collections::BTreeMap;
use std::time::Duration;

use waystation_base::{Epoch, FencingToken, Moment, Rng, ServiceName};
use waystation_membership::{
    Attempt, Command, Content, Directory, DirectoryConfig, DrainStep, Follower, FollowerConfig,
    FollowerOutput, Granted, HolderError, Instance, InstanceId, Output, Owner, OwnerId, Refusal,
    Register, Registration, RegistrationConfig, Renewed, State, SubscriberId, ViewAck, ViewVersion,
    Watch,
};

/// Nodes of each service.
const LOGICS: usize = 4;
const DASES: usize = 2;
const NODES: usize = LOGICS + DASES;
const SERVICES: [(&str, usize); 2] = [("logic", LOGICS), ("das", DASES)];
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
    Drain(usize, FencingToken),
    Idle(usize, FencingToken),
    Drained(usize, FencingToken, DrainStep),
    Subscribe(usize, Watch, Option<ViewVersion>),
    Resync(usize, ServiceName),
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
            | Self::Renewed(n, ..)
            | Self::Drain(n, _)
            | Self::Idle(n, _)
            | Self::Drained(n, ..) => *n,
            Self::Subscribe(n, ..) | Self::Resync(n, _) | Self::Push(n, _) => NODES + n,
            Self::Ack(ack) => NODES + index(ack.subscriber),
        }
    }

    fn is_to_registry(&self) -> bool {
        !matches!(
            self,
            Self::Granted(..) | Self::Renewed(..) | Self::Drained(..) | Self::Push(..)
        )
    }

    /// Whether it may be lost alone: it is asked again. A connection that loses
    /// anything else is lost itself.
    fn is_asked_again(&self) -> bool {
        let is_lease = matches!(self, Self::Register(..) | Self::Renew(..));
        is_lease || matches!(self, Self::Granted(..) | Self::Renewed(..))
    }
}

fn index(subscriber: SubscriberId) -> usize {
    usize::try_from(subscriber.0).expect("ids are small")
}

fn service_of(node: usize) -> ServiceName {
    let name = if node < LOGICS { "logic" } else { "das" };
    ServiceName::new(name).expect("a valid name")
}

fn watch_of(follower: usize) -> Watch {
    match follower {
        0 => Watch::Service(service_of(0)),
        1 => Watch::Service(service_of(LOGICS)),
        _ => Watch::Prefix("".into()),
    }
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
    /// Per peer: whether what it sends, and what it is sent, stands still on a
    /// connection that seems to be up.
    is_stuck: Vec<[bool; 2]>,
    /// Per follower: whether the registry knows of it.
    is_known: Vec<bool>,
    wire: Vec<(Moment, u64, Message)>,
    sent: u64,
    holders: BTreeMap<(InstanceId, FencingToken), Owner>,
    /// What each id was granted last.
    tokens: BTreeMap<InstanceId, FencingToken>,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Moment::from_millis(1000);
        let node = |n: usize| registration(n, 1, seed);
        let follower = |n: usize| {
            let id = SubscriberId(n as u128);
            Follower::new(id, watch_of(n), FollowerConfig::default())
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
            is_stuck: vec![[false; 2]; NODES + FOLLOWERS],
            is_known: vec![false; FOLLOWERS],
            wire: Vec::new(),
            sent: 0,
            holders: BTreeMap::new(),
            tokens: BTreeMap::new(),
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
            self.is_stuck[peer] = [false; 2];
            match peer.checked_sub(NODES) {
                None => self.nodes[peer].handle_disconnected(self.now),
                Some(n) => {
                    self.is_known[n] = false;
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

    fn restart_node(&mut self, n: usize) {
        let incarnation = self.nodes[n].instance().owner.incarnation + 1;
        self.nodes[n] = registration(n, incarnation, self.seed);
        if self.is_up[n] {
            self.nodes[n].handle_connected(self.now);
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
        while let Some(at) = self.wire.iter().position(|one| self.is_due(one)) {
            let (_, _, message) = self.wire.remove(at);
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

    fn is_due(&self, (at, _, message): &(Moment, u64, Message)) -> bool {
        let direction = usize::from(message.is_to_registry());
        *at <= self.now && !self.is_stuck[message.peer()][direction]
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
                    self.tokens.insert(id.clone(), granted.token);
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
                self.is_known[n] = true;
            }
            Message::Resync(n, service) => {
                directory.handle_resync(now, SubscriberId(n as u128), &service);
            }
            // Who does not hold the id any more learns it by its next renewal.
            Message::Drain(n, token) => {
                let id = &self.nodes[n].instance().id;
                let _ = directory.handle_drain(now, id, Some(token));
            }
            Message::Idle(n, token) => {
                let id = &self.nodes[n].instance().id;
                let _ = directory.handle_idle(now, id, token);
            }
            Message::Drained(n, token, step) => {
                if self.nodes[n].instance().token == token {
                    self.nodes[n].handle_drain_step(step);
                }
            }
            Message::Ack(ack) => directory.handle_ack(now, &ack),
            Message::Push(n, content) => self.followers[n].handle_push(now, &content),
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.directory.poll_output() {
            self.carry_out(output);
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
                    Command::Drain { token } => self.send(Message::Drain(n, token)),
                    Command::Idle { token } => self.send(Message::Idle(n, token)),
                    Command::Drained => self.nodes[n].handle_idle(),
                    Command::Ended => self.restart_node(n),
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
                    FollowerOutput::Resync { service } => self.send(Message::Resync(n, service)),
                    FollowerOutput::Ack(ack) => self.send(Message::Ack(ack)),
                    _ => {}
                }
            }
        }
    }

    /// What the registry wants done.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Push {
                subscriber,
                content,
            } => self.send(Message::Push(index(subscriber), content)),
            Output::Save { instance, ttl } => {
                let id = instance.id.clone();
                self.disk.insert(id, ((*instance).clone(), ttl));
            }
            Output::Erase { id } => drop(self.disk.remove(&id)),
            Output::SaveEpoch { epoch } => self.epoch = epoch.0,
            Output::Drain { id, step, missing } => {
                let is_it = |node: &Registration| node.instance().id == id;
                let n = self.nodes.iter().position(is_it).expect("ids are of nodes");
                if step == DrainStep::Acknowledged && missing.is_empty() {
                    self.check_acknowledged(n);
                }
                if let Some(token) = self.tokens.get(&id) {
                    self.send(Message::Drained(n, *token, step));
                }
            }
            _ => {}
        }
    }

    /// Nobody that the registry knows of sends a drained node anything new.
    fn check_acknowledged(&self, n: usize) {
        let id = &self.nodes[n].instance().id;
        let token = self.directory.lease(id).map(|lease| lease.token);
        let known = (0..FOLLOWERS).filter(|f| self.is_known[*f]);
        for follower in known {
            let view = self.followers[follower].view(service_of(n).as_str());
            let shown = view.and_then(|view| view.instances.get(id));
            let is_served =
                shown.is_some_and(|one| one.state == State::Serving && Some(one.token) == token);
            assert!(
                !is_served,
                "seed {}: follower {follower} shows {id} after it acknowledged its drain",
                self.seed
            );
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
    let instance = Instance::new(id, service_of(n), address, owner);
    Registration::new(instance, RegistrationConfig::default(), seed ^ n as u64)
}

/// Runs one world.
///
/// # Panics
/// Names the promise that was broken.
pub(crate) fn run(seed: u64) {
    let mut world = World::new(seed);
    (0..NODES + FOLLOWERS).for_each(|peer| world.connect(peer));
    for _ in 0..FAULTY_STEPS {
        let before = shown(&world);
        world.fault();
        world.step();
        for ((n, was), (_, is)) in before.iter().zip(shown(&world)) {
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
    for peer in 0..NODES + FOLLOWERS {
        world.is_stuck[peer] = [false; 2];
        world.connect(peer);
    }
    for _ in 0..HEALED_STEPS {
        world.step();
    }
    check_healed(&world);
}

fn check_healed(world: &World) {
    let seed = world.seed;
    for (n, (service, nodes)) in (0..FOLLOWERS).flat_map(|n| SERVICES.map(|one| (n, one))) {
        let view = world.followers[n].view(service);
        if !watch_of(n).covers(&ServiceName::new(service).expect("a valid name")) {
            assert_eq!(view, None, "seed {seed}: follower {n} is shown {service}");
            continue;
        }
        let there = view.map_or(0, |view| view.instances.len());
        assert_eq!(there, nodes, "seed {seed}: follower {n} misses a {service}");
        assert_eq!(
            view,
            world.directory.view(service).as_ref(),
            "seed {seed}: views of {service} differ"
        );
    }
    assert!(
        world.nodes.iter().all(|node| node.may_serve(world.now)),
        "seed {seed}: fenced"
    );
}

/// How many nodes of each service each follower shows.
fn shown(world: &World) -> Vec<(usize, usize)> {
    let all = (0..FOLLOWERS).flat_map(|n| SERVICES.map(|(service, _)| (n, service)));
    let count = |(n, service): (usize, &str)| {
        let view = world.followers[n].view(service);
        (n, view.map_or(0, |view| view.instances.len()))
    };
    all.map(count).collect()
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
