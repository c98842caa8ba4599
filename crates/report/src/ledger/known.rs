//! What the store knows of keys, and what becomes of totals that were told before it
//! was asked.

use std::collections::HashMap;

use super::Ledger;
use crate::batch::{Found, KeyRow, LarsRow, Loaded, Told};
use crate::key::{KeyName, LarsKey, find_by};
use crate::totals::{FROM_STORE, Totals, settle_firsts};

impl Ledger {
    /// The store was read: what was told before goes on from what it knew.
    pub fn handle_loaded(&mut self, now_s: u64, loaded: Loaded) {
        self.standing = Some(loaded.standing);
        self.pieces.begin_after(loaded.standing.folded);
        self.last_id = self.last_id.max(loaded.last_id);
        self.has_forgotten = loaded.is_cut;
        let mut settled = HashMap::new();
        for (name, (id, told)) in by_name(loaded.keys, loaded.lars) {
            settled.extend(self.restore(now_s, &name, id, told));
        }
        if !self.has_forgotten {
            let nobody_knew: Vec<u32> = self.firsts.keys().copied().collect();
            for at in nobody_knew {
                settled.extend(self.settle_unknown(at));
            }
        }
        self.count_first(settled);
    }

    /// Keys that the store may know and that are not known here, at most `max`.
    /// Their counts wait until [`Ledger::handle_found`]. Cost: O(`max`).
    pub fn poll_unknown(&self, max: usize) -> Vec<KeyName> {
        if !self.is_loaded() {
            return Vec::new();
        }
        let entries = self.firsts.keys().take(max);
        let entries = entries.filter_map(|&at| self.entries.get(at as usize)?.as_ref());
        entries.map(|entry| entry.name.clone()).collect()
    }

    /// What the store knows of the keys `asked`, all batches being written to it.
    pub fn handle_found(&mut self, now_s: u64, asked: &[KeyName], found: Found) {
        let mut settled = HashMap::new();
        for (name, (id, told)) in by_name(found.keys, found.lars) {
            settled.extend(self.restore(now_s, &name, id, told));
        }
        for name in asked {
            if let Some(at) = self.entry_of(name) {
                settled.extend(self.settle_unknown(at));
            }
        }
        self.count_first(settled);
    }

    /// What counts of a key that the store does not know: all that was told first.
    fn settle_unknown(&mut self, at: u32) -> Option<(u32, Totals)> {
        if let Some(Some(entry)) = self.entries.get_mut(at as usize) {
            entry.is_asked = true;
        }
        let mut added = Totals::default();
        for (_, totals) in self.firsts.remove(&at)? {
            added += totals;
        }
        Some((at, added))
    }

    /// The entry of a key that is known here.
    fn entry_of(&mut self, name: &KeyName) -> Option<u32> {
        match name {
            KeyName::Lars(key) => self.known_lars(*key),
            KeyName::Named {
                service,
                host,
                caller,
            } => self.known_named(service, host, caller),
        }
    }

    pub(super) fn known_lars(&self, key: LarsKey) -> Option<u32> {
        self.by_lars.get(&key).copied()
    }

    /// It leaves the three names as one in `find`.
    pub(super) fn known_named(&mut self, service: &str, host: &str, caller: &str) -> Option<u32> {
        find_by(&mut self.find, service, host, caller);
        self.by_name.get(self.find.as_str()).copied()
    }

    /// The store's row of a key. What counts beyond it of what was told first.
    fn restore(
        &mut self,
        now_s: u64,
        name: &KeyName,
        id: u32,
        told: Told,
    ) -> Option<(u32, Totals)> {
        let is_lars = matches!(name, KeyName::Lars(_));
        let at = match name {
            KeyName::Lars(key) => self.lars_entry(*key),
            KeyName::Named {
                service,
                host,
                caller,
            } => self.named_entry(service, host, caller),
        };
        let at = at?;
        let firsts = self.firsts.remove(&at).unwrap_or_default();
        let entry = self.entries.get_mut(at as usize)?.as_mut()?;
        entry.id = id;
        entry.is_asked = true;
        let (added, is_met) = settle_firsts(&firsts, (told.source, told.totals), is_lars);
        if firsts.is_empty() {
            entry.told = told;
            entry.heard = now_s;
        }
        // Of Lars, totals that were told here have taken the place of it.
        if !is_met && (firsts.is_empty() || !is_lars) {
            entry.baselines.restore(told.source, told.totals);
        }
        (!firsts.is_empty()).then_some((at, added))
    }

    /// Counts that a key told before its first waiting cell was: no cell is stored
    /// without all that its total says.
    pub(super) fn count_first(&mut self, mut settled: HashMap<u32, Totals>) {
        if settled.is_empty() {
            return;
        }
        self.pieces.add_to_first(&mut settled);
        for (at, added) in settled {
            self.count(at, added);
        }
    }
}

/// Rows of the store by key: its number, and what was told last. Of Lars' keys
/// Lars' own table says that.
fn by_name(keys: Vec<KeyRow>, lars: Vec<LarsRow>) -> HashMap<KeyName, (u32, Told)> {
    let keys = keys.into_iter().map(|row| (row.name, (row.id, row.told)));
    let mut stored: HashMap<KeyName, (u32, Told)> = keys.collect();
    for row in lars {
        let told = Told {
            source: FROM_STORE,
            ..row.told
        };
        let row = stored.entry(KeyName::Lars(row.key)).or_insert((0, told));
        row.1 = told;
    }
    stored
}
