//! The world: a route server, its sources, agents, and a network with faults.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Moment, Rng};
use waystation_membership::{Address, Content, FollowerOutput, SubscriberId, View};

use super::agent::{Agent, agent_of, subscriber};
use super::figures::{Figures, Restart, Steady};
use super::model::Model;
use super::server::{Question, Sent, Server};
use super::work::Work;

/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(10);

/// A connection that lived so long was a good one, as crate `net` has it.
const STABLE: Duration = Duration::from_secs(1);

/// Guards on losses end by then: time of suspicion and guard.
const GUARD_OVER: Duration = Duration::from_secs(35);

/// How large the world is, and what happens to it.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub(super) instances: u32,
    pub(super) per_service: u32,
    pub(super) agents: u32,
    /// Services of each agent.
    pub(super) watched: u32,
    /// Connections that are lost a second, of each agent's, while faults happen.
    pub(super) losses: f64,
    /// How long a message takes, at most, in ms.
    pub(super) delay_ms_max: u64,
    /// For how long the server is away, each time that it starts again.
    pub(super) outages: Vec<Duration>,
    /// For how long changes are measured.
    pub(super) steady: Duration,
    /// Every such agent keeps segments.
    pub(super) segments_every: u32,
    /// Whether every view that callers see is compared with what was published.
    pub(super) is_watched: bool,
}

impl Scale {
    pub(super) fn services(&self) -> u32 {
        self.instances / self.per_service
    }

    fn watches(&self) -> u64 {
        u64::from(self.agents) * u64::from(self.watched)
    }
}

/// Something on its way.
struct Flight {
    at: Moment,
    order: u64,
    agent: u32,
    connection: u32,
    what: What,
}

enum What {
    /// The agent tries to connect.
    Try,
    /// The connection is made.
    Connected,
    /// To the server.
    Question(Question),
    /// To the agent, about this of its services.
    Push(usize, Content),
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct World {
    scale: Scale,
    seed: u64,
    rng: Rng,
    now: Moment,
    model: Model,
    server: Option<Server>,
    epoch: u64,
    agents: Vec<Agent>,
    wire: BinaryHeap<Reverse<Flight>>,
    order: u64,
    /// Changes that are due, in parts.
    credit: f64,
    /// Connections that are to be lost, in parts.
    lost: f64,
    is_churning: bool,
    is_faulty: bool,
    changes: u64,
    /// What agents did with pushes.
    agents_work: Work,
    pushed: u64,
    /// Attempts to connect since the server's last start.
    attempts: u64,
    /// Connections that were made since then, by the 100 ms in which they were.
    arrivals: Vec<u64>,
    started_at: Moment,
    /// What was published, by service and version.
    published: BTreeMap<(usize, waystation_membership::ViewVersion), Arc<View>>,
}

/// Runs one world.
///
/// # Panics
/// Names the promise that was broken.
pub(super) fn run(scale: &Scale, seed: u64) -> Figures {
    let mut world = World::new(scale, seed);
    world.run_for(Duration::from_secs(5));
    world.is_churning = true;
    let steady = world.measure_steady();
    let restarts = scale.outages.iter().map(|outage| world.restart(*outage));
    let restarts: Vec<Restart> = restarts.collect();
    if !restarts.is_empty() {
        world.run_for(Duration::from_secs(5));
        world.is_faulty = false;
        world.run_for(Duration::from_secs(5));
    }
    world.is_churning = false;
    world.run_for(GUARD_OVER);
    world.check_settled();
    Figures { steady, restarts }
}

impl World {
    fn new(scale: &Scale, seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let model = Model::new(scale.services(), scale.per_service);
        let names: Vec<_> = model.services().cloned().collect();
        let agent = |number: u32| {
            let mut all = BTreeSet::new();
            while all.len() < scale.watched as usize {
                all.insert(usize::try_from(rng.below(names.len() as u64)).expect("small"));
            }
            let services = all.into_iter().map(|at| (at, names[at].clone()));
            let has_segments = number.is_multiple_of(scale.segments_every);
            Agent::new(number, services, scale.per_service, has_segments, seed)
        };
        let agents = (0..scale.agents).map(agent).collect();
        let now = Moment::from_millis(1_000);
        let mut world = Self {
            server: Some(Server::start(now, 1, &model)),
            scale: scale.clone(),
            seed,
            rng,
            now,
            model,
            epoch: 1,
            agents,
            wire: BinaryHeap::new(),
            order: 0,
            credit: 0.0,
            lost: 0.0,
            is_churning: false,
            is_faulty: false,
            changes: 0,
            agents_work: Work::default(),
            pushed: 0,
            attempts: 0,
            arrivals: Vec::new(),
            started_at: now,
            published: BTreeMap::new(),
        };
        for agent in 0..scale.agents {
            let delay = Duration::from_millis(world.rng.below(1_000));
            world.send(agent, now + delay, What::Try);
        }
        world
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn measure_steady(&mut self) -> Steady {
        let before = self.sent();
        let (changes, pushed, work) = (self.changes, self.pushed, self.agents_work);
        self.run_for(self.scale.steady);
        let after = self.sent();
        Steady {
            changes: self.changes - changes,
            pushes: self.pushed - pushed,
            sent: after.since(&before),
            agents: self.agents_work.since(&work),
        }
    }

    fn sent(&self) -> Sent {
        self.server
            .as_ref()
            .map_or_else(Sent::default, |one| one.sent)
    }

    /// The server ends, is away, and starts again with another epoch.
    fn restart(&mut self, outage: Duration) -> Restart {
        self.is_faulty = true;
        self.server = None;
        self.published.clear();
        (self.attempts, self.arrivals) = (0, Vec::new());
        self.started_at = self.now + outage;
        for agent in 0..self.scale.agents {
            self.lose(agent);
        }
        self.run_for(outage);
        let in_vain = self.attempts;
        self.epoch += 1;
        self.server = Some(Server::start(self.now, self.epoch, &self.model));
        self.run_for(Duration::from_secs(10));
        let agents = u64::from(self.scale.agents);
        Restart {
            outage,
            in_vain: crate::push::ratio(in_vain, agents),
            arrivals: self.arrivals.clone(),
            agents,
            watches: self.scale.watches(),
            sent: self.sent(),
        }
    }

    /// The time until a message arrives.
    fn delay(&mut self) -> Duration {
        let most = self.scale.delay_ms_max * 1_000;
        Duration::from_micros(self.rng.range(100..most))
    }

    fn send(&mut self, agent: u32, at: Moment, what: What) {
        self.order += 1;
        self.wire.push(Reverse(Flight {
            at,
            order: self.order,
            agent,
            connection: self.agents[agent as usize].connection,
            what,
        }));
    }

    /// Sends over an agent's connection, in order; `direction` is 0 to the server.
    fn send_behind(&mut self, agent: u32, direction: usize, what: What) {
        let at = self.now + self.delay();
        let last = &mut self.agents[agent as usize].last[direction];
        let at = at.max(*last);
        *last = at;
        self.send(agent, at, what);
    }

    fn step(&mut self) {
        self.now += STEP;
        self.churn();
        if self.is_faulty {
            self.fault();
        }
        let (mut questions, mut pushes) = (Vec::new(), Vec::new());
        while self.wire.peek().is_some_and(|one| one.0.at <= self.now) {
            let Some(Reverse(flight)) = self.wire.pop() else {
                break;
            };
            let agent = flight.agent;
            if self.agents[agent as usize].connection != flight.connection {
                continue;
            }
            match flight.what {
                What::Try => self.connect(agent),
                What::Connected => self.handle_connected(agent),
                What::Question(question) => questions.push(question),
                What::Push(slot, content) => pushes.push((agent, slot, content)),
            }
        }
        self.ask(questions);
        self.handle_pushes(pushes);
        if self.now.as_nanos().is_multiple_of(1_000_000_000) {
            self.handle_timeouts();
        }
    }

    /// One in a hundred hosts changes each second.
    fn churn(&mut self) {
        if !self.is_churning {
            return;
        }
        self.credit += f64::from(self.scale.instances) * 0.01 * STEP.as_secs_f64();
        while self.credit >= 1.0 {
            self.credit -= 1.0;
            self.changes += 1;
            let change = self.model.churn(&mut self.rng);
            if let Some(server) = &mut self.server {
                let pushes = server.handle_change(self.now, change);
                self.push(pushes);
            }
        }
    }

    fn ask(&mut self, questions: Vec<Question>) {
        if let Some(server) = &mut self.server {
            let pushes = server.handle_questions(self.now, questions);
            self.push(pushes);
        }
    }

    /// Sends what the server pushes.
    fn push(&mut self, pushes: Vec<(SubscriberId, Content)>) {
        for (subscriber, content) in pushes {
            let (agent, slot) = agent_of(subscriber);
            if self.scale.is_watched {
                self.note_published(agent, slot, &content);
            }
            if self.agents[agent as usize].is_up {
                self.send_behind(agent, 1, What::Push(slot, content));
            }
        }
    }

    fn note_published(&mut self, agent: u32, slot: usize, content: &Content) {
        let service = self.agents[agent as usize].followed[slot].service;
        let server = self.server.as_ref().expect("it has pushed");
        let view = server.directory.view(content.service().as_str());
        if let Some(view) = view.filter(|view| view.at == content.at()) {
            self.published.insert((service, view.at), view);
        }
    }

    fn fault(&mut self) {
        let losses = f64::from(self.scale.agents) * self.scale.losses * STEP.as_secs_f64();
        self.lost += losses;
        while self.lost >= 1.0 {
            self.lost -= 1.0;
            let agent = self.rng.below(self.scale.agents.into());
            self.lose(u32::try_from(agent).expect("small"));
        }
    }

    /// An agent's connection is lost, and what was on the way with it.
    fn lose(&mut self, number: u32) {
        let agent = &mut self.agents[number as usize];
        if !agent.is_up {
            return;
        }
        agent.is_up = false;
        agent.connection += 1;
        if self.now.saturating_since(agent.up_since) >= STABLE {
            agent.backoff.reset();
        }
        let pause = agent.backoff.next_delay();
        let mut lost = Vec::new();
        for (slot, followed) in agent.followed.iter_mut().enumerate() {
            followed.core.handle_disconnected();
            lost.push(Question::Lost(subscriber(number, slot)));
        }
        self.ask(lost);
        self.send(number, self.now + pause, What::Try);
    }

    /// An agent knocks.
    fn connect(&mut self, number: u32) {
        self.attempts += 1;
        let delay = self.delay();
        let agent = &mut self.agents[number as usize];
        if self.server.is_none() {
            let pause = agent.backoff.next_delay();
            return self.send(number, self.now + pause, What::Try);
        }
        agent.connection += 1;
        agent.is_up = true;
        agent.up_since = self.now;
        agent.last = [self.now; 2];
        let since = self.now.saturating_since(self.started_at);
        let tenth = usize::try_from(since.as_millis() / 100).expect("small");
        if self.arrivals.len() <= tenth {
            self.arrivals.resize(tenth + 1, 0);
        }
        self.arrivals[tenth] += 1;
        self.send(number, self.now + delay, What::Connected);
    }

    fn handle_connected(&mut self, number: u32) {
        let now = self.now;
        let agent = &mut self.agents[number as usize];
        for followed in &mut agent.followed {
            followed.core.handle_connected(now);
        }
        for slot in 0..self.scale.watched as usize {
            self.settle(number, slot);
        }
    }

    fn handle_pushes(&mut self, pushes: Vec<(u32, usize, Content)>) {
        let now = self.now;
        let mut work = self.agents_work;
        let agents = &mut self.agents;
        let mut steps = 0;
        work.measure(|| {
            for (agent, slot, content) in &pushes {
                let core = &mut agents[*agent as usize].followed[*slot].core;
                let before = core.steps();
                core.handle_push(now, content);
                steps += core.steps() - before;
            }
        });
        work.steps += steps;
        self.agents_work = work;
        self.pushed += pushes.len() as u64;
        for (agent, slot, _) in pushes {
            self.settle(agent, slot);
        }
    }

    fn handle_timeouts(&mut self) {
        for number in 0..self.scale.agents {
            for slot in 0..self.scale.watched as usize {
                let core = &mut self.agents[number as usize].followed[slot].core;
                if core.poll_timeout().is_some_and(|at| at <= self.now) {
                    core.handle_timeout(self.now);
                    self.settle(number, slot);
                }
            }
        }
    }

    /// Carries out what an agent's core wants.
    fn settle(&mut self, number: u32, slot: usize) {
        let who = subscriber(number, slot);
        loop {
            let followed = &mut self.agents[number as usize].followed[slot];
            let Some(output) = followed.core.poll_output() else {
                return;
            };
            let question = match output {
                FollowerOutput::Subscribe { watch, have } => Question::Subscribe(who, watch, have),
                FollowerOutput::Resync { service } => Question::Resync(who, service),
                FollowerOutput::Ack(ack) => Question::Ack(ack),
                FollowerOutput::Changed { view, kept, .. } => {
                    self.check_shown(number, slot, &view, kept.len());
                    let followed = &mut self.agents[number as usize].followed[slot];
                    followed.show(self.now, &view);
                    continue;
                }
                FollowerOutput::Dropped { service, reason } => {
                    panic!(
                        "seed {}: a view of {service} is dropped: {reason:?}",
                        self.seed
                    )
                }
                _ => continue,
            };
            self.send_behind(number, 0, What::Question(question));
        }
    }

    /// What callers see is what was published, never less, and never older.
    fn check_shown(&self, number: u32, slot: usize, view: &View, kept: usize) {
        let seed = self.seed;
        let followed = &self.agents[number as usize].followed[slot];
        let service = &view.service;
        assert!(
            view.at >= followed.shown,
            "seed {seed}: agent {number} goes back from {} to {} of {service}",
            followed.shown,
            view.at
        );
        let count = view.instances.len();
        assert!(
            count * 2 > self.scale.per_service as usize,
            "seed {seed}: agent {number} has {count} hosts of {service}"
        );
        if let Some(published) = self.published.get(&(followed.service, view.at)) {
            let is_there = |(id, one)| view.instances.get(id) == Some(one);
            let same = published.instances.iter().all(is_there);
            assert!(
                same && count == published.instances.len() + kept,
                "seed {seed}: agent {number} shows something else than {service} at {}",
                view.at
            );
        }
    }

    /// After a while without faults everybody has what is true.
    fn check_settled(&self) {
        let seed = self.seed;
        let server = self.server.as_ref().expect("it is there");
        let expected: Vec<BTreeMap<Address, u32>> = (0..self.model.services().len())
            .map(|service| self.model.expected(service))
            .collect();
        for (number, agent) in self.agents.iter().enumerate() {
            assert!(agent.is_up, "seed {seed}: agent {number} is not connected");
            for followed in &agent.followed {
                let expected = &expected[followed.service];
                let name = self.model.services().nth(followed.service);
                let name = name.expect("there is one").as_str();
                let view = followed.core.view(name).expect("it was pushed");
                let has = view.instances.values();
                let has = has.map(|one| (one.address.clone(), one.weight));
                assert!(
                    has.collect::<BTreeMap<_, _>>() == *expected,
                    "seed {seed}: agent {number} has not reached the last view of {name}"
                );
                let last = server.directory.view(name).map(|view| view.at);
                assert_eq!(Some(view.at), last, "seed {seed}: agent {number}, {name}");
                let Some(hosts) = followed.segment_hosts() else {
                    continue;
                };
                assert!(
                    hosts.iter().eq(expected.keys()),
                    "seed {seed}: agent {number}'s segment of {name} is not its view"
                );
            }
        }
    }
}
