//! The pages of a login's list of conversations.

use super::limits::LISTED_MAX;
use crate::im::{Conversation, ConversationsReply};

/// What came of the list behind the login's answer.
#[derive(Debug, Default)]
pub(super) struct Listing {
    rest: Vec<Conversation>,
    is_whole: bool,
}

impl Listing {
    /// Takes a page. False, and nothing is taken, when the list is longer
    /// than any user's may be.
    pub(super) fn add(&mut self, page: ConversationsReply) -> bool {
        if self.is_whole || self.rest.len() + page.conversations.len() > LISTED_MAX {
            return false;
        }
        self.rest.extend(page.conversations);
        self.is_whole = !page.more;
        true
    }

    /// The last page has come.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What came, in its order.
    pub(super) fn into_rest(self) -> Vec<Conversation> {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(count: usize, more: bool) -> ConversationsReply {
        ConversationsReply {
            conversations: vec![Conversation::default(); count],
            more,
        }
    }

    #[test]
    fn a_list_is_whole_with_its_last_page_and_no_longer_than_its_bound() {
        let mut listing = Listing::default();
        assert!(listing.add(page(LISTED_MAX - 1, true)));
        assert!(!listing.is_whole());
        assert!(!listing.add(page(2, true)), "longer than the bound");
        assert!(listing.add(page(1, false)));
        assert!(listing.is_whole());
        assert!(!listing.add(page(0, false)), "behind the end");
        assert_eq!(listing.into_rest().len(), LISTED_MAX);
    }
}
