//! The best of the hosts with fresh news.

use std::time::Duration;

use waystation_base::{Moment, Rng};

use crate::average::{fading_ns, nanos};
use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{Host, HostName, Hosts};
use crate::limits::RECENT_MAX;
use crate::policy::p2c::count;
use crate::policy::{Candidates, Offer, P2c, P2cConfig, Policy, Standing};

/// Settings of [`Fresh`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreshConfig {
    /// How long a report is used. Default 400 ms.
    pub age_max: Duration,
    /// In how many mean latencies a report turns into the mean, about. Default
    /// 4.
    pub turns: f32,
    /// How many requests a call of one's own stands for that the host has not
    /// answered. Default 2.
    pub own_weight: f32,
    /// What a failure met here costs, as a time. Default 30 s.
    pub penalty: Duration,
    /// Hosts probed for each pick. Default 3.
    pub probes_per_pick: f64,
    /// How long failures are remembered, and what decides without reports.
    pub local: P2cConfig,
}

impl Default for FreshConfig {
    fn default() -> Self {
        Self {
            age_max: Duration::from_millis(400),
            turns: 4.0,
            own_weight: 2.0,
            penalty: Duration::from_secs(30),
            probes_per_pick: 3.0,
            local: P2cConfig::default(),
        }
    }
}

/// The host of lowest cost among those with fresh news.
///
/// Hosts report their requests in flight and their recent latency at that level,
/// in replies and to probes of hosts drawn at random, as in Prequal; the cost is
/// the latency times the cube of the requests, as in C3. What is new:
///
/// - News ages. Other callers read the same news and send there, and the host
///   works on; so the requests in flight that are assumed turn from the reported
///   number to the mean of all reports, within a few mean latencies.
/// - Replies refresh what is known of a host, but only probes choose whose news
///   is looked at, so that the sample stays even.
/// - A report may be used again and again: each use adds to it.
/// - Failures that hosts report count as latency ([`Meter`](crate::Meter)), and
///   those met here are added with a penalty.
///
/// Without two hosts with fresh news it is [`P2c`].
/// Cost of a pick: O(1), at most [`RECENT_MAX`] hosts are read.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    config: FreshConfig,
    local: P2c,
}

const NOTHING: News = News {
    slot: 0,
    latency_ns: 0.0,
    level: 0.0,
    age: Duration::ZERO,
    left: 1.0,
    weight: 1.0,
};

/// What is known of a host, as it is used in one pick.
#[derive(Clone, Copy)]
struct News {
    slot: u32,
    /// With what failures add.
    latency_ns: f32,
    /// Requests with the one to be sent, as they are assumed by now.
    level: f32,
    age: Duration,
    /// How much of the news is left.
    left: f32,
    weight: f32,
}

impl Fresh {
    /// With these settings.
    pub const fn new(config: FreshConfig) -> Self {
        Self {
            config,
            local: P2c::new(config.local),
        }
    }

    /// The hosts of the offer with fresh news, and how many they are, with what
    /// their news is worth by now.
    fn known<H: Hosts + ?Sized>(&self, offer: &Offer<'_, H>) -> ([News; RECENT_MAX], usize) {
        let mut known = [NOTHING; RECENT_MAX];
        let mut found = 0;
        let (mut levels, mut latencies) = (0.0, 0.0);
        for &slot in offer.hosts.recent().iter().take(RECENT_MAX) {
            if !offer.has(slot) || offer.discarded.contains(&slot) {
                continue;
            }
            let host = offer.hosts.host(slot);
            if host.is_reported(offer.now, self.config.age_max) {
                let news = self.news(slot, &host, offer.now);
                levels += news.level;
                latencies += news.latency_ns;
                known[found] = news;
                found += 1;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 16")]
        let share = 1.0 / found.max(1) as f32;
        let (level_mean, turn_ns) = (levels * share, self.config.turns * latencies * share);
        for news in &mut known[..found] {
            news.left = fading_ns(nanos(news.age), turn_ns);
            news.level = level_mean + (news.level - level_mean) * news.left;
        }
        (known, found)
    }

    fn news(&self, slot: u32, host: &Host, now: Moment) -> News {
        let latency_ns = if host.load.latency_us == 0 {
            nanos(self.config.local.unknown)
        } else {
            count(host.load.latency_us) * 1000.0
        };
        let failures = host.errors_now(now, self.config.local.error_tau);
        News {
            slot,
            latency_ns: latency_ns + failures * nanos(self.config.penalty),
            level: count(host.in_flight_estimate())
                + 1.0
                + self.config.own_weight * count(host.in_flight),
            age: now.saturating_since(host.load_at),
            left: 1.0,
            weight: count(host.weight.max(1)),
        }
    }
}

impl<H: Hosts + ?Sized> Policy<H> for Fresh {
    fn name(&self) -> &'static str {
        "fresh"
    }

    fn handle_candidates(&mut self, _: Moment, _: &H, _: &[HostName], _: &Candidates) {}

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        rng: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slots = offer.slots();
        if slots.len() < 2 {
            let slot = *slots.first().ok_or(NoPick::NoHosts)?;
            trace.consider(slot, None, "the only one");
            return Ok(Pick {
                slot,
                reason: Reason::Only,
            });
        }
        let (known, found) = self.known(offer);
        if found < 2 {
            return self.local.choose(offer, rng, trace);
        }
        let mut best = (f32::INFINITY, known[0].slot);
        for news in &known[..found] {
            let level = news.level;
            let cost = news.latency_ns * level * level * level / news.weight;
            trace.consider(news.slot, Some(cost.into()), "reported");
            if cost < best.0 {
                best = (cost, news.slot);
            }
        }
        Ok(Pick {
            slot: best.1,
            reason: Reason::LowestReported,
        })
    }

    fn probes_per_pick(&self) -> f64 {
        self.config.probes_per_pick
    }

    fn standings(&self, offer: &Offer<'_, H>, out: &mut Vec<Standing>) {
        let (known, found) = self.known(offer);
        if found < 2 {
            return;
        }
        out.extend(known[..found].iter().map(|news| Standing {
            slot: news.slot,
            unit: news.latency_ns / news.weight,
            level: news.level,
            // A call that is sent is one more of those assumed on the host, and
            // one of one's own.
            step: (1.0 + self.config.own_weight) * news.left,
        }));
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
