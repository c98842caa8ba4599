//! Sends that wait for their turn: one at a time in each conversation.

use std::collections::{HashMap, VecDeque};

/// What became of a send that was offered to [`Queues`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered<T> {
    /// Nothing is under way in its conversation: begin it now.
    Begin(T),
    /// It waits for its turn.
    Waits,
    /// Too many wait already.
    Full(T),
}

/// One queue for each conversation with a send under way. The order within a
/// conversation survives retries, since the next send leaves only when the
/// one before has its outcome.
///
/// Calling order: [`offer`](Queues::offer); for each item begun, one
/// [`finish`](Queues::finish) of its conversation, which gives the next.
#[derive(Debug)]
pub(crate) struct Queues<T> {
    /// A conversation is present exactly while a send is under way in it.
    waiting: HashMap<String, VecDeque<T>>,
    len: usize,
    len_max: usize,
}

impl<T> Queues<T> {
    pub(crate) fn new(len_max: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            len: 0,
            len_max,
        }
    }

    /// Adds an item to its conversation's queue.
    pub(crate) fn offer(&mut self, conversation: &str, item: T) -> Offered<T> {
        if self.len >= self.len_max {
            return Offered::Full(item);
        }
        self.len += 1;
        if let Some(queue) = self.waiting.get_mut(conversation) {
            queue.push_back(item);
            return Offered::Waits;
        }
        self.waiting
            .insert(conversation.to_owned(), VecDeque::new());
        Offered::Begin(item)
    }

    /// The item under way in this conversation is done; answers the next.
    pub(crate) fn finish(&mut self, conversation: &str) -> Option<T> {
        let queue = self.waiting.get_mut(conversation)?;
        self.len -= 1;
        let next = queue.pop_front();
        if next.is_none() {
            self.waiting.remove(conversation);
        }
        next
    }

    /// Items that wait or are under way.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_at_a_time_in_each_conversation() {
        let mut queues = Queues::new(10);
        assert_eq!(queues.offer("a", 1), Offered::Begin(1));
        assert_eq!(queues.offer("a", 2), Offered::Waits);
        assert_eq!(queues.offer("b", 3), Offered::Begin(3));
        assert_eq!(queues.finish("a"), Some(2));
        assert_eq!(queues.offer("a", 4), Offered::Waits);
        assert_eq!(queues.finish("a"), Some(4));
        assert_eq!(queues.finish("a"), None);
        assert_eq!(queues.offer("a", 5), Offered::Begin(5));
        assert_eq!(queues.len(), 2);
    }

    #[test]
    fn a_full_queue_hands_the_item_back() {
        let mut queues = Queues::new(2);
        queues.offer("a", 1);
        queues.offer("a", 2);
        assert_eq!(queues.offer("b", 3), Offered::Full(3));
        assert_eq!(queues.finish("a"), Some(2));
        assert_eq!(queues.offer("b", 3), Offered::Begin(3));
    }

    #[test]
    fn finishing_what_was_not_begun_changes_nothing() {
        let mut queues = Queues::<u32>::new(2);
        assert_eq!(queues.finish("a"), None);
        assert_eq!(queues.len(), 0);
    }

    proptest! {
        /// Whatever the interleaving: at most one under way in a
        /// conversation, order kept, and the count back at zero.
        #[test]
        fn order_and_exclusion_hold(steps in proptest::collection::vec((any::<bool>(), 0_u8..4), 0..200)) {
            let mut queues = Queues::new(20);
            let mut under_way: Vec<(String, u32)> = Vec::new();
            let mut done: HashMap<String, Vec<u32>> = HashMap::new();
            let mut number = 0;
            let mut advance = |queues: &mut Queues<u32>, under_way: &mut Vec<(String, u32)>, at: usize| {
                let (key, item) = under_way.remove(at);
                done.entry(key.clone()).or_default().push(item);
                if let Some(next) = queues.finish(&key) {
                    under_way.push((key, next));
                }
            };
            for (offers, key) in steps {
                let key = key.to_string();
                if offers {
                    number += 1;
                    if let Offered::Begin(item) = queues.offer(&key, number) {
                        under_way.push((key, item));
                    }
                } else if !under_way.is_empty() {
                    let at = usize::from(key.as_bytes()[0]) % under_way.len();
                    advance(&mut queues, &mut under_way, at);
                }
                let keys: HashSet<&str> = under_way.iter().map(|(key, _)| key.as_str()).collect();
                prop_assert_eq!(keys.len(), under_way.len());
            }
            while !under_way.is_empty() {
                advance(&mut queues, &mut under_way, 0);
            }
            prop_assert_eq!(queues.len(), 0);
            prop_assert!(done.values().all(|items| items.is_sorted()));
        }
    }
}
