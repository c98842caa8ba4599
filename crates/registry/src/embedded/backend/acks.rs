//! Acknowledgements that nobody waits for.
//!
//! Each is a message to the registry, as large a part of a change as the push
//! itself; with a thousand subscribers they were half of what a change cost. A
//! drain waits for those of views that show it, and they leave at once. The others
//! are for people who ask who holds what: they wait for some that come behind
//! them, of which the last says it all.

use std::collections::BTreeMap;

use waystation_base::ServiceName;
use waystation_membership::limits::PUSHES_UNACKED_MAX;
use waystation_membership::{Content, SubscriberId, ViewAck, ViewVersion};
use waystation_net::{WaitsFor, waiting};

use super::super::convert;
use super::super::proto::id;
use super::Link;
use crate::draining::Draining;
use crate::limits::ACK_PAUSE;

/// So many views of a service are acknowledged by one message at most: no more
/// than may be open when a registry goes on with who was behind.
const TOGETHER_MAX: u64 = PUSHES_UNACKED_MAX as u64 / 2;

/// An acknowledgement that has not left.
#[derive(Debug)]
struct Kept {
    at: ViewVersion,
    /// Views that may come before it leaves.
    left: u64,
}

/// The acknowledgements of one client.
#[derive(Debug, Default)]
pub(super) struct Acks {
    kept: BTreeMap<(SubscriberId, ServiceName), Kept>,
    draining: Draining,
}

impl Acks {
    /// The registry has pushed this.
    pub(super) fn note(&mut self, content: &Content) {
        self.draining.note(content);
    }

    /// Takes an acknowledgement; gives it back if it is to leave now. `random`
    /// spreads those of many subscribers that are told the same.
    pub(super) fn take(&mut self, ack: ViewAck, random: u64) -> Option<ViewAck> {
        let key = (ack.subscriber, ack.service.clone());
        if self.draining.is_any(&ack.service) {
            self.kept.remove(&key);
            return Some(ack);
        }
        let kept = self.kept.entry(key).or_insert_with(|| Kept {
            at: ack.at,
            left: TOGETHER_MAX / 2 + random % (TOGETHER_MAX / 2 + 1),
        });
        kept.at = ack.at;
        kept.left -= 1;
        if kept.left > 0 {
            return None;
        }
        self.kept.remove(&(ack.subscriber, ack.service.clone()));
        Some(ack)
    }

    /// A subscriber begins anew, or is no more.
    pub(super) fn forget(&mut self, subscriber: SubscriberId) {
        self.kept.retain(|(id, _), _| *id != subscriber);
    }

    /// Whether none is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All that are kept: they leave now.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = ViewAck> + use<> {
        let kept = std::mem::take(&mut self.kept).into_iter();
        kept.map(|((subscriber, service), kept)| ViewAck {
            subscriber,
            service,
            at: kept.at,
        })
    }
}

impl Link {
    /// Acknowledges a view: now, or with others that come behind it.
    pub(super) fn acknowledge(&self, ack: ViewAck) {
        let is_first = self.acks.borrow().is_empty();
        let random = self.shard.random();
        let due = self.acks.borrow_mut().take(ack, random);
        if let Some(ack) = due {
            return self.push_ack(&ack);
        }
        if is_first {
            // Not all clients that were told the same speak at the same moment.
            let spread = u32::try_from(random % 1024).unwrap_or(0);
            let pause = ACK_PAUSE / 2 + ACK_PAUSE / 2048 * spread;
            let link = self.clone();
            self.clone().spawn(async move {
                waiting(WaitsFor::plain("registry pause"), link.shard.sleep(pause)).await;
                let acks = link.acks.borrow_mut().take_all();
                acks.for_each(|ack| link.push_ack(&ack));
            });
        }
    }

    fn push_ack(&self, ack: &ViewAck) {
        let at = Some(convert::version_message(ack.at));
        self.push_about(id::ACK, ack.subscriber, ack.service.to_string(), at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waystation_base::Epoch;
    use waystation_membership::{State, View};

    use super::*;
    use crate::test_support::instance;

    fn ack(subscriber: u128, number: u64) -> ViewAck {
        let epoch = Epoch(1);
        ViewAck {
            subscriber: SubscriberId(subscriber),
            service: "a".parse().unwrap(),
            at: ViewVersion { epoch, number },
        }
    }

    /// Each subscriber acknowledged each view by a message of its own, and a change
    /// that 1,000 of them saw took twice as long.
    #[test]
    fn several_views_are_acknowledged_by_one_message() {
        for random in 0..20 {
            let mut acks = Acks::default();
            let sent = (1..=1000).filter_map(|number| acks.take(ack(7, number), random));
            let sent: Vec<u64> = sent.map(|ack| ack.at.number).collect();
            let gaps: Vec<u64> = sent.windows(2).map(|two| two[1] - two[0]).collect();
            assert!(
                gaps.iter().all(|gap| (4..=TOGETHER_MAX).contains(gap)),
                "{gaps:?}"
            );
        }
    }

    #[test]
    fn what_a_drain_waits_for_leaves_at_once_and_says_all() {
        let mut acks = Acks::default();
        assert_eq!(acks.take(ack(7, 1), 0), None);
        assert_eq!(acks.take(ack(8, 1), 0), None);
        let mut one = instance("a", "a-1");
        one.state = State::Draining;
        let mut view = View::empty(one.service.clone(), ack(7, 2).at);
        view.instances.insert(one.id.clone(), Arc::new(one));
        acks.note(&Content::View(Arc::new(view)));
        assert_eq!(acks.take(ack(7, 2), 0), Some(ack(7, 2)));
        let rest: Vec<ViewAck> = acks.take_all().collect();
        assert_eq!(rest, [ack(8, 1)], "what came before it is said with it");
        assert!(acks.is_empty());
        let view = View::empty("a".parse().unwrap(), ack(7, 3).at);
        acks.note(&Content::View(Arc::new(view)));
        assert_eq!(acks.take(ack(7, 3), 0), None, "nobody waits any more");
    }

    #[test]
    fn the_latest_is_kept_and_who_is_gone_says_nothing() {
        let mut acks = Acks::default();
        for number in 1..=3 {
            assert_eq!(acks.take(ack(7, number), 0), None);
        }
        assert_eq!(acks.take(ack(8, 3), 0), None);
        acks.forget(SubscriberId(8));
        let kept: Vec<ViewAck> = acks.take_all().collect();
        assert_eq!(kept, [ack(7, 3)]);
    }
}
