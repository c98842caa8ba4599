//! Which key of a client became which entry.

use std::collections::{HashMap, VecDeque};

use waystation_base::Seq;

use crate::entry::ClientKey;
use crate::limits::KEYS_REMEMBERED_MAX;

/// A window over the last keys. What is published again within it is found.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    seqs: HashMap<ClientKey, Seq, Hasher>,
    order: VecDeque<(Seq, ClientKey)>,
}

/// A core draws no randomness of the system: keys are chosen by clients that may
/// publish at all, and who attacks with them slows down the own publishes.
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

impl Keys {
    pub(crate) fn get(&self, key: &ClientKey) -> Option<Seq> {
        self.seqs.get(key).copied()
    }

    /// Remembers a key; sequences rise.
    pub(crate) fn insert(&mut self, key: ClientKey, seq: Seq) {
        self.seqs.insert(key.clone(), seq);
        self.order.push_back((seq, key));
        if self.order.len() > KEYS_REMEMBERED_MAX
            && let Some((seq, key)) = self.order.pop_front()
            && self.seqs.get(&key) == Some(&seq)
        {
            self.seqs.remove(&key);
        }
    }

    /// Forgets keys of entries after `end`: they were not stored.
    pub(crate) fn forget_after(&mut self, end: Seq) {
        while let Some((_, key)) = self.order.pop_back_if(|(seq, _)| *seq > end) {
            self.seqs.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> ClientKey {
        ClientKey::new(&n.to_le_bytes())
    }

    #[test]
    fn keys_are_remembered_up_to_the_bound() {
        let mut keys = Keys::default();
        let count = KEYS_REMEMBERED_MAX as u64 + 1;
        (1..=count).for_each(|n| keys.insert(key(n), Seq(n)));
        assert_eq!(keys.get(&key(1)), None);
        assert_eq!(keys.get(&key(2)), Some(Seq(2)));
        assert_eq!(keys.seqs.len(), KEYS_REMEMBERED_MAX);
    }

    #[test]
    fn what_was_not_stored_is_forgotten() {
        let mut keys = Keys::default();
        (1..=5).for_each(|n| keys.insert(key(n), Seq(n)));
        keys.forget_after(Seq(3));
        assert_eq!(keys.get(&key(3)), Some(Seq(3)));
        assert_eq!(keys.get(&key(4)), None);
        keys.insert(key(9), Seq(4));
        assert_eq!(keys.get(&key(9)), Some(Seq(4)));
    }
}
