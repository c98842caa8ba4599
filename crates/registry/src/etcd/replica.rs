//! What a client knows of the store, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_base::{Epoch, FencingToken};
use waystation_membership::limits::EPOCH_JUMP_MAX;
use waystation_membership::{Instance, InstanceId, ViewVersion, epoch_of as token_epoch};

use super::entry::{Keys, Place, epoch_of, instance_of, left_of, number_of};
use super::proto::event::EventType;
use super::proto::{Event, KeyValue, ResponseHeader};
use crate::mirror::Changes;
use crate::store::{self, Entries, Known, Listed, Skipped};

/// When an instance's key was written last, and the lease that it is attached
/// to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(super) mod_revision: i64,
    pub(super) lease: i64,
}

pub(super) type Entry = store::Entry<Mark>;

/// How to go on after a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Watch from this revision on: nothing else was missed.
    Resume(i64),
    /// List everything, then watch.
    List,
    /// The epoch is lower than it must be. Write this one, then look again.
    Epoch(Epoch),
    /// The store went back: write this epoch, then list.
    Backwards(Epoch),
}

/// What came of a list or a watch.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) changes: Changes,
    /// Whose keys were touched.
    pub(super) touched: BTreeSet<InstanceId>,
    pub(super) skipped: Vec<Skipped>,
    /// The epoch's key was taken away or made lower: the store was changed
    /// behind our back, and is to be looked at as a whole.
    pub(super) is_reset: bool,
}

/// A whole list on its way into a replica, key by key.
#[derive(Debug, Default)]
pub(super) struct Filling {
    epoch: Epoch,
    epoch_mod: i64,
    listed: Listed<InstanceId, Mark>,
}

impl Filling {
    /// Notes what stands at one of the keys.
    pub(super) fn note(&mut self, keys: &Keys, kv: &KeyValue) {
        let reason = match keys.place(&kv.key) {
            Ok(Place::Epoch) => {
                self.epoch = epoch_of(Some(kv));
                self.epoch_mod = kv.mod_revision;
                None
            }
            Ok(Place::Instance(id)) => {
                let (entry, reason) = entry_of(&id, kv);
                self.listed.put(id, entry);
                reason
            }
            Ok(Place::Left) => None,
            Err(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            self.listed.skip(&kv.key, kv.mod_revision, reason);
        }
    }

    /// Which version it is of, if it was listed with this header.
    pub(super) fn at(&self, header: &ResponseHeader) -> ViewVersion {
        ViewVersion {
            epoch: self.epoch,
            number: number_of(header.revision),
        }
    }

    /// All instances.
    pub(super) fn instances(&self) -> impl Iterator<Item = Arc<Instance>> {
        self.listed.instances()
    }
}

/// How many of these events to handle at once: so many or a few more, so that
/// none of the revisions is split.
pub(super) fn whole_revisions(events: &[Event], at_least: usize) -> usize {
    let revision = |event: &Event| event.kv.as_ref().map(|kv| kv.mod_revision);
    let Some(last) = events.get(at_least.max(1) - 1) else {
        return events.len();
    };
    let behind = &events[at_least.max(1)..];
    let same = |event: &&Event| revision(event) == revision(last);
    at_least.max(1) + behind.iter().take_while(same).count()
}

/// What a client has seen of a store.
#[derive(Debug)]
pub(super) struct Replica {
    keys: Keys,
    /// Up to which change it is complete; zero before the first list.
    at: ViewVersion,
    /// The highest version that anybody here has seen.
    floor: ViewVersion,
    epoch_mod: i64,
    cluster: u64,
    term: u64,
    known: Known<InstanceId, Mark>,
}

impl Replica {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            at: ViewVersion::default(),
            floor: ViewVersion::default(),
            epoch_mod: 0,
            cluster: 0,
            term: 0,
            known: Known::default(),
        }
    }

    /// Up to which change it is complete.
    pub(super) fn at(&self) -> ViewVersion {
        self.at
    }

    /// The revision at which the epoch was written.
    pub(super) fn epoch_mod(&self) -> i64 {
        self.epoch_mod
    }

    pub(super) fn entry(&self, id: &InstanceId) -> Option<&Entry> {
        self.known.entry(id)
    }

    /// Somebody has seen this version. True when it is above all that was seen
    /// here: then the store may have gone back. One whose epoch is absurd is not
    /// believed.
    pub(super) fn see(&mut self, version: ViewVersion) -> bool {
        let jump = version.epoch.0.saturating_sub(self.floor.epoch.0);
        let is_news = version > self.floor && jump <= EPOCH_JUMP_MAX;
        if is_news {
            self.floor = version;
        }
        is_news
    }

    /// Somebody was granted this token.
    pub(super) fn see_token(&mut self, token: FencingToken) -> bool {
        let epoch = token_epoch(token);
        let number = token.0 ^ epoch.0 << waystation_membership::limits::TOKEN_COUNTER_BITS;
        self.see(ViewVersion { epoch, number })
    }

    /// The highest version that anybody here has seen. Read before a store is
    /// asked how it stands: its answer may be overtaken by a later change.
    pub(super) fn floor(&self) -> ViewVersion {
        self.floor
    }

    /// How to go on with a store that answers so, to a question asked when the
    /// highest version seen was `floor`.
    pub(super) fn start(
        &self,
        floor: ViewVersion,
        header: &ResponseHeader,
        epoch: Option<&KeyValue>,
    ) -> Start {
        let found = epoch_of(epoch);
        if found > floor.epoch {
            return Start::List;
        }
        let is_same = header.cluster_id == self.cluster;
        let is_back =
            number_of(header.revision) < floor.number || is_same && header.raft_term < self.term;
        if is_back {
            return Start::Backwards(Epoch(floor.epoch.0 + 1));
        }
        if found.0 == 0 || found < floor.epoch {
            return Start::Epoch(Epoch(floor.epoch.0.max(1)));
        }
        if !is_same || self.at.number == 0 || self.at.epoch != found {
            return Start::List;
        }
        Start::Resume(
            i64::try_from(self.at.number)
                .unwrap_or(i64::MAX)
                .saturating_add(1),
        )
    }

    /// Takes in a whole list. Gives what is to be told, and what was known
    /// before.
    pub(super) fn fill(
        &mut self,
        header: &ResponseHeader,
        filling: Filling,
    ) -> (Vec<Skipped>, Entries<InstanceId, Mark>) {
        self.cluster = header.cluster_id;
        self.term = header.raft_term;
        self.at = filling.at(header);
        self.epoch_mod = filling.epoch_mod;
        self.floor = self.floor.max(self.at);
        self.known.fill(filling.listed)
    }

    /// Takes in what a watch tells: whole revisions, in order. What is older
    /// than what is known is left out.
    pub(super) fn apply(&mut self, events: &[Event]) -> News {
        let mut news = News::default();
        let mut left: BTreeMap<InstanceId, i64> = BTreeMap::new();
        let mut number = self.at.number;
        for event in events {
            let Some(kv) = &event.kv else { continue };
            if number_of(kv.mod_revision) <= self.at.number {
                continue;
            }
            number = number.max(number_of(kv.mod_revision));
            let is_put = event.r#type() == EventType::Put;
            match self.keys.place(&kv.key) {
                Ok(Place::Epoch) => {
                    let epoch = if is_put { epoch_of(Some(kv)) } else { Epoch(0) };
                    news.is_reset |= epoch < self.at.epoch;
                    self.at.epoch = epoch;
                    self.epoch_mod = kv.mod_revision;
                }
                Ok(Place::Left) if is_put => {
                    left.extend(left_of(kv).map(|id| (id, kv.mod_revision)));
                }
                Ok(Place::Instance(id)) => {
                    let entry = is_put.then(|| self.note(&id, kv));
                    let is_leaving = left.get(&id) == Some(&kv.mod_revision);
                    let at = ViewVersion {
                        epoch: self.at.epoch,
                        number: number_of(kv.mod_revision),
                    };
                    self.put(id, entry, is_leaving, at, &mut news);
                }
                Err(reason) if is_put => self.known.skips.skip(&kv.key, kv.mod_revision, reason),
                Ok(Place::Left) => {}
                Err(_) => self.known.skips.forget(&kv.key),
            }
        }
        news.skipped = self.known.skips.take();
        self.at.number = number;
        self.floor = self.floor.max(self.at);
        if news.is_reset {
            // What was taken in here is told by a list.
            self.at = ViewVersion::default();
        }
        news
    }

    /// Everything up to this revision has been told.
    pub(super) fn progress(&mut self, revision: i64) {
        self.at.number = self.at.number.max(number_of(revision));
        self.floor = self.floor.max(self.at);
    }

    fn note(&mut self, id: &InstanceId, kv: &KeyValue) -> Entry {
        let (entry, reason) = entry_of(id, kv);
        if let Some(reason) = reason {
            self.known.skips.skip(&kv.key, kv.mod_revision, reason);
        }
        entry
    }

    fn put(
        &mut self,
        id: InstanceId,
        entry: Option<Entry>,
        is_leaving: bool,
        at: ViewVersion,
        news: &mut News,
    ) {
        let instance = entry.as_ref().and_then(|entry| entry.instance.clone());
        let old = self.known.put(id.clone(), entry);
        (news.changes).note(old.as_deref(), instance.as_ref(), is_leaving, at);
        news.touched.insert(id);
    }
}

/// An instance's key, and why it holds no instance if it does not.
pub(super) fn entry_of(id: &InstanceId, kv: &KeyValue) -> (Entry, Option<String>) {
    let (instance, reason) = match instance_of(id, kv) {
        Ok(instance) => (Some(Arc::new(instance)), None),
        Err(reason) => (None, Some(reason)),
    };
    let entry = Entry {
        instance,
        closed: None,
        mark: Mark {
            mod_revision: kv.mod_revision,
            lease: kv.lease,
        },
    };
    (entry, reason)
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
