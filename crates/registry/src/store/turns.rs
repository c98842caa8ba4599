//! Much work in small parts.

use crate::limits::ENTRIES_PER_TURN;

/// Work on many entries, that lets other tasks of the shard have their turn.
#[derive(Debug)]
pub(crate) struct Turns {
    left: usize,
}

impl Turns {
    /// Work that begins.
    pub(crate) fn new() -> Self {
        let left = ENTRIES_PER_TURN;
        Self { left }
    }

    /// So many entries were handled. Ready at once, or when the others have had
    /// their turn.
    pub(crate) async fn took(&mut self, entries: usize) {
        self.left = self.left.saturating_sub(entries);
        if self.left == 0 {
            self.left = ENTRIES_PER_TURN;
            tokio::task::yield_now().await;
        }
    }
}
