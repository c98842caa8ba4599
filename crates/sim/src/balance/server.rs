//! A simulated host: requests share its processors.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use waystation_balance::{BeganAt, Load, Meter, MeterConfig};
use waystation_base::Moment;

/// A meter without the mark-up of failures, as the published rules have it.
fn raw_meter() -> Meter {
    Meter::new(MeterConfig {
        failure: Duration::ZERO,
        ..MeterConfig::default()
    })
}

/// What is wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// Nothing.
    Well,
    /// It works so many times slower.
    Slowed(f64),
    /// It takes requests and does nothing, not even answer a probe.
    Stalled,
    /// Its process is gone: calls are refused at once, running ones are reset.
    Dead,
    /// Its machine is gone: nothing comes back.
    BlackHole,
    /// It answers every request at once, with a failure.
    FailsFast,
}

impl Condition {
    pub(crate) fn is_faulty(self) -> bool {
        self != Self::Well
    }

    fn answers_nothing(self) -> bool {
        matches!(self, Self::Stalled | Self::Dead | Self::BlackHole)
    }
}

/// A request on a host. Ordered by what it will have got of the host when it is
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    done_at_share: u64,
    call: usize,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    began: BeganAt,
    raw_began: BeganAt,
    since: Moment,
}

/// Requests share the processors evenly, one processor each at most: egalitarian
/// processor sharing. `share` is the work, in nanoseconds of a processor of speed
/// 1, that a request has got which has been there for ever.
#[derive(Debug)]
pub(crate) struct Server {
    /// Processors at present: the allocation and what is to spare.
    pub(crate) processors: f64,
    /// Speed of a processor.
    pub(crate) speed: f64,
    pub(crate) condition: Condition,
    share: f64,
    as_of: Moment,
    jobs: BinaryHeap<Reverse<Job>>,
    running: Vec<(usize, Running)>,
    /// Tells a planned completion that still holds from stale ones.
    pub(crate) plan: u64,
    meter: Meter,
    raw_meter: Meter,
    pub(crate) in_flight_max: u32,
    /// Processor time used, for utilisation.
    pub(crate) used_ns: f64,
    pub(crate) served: u64,
    /// Calls given up.
    pub(crate) abandoned: u64,
}

impl Server {
    pub(crate) fn new(processors: f64, speed: f64) -> Self {
        Self {
            processors,
            speed,
            condition: Condition::Well,
            share: 0.0,
            as_of: Moment::ZERO,
            jobs: BinaryHeap::new(),
            running: Vec::new(),
            plan: 0,
            meter: Meter::new(MeterConfig::default()),
            raw_meter: raw_meter(),
            in_flight_max: 0,
            used_ns: 0.0,
            served: 0,
            abandoned: 0,
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.meter.in_flight()
    }

    /// Work a request gets in a nanosecond, were there `count` of them.
    pub(crate) fn rate(&self, count: u32) -> f64 {
        let slowdown = match self.condition {
            Condition::Slowed(times) => times,
            one if one.answers_nothing() => return 0.0,
            _ => 1.0,
        };
        let processors = (self.processors / f64::from(count.max(1))).min(1.0);
        processors * self.speed / slowdown
    }

    /// Brings the work done up to `now`.
    pub(crate) fn advance(&mut self, now: Moment) {
        let elapsed = nanos(now.saturating_since(self.as_of));
        let got = self.rate(self.in_flight()) * elapsed;
        self.share += got;
        self.used_ns += got / self.speed * f64::from(self.in_flight());
        self.as_of = now;
    }

    /// A request of so much work arrives.
    pub(crate) fn begin(&mut self, now: Moment, call: usize, work_ns: f64) {
        self.advance(now);
        let running = Running {
            began: self.meter.begin(),
            raw_began: self.raw_meter.begin(),
            since: now,
        };
        self.running.push((call, running));
        self.in_flight_max = self.in_flight_max.max(self.in_flight());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds of a run"
        )]
        let done_at_share = (self.share + work_ns).ceil() as u64;
        self.jobs.push(Reverse(Job {
            done_at_share,
            call,
        }));
    }

    /// When the next request is done, if nothing changes. Stales earlier plans.
    pub(crate) fn plan_next(&mut self, now: Moment) -> Option<(Moment, u64)> {
        self.plan += 1;
        while let Some(Reverse(job)) = self.jobs.peek() {
            if self.running.iter().any(|(call, _)| *call == job.call) {
                break;
            }
            self.jobs.pop();
        }
        let Reverse(next) = self.jobs.peek()?;
        let rate = self.rate(self.in_flight());
        if rate <= 0.0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run")]
        let left = (next.done_at_share as f64 - self.share).max(0.0) / rate;
        Some((now + Duration::from_secs_f64(left / 1e9), self.plan))
    }

    /// The request that is done at `now`, for which it was planned.
    pub(crate) fn finish_next(&mut self, now: Moment) -> Option<usize> {
        self.advance(now);
        let Reverse(job) = self.jobs.pop()?;
        self.end(now, job.call, false);
        self.served += 1;
        Some(job.call)
    }

    /// Fails a request at once.
    pub(crate) fn fail(&mut self, now: Moment, call: usize) {
        self.begin(now, call, 0.0);
        self.end(now, call, true);
    }

    fn end(&mut self, now: Moment, call: usize, is_failure: bool) {
        if let Some(at) = self.running.iter().position(|(one, _)| *one == call) {
            let (_, running) = self.running.swap_remove(at);
            let latency = now.saturating_since(running.since);
            self.meter.end(now, running.began, latency, is_failure);
            self.raw_meter
                .end(now, running.raw_began, latency, is_failure);
        }
    }

    /// The caller's deadline travels: its request is dropped when it is over.
    pub(crate) fn abandon(&mut self, now: Moment, call: usize) {
        self.advance(now);
        if let Some(at) = self.running.iter().position(|(one, _)| *one == call) {
            self.running.swap_remove(at);
            self.abandoned += 1;
            self.meter.abandon();
            self.raw_meter.abandon();
        }
    }

    /// All requests are lost; what was measured, too. Returns them.
    pub(crate) fn lose_all(&mut self, now: Moment) -> Vec<usize> {
        self.advance(now);
        self.jobs.clear();
        self.meter = Meter::new(MeterConfig::default());
        self.raw_meter = raw_meter();
        self.running.drain(..).map(|(call, _)| call).collect()
    }

    /// What it reports; `None` when it answers nothing. `is_raw` without the
    /// mark-up of failures.
    pub(crate) fn load(&self, now: Moment, is_raw: bool) -> Option<Load> {
        let meter = if is_raw { &self.raw_meter } else { &self.meter };
        (!self.condition.answers_nothing()).then(|| meter.load(now))
    }
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
