//! What a client knows of the entries of a store, and a list on its way there.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use waystation_membership::Instance;

use super::shape::Entry;
use super::skips::{Skipped, Skips};
use crate::limits::STORE_SKIPPED_KNOWN_MAX;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// How many entries of stores this thread has compared, put where they are known,
/// or shown: how much of a change is handled before others of a shard have their
/// turn.
#[doc(hidden)]
pub fn entries_taken() -> u64 {
    TAKEN.get()
}

/// One more.
pub(crate) fn note_taken() {
    TAKEN.set(TAKEN.get().wrapping_add(1));
}

/// Entries by what the store names them.
pub(crate) type Entries<K, M> = BTreeMap<K, Entry<M>>;

/// The entries of a store as far as they were told, and what was skipped.
#[derive(Debug)]
pub(crate) struct Known<K, M> {
    entries: Entries<K, M>,
    pub(crate) skips: Skips,
}

/// Entries that were read, made one after another beside what is known.
#[derive(Debug)]
pub(crate) struct Listed<K, M> {
    entries: Entries<K, M>,
    /// What is no instance: its key, when it was written, and why it is none.
    skipped: Vec<(Vec<u8>, i64, String)>,
}

impl<K, M> Default for Known<K, M> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            skips: Skips::default(),
        }
    }
}

impl<K, M> Default for Listed<K, M> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            skipped: Vec::new(),
        }
    }
}

impl<K: Ord, M> Known<K, M> {
    pub(crate) fn entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Entry<M>>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What stands there from now on. Gives the instance that stood there before.
    pub(crate) fn put(&mut self, key: K, entry: Option<Entry<M>>) -> Option<Arc<Instance>> {
        note_taken();
        let old = match entry {
            Some(entry) => self.entries.insert(key, entry),
            None => self.entries.remove(&key),
        };
        old.and_then(|old| old.instance)
    }

    /// Just this is known from now on. Gives what is to be told, and what was known
    /// before.
    pub(crate) fn fill(&mut self, listed: Listed<K, M>) -> (Vec<Skipped>, Entries<K, M>) {
        let entries = self.skip_of(listed);
        let before = std::mem::replace(&mut self.entries, entries);
        (self.skips.take(), before)
    }

    /// Takes over what was skipped of a list. Gives the rest.
    pub(crate) fn skip_of(&mut self, listed: Listed<K, M>) -> Entries<K, M> {
        for (key, revision, reason) in listed.skipped {
            self.skips.skip(&key, revision, reason);
        }
        listed.entries
    }

    #[cfg(test)]
    pub(crate) fn instances(&self) -> impl Iterator<Item = Arc<Instance>> {
        let entries = self.entries.values();
        entries.filter_map(|entry| entry.instance.clone())
    }
}

impl<K: Ord, M> Listed<K, M> {
    pub(crate) fn put(&mut self, key: K, entry: Entry<M>) {
        self.entries.insert(key, entry);
    }

    /// What stands at `key`, written at that revision, makes no sense.
    pub(crate) fn skip(&mut self, key: &[u8], revision: i64, reason: String) {
        // With more nobody would be told of it.
        if self.skipped.len() < STORE_SKIPPED_KNOWN_MAX {
            self.skipped.push((key.to_vec(), revision, reason));
        }
    }

    /// All entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&K, &Entry<M>)> {
        self.entries.iter()
    }

    /// All instances.
    pub(crate) fn instances(&self) -> impl Iterator<Item = Arc<Instance>> {
        let entries = self.entries.values();
        entries.filter_map(|entry| entry.instance.clone())
    }
}
