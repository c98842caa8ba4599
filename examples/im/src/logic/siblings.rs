//! The other shards of this process, which know what this one knows.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waystation_base::ShardId;
use waystation_net::{Label, RemoteError, Shard};

use super::counts::Counts;
use super::handlers::Rules;
use super::limits::START_OVER_PAUSE;

/// The way to the other shards. What one shard tells another arrives in its
/// order, or the two start over: whatever was lost on the way is made good by
/// connections that are made anew.
pub(super) struct Siblings {
    shard: Shard,
    counts: Arc<Counts>,
    /// Those that took nothing, until they are told to start over.
    lost: Rc<RefCell<HashSet<ShardId>>>,
}

impl Siblings {
    pub(super) fn new(shard: &Shard, counts: Arc<Counts>) -> Self {
        Self {
            shard: shard.clone(),
            counts,
            lost: Rc::default(),
        }
    }

    /// The other shards.
    pub(super) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.shard.id();
        let count = u16::try_from(self.shard.remote().shards()).unwrap_or(u16::MAX);
        (0..count).map(ShardId).filter(move |other| *other != own)
    }

    /// Has another shard do something. When its mailbox is full `job` is dropped
    /// and the two start over.
    pub(super) fn tell(&self, to: ShardId, job: impl FnOnce(&Shard, &Rules) + Send + 'static) {
        if self.lost.borrow().contains(&to) {
            return;
        }
        let told = self.shard.remote().run_on(to, move |shard| {
            if let Some(rules) = shard.extension::<Rules>() {
                job(shard, &rules);
            }
        });
        // One that has ended is missed by nobody.
        if let Err(RemoteError::Full(_)) = told {
            self.start_over(to);
        }
    }

    /// As soon as it takes something again the other shard forgets the
    /// connections of this one, and both lose those of their Entries, which
    /// then tell who is there and look for what they missed.
    fn start_over(&self, to: ShardId) {
        self.lost.borrow_mut().insert(to);
        self.counts.started_over.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            shard = to.0,
            "a shard takes nothing; its connections are made anew"
        );
        let (shard, lost, from) = (self.shard.clone(), self.lost.clone(), self.shard.id());
        self.shard.spawn(Label::of("start over"), async move {
            loop {
                shard.sleep(START_OVER_PAUSE).await;
                let told = shard.remote().run_on(to, move |other| {
                    if let Some(rules) = other.extension::<Rules>() {
                        rules.start_over(from);
                    }
                });
                if !matches!(told, Err(RemoteError::Full(_))) {
                    break;
                }
            }
            lost.borrow_mut().remove(&to);
            if let Some(rules) = shard.extension::<Rules>() {
                rules.lose_entries();
            }
        });
    }
}
