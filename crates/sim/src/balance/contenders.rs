//! Who is compared.

use waystation_balance::{
    Balancer, BalancerConfig, EjectionConfig, Fresh, Lars, LarsConfig, Locality, Maglev, P2c,
    Policy, Prequal, PrequalConfig, ProberConfig, RoundRobin, Table, WarmUpConfig, Weighted,
    ZoneConfig,
};

use super::baselines::{C3, LeastLoaded, Oracle, PeakEwma, PlainP2c, SharedTruth, WeightedByUse};
use super::workload::Workload;

/// What a caller is made from.
pub(crate) struct Setup<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) truth: &'a SharedTruth,
    pub(crate) locality: Locality,
    pub(crate) seed: u64,
}

/// A policy from a seed.
pub(crate) type MakePolicy = fn(u64) -> Box<dyn Policy<Table>>;

type Make = Box<dyn Fn(Setup<'_>) -> Balancer>;

pub(crate) struct Contender {
    pub(crate) name: String,
    /// Hosts report their latency without the mark-up of failures, as the
    /// published rule has it.
    pub(crate) hears_raw: bool,
    /// An agent knows and decides, and the caller picks from shared memory.
    pub(crate) is_shared: bool,
    pub(crate) make: Make,
}

/// The default policy's name in the tables.
pub(crate) const DEFAULT: &str = "ours: fresh";

/// The same by shared memory, as an agent and its callers have it.
pub(crate) const SHARED: &str = "ours: fresh, shared";

/// What stands around a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Ejection,
    Panic,
    WarmUp,
    Zones,
}

/// All layers, in the order of the tables.
pub(crate) const LAYERS: [Layer; 4] = [Layer::Ejection, Layer::Panic, Layer::WarmUp, Layer::Zones];

/// A rule in its published form: nothing around it, and probes for picks only.
fn published(name: &str, policy: fn(&Setup<'_>) -> Box<dyn Policy<Table>>) -> Contender {
    let make = move |setup: Setup<'_>| {
        let config = BalancerConfig {
            prober: ProberConfig {
                rate_min: 0.0,
                rate_max: f64::INFINITY,
                ..ProberConfig::default()
            },
            ..BalancerConfig::bare()
        };
        Balancer::new(config, policy(&setup), setup.seed)
    };
    Contender {
        name: name.to_owned(),
        hears_raw: true,
        is_shared: false,
        make: Box::new(make),
    }
}

/// One of our policies with everything around it.
fn ours(name: &str, policy: MakePolicy) -> Contender {
    let make = move |setup: Setup<'_>| {
        let config = BalancerConfig {
            locality: setup.locality,
            ..BalancerConfig::default()
        };
        Balancer::new(config, policy(setup.seed), setup.seed)
    };
    Contender {
        name: format!("ours: {name}"),
        hears_raw: false,
        is_shared: false,
        make: Box::new(make),
    }
}

/// Ours with these layers only.
pub(crate) fn with_layers(name: &str, policy: MakePolicy, layers: &[Layer]) -> Contender {
    let layers = layers.to_vec();
    let make = move |setup: Setup<'_>| {
        let has = |layer: Layer| layers.contains(&layer);
        let config = BalancerConfig {
            locality: setup.locality,
            ejection: has(Layer::Ejection).then(EjectionConfig::default),
            panic_below: if has(Layer::Panic) { 0.5 } else { 0.0 },
            warm_up: has(Layer::WarmUp).then(WarmUpConfig::default),
            zones: has(Layer::Zones).then(ZoneConfig::default),
            ..BalancerConfig::bare()
        };
        Balancer::new(config, policy(setup.seed), setup.seed)
    };
    Contender {
        name: name.to_owned(),
        hears_raw: false,
        is_shared: false,
        make: Box::new(make),
    }
}

/// Our policies by name.
pub(crate) fn policies() -> Vec<(&'static str, MakePolicy)> {
    vec![
        ("fresh", |_| Box::new(Fresh::default())),
        ("prequal", |_| Box::new(Prequal::default())),
        ("p2c", |_| Box::new(P2c::default())),
        ("lars", |seed| {
            Box::new(Lars::new(LarsConfig::default(), seed))
        }),
        ("round-robin", |seed| Box::new(RoundRobin::new(seed))),
        ("weighted", |seed| Box::new(Weighted::new(seed))),
        ("maglev", |_| Box::new(Maglev::new())),
    ]
}

/// All that stand in the tables, in their order.
pub(crate) fn all() -> Vec<Contender> {
    let mut all = vec![
        published("oracle", |setup| Box::new(Oracle(setup.truth.clone()))),
        published("round robin", |setup| Box::new(RoundRobin::new(setup.seed))),
        published("weighted RR", |setup| {
            Box::new(WeightedByUse {
                truth: setup.truth.clone(),
                credit: Vec::new(),
            })
        }),
        published("Lars", |setup| {
            Box::new(Lars::new(LarsConfig::default(), setup.seed))
        }),
        published("least loaded", |_| Box::new(LeastLoaded)),
        published("P2C", |_| Box::new(PlainP2c)),
        published("peak EWMA", |_| Box::new(PeakEwma::default())),
        published("C3", |setup| c3(setup.workload, false)),
        published("C3, probed", |setup| c3(setup.workload, true)),
        published("Prequal", |_| {
            Box::new(Prequal::new(PrequalConfig::published()))
        }),
    ];
    let shown = ["p2c", "prequal", "fresh"];
    for (name, policy) in policies().into_iter().rev() {
        if shown.contains(&name) {
            all.push(ours(name, policy));
        }
    }
    all.push(Contender {
        is_shared: true,
        ..ours("fresh, shared", |_| Box::new(Fresh::default()))
    });
    all
}

fn c3(workload: &Workload, is_probed: bool) -> Box<dyn Policy<Table>> {
    let callers = u32::try_from(workload.callers).expect("few callers");
    Box::new(C3::new(callers, is_probed))
}
