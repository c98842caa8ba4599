//! The world: one registry, nodes and subscribers, and a network with faults.

mod faults;
mod mutants;
mod promises;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Epoch, FencingToken, Moment, Rng, ServiceName};
use waystation_membership::{
    Command, Content, Directory, DirectoryConfig, DrainStep, Follower, FollowerOutput, Instance,
    InstanceId, Output, Owner, OwnerId, Registration, SubscriberId, View, Watch,
};

use super::checks::Checks;
use super::message::{Message, index};
use super::store::{Answer, Record, Store};
use mutants::Doing;
pub(super) use mutants::Mutant;

/// Ids of each service.
const LOGICS: usize = 4;
const DASES: usize = 2;
const IDS: usize = LOGICS + DASES;
/// The last one wants the id of the first.
pub(super) const NODES: usize = IDS + 1;
const SERVICES: [(&str, usize); 2] = [("logic", LOGICS), ("das", DASES)];
const FOLLOWERS: usize = 3;
const STEP: Duration = Duration::from_millis(50);

/// The number of the id that a node wants.
fn id_of(node: usize) -> usize {
    node % IDS
}

fn service_of(node: usize) -> ServiceName {
    let name = if id_of(node) < LOGICS { "logic" } else { "das" };
    ServiceName::new(name).expect("a valid name")
}

fn watch_of(follower: usize) -> Watch {
    match follower {
        0 => Watch::Service(service_of(0)),
        1 => Watch::Service(service_of(LOGICS)),
        _ => Watch::Prefix("".into()),
    }
}

pub(super) struct World {
    seed: u64,
    mutant: Mutant,
    rng: Rng,
    now: Moment,
    epoch: u64,
    directory: Directory,
    store: Store,
    nodes: Vec<Registration>,
    followers: Vec<Follower>,
    /// Per peer: whether its connection is up, and the earliest next delivery,
    /// so that a connection keeps its order.
    is_up: Vec<bool>,
    last: Vec<Moment>,
    /// Per peer: how often it was connected, and which connection its process
    /// knows of.
    connections: Vec<u64>,
    told: Vec<Option<u64>>,
    /// Per peer: whether what it sends, and what it is sent, stands still on a
    /// connection that seems to be up.
    is_stuck: Vec<[bool; 2]>,
    /// Per peer: until when its process stands still.
    stands_until: Vec<Moment>,
    /// Per follower: until when the registry waits for it.
    known_until: Vec<Moment>,
    wire: Vec<(Moment, u64, Message)>,
    sent: u64,
    /// What each id was granted last.
    tokens: BTreeMap<InstanceId, FencingToken>,
    /// Per node.
    doing: Vec<Doing>,
    checks: Checks,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Mutant) -> Self {
        let now = Moment::from_millis(1000);
        let node = |n: usize| registration(n, 1, seed, mutant);
        let follower = |n: usize| {
            let id = SubscriberId(n as u128);
            Follower::new(id, watch_of(n), mutant.follower())
        };
        Self {
            seed,
            mutant,
            rng: Rng::from_seed(seed),
            now,
            epoch: 1,
            directory: Directory::new(now, Epoch(1), mutant.directory()),
            store: Store::default(),
            nodes: (0..NODES).map(node).collect(),
            followers: (0..FOLLOWERS).map(follower).collect(),
            is_up: vec![false; NODES + FOLLOWERS],
            connections: vec![0; NODES + FOLLOWERS],
            told: vec![None; NODES + FOLLOWERS],
            last: vec![now; NODES + FOLLOWERS],
            is_stuck: vec![[false; 2]; NODES + FOLLOWERS],
            stands_until: vec![now; NODES + FOLLOWERS],
            known_until: vec![Moment::ZERO; FOLLOWERS],
            wire: Vec::new(),
            sent: 0,
            tokens: BTreeMap::new(),
            doing: vec![Doing::default(); NODES],
            checks: Checks::new(seed, FOLLOWERS),
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

    /// Whether its process stands still.
    fn stands(&self, peer: usize) -> bool {
        self.stands_until[peer] > self.now
    }

    fn connect(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.is_up[peer], true) {
            self.connections[peer] += 1;
            self.tell(peer);
        }
    }

    /// What was on the way is lost with the connection.
    fn disconnect(&mut self, peer: usize) {
        if std::mem::replace(&mut self.is_up[peer], false) {
            self.wire.retain(|(_, _, message)| message.peer() != peer);
            self.is_stuck[peer] = [false; 2];
            if let Some(n) = peer.checked_sub(NODES) {
                if self.known_until[n] == Moment::FAR_FUTURE {
                    self.known_until[n] = self.now + DirectoryConfig::default().linger;
                }
                let subscriber = SubscriberId(n as u128);
                (self.mutant).lose(self.now, &mut self.directory, subscriber);
            }
            self.tell(peer);
        }
    }

    /// Tells a process of its connection, unless it stands still.
    fn tell(&mut self, peer: usize) {
        let connection = self.is_up[peer].then_some(self.connections[peer]);
        if self.stands(peer) || self.told[peer] == connection {
            return;
        }
        let before = std::mem::replace(&mut self.told[peer], connection);
        let follower = peer.checked_sub(NODES);
        match follower {
            None if before.is_some() => self.nodes[peer].handle_disconnected(),
            Some(n) if before.is_some() => self.followers[n].handle_disconnected(),
            _ => {}
        }
        match follower {
            None if connection.is_some() => self.nodes[peer].handle_connected(self.now),
            Some(n) if connection.is_some() => {
                self.checks.connected(self.now, n);
                self.followers[n].handle_connected(self.now);
            }
            _ => {}
        }
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        (0..NODES + FOLLOWERS).for_each(|peer| self.tell(peer));
        self.handle_timeouts();
        self.wire.sort_by_key(|(at, order, _)| (*at, *order));
        while let Some(at) = self.wire.iter().position(|one| self.is_due(one)) {
            let (_, _, message) = self.wire.remove(at);
            self.deliver(message);
            self.drain_outputs();
        }
        self.directory.handle_timeout(self.now);
        self.drain_outputs();
        let answers = self.store.advance(self.now, &mut self.rng);
        self.leave(answers);
    }

    /// Deadlines of processes come first: what one had may be over when it goes on.
    fn handle_timeouts(&mut self) {
        for n in (0..NODES).filter(|n| self.stands_until[*n] <= self.now) {
            self.nodes[n].handle_timeout(self.now);
        }
        for n in (0..FOLLOWERS).filter(|n| self.stands_until[NODES + n] <= self.now) {
            self.followers[n].handle_timeout(self.now);
        }
        self.drain_outputs();
    }

    fn is_due(&self, (at, _, message): &(Moment, u64, Message)) -> bool {
        let direction = usize::from(message.is_to_registry());
        let stands = !message.is_to_registry() && self.stands(message.peer());
        *at <= self.now && !stands && !self.is_stuck[message.peer()][direction]
    }

    fn deliver(&mut self, message: Message) {
        let now = self.now;
        let directory = &mut self.directory;
        match message {
            Message::Register(n, attempt, mut register) => {
                let instance = register.instance.clone();
                let owner = instance.owner;
                self.mutant.hide_start(directory, &mut register);
                let mut granted = directory.handle_register(now, register);
                if let Ok(granted) = &mut granted {
                    granted.token = self.mutant.told(granted.token);
                    self.checks.held(&instance.id, owner);
                    self.tokens.insert(instance.id.clone(), granted.token);
                    (self.mutant).undo_drain(now, directory, granted, instance);
                }
                self.answer(Message::Granted(n, attempt, granted), Some(owner));
            }
            Message::Renew(n, attempt, token) => {
                let id = self.nodes[n].instance().id.clone();
                let token = self.mutant.held(directory, &id, token);
                let renewed = directory.handle_renew(now, &id, token);
                self.answer(Message::Renewed(n, attempt, renewed), None);
            }
            Message::Granted(n, attempt, Ok(mut granted)) => {
                granted.ttl += self.mutant.too_long(now, self.doing[n].asked_at);
                self.nodes[n].handle_granted(now, attempt, granted);
            }
            Message::Granted(n, _, Err(refusal)) => {
                self.doing[n].has_given_up |= self.mutant == Mutant::GivesUp;
                self.nodes[n].handle_refused(now, refusal);
            }
            Message::Renewed(n, attempt, Ok(renewed)) => {
                let longer = self.mutant.too_long(now, self.doing[n].asked_at);
                let renewed = self.mutant.renewed(renewed, longer);
                self.nodes[n].handle_renewed(now, attempt, renewed);
            }
            Message::Renewed(n, _, Err(error)) => {
                self.doing[n].has_given_up |= self.mutant == Mutant::GivesUp;
                self.nodes[n].handle_unheld(now, error);
            }
            Message::Subscribe(n, watch, have) => {
                let id = SubscriberId(n as u128);
                directory
                    .handle_subscribe(now, id, &watch, have)
                    .expect("there is room");
                self.known_until[n] = Moment::FAR_FUTURE;
            }
            Message::Resync(n, service) => {
                directory.handle_resync(now, SubscriberId(n as u128), &service);
            }
            // Who does not hold the id any more learns it by its next renewal.
            Message::Drain(n, token) => {
                let id = &self.nodes[n].instance().id;
                let token = self.mutant.held(directory, id, token);
                let _ = directory.handle_drain(now, id, Some(token));
            }
            Message::Idle(n, token) => {
                let id = &self.nodes[n].instance().id;
                let token = self.mutant.held(directory, id, token);
                let _ = directory.handle_idle(now, id, token);
            }
            Message::Drained(n, token, step) => {
                if self.nodes[n].instance().token == token {
                    self.nodes[n].handle_drain_step(step);
                }
            }
            Message::Ack(ack) => {
                let ack = self.mutant.counted(directory, ack);
                directory.handle_ack(now, &ack);
            }
            Message::Push(n, content) => self.followers[n].handle_push(now, &content),
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.directory.poll_output() {
            // What one output brings about may be published behind the next.
            for (service, _) in SERVICES {
                if let Some(view) = self.directory.view(service) {
                    self.checks.published(&view);
                }
            }
            self.carry_out(output);
        }
        let answers = self.store.flush(self.now, &mut self.rng);
        self.leave(answers);
        for n in 0..NODES {
            while !self.stands(n)
                && let Some(command) = self.nodes[n].poll_output()
            {
                match command {
                    Command::Register { .. } if self.doing[n].has_given_up => {}
                    Command::Register { attempt, register } => {
                        self.doing[n].asked_at = self.now;
                        self.send(Message::Register(n, attempt, *register));
                    }
                    Command::Renew { attempt, token } => {
                        self.doing[n].asked_at = self.now;
                        self.send(Message::Renew(n, attempt, token));
                    }
                    Command::Drain { token } => self.say(n, Message::Drain(n, token)),
                    Command::Idle { token } => self.say(n, Message::Idle(n, token)),
                    Command::Drained => self.nodes[n].handle_idle(),
                    Command::Ended => self.restart_node(n),
                    _ => {}
                }
            }
        }
        for n in 0..FOLLOWERS {
            while !self.stands(NODES + n)
                && let Some(output) = self.followers[n].poll_output()
            {
                match output {
                    FollowerOutput::Subscribe { have: Some(_), .. }
                    | FollowerOutput::Resync { .. }
                        if self.mutant == Mutant::NoResync => {}
                    FollowerOutput::Subscribe { watch, have } => {
                        self.send(Message::Subscribe(n, watch, have));
                    }
                    FollowerOutput::Resync { service } => self.send(Message::Resync(n, service)),
                    FollowerOutput::Changed { view, kept, .. } => {
                        self.checks.shown(self.now, n, &view, &kept);
                    }
                    FollowerOutput::Guard { service, kept } => {
                        self.checks.guarded(self.now, n, &service, kept);
                    }
                    FollowerOutput::Ack(ack) => self.send(Message::Ack(ack)),
                    _ => {}
                }
            }
        }
    }

    /// A node says something about its drain.
    fn say(&mut self, n: usize, message: Message) {
        if !self.mutant.is_unsaid(&mut self.doing[n], &message) {
            self.send(message);
        }
    }

    /// Answers once what came before is stored.
    fn answer(&mut self, message: Message, owner: Option<Owner>) {
        let connection = self.connections[message.peer()];
        self.store.answer(Answer {
            message,
            connection,
            owner,
        });
    }

    /// What is stored may be told, to who is still there.
    fn leave(&mut self, answers: Vec<Answer>) {
        for Answer {
            message,
            connection,
            owner,
        } in answers
        {
            let peer = message.peer();
            if self.is_up[peer] && self.connections[peer] == connection {
                let id = &self.nodes[peer].instance().id;
                if let (Message::Granted(_, _, Ok(granted)), Some(owner)) = (&message, owner) {
                    self.checks.granted(id, owner, granted.token);
                }
                if let Some(token) = message.drain_told() {
                    self.checks.told(id, token, message.is_end());
                }
                self.send(message);
            }
        }
    }

    /// What the registry wants done.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Push {
                subscriber,
                content,
            } => {
                // An empty view may be told of and not kept.
                let told = match &content {
                    Content::View(view) => Some(Arc::clone(view)),
                    Content::Delta(delta)
                        if self.directory.view(delta.service.as_str()).is_none() =>
                    {
                        let empty = View::empty(delta.service.clone(), delta.to);
                        Some(Arc::new(empty))
                    }
                    Content::Delta(_) => None,
                };
                if let Some(view) = told {
                    self.checks.published(&view);
                }
                let ack = (self.mutant).ack_of_push(&self.directory, subscriber, &content);
                self.send(Message::Push(index(subscriber), content));
                if let Some(ack) = ack {
                    self.directory.handle_ack(self.now, &ack);
                }
            }
            Output::Save { instance, .. } if !self.mutant.is_saved(&instance) => {}
            Output::Save { instance, ttl } => {
                let instance = Box::new((*instance).clone());
                self.store.record(Record::Save(instance, ttl));
            }
            Output::Erase { id } => self.store.record(Record::Erase(id)),
            Output::SaveEpoch { epoch } => self.epoch = epoch.0,
            Output::Evicted { id, token, .. } => self.check_evicted(&id, token),
            Output::Drain { id, step, missing } => {
                if step == DrainStep::Acknowledged && missing.is_empty() {
                    self.check_acknowledged(&id);
                }
                if step == DrainStep::Ended {
                    self.checks.drained(&id);
                }
                let is_it = |n: &usize| self.nodes[*n].instance().id == id;
                let wanted: Vec<usize> = (0..NODES).filter(is_it).collect();
                let token = self.tokens[&id];
                // Who does not hold it takes no note of it.
                for n in wanted {
                    self.answer(Message::Drained(n, token, step), None);
                }
            }
            _ => {}
        }
    }

    /// All connections are there, and nothing stands still.
    pub(super) fn heal(&mut self) {
        for peer in 0..NODES + FOLLOWERS {
            self.is_stuck[peer] = [false; 2];
            self.stands_until[peer] = self.now;
            self.connect(peer);
        }
    }
}

fn registration(n: usize, incarnation: u64, seed: u64, mutant: Mutant) -> Registration {
    let owner = Owner {
        id: OwnerId(n as u128),
        incarnation,
    };
    let id = InstanceId::new(&format!("node-{}", id_of(n))).expect("a valid id");
    let address = "10.0.0.1:7000".parse().expect("a valid address");
    let instance = Instance::new(id, service_of(n), address, owner);
    Registration::new(instance, mutant.registration(), seed ^ n as u64)
}
