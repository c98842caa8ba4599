//! Callers that do not see each other, hosts, and a network between them, in
//! virtual time.

mod faults;
mod hosts;
mod judge;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use waystation_balance::{CallEnd, HostName, Load, Outcome};
use waystation_base::{Moment, Rng};
use waystation_membership::{State, View, ViewVersion};
use waystation_segment::TURN_EVERY;

use self::hosts::{instance, locality, service};
use super::baselines::{SharedTruth, Truth, host_number, look};
use super::caller::Caller;
use super::contenders::{Contender, Setup};
use super::figures::Figures;
use super::server::{Condition, Server};
use super::workload::{Capacity, DEADLINE, FAULT_AT, Fault, WORK_MEAN_NS, Workload};

/// How often callers look at their timers, at the latest.
const TICK: Duration = Duration::from_millis(20);
/// How often weighted round robin gets new weights.
const WEIGHTS_EVERY: Duration = Duration::from_secs(1);
/// Between two hosts of a rolling restart.
const ROLLING_STEP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Reach {
        call: usize,
    },
    Done {
        host: usize,
        plan: u64,
    },
    Reply {
        call: usize,
        load: (u32, u32),
    },
    Cut {
        call: usize,
        end: u8,
    },
    Deadline {
        call: usize,
    },
    ProbeReach {
        caller: usize,
        slot: (u32, u32),
        host: usize,
    },
    ProbeRefused {
        caller: usize,
        slot: (u32, u32),
    },
    ProbeReply {
        caller: usize,
        slot: (u32, u32),
        load: (u32, u32),
    },
    Capacity {
        host: usize,
    },
    FaultBegins,
    FaultEnds,
    RollDrain {
        host: usize,
    },
    RollAway {
        host: usize,
    },
    RollBack {
        host: usize,
    },
    Tick,
    /// Of a caller's agent.
    Turn {
        caller: usize,
    },
    Weights,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    caller: usize,
    name: HostName,
    host: usize,
    began: Moment,
    work_ns: f64,
    is_over: bool,
    is_measured: bool,
}

pub(crate) struct World<'a> {
    workload: &'a Workload,
    contender: &'a Contender,
    now: Moment,
    order: u64,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    load_rng: Rng,
    host_rng: Rng,
    net_rng: Rng,
    servers: Vec<Server>,
    callers: Vec<Caller>,
    calls: Vec<Call>,
    view: View,
    truth: SharedTruth,
    figures: Figures,
    /// When calls were sent to the faulty host.
    sent_to_faulty: Vec<Moment>,
    fault_failures: u64,
    ejected_seen: Vec<u64>,
    out_seen: BTreeSet<(usize, usize)>,
    /// Processors used, answers and calls given up a second, smoothed.
    use_of: Vec<[f64; 3]>,
    end: Moment,
}

/// The host on which [`Fault::One`] comes.
const FAULTY: usize = 1;

/// Runs a workload with a contender; the same seed gives the same calls to every
/// contender, and the same result.
pub(crate) fn run(workload: &Workload, contender: &Contender, seed: u64) -> Figures {
    let mut world = World::new(workload, contender, seed);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > world.end {
            break;
        }
        world.now = at;
        world.handle(event);
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(workload: &'a Workload, contender: &'a Contender, seed: u64) -> Self {
        let mut seeds = Rng::from_seed(seed);
        let (load_rng, mut host_rng, net_rng) = (seeds.fork(), seeds.fork(), seeds.fork());
        let servers: Vec<Server> = (0..workload.hosts)
            .map(|host| {
                let processors = workload.capacity.processors(&mut host_rng);
                Server::new(processors, workload.capacity.speed(host))
            })
            .collect();
        let truth = SharedTruth::default();
        *look(&truth) = Truth {
            outstanding: vec![0; workload.hosts],
            hosts: vec![(1.0, 1.0); workload.hosts],
            weights: vec![1e9 / WORK_MEAN_NS; workload.hosts],
        };
        let mut view = View::empty(service(), ViewVersion::default());
        for host in 0..workload.hosts {
            let one = instance(workload, host, 1);
            view.instances.insert(one.id.clone(), Arc::new(one));
        }
        let callers = (0..workload.callers)
            .map(|caller| {
                let seed = seeds.next_u64();
                let balancer = (contender.make)(Setup {
                    workload,
                    truth: &truth,
                    locality: locality(workload, caller),
                    seed,
                });
                Caller::new(balancer, workload.hosts, seed, contender.is_shared)
            })
            .collect();
        let mut world = Self {
            workload,
            contender,
            now: Moment::from_millis(1),
            order: 0,
            events: BinaryHeap::new(),
            load_rng,
            host_rng,
            net_rng,
            servers,
            callers,
            calls: Vec::new(),
            view,
            truth,
            figures: Figures::default(),
            sent_to_faulty: Vec::new(),
            fault_failures: 0,
            ejected_seen: vec![0; workload.callers],
            out_seen: BTreeSet::new(),
            use_of: (0..workload.hosts)
                .map(|host| usual(workload, host))
                .collect(),
            end: Moment::from_millis(1) + workload.warm + workload.measured,
        };
        world.show_view();
        world.plan_start();
        world
    }

    fn plan_start(&mut self) {
        self.after(Duration::ZERO, Event::Arrive);
        self.after(TICK, Event::Tick);
        self.after(WEIGHTS_EVERY, Event::Weights);
        let count = self.workload.hosts;
        if self.workload.capacity == Capacity::Mixed {
            (0..count).for_each(|host| self.plan_capacity(host));
        }
        match self.workload.fault {
            Fault::None => {}
            Fault::Slowed { share, times } => self.set_share(share, Condition::Slowed(times)),
            Fault::StaleRoutes { share } => self.set_share(share, Condition::Dead),
            Fault::One { lasts, .. } => {
                self.after(FAULT_AT, Event::FaultBegins);
                self.after(FAULT_AT + lasts, Event::FaultEnds);
            }
            Fault::RollingRestart => {
                for host in 0..count {
                    let steps = u32::try_from(host).expect("few hosts");
                    let at = self.workload.warm + ROLLING_STEP * steps;
                    self.after(at, Event::RollDrain { host });
                    self.after(at + ROLLING_STEP, Event::RollAway { host });
                    self.after(at + ROLLING_STEP * 2, Event::RollBack { host });
                }
            }
        }
        (0..count).for_each(|host| self.tell_truth(host));
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.events
            .push(Reverse((self.now + delay, self.order, event)));
    }

    /// One way through the network: 150 to 350 µs.
    fn hop(&mut self) -> Duration {
        Duration::from_nanos(self.net_rng.range(150_000..350_000))
    }

    fn is_measured(&self) -> bool {
        self.now >= Moment::from_millis(1) + self.workload.warm
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Reach { call } => self.reach(call),
            Event::Done { host, plan } => self.done(host, plan),
            Event::Reply { call, load } => self.reply(call, CallEnd::Ok, load),
            Event::Cut { call, end } => {
                let end = [CallEnd::Refused, CallEnd::Failed][usize::from(end)];
                let host = self.calls[call].host;
                let load = self.servers[host].load(self.now, self.contender.hears_raw);
                self.reply(call, end, pack(load.filter(|_| end == CallEnd::Failed)));
            }
            Event::Deadline { call } => self.deadline(call),
            Event::ProbeReach { caller, slot, host } => {
                if let Some(load) = self.servers[host].load(self.now, self.contender.hears_raw) {
                    let load = pack(Some(load));
                    let hop = self.hop();
                    self.after(hop, Event::ProbeReply { caller, slot, load });
                } else if self.servers[host].condition == Condition::Dead {
                    let hop = self.hop();
                    self.after(hop, Event::ProbeRefused { caller, slot });
                }
            }
            Event::ProbeRefused { caller, slot } => {
                let name = HostName {
                    slot: slot.0,
                    generation: slot.1,
                };
                self.callers[caller].handle_probe_refused(self.now, name);
                self.judge_ejections(caller);
            }
            Event::ProbeReply { caller, slot, load } => {
                let name = HostName {
                    slot: slot.0,
                    generation: slot.1,
                };
                self.callers[caller].handle_probe_answered(self.now, name, unpack(load));
                self.wake(caller);
            }
            Event::Capacity { host } => {
                self.servers[host].advance(self.now);
                let processors = self.workload.capacity.processors(&mut self.host_rng);
                self.servers[host].processors = processors;
                self.replan(host);
                self.plan_capacity(host);
            }
            Event::FaultBegins => self.begin_fault(),
            Event::FaultEnds => self.set_condition(FAULTY, Condition::Well),
            Event::RollDrain { host } => self.set_state(host, State::Draining),
            Event::RollAway { host } => {
                self.set_condition(host, Condition::Dead);
                self.lose_calls(host, true);
            }
            Event::RollBack { host } => {
                self.set_condition(host, Condition::Well);
                let one = instance(self.workload, host, 2);
                self.view.instances.insert(one.id.clone(), Arc::new(one));
                self.show_view();
            }
            Event::Tick => self.tick(),
            Event::Turn { caller } => self.turn(caller),
            Event::Weights => {
                self.weigh();
                self.after(WEIGHTS_EVERY, Event::Weights);
            }
        }
    }

    fn tick(&mut self) {
        for caller in 0..self.callers.len() {
            self.callers[caller].handle_timeout(self.now);
            self.send_probes(caller);
            self.judge_ejections(caller);
        }
        self.after(TICK, Event::Tick);
    }

    /// Of a caller's agent.
    fn turn(&mut self, caller: usize) {
        self.callers[caller].handle_turn(self.now);
        self.send_probes(caller);
        self.judge_ejections(caller);
    }

    /// Something happened at a caller: its agent, if it has one, sees it in its
    /// next turn.
    fn wake(&mut self, caller: usize) {
        if self.callers[caller].wake() {
            self.after(TURN_EVERY, Event::Turn { caller });
        }
    }

    fn plan_capacity(&mut self, host: usize) {
        let gap = Duration::from_secs_f64(self.host_rng.exponential(10.0));
        self.after(gap, Event::Capacity { host });
    }

    fn arrive(&mut self) {
        let mean = 1.0 / self.workload.rate();
        let second = self.now.as_nanos() % 1_000_000_000;
        // 0.2 x 3 + 0.8 x 0.5 = 1: bursts do not change the mean.
        let factor = match (self.workload.is_bursty, second < 200_000_000) {
            (false, _) => 1.0,
            (true, true) => 3.0,
            (true, false) => 0.5,
        };
        let gap = self.load_rng.exponential(mean / factor);
        let callers = self.callers.len() as u64;
        let caller = usize::try_from(self.load_rng.below(callers)).expect("few callers");
        let work_ns = self.workload.work.draw_ns(&mut self.load_rng);
        self.after(Duration::from_secs_f64(gap), Event::Arrive);
        self.call(caller, work_ns);
    }

    fn call(&mut self, caller: usize, work_ns: f64) {
        let is_measured = self.is_measured();
        self.figures.calls += u64::from(is_measured);
        let Some(name) = self.callers[caller].pick(self.now) else {
            self.figures.unpicked += u64::from(is_measured);
            return;
        };
        let host = host_number(self.callers[caller].table(), name.slot);
        self.check_pick(caller, name);
        look(&self.truth).outstanding[host] += 1;
        if host == FAULTY && matches!(self.workload.fault, Fault::One { .. }) {
            self.sent_to_faulty.push(self.now);
        }
        let call = self.calls.len();
        self.calls.push(Call {
            caller,
            name,
            host,
            began: self.now,
            work_ns,
            is_over: false,
            is_measured,
        });
        let hop = self.hop();
        self.after(hop, Event::Reach { call });
        self.after(DEADLINE, Event::Deadline { call });
        self.wake(caller);
        self.send_probes(caller);
    }

    fn send_probes(&mut self, caller: usize) {
        while let Some(name) = self.callers[caller].poll_probe(self.now) {
            let host = host_number(self.callers[caller].table(), name.slot);
            self.figures.probes += u64::from(self.is_measured());
            let slot = (name.slot, name.generation);
            let hop = self.hop();
            self.after(hop, Event::ProbeReach { caller, slot, host });
        }
    }

    fn reach(&mut self, call: usize) {
        let Call { host, work_ns, .. } = self.calls[call];
        match self.servers[host].condition {
            Condition::BlackHole => {}
            Condition::Dead => {
                let hop = self.hop();
                self.after(hop, Event::Cut { call, end: 0 });
            }
            Condition::FailsFast => {
                self.servers[host].fail(self.now, call);
                let hop = self.hop();
                self.after(hop, Event::Cut { call, end: 1 });
            }
            _ => {
                self.servers[host].begin(self.now, call, work_ns);
                self.replan(host);
            }
        }
    }

    fn replan(&mut self, host: usize) {
        if let Some((at, plan)) = self.servers[host].plan_next(self.now) {
            self.after(at.saturating_since(self.now), Event::Done { host, plan });
        }
        self.tell_truth(host);
    }

    fn done(&mut self, host: usize, plan: u64) {
        if self.servers[host].plan != plan {
            return;
        }
        if let Some(call) = self.servers[host].finish_next(self.now) {
            let load = pack(self.servers[host].load(self.now, self.contender.hears_raw));
            let hop = self.hop();
            self.after(hop, Event::Reply { call, load });
        }
        self.replan(host);
    }

    fn reply(&mut self, call: usize, end: CallEnd, load: (u32, u32)) {
        let one = self.calls[call];
        if std::mem::replace(&mut self.calls[call].is_over, true) {
            return;
        }
        let latency = self.now.saturating_since(one.began);
        let outcome = Outcome::new(end, latency).with_load(unpack(load));
        self.over(one, &outcome);
    }

    fn deadline(&mut self, call: usize) {
        let one = self.calls[call];
        if std::mem::replace(&mut self.calls[call].is_over, true) {
            return;
        }
        self.servers[one.host].abandon(self.now, call);
        self.replan(one.host);
        self.over(one, &Outcome::new(CallEnd::TimedOut, DEADLINE));
    }

    fn over(&mut self, call: Call, outcome: &Outcome) {
        look(&self.truth).outstanding[call.host] -= 1;
        self.callers[call.caller].report(self.now, call.name, outcome);
        self.wake(call.caller);
        self.judge_ejections(call.caller);
        self.count(call, outcome);
    }
}

/// What a host does in a second when each gets its share.
fn usual(workload: &Workload, host: usize) -> [f64; 3] {
    let speed = workload.capacity.speed(host);
    [
        workload.load,
        workload.load * speed * 1e9 / WORK_MEAN_NS,
        0.0,
    ]
}

/// Loads travel in events as two numbers.
fn pack(load: Option<Load>) -> (u32, u32) {
    load.map_or((0, 0), |load| (load.in_flight, load.latency_us))
}

fn unpack((in_flight, latency_us): (u32, u32)) -> Load {
    Load {
        in_flight,
        latency_us,
    }
}
