//! What a pick reads of a host, and what a call tells about it.

use std::fmt;
use std::time::Duration;

use waystation_base::Moment;

use crate::average::fading;

/// A host's name within its [`Table`](crate::Table). Slots are used again; the
/// generation tells the present host of a slot from earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    /// The slot.
    pub slot: u32,
    /// How often the slot has changed hands.
    pub generation: u32,
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// The load that a host reports in a reply or to a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that it works on.
    pub in_flight: u32,
    /// The median time of its recent answers at about that level.
    pub latency_us: u32,
}

impl Load {
    /// Whether it says anything: both numbers zero mean "not reported".
    pub const fn is_reported(self) -> bool {
        self.in_flight != 0 || self.latency_us != 0
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallEnd {
    /// With a result.
    Ok,
    /// The host answered that it failed.
    Failed,
    /// The host refused for load; nothing was begun.
    Overloaded,
    /// Nobody took the call: refused or reset.
    Refused,
    /// No answer came in time.
    TimedOut,
    /// The caller gave up; this says nothing about the host.
    Cancelled,
}

impl CallEnd {
    /// Whether the call failed for the caller. A call that was given up did not.
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::Ok | Self::Cancelled)
    }
}

/// What a finished call tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: CallEnd,
    /// From the pick to the end; `None` when it was not timed.
    pub latency: Option<Duration>,
    /// The load in the reply, if it carried one.
    pub load: Load,
}

impl Outcome {
    /// A call that ended so after `latency`, without a reported load.
    pub const fn new(end: CallEnd, latency: Duration) -> Self {
        Self {
            end,
            latency: Some(latency),
            load: Load {
                in_flight: 0,
                latency_us: 0,
            },
        }
    }

    /// A call that ended so and was not timed.
    pub const fn of(end: CallEnd) -> Self {
        Self {
            end,
            latency: None,
            load: Load {
                in_flight: 0,
                latency_us: 0,
            },
        }
    }

    /// The same with the load that the reply carried.
    #[must_use]
    pub const fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }
}

/// What a pick reads of one host: 64 bytes, so that it can be a record in
/// shared memory as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    /// The share that its owner gave it; never 0 for a candidate.
    pub weight: u32,
    /// Calls of this table that have no end yet.
    pub in_flight: u32,
    /// Calls sent since its last report came.
    pub sent_since: u32,
    /// Its last report.
    pub load: Load,
    /// When that came; [`Moment::ZERO`] before the first.
    pub load_at: Moment,
    /// Moving peak average of answer times, as of `latency_at`.
    pub latency_ns: f32,
    /// Share of calls that failed, moving average as of `latency_at`.
    pub error_share: f32,
    /// When both averages last took a sample.
    pub latency_at: Moment,
    /// Since when calls wait and nothing was heard. Counts while `in_flight` is
    /// not 0.
    pub waiting_since: Moment,
    /// Since when it takes calls, for the warm-up; [`Moment::ZERO`] for one
    /// that is warm from the start.
    pub warm_since: Moment,
}

const _: () = assert!(size_of::<Host>() == 64, "a host is one cache line");

impl Host {
    /// A host that nothing is known of.
    pub const fn new(weight: u32) -> Self {
        Self {
            weight,
            in_flight: 0,
            sent_since: 0,
            load: Load {
                in_flight: 0,
                latency_us: 0,
            },
            load_at: Moment::ZERO,
            latency_ns: 0.0,
            error_share: 0.0,
            latency_at: Moment::ZERO,
            waiting_since: Moment::ZERO,
            warm_since: Moment::ZERO,
        }
    }

    /// For how long calls have waited without a sign of life.
    pub const fn silence(&self, now: Moment) -> Duration {
        if self.in_flight == 0 {
            return Duration::ZERO;
        }
        now.saturating_since(self.waiting_since)
    }

    /// The share of failures now: the average, fading with `tau`.
    pub fn errors_now(&self, now: Moment, tau: Duration) -> f32 {
        if self.error_share == 0.0 {
            return 0.0;
        }
        self.error_share * fading(now.saturating_since(self.latency_at), tau)
    }

    /// Whether its last report is at most `age_max` old.
    pub const fn is_reported(&self, now: Moment, age_max: Duration) -> bool {
        self.load_at.as_nanos() != 0
            && now.saturating_since(self.load_at).as_nanos() <= age_max.as_nanos()
    }

    /// Requests on the host as far as known: reported, and sent from here since.
    pub const fn in_flight_estimate(&self) -> u32 {
        self.load.in_flight.saturating_add(self.sent_since)
    }
}

/// Where a pick reads hosts: a [`Table`](crate::Table) or a segment of shared
/// memory.
pub trait Hosts {
    /// The host in `slot`. Slots come from the candidates of an offer. What a
    /// free slot returns is of no account.
    fn host(&self, slot: u32) -> Host;

    /// A hash of who is in `slot`, the same for every caller. Not read by picks.
    fn hash(&self, slot: u32) -> u64;

    /// Slots with a recent report, each once, at most
    /// [`RECENT_MAX`](crate::limits::RECENT_MAX), in no order. May name hosts
    /// that are no candidates, and stale reports.
    fn recent(&self) -> &[u32];
}
