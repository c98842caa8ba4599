//! Entries that were put aside, and the keys that they hold back.

use std::collections::BTreeMap;

use waystation_base::Seq;

use super::applier::ReplayRefusal;
use crate::entry::Touches;

/// Parked entries by sequence, with a count of each key.
#[derive(Debug, Default)]
pub(super) struct Parked {
    entries: BTreeMap<Seq, Touches>,
    keys: BTreeMap<u64, usize>,
    /// Entries that may touch anything.
    anything: usize,
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn insert(&mut self, seq: Seq, touches: Touches) {
        self.remove(seq);
        match &touches {
            Touches::Anything => self.anything += 1,
            Touches::Keys(keys) => {
                for key in keys {
                    *self.keys.entry(*key).or_default() += 1;
                }
            }
        }
        self.entries.insert(seq, touches);
    }

    pub(super) fn remove(&mut self, seq: Seq) {
        match self.entries.remove(&seq) {
            None => {}
            Some(Touches::Anything) => self.anything -= 1,
            Some(Touches::Keys(keys)) => {
                for key in keys {
                    if let Some(count) = self.keys.get_mut(&key) {
                        *count -= 1;
                        if *count == 0 {
                            self.keys.remove(&key);
                        }
                    }
                }
            }
        }
    }

    /// Whether an entry that touches this must wait behind what is parked.
    pub(super) fn conflicts(&self, touches: &Touches) -> bool {
        match touches {
            _ if self.entries.is_empty() => false,
            _ if self.anything > 0 => true,
            Touches::Anything => true,
            Touches::Keys(keys) => keys.iter().any(|key| self.keys.contains_key(key)),
        }
    }

    /// Whether nothing parked earlier touches the same. Cost: O(parked).
    pub(super) fn check_replay(&self, seq: Seq) -> Result<(), ReplayRefusal> {
        let Some(touches) = self.entries.get(&seq) else {
            return Err(ReplayRefusal::NotParked { seq });
        };
        let mut earlier = self.entries.range(..seq);
        match earlier.find(|(_, one)| overlap(one, touches)) {
            Some((&by, _)) => Err(ReplayRefusal::HeldBack { seq, by }),
            None => Ok(()),
        }
    }

    pub(super) fn into_vec(self) -> Vec<(Seq, Touches)> {
        self.entries.into_iter().collect()
    }
}

fn overlap(one: &Touches, other: &Touches) -> bool {
    match (one, other) {
        (Touches::Keys(one), Touches::Keys(other)) => one.iter().any(|key| other.contains(key)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[u64]) -> Touches {
        Touches::Keys(keys.to_vec())
    }

    #[test]
    fn keys_are_held_back_until_all_that_hold_them_are_gone() {
        let mut parked = Parked::default();
        assert!(!parked.conflicts(&Touches::Anything));
        parked.insert(Seq(1), keys(&[7, 8]));
        parked.insert(Seq(2), keys(&[8]));
        assert!(parked.conflicts(&keys(&[1, 8])));
        assert!(parked.conflicts(&Touches::Anything));
        assert!(!parked.conflicts(&keys(&[9])));
        parked.remove(Seq(1));
        assert!(!parked.conflicts(&keys(&[7])));
        assert!(parked.conflicts(&keys(&[8])));
        parked.remove(Seq(2));
        assert!(parked.is_empty());
    }

    #[test]
    fn replays_keep_the_order_of_each_key() {
        let mut parked = Parked::default();
        parked.insert(Seq(1), keys(&[7]));
        parked.insert(Seq(2), keys(&[8]));
        parked.insert(Seq(3), Touches::Anything);
        assert_eq!(parked.check_replay(Seq(2)), Ok(()));
        let by = Seq(1);
        assert_eq!(
            parked.check_replay(Seq(3)),
            Err(ReplayRefusal::HeldBack { seq: Seq(3), by })
        );
        let seq = Seq(9);
        assert_eq!(
            parked.check_replay(seq),
            Err(ReplayRefusal::NotParked { seq })
        );
    }
}
