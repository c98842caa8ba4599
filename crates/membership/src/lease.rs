//! Leases: who holds which id, until when, and with which fencing token.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;
use waystation_base::{Epoch, FencingToken, Moment};

use crate::ids::{InstanceId, Owner};
use crate::limits::{LEASES_MAX, NUMBERS_BASE_MAX, TOKEN_COUNTER_BITS, TTL_MAX, TTL_MIN};

/// One id's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: Owner,
    /// Rises with each new holder of the id.
    pub token: FencingToken,
    /// For how long a renewal holds.
    pub ttl: Duration,
    /// When it expires unless it is renewed.
    pub deadline: Moment,
}

/// Why a lease is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Another owner holds the id, and its lease lives.
    #[error("the id is held by owner {}", held.owner.id)]
    Held {
        /// The lease that is in the way.
        held: Lease,
    },
    /// A later start of the same node holds the id.
    #[error("incarnation {} of the owner holds the id", held.owner.incarnation)]
    Superseded {
        /// The lease that is in the way.
        held: Lease,
    },
    /// There are [`LEASES_MAX`] leases.
    #[error("all {LEASES_MAX} leases are taken")]
    Full,
    /// The tokens of this epoch are used up: restart with a higher epoch.
    #[error("no fencing token is left in this epoch")]
    TokensSpent,
}

/// Why a lease is not renewed, changed or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HolderError {
    /// Nobody holds the id: register again.
    #[error("nobody holds the id")]
    Unknown,
    /// The id went to another holder: stop, and register again.
    #[error("the id is held under token {current}")]
    Fenced {
        /// The token of the present holder.
        current: FencingToken,
    },
}

/// The leases of one registry.
///
/// Tokens are the epoch in the upper bits and a counter in the lower
/// [`TOKEN_COUNTER_BITS`]: as long as each start of the registry has a higher
/// epoch, tokens rise over restarts although the counter is not stored. A start
/// from an old backup may have an epoch for the second time: it gives no token a
/// second time when each begins to count elsewhere, see [`Leases::begin_at`].
///
/// A lease lives until [`Leases::expire`] takes it out, however late that is
/// called: nobody else gets the id before.
///
/// Cost: O(log leases) for each call unless it says otherwise.
#[derive(Debug)]
pub struct Leases {
    epoch: Epoch,
    /// Where the tokens of each epoch begin.
    base: u64,
    granted: u64,
    by_id: BTreeMap<InstanceId, Lease>,
    by_deadline: BTreeSet<(Moment, InstanceId)>,
}

impl Leases {
    /// No leases, in an epoch that none before had.
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            base: 0,
            granted: 0,
            by_id: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }

    /// Has tokens of each epoch begin above `base`, which is brought to
    /// [`NUMBERS_BASE_MAX`]. Before the first grant.
    pub const fn begin_at(&mut self, base: u64) {
        let max = NUMBERS_BASE_MAX;
        self.base = if base < max { base } else { max };
        self.granted = self.base;
    }

    /// Grants `id` to `owner` for `ttl` (brought between [`TTL_MIN`] and
    /// [`TTL_MAX`]). The same start of the same node keeps its token, so that a
    /// registration sent twice is one; a later start of it replaces the stale
    /// lease under a new token.
    ///
    /// # Errors
    /// The id is held by another, or a bound is reached.
    pub fn grant(
        &mut self,
        now: Moment,
        id: &InstanceId,
        owner: Owner,
        ttl: Duration,
    ) -> Result<Lease, GrantError> {
        let kept_token = match self.by_id.get(id) {
            Some(&held) if held.owner.id != owner.id => return Err(GrantError::Held { held }),
            Some(&held) if held.owner.incarnation > owner.incarnation => {
                return Err(GrantError::Superseded { held });
            }
            Some(held) if held.owner == owner => Some(held.token),
            None if self.by_id.len() >= LEASES_MAX => return Err(GrantError::Full),
            Some(_) | None => None,
        };
        let token = match kept_token {
            Some(token) => token,
            None => self.next_token()?,
        };
        let ttl = ttl.clamp(TTL_MIN, TTL_MAX);
        let lease = Lease {
            owner,
            token,
            ttl,
            deadline: now + ttl,
        };
        self.put(id, lease);
        Ok(lease)
    }

    /// The highest token that was granted, or could have been: every other is
    /// lower.
    pub const fn highest(&self) -> FencingToken {
        FencingToken(self.epoch.0 << TOKEN_COUNTER_BITS | self.granted)
    }

    /// The lowest token that is granted in this epoch.
    pub(crate) const fn first(&self) -> FencingToken {
        FencingToken(self.epoch.0 << TOKEN_COUNTER_BITS | (self.base + 1))
    }

    /// Gives back the lease that `owner` has on `id` if its token is below one
    /// that it has seen: the next is granted under a higher one.
    pub fn revoke_below(&mut self, id: &InstanceId, owner: Owner, seen: FencingToken) {
        let is_below = |lease: &Lease| lease.owner == owner && lease.token < seen;
        if self.by_id.get(id).is_some_and(is_below) {
            self.remove(id);
        }
    }

    /// Puts back a lease that a start before this one had granted. A token of a
    /// higher epoch (the epoch was lost, the leases were not) raises ours.
    pub fn restore(&mut self, id: &InstanceId, lease: Lease) {
        let token_epoch = epoch_of(lease.token).0;
        if token_epoch >= self.epoch.0 {
            self.raise_epoch(Epoch(token_epoch.saturating_add(1)));
        }
        self.put(id, lease);
    }

    /// Holds the lease for its ttl from `now`. Never shortens it, also when the
    /// clock went back.
    ///
    /// # Errors
    /// The caller does not hold the id under `token`.
    pub fn renew(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: FencingToken,
    ) -> Result<Lease, HolderError> {
        let mut lease = *self.held(id, token)?;
        lease.deadline = lease.deadline.max(now + lease.ttl);
        self.put(id, lease);
        Ok(lease)
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// The caller does not hold the id under `token`.
    pub fn revoke(&mut self, id: &InstanceId, token: FencingToken) -> Result<Lease, HolderError> {
        let lease = *self.held(id, token)?;
        self.remove(id);
        Ok(lease)
    }

    /// The lease of `id`, if its token is `token`.
    ///
    /// # Errors
    /// Nobody holds the id, or another does.
    pub fn held(&self, id: &InstanceId, token: FencingToken) -> Result<&Lease, HolderError> {
        let lease = self.by_id.get(id).ok_or(HolderError::Unknown)?;
        if lease.token == token {
            return Ok(lease);
        }
        Err(HolderError::Fenced {
            current: lease.token,
        })
    }

    /// The lease of `id`, whoever holds it.
    pub fn get(&self, id: &InstanceId) -> Option<&Lease> {
        self.by_id.get(id)
    }

    /// Takes out whatever the lease of `id` is.
    pub fn remove(&mut self, id: &InstanceId) -> Option<Lease> {
        let lease = self.by_id.remove(id)?;
        self.by_deadline.remove(&(lease.deadline, id.clone()));
        Some(lease)
    }

    /// Takes out the next lease whose deadline has come. Call until `None`.
    pub fn expire(&mut self, now: Moment) -> Option<(InstanceId, Lease)> {
        if self.by_deadline.first()?.0 > now {
            return None;
        }
        let (_, id) = self.by_deadline.pop_first()?;
        let lease = self.by_id.remove(&id).expect("both maps hold one set");
        Some((id, lease))
    }

    /// Lets no lease expire before `until`: after a stall of the registry,
    /// renewals may have been sent that it did not read. Cost: O(leases that
    /// move · log leases).
    pub fn postpone(&mut self, until: Moment) {
        while let Some((deadline, id)) = self.by_deadline.first().cloned() {
            if deadline >= until {
                return;
            }
            let mut lease = self.by_id[&id];
            lease.deadline = until;
            self.put(&id, lease);
        }
    }

    /// When the next lease expires.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// The epoch of the tokens that are granted.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Goes on with tokens of a higher epoch.
    pub const fn raise_epoch(&mut self, epoch: Epoch) {
        if epoch.0 > self.epoch.0 {
            self.epoch = epoch;
            self.granted = self.base;
        }
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn put(&mut self, id: &InstanceId, lease: Lease) {
        if let Some(old) = self.by_id.insert(id.clone(), lease) {
            self.by_deadline.remove(&(old.deadline, id.clone()));
        }
        self.by_deadline.insert((lease.deadline, id.clone()));
    }

    fn next_token(&mut self) -> Result<FencingToken, GrantError> {
        let counter = self.granted + 1;
        let epoch_max = u64::MAX >> TOKEN_COUNTER_BITS;
        if counter >> TOKEN_COUNTER_BITS != 0 || self.epoch.0 > epoch_max {
            return Err(GrantError::TokensSpent);
        }
        self.granted = counter;
        Ok(FencingToken(self.epoch.0 << TOKEN_COUNTER_BITS | counter))
    }
}

/// The epoch in which `token` was granted.
pub const fn epoch_of(token: FencingToken) -> Epoch {
    Epoch(token.0 >> TOKEN_COUNTER_BITS)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
