//! What people are told of a pick that would be made now.

use waystation_balance::{Balancer, Considered};
use waystation_base::Moment;
use waystation_client::protocol::{Answer, Candidate};

/// Whom the next pick would give and why, with a note to each host that it would
/// compare. Where the hosts come from the caller adds.
pub(crate) fn explained(
    now: Moment,
    balancer: &Balancer,
    note: impl Fn(&Considered) -> String,
) -> Answer {
    let told = balancer.explain(now, None);
    let named = |slot: u32| {
        let entry = balancer.table().entry_at(slot);
        entry.map_or_else(Default::default, |entry| {
            let instance = &entry.instance;
            (instance.id.to_string(), instance.address.to_string())
        })
    };
    // Choices before the last one were discarded.
    let choice = told.choices.last();
    let considered = choice.map_or(&[][..], |choice| &choice.considered[..]);
    let candidates = considered.iter().map(|one| {
        let (id, address) = named(one.slot);
        Candidate {
            id,
            address,
            cost: one.cost,
            note: note(one),
        }
    });
    Answer::Explained {
        policy: balancer.policy_name().to_owned(),
        result: match &told.result {
            Ok(picked) => {
                let (id, address) = named(picked.name.slot);
                format!("{id} {address} {}", picked.reason)
            }
            Err(no_pick) => no_pick.to_string(),
        },
        serving: told.serving,
        unavailable: told.unavailable,
        is_panic: balancer.is_panic(),
        candidates: candidates.collect(),
        origin: String::new(),
    }
}
