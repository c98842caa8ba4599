//! Which host to ask for its load, and when.

use std::collections::VecDeque;
use std::time::Duration;

use waystation_base::{Moment, Rng};

use crate::host::HostName;
use crate::limits::PROBES_PENDING_MAX;

/// Settings of a [`Prober`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProberConfig {
    /// How long an answer is waited for. Default 100 ms.
    pub timeout: Duration,
    /// Most probes a second, 8 at once, so that many picks do not become more
    /// probes than picks need. Default 500.
    pub rate_max: f64,
    /// Fewest probes a second of a service in use, so that callers with few calls
    /// know something, too. Default 10.
    pub rate_min: f64,
    /// For how long after its last pick a service is in use. Default 10 s.
    pub idle_after: Duration,
}

impl Default for ProberConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(100),
            rate_max: 500.0,
            rate_min: 10.0,
            idle_after: Duration::from_secs(10),
        }
    }
}

/// Probes that may go at once.
const BURST: f64 = 8.0;

/// Decides when probes are due, and to whom: some for each pick, and a few
/// while there are few picks. Hosts are drawn at random, each as likely; a host
/// that owes an answer is not asked again.
#[derive(Clone, Debug)]
pub struct Prober {
    config: ProberConfig,
    per_pick: f64,
    credit: f64,
    allowance: f64,
    /// Probes that are due for the fewest a second; negative after others.
    owed: f64,
    picked_at: Option<Moment>,
    probed_at: Moment,
    pending: VecDeque<(HostName, Moment)>,
}

impl Prober {
    /// Probes so many hosts for each pick, on average; zero turns it off.
    pub fn new(config: ProberConfig, per_pick: f64) -> Self {
        Self {
            config,
            per_pick,
            credit: 0.0,
            allowance: BURST,
            owed: 0.0,
            picked_at: None,
            probed_at: Moment::ZERO,
            pending: VecDeque::new(),
        }
    }

    /// A pick was made.
    pub fn handle_picked(&mut self, now: Moment) {
        self.picked_at = Some(now);
        // What cannot be sent at once is not made up for later.
        self.credit = (self.credit + self.per_pick).min(self.per_pick.max(1.0) * 4.0);
    }

    /// A host to probe now, out of `slots`, whose names `names` has; `None` when
    /// no probe is due. Call until then. The probe counts as sent.
    pub fn poll_probe(
        &mut self,
        now: Moment,
        slots: &[u32],
        names: &[HostName],
        rng: &mut Rng,
    ) -> Option<HostName> {
        if slots.is_empty() || self.per_pick <= 0.0 || self.pending.len() >= PROBES_PENDING_MAX {
            return None;
        }
        let gap = now.saturating_since(self.probed_at).as_secs_f64();
        let allowed = (self.allowance + gap * self.config.rate_max).min(BURST);
        let owed = (self.owed + gap * self.config.rate_min).min(1.0);
        if allowed < 1.0 {
            return None;
        }
        let is_overdue = owed >= 1.0 && self.is_in_use(now);
        if self.credit >= 1.0 {
            self.credit -= 1.0;
        } else if !is_overdue {
            return None;
        }
        self.allowance = allowed - 1.0;
        // What picks caused counts, but for a moment only: picks come in clumps,
        // and between two of them the news must not run out.
        self.owed = (owed - 1.0).max(-1.0);
        self.probed_at = now;
        let drawn = *rng.pick(slots)?;
        let name = *names.get(drawn as usize)?;
        if self.pending.iter().any(|(one, _)| *one == name) {
            return None;
        }
        self.pending.push_back((name, now + self.config.timeout));
        Some(name)
    }

    /// A probe was answered.
    pub fn handle_answered(&mut self, name: HostName) {
        if let Some(at) = self.pending.iter().position(|(one, _)| *one == name) {
            self.pending.remove(at);
        }
    }

    /// The next host that did not answer in time; call until `None`.
    pub fn poll_unanswered(&mut self, now: Moment) -> Option<HostName> {
        let (name, until) = *self.pending.front()?;
        if until > now {
            return None;
        }
        self.pending.pop_front();
        Some(name)
    }

    /// When to ask again: a probe is due, or an answer is late.
    pub fn poll_timeout(&self, now: Moment) -> Option<Moment> {
        let late = self.pending.front().map(|(_, until)| *until);
        let due =
            (self.per_pick > 0.0 && self.config.rate_min > 0.0 && self.is_in_use(now)).then(|| {
                let wait = (1.0 - self.owed).max(0.0) / self.config.rate_min;
                self.probed_at + Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)
            });
        [late, due].into_iter().flatten().min()
    }

    fn is_in_use(&self, now: Moment) -> bool {
        self.picked_at
            .is_some_and(|at| now.saturating_since(at) < self.config.idle_after)
    }
}
