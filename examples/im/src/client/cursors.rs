//! How far a client has seen each conversation.

use std::collections::BTreeMap;

/// The highest number seen in each conversation.
///
/// A number never goes down, so that a message that comes again does not make
/// the next resume ask for what has been seen.
#[derive(Debug)]
pub(crate) struct Cursors {
    seen: BTreeMap<String, u64>,
    conversations_max: usize,
    untracked: u64,
}

impl Cursors {
    pub(crate) fn new(conversations_max: usize) -> Self {
        Self {
            seen: BTreeMap::new(),
            conversations_max,
            untracked: 0,
        }
    }

    /// Notes that `seq` was seen; answers how far the conversation was seen
    /// before, 0 for not at all. Cost: O(log conversations).
    pub(crate) fn advance(&mut self, conversation: &str, seq: u64) -> u64 {
        if let Some(seen) = self.seen.get_mut(conversation) {
            let before = *seen;
            *seen = before.max(seq);
            return before;
        }
        if self.seen.len() < self.conversations_max {
            self.seen.insert(conversation.to_owned(), seq);
        } else {
            self.untracked += 1;
        }
        0
    }

    /// What a login sends to resume. Cost: a copy of all.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.seen.clone()
    }

    /// Notes that found no room.
    pub(crate) fn untracked(&self) -> u64 {
        self.untracked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message delivered again set the cursor back, and the next resume
    /// brought everything after it a third time.
    #[test]
    fn a_cursor_never_goes_back() {
        let mut cursors = Cursors::new(8);
        assert_eq!(cursors.advance("g:a", 3), 0);
        assert_eq!(cursors.advance("g:a", 7), 3);
        assert_eq!(cursors.advance("g:a", 4), 7);
        assert_eq!(cursors.advance("g:b", 1), 0);
        let expected = [("g:a".to_owned(), 7), ("g:b".to_owned(), 1)];
        assert_eq!(cursors.snapshot(), BTreeMap::from(expected));
    }

    #[test]
    fn conversations_are_bounded_and_the_rest_counted() {
        let mut cursors = Cursors::new(1);
        cursors.advance("g:a", 1);
        cursors.advance("g:b", 1);
        cursors.advance("g:a", 2);
        assert_eq!(cursors.untracked(), 1);
        assert_eq!(cursors.snapshot(), BTreeMap::from([("g:a".to_owned(), 2)]));
    }
}
