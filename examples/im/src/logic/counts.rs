//! What a Logic counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use waystation_base::ShardId;
use waystation_net::Kind;
use waystation_service::metrics::Page;

/// Counters of all shards of a process.
#[derive(Debug)]
pub(super) struct Counts {
    /// Messages that each shard handled, since they belong to it.
    sends: Vec<AtomicU64>,
    /// Requests given to the shard they belong to, of this process.
    pub(super) handed_over: AtomicU64,
    /// Requests passed on to another Logic.
    pub(super) relayed: AtomicU64,
    /// Of those, served here after all.
    pub(super) relays_failed: AtomicU64,
    /// Times that a shard lost what others told it.
    pub(super) started_over: AtomicU64,
}

impl Counts {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            sends: (0..shards.max(1)).map(|_| AtomicU64::new(0)).collect(),
            handed_over: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            relays_failed: AtomicU64::new(0),
            started_over: AtomicU64::new(0),
        }
    }

    /// A shard handles a message that belongs to it.
    pub(super) fn count_send(&self, shard: ShardId) {
        if let Some(sends) = self.sends.get(usize::from(shard.0)) {
            sends.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        const SENDS: &str = "waystation_im_sends";
        let help = "Messages handled by the shard that they belong to.";
        page.family(SENDS, Kind::Counter, help);
        for (shard, sends) in self.sends.iter().enumerate() {
            let labels = format!("shard=\"{shard}\"");
            let sends = sends.load(Ordering::Relaxed);
            page.sample(SENDS, Kind::Counter, &labels, sends);
        }
        let rows = [
            (
                "waystation_im_handed_over",
                "Requests given to the shard of this process that they belong to.",
                &self.handed_over,
            ),
            (
                "waystation_im_relayed",
                "Requests passed on to the Logic they belong to.",
                &self.relayed,
            ),
            (
                "waystation_im_relays_failed",
                "Requests served by another Logic than the one they belong to, which did not answer.",
                &self.relays_failed,
            ),
            (
                "waystation_im_started_over",
                "Times that a shard took nothing, so that its connections were made anew.",
                &self.started_over,
            ),
        ];
        for (name, help, value) in rows {
            page.family(name, Kind::Counter, help);
            page.sample(name, Kind::Counter, "", value.load(Ordering::Relaxed));
        }
    }
}
