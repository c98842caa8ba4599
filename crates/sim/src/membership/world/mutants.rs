//! Faults of the product, played by the world: what the checks must find.

use std::time::Duration;

use waystation_base::{FencingToken, Moment};
use waystation_membership::limits::TOKEN_COUNTER_BITS;
use waystation_membership::{
    Content, Directory, DirectoryConfig, FollowerConfig, Granted, Instance, InstanceId, Register,
    RegistrationConfig, Renewed, State, SubscriberId, ViewAck,
};

use super::super::message::Message;

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
    /// What a subscriber was sent counts as acknowledged.
    SentIsAcked,
    /// So does the first view that it was sent.
    FirstIsAcked,
    /// An acknowledgement counts for the latest that was sent.
    AckOfOlderCounts,
    /// A subscriber whose connection is lost is forgotten.
    LostIsForgotten,
    /// After a restart of the registry nobody is waited for.
    NoSettling,
    /// A restart of the registry puts a draining node back as serving.
    DrainNotRestored,
    /// That a node drains is not stored.
    DrainNotSaved,
    /// A node that registers again serves, whatever it was before.
    DrainUndone,
    /// Who was drained is not remembered.
    DrainedForgotten,
    /// A node asks to be drained once, whatever becomes of its word.
    DrainToldOnce,
    /// So it is with its word that nothing is in flight.
    IdleToldOnce,
    /// Renewals do not tell how far a drain is.
    RenewalsSayNothing,
}

/// What a node does, for mutants.
#[derive(Clone, Copy, Default)]
pub(super) struct Doing {
    /// When it asked last.
    pub(super) asked_at: Moment,
    /// Whether it asks no more.
    pub(super) has_given_up: bool,
    /// Whether it asked to be drained, and told that nothing is in flight.
    has_told: [bool; 2],
}

impl Mutant {
    /// Each that there is, and what is said of it.
    #[cfg(test)]
    pub(in super::super) const ALL: [(Self, &str); 19] = [
        (Self::GuardNeverRaised, "were lost at once"),
        (Self::TokenKept, "one token, two holders"),
        (Self::CounterStands, "one token, two holders"),
        (Self::EpochStands, "is two things"),
        (Self::LeaseFromAnswer, "is evicted while it serves"),
        (Self::NoResync, "misses a"),
        (Self::GivesUp, "misses a"),
        (Self::SentIsAcked, "after it acknowledged its drain"),
        (Self::FirstIsAcked, "after it acknowledged its drain"),
        (Self::AckOfOlderCounts, "after it acknowledged its drain"),
        (Self::LostIsForgotten, "after it acknowledged its drain"),
        (Self::NoSettling, "after it acknowledged its drain"),
        (Self::DrainNotRestored, "whose drain was shown"),
        (Self::DrainNotSaved, "whose drain was shown"),
        (Self::DrainUndone, "whose drain was shown"),
        (Self::DrainedForgotten, "was drained and is back"),
        (Self::DrainToldOnce, "it still waits for its drain"),
        (Self::IdleToldOnce, "misses a"),
        (Self::RenewalsSayNothing, "misses a"),
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

    /// Of a registry that starts again.
    pub(super) fn restarted(self) -> DirectoryConfig {
        let config = self.directory();
        if self != Self::NoSettling {
            return config;
        }
        DirectoryConfig {
            linger: Duration::ZERO,
            ..config
        }
    }

    pub(super) fn directory(self) -> DirectoryConfig {
        let config = DirectoryConfig::default();
        if self != Self::DrainedForgotten {
            return config;
        }
        DirectoryConfig {
            drained_remembered: Duration::ZERO,
            ..config
        }
    }

    /// What a restart makes of what was kept.
    pub(super) fn restored(self, mut kept: Instance) -> Instance {
        if self == Self::DrainNotRestored {
            kept.state = State::Serving;
        }
        kept
    }

    /// Whether an instance is stored.
    pub(super) fn is_saved(self, instance: &Instance) -> bool {
        self != Self::DrainNotSaved || instance.state != State::Draining
    }

    /// Has the registry undo a drain of who was granted its id again.
    pub(super) fn undo_drain(
        self,
        now: Moment,
        directory: &mut Directory,
        granted: &mut Granted,
        mut instance: Instance,
    ) {
        if self == Self::DrainUndone && granted.state == State::Draining {
            granted.state = State::Serving;
            (instance.state, instance.token) = (State::Serving, granted.token);
            let placed = directory.handle_place(now, instance);
            placed.expect("it was just taken");
        }
    }

    /// What a push to a subscriber is taken for.
    pub(super) fn ack_of_push(
        self,
        directory: &Directory,
        subscriber: SubscriberId,
        content: &Content,
    ) -> Option<ViewAck> {
        let service = content.service();
        let is_first = || {
            let mut holders = directory.holders(service.as_str());
            holders.any(|one| one.subscriber == subscriber && one.acked.is_none())
        };
        let counts = self == Self::SentIsAcked || self == Self::FirstIsAcked && is_first();
        counts.then(|| ViewAck {
            subscriber,
            service: service.clone(),
            at: content.at(),
        })
    }

    /// What an acknowledgement is taken for.
    pub(super) fn counted(self, directory: &Directory, mut ack: ViewAck) -> ViewAck {
        if self == Self::AckOfOlderCounts {
            let mut holders = directory.holders(ack.service.as_str());
            let holder = holders.find(|one| one.subscriber == ack.subscriber);
            ack.at = holder.and_then(|one| one.sent).unwrap_or(ack.at);
        }
        ack
    }

    /// The registry learns that a subscriber's connection is lost.
    pub(super) fn lose(self, now: Moment, directory: &mut Directory, subscriber: SubscriberId) {
        if self == Self::LostIsForgotten {
            directory.handle_unsubscribe(now, subscriber);
        } else {
            directory.handle_lost(now, subscriber);
        }
    }

    /// Whether a node's word is left unsaid.
    pub(super) fn is_unsaid(self, doing: &mut Doing, message: &Message) -> bool {
        let (which, mutant) = match message {
            Message::Drain(..) => (0, Self::DrainToldOnce),
            Message::Idle(..) => (1, Self::IdleToldOnce),
            _ => return false,
        };
        std::mem::replace(&mut doing.has_told[which], true) && self == mutant
    }

    /// What a node hears of its renewal.
    pub(super) fn renewed(self, mut renewed: Renewed, longer: Duration) -> Renewed {
        renewed.ttl += longer;
        if self == Self::RenewalsSayNothing {
            renewed.drain = None;
            renewed.state = State::Serving;
        }
        renewed
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
