//! Faults of the product, played by the world: what the checks must find.

use std::time::Duration;

use waystation_base::{FencingToken, Moment};
use waystation_membership::limits::TOKEN_COUNTER_BITS;
use waystation_membership::{Directory, FollowerConfig, InstanceId, Register, RegistrationConfig};

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Mutant {
    None,
    /// Whatever a source takes away is believed at once.
    GuardNeverRaised,
    /// A new start of a node is granted the token of the one before.
    TokenKept,
    /// All tokens of an epoch are the same.
    CounterStands,
    /// The registry starts in the epoch of its start before.
    EpochStands,
    /// A node counts its lease from the answer, and to its very end.
    LeaseFromAnswer,
    /// A subscriber that is connected again asks for nothing.
    NoResync,
    /// Who was refused, a registration or a renewal, does not register again.
    GivesUp,
}

impl Mutant {
    /// Each that there is, and what is said of it.
    #[cfg(test)]
    pub(in super::super) const ALL: [(Self, &str); 7] = [
        (Self::GuardNeverRaised, "were lost at once"),
        (Self::TokenKept, "one token, two holders"),
        (Self::CounterStands, "one token, two holders"),
        (Self::EpochStands, "is two things"),
        (Self::LeaseFromAnswer, "is evicted while it serves"),
        (Self::NoResync, "misses a"),
        (Self::GivesUp, "misses a"),
    ];

    pub(super) fn follower(self) -> FollowerConfig {
        let config = FollowerConfig::default();
        if self != Self::GuardNeverRaised {
            return config;
        }
        FollowerConfig {
            suspect_for: Duration::ZERO,
            trusted_loss_min: usize::MAX,
            ..config
        }
    }

    pub(super) fn registration(self) -> RegistrationConfig {
        let config = RegistrationConfig::default();
        if self != Self::LeaseFromAnswer {
            return config;
        }
        RegistrationConfig {
            fence_margin: Duration::ZERO,
            ..config
        }
    }

    /// How much longer than it is a lease seems to be.
    pub(super) fn too_long(self, now: Moment, asked_at: Moment) -> Duration {
        if self == Self::LeaseFromAnswer {
            return now.saturating_since(asked_at);
        }
        Duration::ZERO
    }

    /// Has the registry take a node for the start that holds its id.
    pub(super) fn hide_start(self, directory: &Directory, register: &mut Register) {
        if self == Self::TokenKept
            && let Some(held) = directory.lease(&register.instance.id)
            && held.owner.id == register.instance.owner.id
        {
            register.instance.owner = held.owner;
        }
    }

    /// What a node is told of the token that it was granted.
    pub(super) fn told(self, token: FencingToken) -> FencingToken {
        if self == Self::CounterStands {
            return FencingToken(token.0 >> TOKEN_COUNTER_BITS << TOKEN_COUNTER_BITS | 1);
        }
        token
    }

    /// The token of which a node was told so.
    pub(super) fn held(
        self,
        directory: &Directory,
        id: &InstanceId,
        told: FencingToken,
    ) -> FencingToken {
        let held = directory.lease(id).map(|lease| lease.token);
        held.filter(|held| self.told(*held) == told).unwrap_or(told)
    }
}
