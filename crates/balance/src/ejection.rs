//! Leaving out hosts that fail, but never too many.

use std::time::Duration;

use waystation_base::Moment;

use crate::host::{CallEnd, HostName};

/// Settings of an [`Ejection`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectionConfig {
    /// Failures in a row that eject a host. Default 5.
    pub failures_in_a_row: u32,
    /// Calls in a row that found nobody, or no answer in time. Default 2.
    pub unreachable_in_a_row: u32,
    /// Between two comparisons of all hosts' success. Default 10 s.
    pub sweep: Duration,
    /// Hosts with enough calls that a comparison needs. Default 5.
    pub sweep_hosts_min: usize,
    /// Calls since the last comparison that a host needs for it. Default 100.
    pub sweep_calls_min: u32,
    /// Standard deviations below the mean success that eject. Default 1.9.
    pub deviations: f64,
    /// First time out; it doubles with each ejection. Default 1 s.
    pub time_min: Duration,
    /// Longest time out. Default 30 s.
    pub time_max: Duration,
    /// Largest share of hosts that is out at a time; one host may always be,
    /// unless it is the only one. Default 0.1.
    pub share_max: f64,
}

impl Default for EjectionConfig {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            unreachable_in_a_row: 2,
            sweep: Duration::from_secs(10),
            sweep_hosts_min: 5,
            sweep_calls_min: 100,
            deviations: 1.9,
            time_min: Duration::from_secs(1),
            time_max: Duration::from_secs(30),
            share_max: 0.1,
        }
    }
}

/// Why a host is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EjectReason {
    /// It answered with failures, one after the other.
    Failures,
    /// It could not be reached, time after time.
    Unreachable,
    /// It fails far more often than the others.
    Outlier,
}

impl EjectReason {
    /// A short name, for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Unreachable => "unreachable",
            Self::Outlier => "outlier",
        }
    }
}

/// What an input did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectChange {
    /// Nothing.
    None,
    /// The host is out from now on.
    Ejected(EjectReason),
    /// It would be out, but too many are already.
    NotEnforced(EjectReason),
    /// The host is back.
    Returned,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    name: HostName,
    failures: u32,
    unreachable: u32,
    /// Calls since the last comparison.
    ok: u32,
    failed: u32,
    /// Ejections in short order.
    times: u32,
    out: Option<(Moment, EjectReason)>,
}

/// Decides which hosts are left out: after failures in a row (Envoy's
/// consecutive errors), or when one fails far more often than the others
/// (Envoy's success rate). Differences: who could not be reached is out after
/// fewer calls, and back as soon as it answers a probe; times out begin at
/// [`EjectionConfig::time_min`] and double.
///
/// Cost of a result: O(1); of a comparison and of a return by time: O(hosts).
#[derive(Clone, Debug)]
pub struct Ejection {
    config: EjectionConfig,
    records: Vec<Option<Record>>,
    hosts: usize,
    out: usize,
    next_return: Option<Moment>,
    next_sweep: Option<Moment>,
}

impl Ejection {
    /// Without hosts.
    pub const fn new(config: EjectionConfig) -> Self {
        Self {
            config,
            records: Vec::new(),
            hosts: 0,
            out: 0,
            next_return: None,
            next_sweep: None,
        }
    }

    /// A host that takes part from now on.
    pub fn handle_added(&mut self, now: Moment, name: HostName) {
        self.next_sweep.get_or_insert(now + self.config.sweep);
        self.handle_removed(name);
        let at = name.slot as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
        }
        self.hosts += 1;
        self.records[at] = Some(Record {
            name,
            failures: 0,
            unreachable: 0,
            ok: 0,
            failed: 0,
            times: 0,
            out: None,
        });
    }

    /// A host that is gone.
    pub fn handle_removed(&mut self, name: HostName) {
        if let Some(record) = self
            .records
            .get_mut(name.slot as usize)
            .and_then(Option::take)
        {
            self.hosts -= 1;
            self.out -= usize::from(record.out.is_some());
        }
    }

    /// A call ended.
    #[inline]
    pub fn handle_end(&mut self, now: Moment, name: HostName, end: CallEnd) -> EjectChange {
        let Some(record) = self.record_mut(name) else {
            return EjectChange::None;
        };
        match end {
            CallEnd::Cancelled => return EjectChange::None,
            CallEnd::Ok => {
                record.ok = record.ok.saturating_add(1);
                (record.failures, record.unreachable) = (0, 0);
                return EjectChange::None;
            }
            // A refusal for load is no fault, and who answers is reachable.
            CallEnd::Overloaded => {
                record.unreachable = 0;
                return EjectChange::None;
            }
            CallEnd::Failed => {
                record.failures = record.failures.saturating_add(1);
                record.unreachable = 0;
            }
            CallEnd::Refused | CallEnd::TimedOut => {
                record.failures = record.failures.saturating_add(1);
                record.unreachable = record.unreachable.saturating_add(1);
            }
        }
        record.failed = record.failed.saturating_add(1);
        let (failures, unreachable) = (record.failures, record.unreachable);
        if unreachable >= self.config.unreachable_in_a_row {
            self.eject(now, name.slot, EjectReason::Unreachable)
        } else if failures >= self.config.failures_in_a_row {
            self.eject(now, name.slot, EjectReason::Failures)
        } else {
            EjectChange::None
        }
    }

    /// A host answered a probe: who was out as unreachable is back.
    pub fn handle_answered(&mut self, name: HostName) -> EjectChange {
        let Some(record) = self.record_mut(name) else {
            return EjectChange::None;
        };
        record.unreachable = 0;
        if let Some((_, EjectReason::Unreachable)) = record.out {
            record.out = None;
            record.failures = 0;
            self.out -= 1;
            return EjectChange::Returned;
        }
        EjectChange::None
    }

    /// Time passed: tells `changed` which slots are out or back.
    pub fn handle_timeout(&mut self, now: Moment, mut changed: impl FnMut(u32, EjectChange)) {
        if self.next_return.is_some_and(|at| at <= now) {
            self.next_return = None;
            for record in self.records.iter_mut().flatten() {
                let Some((until, _)) = record.out else {
                    continue;
                };
                if until <= now {
                    record.out = None;
                    (record.failures, record.unreachable) = (0, 0);
                    self.out -= 1;
                    changed(record.name.slot, EjectChange::Returned);
                } else {
                    let next = self.next_return.get_or_insert(until);
                    *next = (*next).min(until);
                }
            }
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.next_sweep = Some(now + self.config.sweep);
            self.sweep(now, &mut changed);
        }
    }

    /// When [`Ejection::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Moment> {
        [self.next_return, self.next_sweep]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether and why the host in `slot` is out, and until when at most.
    pub fn is_out(&self, slot: u32) -> Option<(Moment, EjectReason)> {
        self.records.get(slot as usize)?.as_ref()?.out
    }

    /// How many hosts are out.
    pub const fn out(&self) -> usize {
        self.out
    }

    fn record_mut(&mut self, name: HostName) -> Option<&mut Record> {
        let record = self.records.get_mut(name.slot as usize)?.as_mut()?;
        (record.name == name).then_some(record)
    }

    /// How many hosts may be out at a time.
    fn out_max(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count"
        )]
        let share = (self.config.share_max.clamp(0.0, 1.0) * self.hosts as f64) as usize;
        share.max(1).min(self.hosts.saturating_sub(1))
    }

    fn eject(&mut self, now: Moment, slot: u32, reason: EjectReason) -> EjectChange {
        let is_full = self.out >= self.out_max();
        let config = self.config;
        let Some(Some(record)) = self.records.get_mut(slot as usize) else {
            return EjectChange::None;
        };
        if record.out.is_some() {
            return EjectChange::None;
        }
        (record.failures, record.unreachable) = (0, 0);
        if is_full {
            return EjectChange::NotEnforced(reason);
        }
        let doubled = config.time_min.saturating_mul(1 << record.times.min(20));
        let until = now + doubled.min(config.time_max);
        record.times = record.times.saturating_add(1);
        record.out = Some((until, reason));
        self.out += 1;
        let next = self.next_return.get_or_insert(until);
        *next = (*next).min(until);
        EjectChange::Ejected(reason)
    }

    fn sweep(&mut self, now: Moment, changed: &mut impl FnMut(u32, EjectChange)) {
        let calls_min = self.config.sweep_calls_min.max(1);
        let known = || {
            let records = self.records.iter().flatten();
            records.filter(|one| one.ok.saturating_add(one.failed) >= calls_min)
        };
        let shares = || known().map(success);
        let count = known().count();
        if count >= self.config.sweep_hosts_min.max(1) {
            #[expect(clippy::cast_precision_loss, reason = "a count of hosts")]
            let count = count as f64;
            let mean = shares().sum::<f64>() / count;
            let variance = shares().map(|one| (one - mean).powi(2)).sum::<f64>() / count;
            let limit = mean - self.config.deviations * variance.sqrt();
            let outliers: Vec<u32> = known()
                .filter(|one| success(one) < limit)
                .map(|one| one.name.slot)
                .collect();
            for slot in outliers {
                let change = self.eject(now, slot, EjectReason::Outlier);
                changed(slot, change);
            }
        }
        for record in self.records.iter_mut().flatten() {
            (record.ok, record.failed) = (0, 0);
            if record.out.is_none() {
                record.times = record.times.saturating_sub(1);
            }
        }
    }
}

fn success(record: &Record) -> f64 {
    f64::from(record.ok) / f64::from(record.ok.saturating_add(record.failed).max(1))
}
