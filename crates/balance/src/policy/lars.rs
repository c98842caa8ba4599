//! The rule of Lars: idle and overloaded hosts.

use std::collections::VecDeque;
use std::time::Duration;

use waystation_base::{DeadlineKey, Moment, Rng, Wheel};

use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{CallEnd, HostName, Hosts, Outcome};
use crate::limits::TIERS;
use crate::policy::{Candidates, NO_TIER, Offer, Policy, WindowSeen};

/// Settings of [`Lars`]; the defaults are those that Lars ships.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsConfig {
    /// Picks between two of overloaded hosts. Default 10.
    pub probe_num: u32,
    /// Successes that an idle host begins with. Default 180.
    pub init_succ_cnt: u32,
    /// Errors that an overloaded host begins with. Default 5.
    pub init_err_cnt: u32,
    /// Above this share of errors an idle host is overloaded. Default 0.1.
    pub err_rate: f64,
    /// Above this share of successes an overloaded host is idle. Default 0.5.
    pub succ_rate: f64,
    /// Errors in a row that overload an idle host. Default 15.
    pub contin_err_limit: u32,
    /// Successes in a row that make an overloaded host idle. Default 15.
    pub contin_succ_limit: u32,
    /// From this real share of errors in a window an idle host is overloaded.
    /// Default 0.7.
    pub window_err_rate: f64,
    /// Length of an idle host's window. Default 15 s.
    pub idle_timeout: Duration,
    /// How long a host stays overloaded at most. Default 15 s.
    pub overload_timeout: Duration,
}

impl Default for LarsConfig {
    fn default() -> Self {
        Self {
            probe_num: 10,
            init_succ_cnt: 180,
            init_err_cnt: 5,
            err_rate: 0.1,
            succ_rate: 0.5,
            contin_err_limit: 15,
            contin_succ_limit: 15,
            window_err_rate: 0.7,
            idle_timeout: Duration::from_secs(15),
            overload_timeout: Duration::from_secs(15),
        }
    }
}

/// What is counted of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    name: HostName,
    tier: u8,
    is_overloaded: bool,
    virtual_succ: u32,
    virtual_err: u32,
    real_succ: u32,
    real_err: u32,
    succ_in_a_row: u32,
    err_in_a_row: u32,
    since: Moment,
    deadline: Option<DeadlineKey>,
}

/// Round robin over idle hosts; every (`probe_num` + 1)-th pick tries an
/// overloaded one.
///
/// The rule of Lars with its settings. Differences: windows and time-outs also
/// end by time, not only when a result comes, so that a host without calls
/// recovers by itself; and a new host's counts begin at their idle values. Cost
/// of a pick: O(1); of a host's turn to overloaded or idle: O(hosts).
#[derive(Debug)]
pub struct Lars {
    config: LarsConfig,
    windows: Vec<Option<Window>>,
    idle: [VecDeque<u32>; TIERS],
    overloaded: [VecDeque<u32>; TIERS],
    /// Picks since the last one of an overloaded host.
    waited: u32,
    ends: Wheel<u32>,
    latest: Moment,
    seed: u64,
}

impl Clone for Lars {
    /// A copy whose windows end by results only: it serves to explain.
    fn clone(&self) -> Self {
        Self {
            config: self.config,
            windows: self.windows.clone(),
            idle: self.idle.clone(),
            overloaded: self.overloaded.clone(),
            waited: self.waited,
            ends: Wheel::new(Moment::ZERO),
            latest: self.latest,
            seed: self.seed,
        }
    }
}

impl Lars {
    /// With these settings and no hosts. Lines begin at a place of their own for
    /// each `seed`, so that agents which start together do not walk in step.
    pub fn new(config: LarsConfig, seed: u64) -> Self {
        Self {
            config,
            windows: Vec::new(),
            idle: Default::default(),
            overloaded: Default::default(),
            waited: 0,
            ends: Wheel::new(Moment::ZERO),
            latest: Moment::ZERO,
            seed,
        }
    }

    /// Whether the host in `slot` counts as overloaded.
    pub fn is_overloaded(&self, slot: u32) -> bool {
        self.window(slot).is_some_and(|window| window.is_overloaded)
    }

    /// The present. Time that goes backwards counts as standing still, so that
    /// windows and their deadlines agree.
    fn advance(&mut self, now: Moment) -> Moment {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn window(&self, slot: u32) -> Option<&Window> {
        self.windows.get(slot as usize)?.as_ref()
    }

    /// Begins the counts of `slot` anew, as idle or overloaded.
    fn begin(&mut self, now: Moment, slot: u32, is_overloaded: bool) {
        let Some(Some(window)) = self.windows.get_mut(slot as usize) else {
            return;
        };
        let was_overloaded = window.is_overloaded;
        window.is_overloaded = is_overloaded;
        (window.virtual_succ, window.virtual_err) = if is_overloaded {
            (0, self.config.init_err_cnt)
        } else {
            (self.config.init_succ_cnt, 0)
        };
        (window.real_succ, window.real_err) = (0, 0);
        (window.succ_in_a_row, window.err_in_a_row) = (0, 0);
        window.since = now;
        if let Some(deadline) = window.deadline.take() {
            self.ends.cancel(deadline);
        }
        // A window ends when it is longer than its time, not as long.
        let length = if is_overloaded {
            self.config.overload_timeout
        } else {
            self.config.idle_timeout
        };
        let end = now + length + Duration::from_nanos(1);
        window.deadline = Some(self.ends.insert(end, slot));
        let tier = window.tier;
        if was_overloaded != is_overloaded && tier != NO_TIER {
            let tier = usize::from(tier);
            let (from, to) = if is_overloaded {
                (&mut self.idle[tier], &mut self.overloaded[tier])
            } else {
                (&mut self.overloaded[tier], &mut self.idle[tier])
            };
            from.retain(|&one| one != slot);
            to.push_back(slot);
        }
    }

    /// Ends the window of `slot` if it is over.
    fn end_window(&mut self, now: Moment, slot: u32) {
        let Some(window) = self.window(slot) else {
            return;
        };
        let age = now.saturating_since(window.since);
        if window.is_overloaded {
            if age > self.config.overload_timeout {
                self.begin(now, slot, false);
            }
        } else if age > self.config.idle_timeout {
            let all = window.real_succ.saturating_add(window.real_err);
            let is_bad = all > 0 && share(window.real_err, all) >= self.config.window_err_rate;
            self.begin(now, slot, is_bad);
        }
    }
}

impl Default for Lars {
    fn default() -> Self {
        Self::new(LarsConfig::default(), 0)
    }
}

fn share(part: u32, all: u32) -> f64 {
    f64::from(part) / f64::from(all.max(1))
}

/// The first in line, which goes to its end.
fn rotate(line: &mut VecDeque<u32>) -> Option<u32> {
    let first = line.pop_front()?;
    line.push_back(first);
    Some(first)
}

impl<H: Hosts + ?Sized> Policy<H> for Lars {
    fn name(&self) -> &'static str {
        "lars"
    }

    fn is_overloaded(&self, slot: u32) -> bool {
        Self::is_overloaded(self, slot)
    }

    fn window(&self, now: Moment, slot: u32) -> Option<WindowSeen> {
        let window = self.window(slot)?;
        let length = if window.is_overloaded {
            self.config.overload_timeout
        } else {
            self.config.idle_timeout
        };
        Some(WindowSeen {
            is_overloaded: window.is_overloaded,
            ok: window.real_succ,
            failed: window.real_err,
            failed_in_a_row: window.err_in_a_row,
            left: length.saturating_sub(now.saturating_since(window.since)),
        })
    }

    fn handle_candidates(
        &mut self,
        now: Moment,
        _: &H,
        names: &[HostName],
        candidates: &Candidates,
    ) {
        let now = self.advance(now);
        self.windows.resize(names.len(), None);
        for (slot, &name) in (0..).zip(names) {
            let tier = candidates.tier(slot);
            let place = &mut self.windows[slot as usize];
            match place {
                Some(window) if window.name == name => window.tier = tier,
                _ => {
                    if let Some(deadline) = place.take().and_then(|old| old.deadline) {
                        self.ends.cancel(deadline);
                    }
                    if tier == NO_TIER {
                        continue;
                    }
                    *place = Some(Window {
                        name,
                        tier,
                        is_overloaded: false,
                        virtual_succ: 0,
                        virtual_err: 0,
                        real_succ: 0,
                        real_err: 0,
                        succ_in_a_row: 0,
                        err_in_a_row: 0,
                        since: now,
                        deadline: None,
                    });
                    self.begin(now, slot, false);
                }
            }
        }
        for tier in 0..TIERS {
            let lines = [
                (&mut self.idle[tier], false),
                (&mut self.overloaded[tier], true),
            ];
            for (line, is_overloaded) in lines {
                // Who stays keeps its place in line; who is new goes to the end.
                let belongs = |slot: u32, windows: &[Option<Window>]| {
                    windows[slot as usize].is_some_and(|window| {
                        usize::from(window.tier) == tier && window.is_overloaded == is_overloaded
                    })
                };
                let windows = &self.windows;
                line.retain(|&slot| (slot as usize) < windows.len() && belongs(slot, windows));
                let mut is_in_line = vec![false; windows.len()];
                for &slot in line.iter() {
                    is_in_line[slot as usize] = true;
                }
                let is_first = line.is_empty();
                for &slot in &candidates.tiers[tier] {
                    if !is_in_line[slot as usize] && belongs(slot, windows) {
                        line.push_back(slot);
                    }
                }
                if is_first && !line.is_empty() {
                    let start = Rng::from_seed(self.seed).below(line.len() as u64);
                    #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
                    line.rotate_left(start as usize);
                }
            }
        }
    }

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        _: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let tier = usize::from(offer.tier);
        let (idle, overloaded) = (&mut self.idle[tier], &mut self.overloaded[tier]);
        if idle.is_empty() && overloaded.is_empty() {
            return Err(NoPick::NoHosts);
        }
        for (line, note) in [(&*idle, "idle"), (&*overloaded, "overloaded")] {
            if trace.is_on() {
                for &slot in line {
                    trace.consider(slot, None, note);
                }
            }
        }
        if !overloaded.is_empty() {
            self.waited += 1;
            if self.waited > self.config.probe_num {
                self.waited = 0;
                let slot = rotate(overloaded).expect("it is not empty");
                return Ok(Pick {
                    slot,
                    reason: Reason::OverloadedTurn,
                });
            }
        }
        let slot = rotate(idle).ok_or(NoPick::Overloaded)?;
        Ok(Pick {
            slot,
            reason: Reason::IdleTurn,
        })
    }

    fn report(&mut self, now: Moment, slot: u32, outcome: &Outcome) {
        let now = self.advance(now);
        let Some(Some(window)) = self.windows.get_mut(slot as usize) else {
            return;
        };
        if outcome.end == CallEnd::Cancelled {
            return;
        }
        let is_error = outcome.end.is_error();
        if is_error {
            window.virtual_err = window.virtual_err.saturating_add(1);
            window.real_err = window.real_err.saturating_add(1);
            window.err_in_a_row = window.err_in_a_row.saturating_add(1);
            window.succ_in_a_row = 0;
        } else {
            window.virtual_succ = window.virtual_succ.saturating_add(1);
            window.real_succ = window.real_succ.saturating_add(1);
            window.succ_in_a_row = window.succ_in_a_row.saturating_add(1);
            window.err_in_a_row = 0;
        }
        let all = window.virtual_succ.saturating_add(window.virtual_err);
        let is_over = !window.is_overloaded
            && is_error
            && (share(window.virtual_err, all) > self.config.err_rate
                || window.err_in_a_row >= self.config.contin_err_limit);
        let is_back = window.is_overloaded
            && !is_error
            && (share(window.virtual_succ, all) > self.config.succ_rate
                || window.succ_in_a_row >= self.config.contin_succ_limit);
        if is_over || is_back {
            self.begin(now, slot, is_over);
        } else {
            self.end_window(now, slot);
        }
    }

    fn handle_timeout(&mut self, now: Moment) {
        let now = self.advance(now);
        while let Some(slot) = self.ends.poll_expired(now) {
            if let Some(Some(window)) = self.windows.get_mut(slot as usize) {
                window.deadline = None;
            }
            self.end_window(now, slot);
        }
    }

    fn poll_timeout(&self) -> Option<Moment> {
        self.ends.poll_timeout()
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
