//! Calls that arrive at random, open loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use waystation_base::{Rng, ShardId};
use waystation_client::CallerConfig;
use waystation_net::{Label, NetConfig, Shard};
use waystation_service::{App, Balanced, BalancedConfig, Ctx};

use super::HOSTS;
use super::host::{Number, Work};

/// What a call may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Before it is measured: connections are made, and the agent learns.
const WARM: Duration = Duration::from_secs(3);

/// How often it is looked whether all calls have ended.
const LOOK: Duration = Duration::from_millis(20);

/// How calls ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    /// Of each call, failed ones included.
    took: Vec<Duration>,
    pub(super) failed: u64,
    /// Answers of each instance.
    pub(super) by_host: Vec<u64>,
}

impl Outcomes {
    pub(super) fn add(&mut self, other: &Self) {
        self.took.extend_from_slice(&other.took);
        self.failed += other.failed;
        self.by_host.resize(HOSTS, 0);
        for (sum, count) in self.by_host.iter_mut().zip(&other.by_host) {
            *sum += count;
        }
    }

    pub(super) fn calls(&self) -> u64 {
        self.took.len() as u64
    }

    /// The time, in ms, that so many of 1,000 calls do not exceed; 0 of none.
    pub(super) fn at_ms(&mut self, of_1000: usize) -> f64 {
        self.took.sort_unstable();
        let place = (self.took.len() * of_1000).div_ceil(1_000).max(1) - 1;
        let found = self.took.get(place);
        found.map_or(0.0, |one| one.as_secs_f64() * 1e3)
    }

    pub(super) fn note(&mut self, took: Duration, answer: Option<u32>) {
        self.took.push(took);
        self.by_host.resize(HOSTS, 0);
        match answer.and_then(|host| self.by_host.get_mut(host as usize)) {
            Some(count) => *count += 1,
            None => self.failed += 1,
        }
    }
}

/// Makes so many calls a second, for so long.
///
/// # Errors
/// The caller does not start or does not end.
pub(super) fn run(config: CallerConfig, rate: u32, seconds: u32, seed: u64) -> Result<Outcomes> {
    let app = App::builder("caller", NetConfig::default()).start()?;
    let (done, result) = mpsc::channel();
    let time = Duration::from_secs(seconds.into());
    let job = move |shard: &Shard| {
        let own = shard.clone();
        shard.spawn(Label::of("load"), async move {
            let outcomes = calls(&own, config, f64::from(rate), time, seed).await;
            // Who waits may have given up.
            let _unheard = done.send(outcomes);
        });
    };
    let remote = app.server().remote();
    remote.run_on(ShardId(0), job).context("the caller ended")?;
    let outcomes = result
        .recv_timeout(time + WARM + DEADLINE * 5)
        .context("the calls do not end")?;
    app.drain();
    Ok(outcomes)
}

async fn calls(
    shard: &Shard,
    config: CallerConfig,
    rate: f64,
    time: Duration,
    seed: u64,
) -> Outcomes {
    let mut config = BalancedConfig::new(config);
    // What fails is counted before any retry.
    config.tries = 1;
    let balanced = Balanced::new(shard, config);
    let outcomes = Rc::new(RefCell::new(Outcomes::default()));
    let mut rng = Rng::from_seed(seed);
    let began = shard.now() + WARM;
    let end = began + time;
    let mut due = shard.now();
    while due < end {
        shard.sleep_until(due).await;
        let (own, balanced, outcomes) = (shard.clone(), balanced.clone(), Rc::clone(&outcomes));
        shard.spawn(Label::of("call"), async move {
            let ctx = Ctx::background(&own, "work", DEADLINE);
            let answer = balanced.call::<Work>(&ctx, &Number::default()).await;
            if due >= began {
                let took = own.now().saturating_since(due);
                let answer = answer.ok().map(|one| one.number);
                outcomes.borrow_mut().note(took, answer);
            }
        });
        due += Duration::from_secs_f64(rng.exponential(1.0 / rate));
    }
    // Each call that has not ended holds a clone.
    let patience = shard.now() + DEADLINE + DEADLINE / 4;
    while Rc::strong_count(&outcomes) > 1 && shard.now() < patience {
        shard.sleep(LOOK).await;
    }
    outcomes.take()
}
