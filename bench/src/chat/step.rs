//! One run of the load generator, with what the system used and told meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waystation_im::load::{self, Report, Stop};

use super::Args;
use super::console::{self, Process};
use super::system::System;
use crate::figures::figure;
use crate::procfs;
use crate::stats::number;
use crate::timing;

/// How often the roles are asked how much they have in progress. Each time costs the system about
/// a millisecond of CPU time.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Requests that a role has in progress.
const IN_FLIGHT: &str = "waystation_requests_in_flight";

/// A figure for each layer of the chat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Layers {
    pub(super) entry: f64,
    pub(super) logic: f64,
    pub(super) das: f64,
}

impl Layers {
    /// All layers together.
    pub(super) fn sum(self) -> f64 {
        self.entry + self.logic + self.das
    }

    /// Each layer's own part of times that include the layers below.
    pub(super) fn own_parts(self) -> Self {
        Self {
            entry: self.entry - self.logic,
            logic: self.logic - self.das,
            das: self.das,
        }
    }

    /// Where figures of a process such as `logic-2` belong; `None` for one of no layer.
    fn of_process(&mut self, process: &str) -> Option<&mut f64> {
        match process.rsplit_once('-')?.0 {
            "entry" => Some(&mut self.entry),
            "logic" => Some(&mut self.logic),
            "das" => Some(&mut self.das),
            _ => None,
        }
    }

    /// Joins the figures of each layer.
    fn zip(self, other: Self, join: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            entry: join(self.entry, other.entry),
            logic: join(self.logic, other.logic),
            das: join(self.das, other.das),
        }
    }
}

/// CPU microseconds for each acknowledged message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CpuUs {
    pub(super) layers: Layers,
    pub(super) supervisor: f64,
    pub(super) generator: f64,
}

/// What one run found.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Messages a second that were asked for.
    pub(super) rate: u32,
    pub(super) report: Report,
    pub(super) cpu_us: CpuUs,
    /// The mean time of a message's request in each role, what it waits for included, in
    /// microseconds.
    pub(super) in_role_us: Layers,
}

impl Step {
    /// The step in a line.
    pub(super) fn line(&self) -> String {
        let report = &self.report;
        format!(
            "{} messages/s: {}/s acknowledged, delivery p50 {} ms, p99 {} ms, {} CPU µs a message",
            self.rate,
            figure(number(report.acknowledged) / report.seconds),
            figure(number(report.p50_us) / 1000.0),
            figure(number(report.p99_us) / 1000.0),
            figure(self.cpu_us.layers.sum()),
        )
    }
}

/// Loads the system at `rate`.
///
/// # Errors
/// The generator fails, a message is lost, doubled or out of order, or a process of the system
/// died.
pub(super) fn run(system: &System, args: &Args, rate: u32) -> Result<Step> {
    let config = load::Config {
        clients: args.clients,
        seconds: args.seconds,
        rate,
        seed: args.seed,
        ..load::Config::new(system.entry.into())
    };
    let before = Usage::read(system)?;
    let (report, in_progress) = watched(system, || load::run(&config, &Stop::default()));
    let report = report.with_context(|| format!("the load generator at {rate} messages/s"))?;
    let after = Usage::read(system)?;
    ensure!(
        report.is_clean(),
        "at {rate} messages/s the chat is at fault:\n{report}{}",
        system.log_end()
    );
    ensure!(
        before.processes == after.processes,
        "a process of the chat died at {rate} messages/s: {:?} became {:?}{}",
        before.processes,
        after.processes,
        system.log_end()
    );
    Ok(Step {
        rate,
        cpu_us: after.since(&before, report.acknowledged),
        in_role_us: in_role_us(&in_progress, report.acknowledged)?,
        report,
    })
}

/// CPU seconds of everything that takes part, so far.
struct Usage {
    processes: Vec<Process>,
    seconds: CpuUs,
}

impl Usage {
    fn read(system: &System) -> Result<Self> {
        let processes = console::processes(system.console)?;
        let mut seconds = CpuUs {
            supervisor: procfs::cpu_seconds(system.pid())?,
            generator: procfs::cpu_seconds(std::process::id())?,
            ..CpuUs::default()
        };
        for process in &processes {
            let pid = process
                .pid
                .with_context(|| format!("{} does not run", process.role))?;
            if let Some(sum) = seconds.layers.of_process(&process.role) {
                *sum += procfs::cpu_seconds(pid)?;
            }
        }
        Ok(Self { processes, seconds })
    }

    /// What was used since `earlier`, for each of so many messages.
    fn since(&self, earlier: &Self, messages: u64) -> CpuUs {
        let each = |now: f64, then: f64| (now - then) * 1e6 / number(messages.max(1));
        let (now, then) = (self.seconds, earlier.seconds);
        CpuUs {
            layers: now.layers.zip(then.layers, each),
            supervisor: each(now.supervisor, then.supervisor),
            generator: each(now.generator, then.generator),
        }
    }
}

/// For each process the integral of its requests in progress, in request seconds.
type InProgress = BTreeMap<String, f64>;

/// Does `work` while the roles are asked how much they have in progress.
fn watched<R>(system: &System, work: impl FnOnce() -> R) -> (R, InProgress) {
    let console = system.console;
    std::thread::scope(|scope| {
        let (done, ending) = mpsc::channel::<()>();
        let watcher = scope.spawn(move || {
            let mut sums = InProgress::new();
            let mut last = timing::now();
            while ending.recv_timeout(SAMPLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // When a page does not come the next one stands for its time, too.
                if let Ok(requests) = console::metric(console, IN_FLIGHT) {
                    let now = timing::now();
                    add(&mut sums, &requests, now.saturating_since(last));
                    last = now;
                }
            }
            sums
        });
        let result = work();
        drop(done);
        (result, watcher.join().unwrap_or_default())
    })
}

/// Adds a reading that stands for `time`.
fn add(sums: &mut InProgress, requests: &BTreeMap<String, f64>, time: Duration) {
    for (process, requests) in requests {
        *sums.entry(process.clone()).or_default() += requests * time.as_secs_f64();
    }
}

/// By Little's law: the mean time in a layer is its request seconds divided by the requests, of
/// which each message makes one in each layer.
fn in_role_us(in_progress: &InProgress, messages: u64) -> Result<Layers> {
    let mut seconds = Layers::default();
    for (process, sum) in in_progress {
        if let Some(layer) = seconds.of_process(process) {
            *layer += sum;
        }
    }
    ensure!(
        seconds.entry > 0.0 && seconds.logic > 0.0 && seconds.das > 0.0,
        "not every role published {IN_FLIGHT}, or the run was too short: {in_progress:?}"
    );
    let each = |sum: f64| sum * 1e6 / number(messages.max(1));
    Ok(seconds.zip(seconds, |sum, _| each(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the last digits, in which sums of fractions differ.
    fn rounded(layers: Layers) -> Layers {
        layers.zip(layers, |figure, _| figure.round())
    }

    #[test]
    fn the_time_in_a_layer_is_what_it_has_in_progress_for_each_message() {
        let reading = |entry, logic| {
            BTreeMap::from([
                ("entry-1".to_owned(), entry),
                ("logic-1".to_owned(), logic),
                ("logic-2".to_owned(), 1.0),
                ("das-1".to_owned(), 1.0),
                ("up".to_owned(), 9.0),
            ])
        };
        let mut sums = InProgress::new();
        add(&mut sums, &reading(8.0, 3.0), Duration::from_millis(100));
        add(&mut sums, &reading(3.0, 0.0), Duration::from_millis(200));
        // Entry: 1.4 request seconds; Logic: 0.6; Das: 0.3. A thousand messages.
        let layers = |entry, logic, das| Layers { entry, logic, das };
        let in_role = in_role_us(&sums, 1_000).unwrap();
        assert_eq!(rounded(in_role), layers(1_400.0, 600.0, 300.0));
        assert_eq!(rounded(in_role.own_parts()), layers(800.0, 300.0, 300.0));
        let silent = InProgress::from([("entry-1".to_owned(), 1.0)]);
        assert!(in_role_us(&silent, 1_000).is_err());
    }

    #[test]
    fn cpu_time_is_divided_by_the_messages() {
        let usage = |entry, generator| {
            let mut seconds = CpuUs {
                supervisor: 1.0,
                generator,
                ..CpuUs::default()
            };
            seconds.layers.entry = entry;
            Usage {
                processes: Vec::new(),
                seconds,
            }
        };
        let used = usage(3.0, 8.0).since(&usage(1.0, 4.0), 1_000);
        let figures = [
            used.layers.entry,
            used.layers.das,
            used.supervisor,
            used.generator,
        ];
        let expected = [2_000.0, 0.0, 0.0, 4_000.0];
        for (figure, expected) in figures.into_iter().zip(expected) {
            assert!((figure - expected).abs() < 1e-6, "{used:?}");
        }
    }
}
