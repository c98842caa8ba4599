//! What people are told of a pair: its hosts, and whom a caller would be given.

use waystation_balance::{Entry, WindowSeen};
use waystation_base::Moment;
use waystation_client::protocol::{Answer, ListedHost, PAGE_HOSTS};
use waystation_membership::LarsPair;

use super::{Pair, Pairs};
use crate::explained::explained;
use crate::service::state_word;

impl Pairs {
    /// A page of a pair's hosts, those in slots from `from` on; none of a pair
    /// that nothing is known of.
    pub(crate) fn list(&self, now: Moment, pair: LarsPair, from: u32) -> Option<Answer> {
        let pair = self.by_pair.get(&pair)?;
        let mut entries = (pair.balancer.table().entries())
            .filter(|entry| entry.name.slot >= from)
            .peekable();
        let hosts = entries.by_ref().take(PAGE_HOSTS);
        let hosts = hosts.map(|entry| pair.listed(now, entry)).collect();
        Some(Answer::Listed {
            hosts,
            origin: String::new(),
            next: entries.peek().map(|entry| entry.name.slot),
        })
    }

    /// Whom the next caller would be given, and why; nothing of a pair that
    /// nothing is known of.
    pub(crate) fn explain(&self, now: Moment, pair: LarsPair) -> Option<Answer> {
        let balancer = &self.by_pair.get(&pair)?.balancer;
        Some(explained(now, balancer, |one| {
            let window = balancer.window(now, one.slot);
            window.map_or_else(|| one.note.to_owned(), text_of)
        }))
    }
}

impl Pair {
    fn listed(&self, now: Moment, entry: &Entry) -> ListedHost {
        let slot = entry.name.slot;
        let window = self.balancer.window(now, slot);
        let is_overloaded = self.balancer.is_overloaded(slot);
        let (ok, failed) = window.map_or((0, 0), |window| (window.ok, window.failed));
        ListedHost {
            id: entry.instance.id.to_string(),
            address: entry.instance.address.to_string(),
            state: state_word(entry.instance.state).to_owned(),
            verdict: if is_overloaded { "overloaded" } else { "idle" }.to_owned(),
            probe: String::new(),
            callers: String::new(),
            weight: entry.instance.weight,
            tier: entry.tier,
            ejected: false,
            eligible: entry.takes_calls() && !is_overloaded,
            // Callers of Lars do not tell how long calls take, and their reports
            // may be lost or never sent: what is in flight is not known.
            in_flight: 0,
            latency_us: 0,
            error_share: f64::from(failed) / f64::from(ok.saturating_add(failed).max(1)),
            reported_in_flight: 0,
            reported_latency_us: 0,
        }
    }
}

fn text_of(window: WindowSeen) -> String {
    let word = if window.is_overloaded {
        "overloaded"
    } else {
        "idle"
    };
    let WindowSeen { ok, failed, .. } = window;
    let (in_a_row, left) = (window.failed_in_a_row, window.left.as_secs_f64());
    format!("{word}: {ok} ok, {failed} failed, {in_a_row} in a row; {left:.1} s left")
}
