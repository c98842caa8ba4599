//! What the shards of a role think of the nodes that they call, for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use waystation_membership::Verdict;
use waystation_net::Kind;
use waystation_service::metrics::Page;
use waystation_service::{Group, Member};

/// How often it is written down.
pub(crate) const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// A service and a shard that calls its nodes.
type Place = (Arc<str>, u16);

/// Nodes by service, shard and verdict.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    counts: Mutex<BTreeMap<Place, [u64; 3]>>,
}

const WORDS: [&str; 3] = ["use", "suspect", "gone"];

impl Standings {
    /// Writes down what a shard thinks of the nodes of a service that serve.
    pub(crate) fn note(&self, service: &Arc<str>, shard: u16, group: &Group) {
        let mut counts = [0; 3];
        let members = group.members();
        for member in members.iter().filter(|member| member.takes()) {
            counts[place(member)] += 1;
        }
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((service.clone(), shard), counts);
    }

    /// As metrics; nothing of a role that calls nobody.
    pub(crate) fn show(&self, page: &mut Page) {
        const NAME: &str = "waystation_im_nodes";
        let all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        let help = "Nodes that serve, by what this role thinks of them.";
        page.family(NAME, Kind::Gauge, help);
        for ((service, shard), counts) in &*all {
            for (word, count) in WORDS.iter().zip(counts) {
                let labels = format!("service=\"{service}\",shard=\"{shard}\",verdict=\"{word}\"");
                page.sample(NAME, Kind::Gauge, &labels, *count);
            }
        }
    }
}

fn place(member: &Member) -> usize {
    match member.verdict() {
        Verdict::Use => 0,
        Verdict::Suspect => 1,
        Verdict::Gone => 2,
    }
}
