//! The same host for the same key.

use waystation_base::{Moment, Rng};

use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{HostName, Hosts};
use crate::limits::{MAGLEV_SLOTS, TIERS};
use crate::policy::{Candidates, Offer, Policy};

/// A key's host by a lookup table that all callers build alike.
///
/// After Daniel Eisenbud et al., "Maglev: A Fast and Reliable Software Network
/// Load Balancer", NSDI 2016, section 3.4. When hosts come or go, few keys of
/// the others move. Differences: a host takes places in proportion to its
/// weight, and a tier has a table of its own. A call without a key gets a
/// random one. Cost of a pick: O(1); of a change: O(table), about 1 ms.
#[derive(Clone, Debug, Default)]
pub struct Maglev {
    tables: [Vec<u32>; TIERS],
}

impl Maglev {
    /// Without hosts.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<H: Hosts + ?Sized> Policy<H> for Maglev {
    fn name(&self) -> &'static str {
        "maglev"
    }

    fn handle_candidates(&mut self, _: Moment, hosts: &H, _: &[HostName], candidates: &Candidates) {
        for (table, slots) in self.tables.iter_mut().zip(&candidates.tiers) {
            let members: Vec<Member> = slots
                .iter()
                .take(MAGLEV_SLOTS)
                .map(|&slot| Member {
                    slot,
                    hash: hosts.hash(slot),
                    weight: hosts.host(slot).weight,
                })
                .collect();
            populate(table, members);
        }
    }

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        rng: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let table = &self.tables[usize::from(offer.tier)];
        if table.is_empty() {
            return Err(NoPick::NoHosts);
        }
        let key = offer.key.unwrap_or_else(|| rng.next_u64());
        let attempt = offer.discarded.len() as u64;
        let mixed = spread(key ^ attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
        let at = (mixed % MAGLEV_SLOTS as u64) as usize;
        trace.consider(table[at], None, "owner of the key");
        Ok(Pick {
            slot: table[at],
            reason: Reason::Key,
        })
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}

struct Member {
    slot: u32,
    hash: u64,
    weight: u32,
}

/// Keys that differ in a few bits go to different places.
const fn spread(key: u64) -> u64 {
    let key = (key ^ (key >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    key ^ (key >> 32)
}

/// Fills `table` with the members' slots. The members are ordered by hash first,
/// since the order decides who takes a contested place.
fn populate(table: &mut Vec<u32>, mut members: Vec<Member>) {
    table.clear();
    if members.is_empty() {
        return;
    }
    members.sort_by_key(|member| member.hash);
    let heaviest = u64::from(
        members
            .iter()
            .map(|one| one.weight)
            .max()
            .unwrap_or(1)
            .max(1),
    );
    let size = MAGLEV_SLOTS as u64;
    // (the next place that it wishes, its step, its credit of turns)
    let mut walks: Vec<(u64, u64, u64)> = members
        .iter()
        .map(|one| (one.hash % size, spread(one.hash) % (size - 1) + 1, 0))
        .collect();
    table.resize(MAGLEV_SLOTS, u32::MAX);
    let mut left = MAGLEV_SLOTS;
    loop {
        for (member, (next, step, credit)) in members.iter().zip(&mut walks) {
            *credit += u64::from(member.weight.max(1));
            if *credit < heaviest {
                continue;
            }
            *credit -= heaviest;
            #[expect(clippy::cast_possible_truncation, reason = "below the size")]
            while table[*next as usize] != u32::MAX {
                *next = (*next + *step) % size;
            }
            #[expect(clippy::cast_possible_truncation, reason = "below the size")]
            let place = *next as usize;
            table[place] = member.slot;
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}
