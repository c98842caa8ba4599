//! What is simulated: hosts, load and faults.

use std::time::Duration;

use waystation_base::Rng;

use super::server::Condition;

/// Mean work of a request: processor time at speed 1.
pub(crate) const WORK_MEAN_NS: f64 = 80e6;
/// After it a caller gives up, and the call has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// How the work of requests is spread around its mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Exponential: the standard deviation is the mean.
    Exponential,
    /// Lognormal with a standard deviation of 4 means, cut at 50 means.
    HeavyTail,
}

impl Work {
    pub(crate) fn draw_ns(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Exponential => rng.exponential(WORK_MEAN_NS),
            Self::HeavyTail => {
                let variance = 17.0_f64.ln();
                let normal = (-2.0 * (1.0 - rng.next_f64()).ln()).sqrt()
                    * (std::f64::consts::TAU * rng.next_f64()).cos();
                let work = (variance.sqrt() * normal - variance / 2.0).exp();
                work.min(50.0) * WORK_MEAN_NS
            }
        }
    }
}

/// What hosts have: an allocation of one processor each, and what is to spare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Capacity {
    /// All alike, nothing to spare.
    Even,
    /// Every other host half as fast. To spare: 0 to 2 allocations, even, drawn
    /// anew about every 10 s for each host as its neighbours come and go. So
    /// twice the allocation is there on average.
    Mixed,
}

impl Capacity {
    pub(crate) fn speed(self, host: usize) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Mixed => [1.0, 0.5][host % 2],
        }
    }

    pub(crate) fn processors(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Mixed => 1.0 + 2.0 * rng.next_f64(),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// A share of the hosts is slower from the start.
    Slowed {
        share: f64,
        times: f64,
    },
    /// One host is in this condition from 20 s on, for so long.
    One {
        condition: Condition,
        lasts: Duration,
    },
    /// Each host in turn drains, is away, and comes back as a new process.
    RollingRestart,
    /// A share of the hosts is dead and still in the routes.
    StaleRoutes {
        share: f64,
    },
}

/// When the fault of [`Fault::One`] begins.
pub(crate) const FAULT_AT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) hosts: usize,
    pub(crate) callers: usize,
    /// Zones over which hosts and callers are spread; 0 for no zones.
    pub(crate) zones: usize,
    /// Calls against what the allocations of all hosts can do.
    pub(crate) load: f64,
    pub(crate) work: Work,
    pub(crate) capacity: Capacity,
    /// Calls come in bursts: for 200 ms of each second three times as many.
    pub(crate) is_bursty: bool,
    pub(crate) fault: Fault,
    /// Not measured at the beginning.
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

impl Workload {
    pub(crate) const fn base(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            hosts: 100,
            callers: 100,
            zones: 0,
            load: 0.7,
            work: Work::Exponential,
            capacity: Capacity::Even,
            is_bursty: false,
            fault: Fault::None,
            warm: Duration::from_secs(15),
            measured: Duration::from_mins(1),
        }
    }

    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        let speeds: f64 = (0..self.hosts).map(|host| self.capacity.speed(host)).sum();
        self.load * speeds / (WORK_MEAN_NS / 1e9)
    }
}

const OVER: [(f64, &str); 6] = [
    (1.03, "over-1.03"),
    (1.14, "over-1.14"),
    (1.27, "over-1.27"),
    (1.41, "over-1.41"),
    (1.50, "over-1.50"),
    (1.74, "over-1.74"),
];

/// All workloads, in the order of the tables.
pub(crate) fn all() -> Vec<Workload> {
    let mut all = latencies();
    all.extend(OVER.map(|(load, name)| {
        let about = "More than the allocation; twice the allocation is there on average";
        mixed(load, name, about)
    }));
    all.extend(sizes());
    all.extend(slow_hosts());
    all.extend(faults());
    all
}

fn even(load: f64, name: &'static str, about: &'static str) -> Workload {
    Workload {
        load,
        ..Workload::base(name, about)
    }
}

fn mixed(load: f64, name: &'static str, about: &'static str) -> Workload {
    Workload {
        capacity: Capacity::Mixed,
        ..even(load, name, about)
    }
}

fn heavy(load: f64, name: &'static str, about: &'static str) -> Workload {
    Workload {
        work: Work::HeavyTail,
        ..even(load, name, about)
    }
}

fn latencies() -> Vec<Workload> {
    vec![
        even(0.7, "even-70", "All hosts alike, nothing to spare"),
        even(0.9, "even-90", "The same at 90 %"),
        mixed(
            0.7,
            "mixed-70",
            "Every other host half as fast, 0 to 2 allocations to spare",
        ),
        mixed(0.9, "mixed-90", "The same at 90 %"),
        heavy(0.7, "heavy-70", "A heavy tail: deviation of 4 means"),
        heavy(0.9, "heavy-90", "The same at 90 %"),
        Workload {
            is_bursty: true,
            ..even(
                0.7,
                "burst-70",
                "For 200 ms of each second three times the calls, else half",
            )
        },
    ]
}

fn sizes() -> Vec<Workload> {
    let size = |hosts, callers, name, about| Workload {
        hosts,
        callers,
        ..even(0.7, name, about)
    };
    vec![
        Workload {
            measured: Duration::from_secs(200),
            ..size(4, 4, "hosts-4", "Few hosts")
        },
        size(16, 16, "hosts-16", "Some hosts"),
        Workload {
            warm: Duration::from_secs(6),
            measured: Duration::from_secs(8),
            ..size(1000, 100, "hosts-1000", "Many hosts")
        },
        size(
            100,
            1000,
            "sparse",
            "Callers with less than one call a second each",
        ),
    ]
}

fn slow_hosts() -> [Workload; 3] {
    let slowed = |name, about, share, times| Workload {
        fault: Fault::Slowed { share, times },
        ..even(0.5, name, about)
    };
    [
        slowed("slow-2", "2 % of hosts 10 times slower", 0.02, 10.0),
        slowed("slow-20", "20 % of hosts 10 times slower", 0.2, 10.0),
        slowed("slow-40", "40 % of hosts 16 times slower", 0.4, 16.0),
    ]
}

/// For good, as long as a run goes.
const FOR_GOOD: u64 = 1000;

fn faults() -> Vec<Workload> {
    let one = |name, about, condition, lasts| Workload {
        fault: Fault::One {
            condition,
            lasts: Duration::from_secs(lasts),
        },
        ..even(0.8, name, about)
    };
    vec![
        one("stall", "One host stalls for 30 s", Condition::Stalled, 30),
        one(
            "dead",
            "One host's process dies for good",
            Condition::Dead,
            FOR_GOOD,
        ),
        one(
            "black-hole",
            "One host's machine dies for good",
            Condition::BlackHole,
            FOR_GOOD,
        ),
        one(
            "fail-fast",
            "One host fails every call at once, for 30 s",
            Condition::FailsFast,
            30,
        ),
        Workload {
            fault: Fault::RollingRestart,
            measured: Duration::from_mins(2),
            ..even(
                0.5,
                "rolling",
                "All hosts restart one after the other, each drains for 1 s and is away for 1 s",
            )
        },
        Workload {
            fault: Fault::StaleRoutes { share: 0.1 },
            ..even(0.5, "stale", "10 % of the routes lead to dead processes")
        },
    ]
}
