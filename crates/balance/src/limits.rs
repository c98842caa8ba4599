//! Every bound of this crate, with what happens when it is reached.

/// Most hosts of one service in a [`Table`](crate::Table). Further ones of a
/// view are left out and counted.
pub const HOSTS_MAX: usize = 100_000;

/// Classes of distance: the caller's zone, its site, elsewhere.
pub const TIERS: usize = 3;

/// Most hosts with a recent report that a pick looks at. More reports displace
/// the oldest. 16 is the pool of Prequal (NSDI 2024, section 4.3).
pub const RECENT_MAX: usize = 16;

/// Slots of a Maglev table: a prime, large against the number of hosts (Eisenbud
/// et al., NSDI 2016, section 5.3). A service with more hosts than slots serves
/// its first ones only.
pub const MAGLEV_SLOTS: usize = 65_537;

/// Most choices that one pick makes to spare hosts that warm up; the last one
/// stands.
pub const WARM_UP_TRIES_MAX: u32 = 4;

/// Most candidates that an explanation lists by name; the rest is counted.
pub const EXPLAINED_MAX: usize = 64;

/// Most probes without an answer that a [`Prober`](crate::Prober) remembers. At
/// this bound it sends none until one is answered or its time is over.
pub const PROBES_PENDING_MAX: usize = 256;

/// Recent answer times that a [`Meter`](crate::Meter) keeps for a level of
/// requests in flight. The newest displaces the oldest.
pub const METER_SAMPLES: usize = 16;

/// Levels of requests in flight that a [`Meter`](crate::Meter) tells apart: one
/// for each number below 16, then four for each doubling. What is above counts
/// as the last.
pub const METER_LEVELS: usize = 64;

/// Prequal's window of reported requests in flight, from which "hot" follows.
pub const HOT_WINDOW: usize = 128;
