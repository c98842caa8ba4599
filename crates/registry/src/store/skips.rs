//! What is skipped since it is not ours or malformed.

use std::collections::BTreeMap;

use crate::limits::STORE_SKIPPED_KNOWN_MAX;

/// Something that was skipped: where, and why.
pub(crate) type Skipped = (String, String);

/// What was told to be skipped, as it was written when, so that it is told once.
#[derive(Debug, Default)]
pub(crate) struct Skips {
    known: BTreeMap<Vec<u8>, i64>,
    news: Vec<Skipped>,
}

impl Skips {
    /// What stands at `key`, written at that revision, makes no sense.
    pub(crate) fn skip(&mut self, key: &[u8], revision: i64, reason: String) {
        let is_known = self.known.get(key) == Some(&revision);
        let has_room = self.known.len() < STORE_SKIPPED_KNOWN_MAX;
        if !is_known && (has_room || self.known.contains_key(key)) {
            self.known.insert(key.to_vec(), revision);
            self.news.push((printed(key), reason));
        }
    }

    /// It is there no longer.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        self.known.remove(key);
    }

    /// What was not told yet.
    pub(crate) fn take(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.news)
    }
}

/// A key for people.
fn printed(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    text.chars().take(200).collect()
}
