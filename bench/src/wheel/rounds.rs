//! The rounds: each timer goes through the same operations on the same deadlines.

use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waystation_base::Rng;

use super::delay_queue::Delays;
use super::heap::Heap;
use super::own::Own;
use super::sleep::Sleeps;
use super::{Origin, Setting, Timer};
use crate::stats;
use crate::timing::{Took, now, timed};

/// What is measured of each timer, in the order of the tables.
pub(super) const OPERATIONS: [&str; 6] = [
    "insert, growing",
    "cancel, in order",
    "insert, after in order",
    "cancel, random",
    "insert, after random",
    "expiry",
];

const GROW: usize = 0;
const IN_ORDER: (usize, usize) = (1, 2);
const RANDOM: (usize, usize) = (3, 4);
const EXPIRY: usize = 5;

/// Batches in which deadlines are cancelled and inserted again.
const BATCHES: usize = 5;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Deadlines pending at once.
    pub(super) pending: usize,
    /// From the first to the last of them.
    pub(super) spread: Duration,
    /// From the making of a batch of deadlines to the first of them.
    pub(super) lead: Duration,
    /// Where randomness starts.
    pub(super) seed: u64,
}

impl Plan {
    /// Deadlines cancelled in a batch: a tenth of all, so that five batches touch half.
    const fn batch(&self) -> usize {
        self.pending / 2 / BATCHES
    }

    fn random_after(&self, rng: &mut Rng) -> Duration {
        let spread_ns = u64::try_from(self.spread.as_nanos()).unwrap_or(u64::MAX);
        self.lead + Duration::from_nanos(rng.below(spread_ns.max(1)))
    }
}

/// One timer's figures.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) name: &'static str,
    /// CPU nanoseconds an operation: for each of [`OPERATIONS`] one figure a round.
    pub(super) cpu_ns: [Vec<f64>; OPERATIONS.len()],
    /// Wall time in units of CPU time, likewise.
    pub(super) wall_to_cpu: [Vec<f64>; OPERATIONS.len()],
}

/// All figures of a run; the wheel's come first.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) timers: Vec<Figures>,
}

impl Figures {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            cpu_ns: std::array::from_fn(|_| Vec::new()),
            wall_to_cpu: std::array::from_fn(|_| Vec::new()),
        }
    }

    fn add(&mut self, operation: usize, took: Took, count: usize) {
        self.cpu_ns[operation].push(took.cpu_ns_each(count));
        let ratio = stats::number(took.wall_ns) / stats::number(took.cpu_ns.max(1));
        self.wall_to_cpu[operation].push(ratio);
    }
}

const NAMES: [&str; 4] = [Own::NAME, Heap::NAME, Sleeps::NAME, Delays::NAME];

/// Runs all rounds. Reports each on standard error.
///
/// # Errors
/// A timer has lost a deadline.
pub(super) fn run(plan: &Plan, rounds: usize) -> Result<Measured> {
    let mut measured = Measured {
        timers: NAMES.map(Figures::new).to_vec(),
    };
    for round in 0..rounds {
        let order = stats::order(NAMES.len(), round);
        let mut rng = Rng::from_seed(plan.seed ^ round as u64);
        for &side in &order {
            // Each side draws the same numbers.
            let (rng, figures) = (rng.clone(), &mut measured.timers[side]);
            let done = match side {
                0 => churn::<Own>(plan, rng, figures),
                1 => churn::<Heap>(plan, rng, figures),
                2 => churn::<Sleeps>(plan, rng, figures),
                _ => churn::<Delays>(plan, rng, figures),
            };
            done.with_context(|| format!("round {round}, {}", NAMES[side]))?;
        }
        expiry(plan, &rng.fork(), &order, &mut measured.timers)
            .with_context(|| format!("round {round}, expiry"))?;
        eprintln!("round {} of {rounds}: {}", round + 1, progress(&measured));
    }
    Ok(measured)
}

/// Insert and cancel of the wheel in the round just done.
fn progress(measured: &Measured) -> String {
    let last = |operation: usize| measured.timers[0].cpu_ns[operation].last();
    let shown = [GROW, RANDOM.0, EXPIRY].map(|operation| {
        let ns = last(operation).copied().unwrap_or_default();
        format!(
            "{} {} ns",
            OPERATIONS[operation],
            crate::figures::figure(ns)
        )
    });
    format!("wheel: {}", shown.join("; "))
}

impl Setting {
    fn now(plan: &Plan) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build();
        Ok(Self {
            origin: Origin::now(),
            lead: plan.lead,
            runtime: Rc::new(runtime.context("cannot start tokio's event loop")?),
        })
    }
}

/// Fills a timer, then cancels and inserts again with all deadlines pending.
fn churn<T: Timer>(plan: &Plan, mut rng: Rng, figures: &mut Figures) -> Result<()> {
    let setting = Setting::now(plan)?;
    let _entered = setting.runtime.enter();
    let mut timer = T::new(&setting);
    let (keys, took) = fill(&mut timer, &setting, plan, &mut rng);
    check_pending(&timer, &keys, plan.pending)?;
    figures.add(GROW, took, plan.pending);

    let mut keys: Vec<Option<T::Key>> = keys.into_iter().map(Some).collect();
    let mut positions: Vec<usize> = (0..plan.pending).collect();
    for (cancel, insert) in [IN_ORDER, RANDOM] {
        let mut took = (Took::default(), Took::default());
        let mut inserted = touched(plan.batch());
        for batch in positions.chunks_exact(plan.batch()).take(BATCHES) {
            let mut victims: Vec<T::Key> = batch.iter().filter_map(|&at| keys[at].take()).collect();
            let mut deadlines = deadlines(&timer, &setting, plan, &mut rng, batch.len());
            let ((), cancelled) = timed(|| victims.drain(..).for_each(|key| timer.cancel(key)));
            let ((), added) = timed(|| insert_all(&mut timer, &mut deadlines, &mut inserted));
            took.0 += cancelled;
            took.1 += added;
            for (&at, key) in batch.iter().zip(inserted.drain(..)) {
                keys[at] = Some(key);
            }
        }
        figures.add(cancel, took.0, BATCHES * plan.batch());
        figures.add(insert, took.1, BATCHES * plan.batch());
        rng.shuffle(&mut positions);
    }
    let keys: Vec<T::Key> = keys.into_iter().flatten().collect();
    check_pending(&timer, &keys, plan.pending)
}

/// Fills all timers, sleeps until everything is due, and lets each yield it.
fn expiry(plan: &Plan, rng: &Rng, order: &[usize], figures: &mut [Figures]) -> Result<()> {
    let mut own = Filled::<Own>::new(plan, rng.clone())?;
    let mut heap = Filled::<Heap>::new(plan, rng.clone())?;
    let mut sleeps = Filled::<Sleeps>::new(plan, rng.clone())?;
    let mut delays = Filled::<Delays>::new(plan, rng.clone())?;
    // Timers may be late by a tick, of which the longest has about a millisecond.
    let all_due = now() + plan.lead + plan.spread + Duration::from_millis(5);
    sleep(all_due.saturating_since(now()));
    for &side in order {
        let took = match side {
            0 => own.expire(),
            1 => heap.expire(),
            2 => sleeps.expire(),
            _ => delays.expire(),
        };
        let took = took.with_context(|| NAMES[side])?;
        figures[side].add(EXPIRY, took, plan.pending);
    }
    Ok(())
}

/// Blocks the thread, so that no runtime on it can look at its timers meanwhile.
fn sleep(time: Duration) {
    #[allow(
        clippy::disallowed_methods,
        reason = "this thread serves nobody, and an event loop would fire the timers one by one"
    )]
    std::thread::sleep(time);
}

struct Filled<T: Timer> {
    setting: Setting,
    timer: T,
    keys: Vec<T::Key>,
}

impl<T: Timer> Filled<T> {
    fn new(plan: &Plan, mut rng: Rng) -> Result<Self> {
        let setting = Setting::now(plan)?;
        let entered = setting.runtime.enter();
        let mut timer = T::new(&setting);
        let (keys, _) = fill(&mut timer, &setting, plan, &mut rng);
        check_pending(&timer, &keys, plan.pending)?;
        drop(entered);
        Ok(Self {
            setting,
            timer,
            keys,
        })
    }

    fn expire(&mut self) -> Result<Took> {
        let _entered = self.setting.runtime.enter();
        let (yielded, took) = timed(|| self.timer.expire());
        check_pending(&self.timer, &self.keys, 0)?;
        if let Some(yielded) = yielded {
            let expected = self.keys.len();
            ensure!(
                yielded == expected,
                "{yielded} deadlines came instead of {expected}"
            );
        }
        Ok(took)
    }
}

fn check_pending<T: Timer>(timer: &T, keys: &[T::Key], expected: usize) -> Result<()> {
    let pending = timer.pending(keys);
    ensure!(
        pending == expected,
        "{pending} deadlines are pending instead of {expected}; \
         was the machine too busy to fill the timer before the first one?"
    );
    Ok(())
}

fn fill<T: Timer>(
    timer: &mut T,
    setting: &Setting,
    plan: &Plan,
    rng: &mut Rng,
) -> (Vec<T::Key>, Took) {
    let mut deadlines = deadlines(timer, setting, plan, rng, plan.pending);
    let mut keys = touched(plan.pending);
    let ((), took) = timed(|| insert_all(timer, &mut deadlines, &mut keys));
    (keys, took)
}

/// Deadlines seen from now, so that none is due when it is inserted, however long it took until
/// here.
fn deadlines<T: Timer>(
    timer: &T,
    setting: &Setting,
    plan: &Plan,
    rng: &mut Rng,
    count: usize,
) -> Vec<T::Deadline> {
    let elapsed = now().saturating_since(setting.origin.moment);
    (0..count)
        .map(|_| timer.deadline(elapsed + plan.random_after(rng)))
        .collect()
}

/// Leaves the empty list behind: its release does not belong to the inserts.
fn insert_all<T: Timer>(timer: &mut T, deadlines: &mut Vec<T::Deadline>, keys: &mut Vec<T::Key>) {
    let deadlines = deadlines.drain(..).zip(0_u64..);
    keys.extend(deadlines.map(|(at, value)| timer.insert(at, value)));
}

/// Room for `count` keys in memory that the kernel has given already: the first write to a page
/// costs more than many inserts.
fn touched<K>(count: usize) -> Vec<K> {
    let mut keys = Vec::with_capacity(count);
    for room in keys.spare_capacity_mut() {
        *std::hint::black_box(room) = MaybeUninit::zeroed();
    }
    keys
}
