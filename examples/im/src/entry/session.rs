//! One logged-in connection, and how far each conversation is delivered.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};

use waystation_base::ConnName;

/// How far one conversation is delivered on one connection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    /// The last message that was delivered, or is not wanted.
    delivered: u64,
    /// The last message that is known to exist.
    known: u64,
    /// A task is fetching what is missing.
    fetching: bool,
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is the next one: push it, then say so by [`Session::delivered`].
    Push,
    /// It was delivered, or a fetch will deliver it.
    Skip,
    /// Messages before it are missing: start a fetch.
    Fetch,
}

/// What a fetch is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// Messages after this one,
    pub(super) after: u64,
    /// up to this one at least.
    pub(super) known: u64,
}

/// One logged-in connection. The pure part of delivery: it decides, and
/// touches no socket.
#[derive(Debug)]
pub(super) struct Session {
    uid: String,
    device: String,
    conn: ConnName,
    cursors: RefCell<HashMap<String, Cursor>>,
    /// Conversations of which a page is to be fetched: each that is marked as
    /// fetching is here once, or in the hands of a fetcher.
    queue: RefCell<VecDeque<String>>,
    /// Tasks that fetch.
    fetchers: Cell<usize>,
    /// Until the login is answered, nothing is pushed.
    ready: Cell<bool>,
    ended: Cell<bool>,
    watched: RefCell<HashSet<String>>,
}

impl Session {
    pub(super) fn new(uid: String, device: String, conn: ConnName) -> Self {
        Self {
            uid,
            device,
            conn,
            cursors: RefCell::default(),
            queue: RefCell::default(),
            fetchers: Cell::new(0),
            ready: Cell::new(false),
            ended: Cell::new(false),
            watched: RefCell::default(),
        }
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    pub(super) fn device(&self) -> &str {
        &self.device
    }

    pub(super) fn conn(&self) -> ConnName {
        self.conn
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
    }

    /// Messages of a conversation up to `seq` are not to be delivered.
    pub(super) fn start_after(&self, conversation: &str, seq: u64) {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(conversation.to_owned()).or_default();
        cursor.delivered = cursor.delivered.max(seq);
    }

    /// The login is answered: from now on messages are pushed. Answers the
    /// conversations of which some are missing; each is marked as fetching.
    pub(super) fn make_ready(&self) -> Vec<String> {
        self.ready.set(true);
        let mut missing = Vec::new();
        for (conversation, cursor) in self.cursors.borrow_mut().iter_mut() {
            if cursor.known > cursor.delivered && !cursor.fetching {
                cursor.fetching = true;
                missing.push(conversation.clone());
            }
        }
        missing
    }

    /// A message exists, and is at hand. `Fetch` marks it as fetching.
    pub(super) fn offer(&self, conversation: &str, seq: u64) -> Offer {
        let mut cursors = self.cursors.borrow_mut();
        if !cursors.contains_key(conversation) {
            cursors.insert(conversation.to_owned(), Cursor::default());
        }
        let Some(cursor) = cursors.get_mut(conversation) else {
            return Offer::Skip;
        };
        if seq <= cursor.delivered {
            return Offer::Skip;
        }
        cursor.known = cursor.known.max(seq);
        if !self.ready.get() || cursor.fetching {
            return Offer::Skip;
        }
        if seq == cursor.delivered + 1 {
            return Offer::Push;
        }
        cursor.fetching = true;
        Offer::Fetch
    }

    /// Messages up to `seq` exist, and none is at hand. True when a fetch is
    /// to be started; it is marked as fetching then.
    pub(super) fn exists(&self, conversation: &str, seq: u64) -> bool {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(conversation.to_owned()).or_default();
        cursor.known = cursor.known.max(seq);
        let start = self.ready.get() && !cursor.fetching && cursor.known > cursor.delivered;
        cursor.fetching |= start;
        start
    }

    /// A message was pushed.
    pub(super) fn delivered(&self, conversation: &str, seq: u64) {
        self.start_after(conversation, seq);
    }

    /// A message that was the next one could not be pushed. True when a fetch
    /// is to be started; it is marked as fetching then.
    pub(super) fn push_failed(&self, conversation: &str, seq: u64) -> bool {
        self.exists(conversation, seq)
    }

    /// Puts a conversation that was marked as fetching behind the others. True
    /// when one more fetcher is to be started, of at most `most`.
    pub(super) fn enqueue(&self, conversation: String, most: usize) -> bool {
        self.queue.borrow_mut().push_back(conversation);
        let more = self.fetchers.get() < most;
        self.fetchers.set(self.fetchers.get() + usize::from(more));
        more
    }

    /// What a fetcher does next; `None` when it has ended.
    pub(super) fn next_fetch(&self) -> Option<(String, Missing)> {
        loop {
            let Some(conversation) = self.queue.borrow_mut().pop_front() else {
                self.fetchers.set(self.fetchers.get() - 1);
                return None;
            };
            if let Some(missing) = self.fetch_from(&conversation) {
                return Some((conversation, missing));
            }
        }
    }

    /// A page of the conversation was fetched, or tried to: others come first.
    pub(super) fn requeue(&self, conversation: String) {
        self.queue.borrow_mut().push_back(conversation);
    }

    /// Where a fetch goes on, or `None` when nothing is missing any more; the
    /// fetch has ended then.
    fn fetch_from(&self, conversation: &str) -> Option<Missing> {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.get_mut(conversation)?;
        if cursor.known > cursor.delivered && !self.ended.get() {
            return Some(Missing {
                after: cursor.delivered,
                known: cursor.known,
            });
        }
        cursor.fetching = false;
        None
    }

    /// A fetch found nothing: what was known to exist when it asked is not for
    /// this user. What became known meanwhile still is.
    pub(super) fn fetch_found_none(&self, conversation: &str, asked: Missing) {
        if let Some(cursor) = self.cursors.borrow_mut().get_mut(conversation) {
            cursor.delivered = cursor.delivered.max(asked.known);
        }
    }

    /// Watches these users beside those watched before, each counted once.
    /// False, and nothing is watched, when they would be more than `most`.
    pub(super) fn watch(&self, uids: &[String], most: usize) -> bool {
        let mut watched = self.watched.borrow_mut();
        let new: HashSet<&String> = uids.iter().filter(|uid| !watched.contains(*uid)).collect();
        let fits = watched.len() + new.len() <= most;
        if fits {
            watched.extend(new.into_iter().cloned());
        }
        fits
    }

    pub(super) fn watches(&self, uid: &str) -> bool {
        self.watched.borrow().contains(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_base::ShardId;

    fn session() -> Session {
        let conn = ConnName {
            shard: ShardId(0),
            slot: 1,
            generation: 1,
        };
        Session::new("ada".into(), "test".into(), conn)
    }

    #[test]
    fn the_next_message_is_pushed_and_an_old_one_is_not() {
        let session = session();
        session.start_after("g:x", 4);
        session.make_ready();
        assert_eq!(session.offer("g:x", 5), Offer::Push);
        session.delivered("g:x", 5);
        assert_eq!(session.offer("g:x", 5), Offer::Skip, "told twice");
        assert_eq!(session.offer("g:x", 3), Offer::Skip);
    }

    #[test]
    fn a_gap_starts_one_fetch_that_ends_when_nothing_is_missing() {
        let session = session();
        session.make_ready();
        assert_eq!(session.offer("g:x", 3), Offer::Fetch);
        assert_eq!(
            session.offer("g:x", 4),
            Offer::Skip,
            "the fetch will bring it"
        );
        assert_eq!(
            session.fetch_from("g:x"),
            Some(Missing { after: 0, known: 4 })
        );
        session.delivered("g:x", 4);
        assert_eq!(session.fetch_from("g:x"), None);
        assert_eq!(session.offer("g:x", 5), Offer::Push);
    }

    /// Who asked for the same users again was refused in the end.
    #[test]
    fn a_user_watched_again_counts_once() {
        let session = session();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names: [Vec<String>; 3] = [
            names(&["ada", "bob", "ada"]),
            names(&["bob", "eve"]),
            names(&["zoe"]),
        ];
        for _ in 0..5 {
            assert!(session.watch(&names[0], 3));
            assert!(session.watch(&names[1], 3));
        }
        assert!(!session.watch(&names[2], 3));
        assert!(session.watches("eve") && !session.watches("zoe"));
    }

    #[test]
    fn nothing_is_pushed_before_the_login_is_answered() {
        let session = session();
        assert_eq!(session.offer("g:x", 1), Offer::Skip);
        assert!(!session.exists("g:y", 2));
        let mut missing = session.make_ready();
        missing.sort();
        assert_eq!(missing, ["g:x", "g:y"]);
    }

    /// Who came back to a thousand conversations had a task and a page in
    /// memory for each, all at once.
    #[test]
    fn conversations_are_fetched_a_few_at_a_time_and_in_turn() {
        let session = session();
        let names = ["g:a", "g:b", "g:c"];
        for name in names {
            session.exists(name, 2);
        }
        assert_eq!(session.make_ready().len(), 3);
        let started = names.map(|name| session.enqueue(name.to_owned(), 2));
        assert_eq!(started, [true, true, false]);
        let (first, _) = session.next_fetch().unwrap();
        session.delivered(&first, 1);
        session.requeue(first);
        let order: Vec<String> = std::iter::from_fn(|| {
            let (name, missing) = session.next_fetch()?;
            session.delivered(&name, missing.known);
            Some(name)
        })
        .collect();
        assert_eq!(order, ["g:b", "g:c", "g:a"], "each gets its turn");
        assert!(
            session.next_fetch().is_none(),
            "the second fetcher ends, too"
        );
        assert!(session.enqueue("g:d".to_owned(), 2), "one may start again");
    }

    /// A message that became known while a fetch found nothing was forgotten
    /// with the rest, and was not delivered until the next one came.
    #[test]
    fn what_becomes_known_during_an_empty_fetch_is_not_forgotten() {
        let session = session();
        session.make_ready();
        assert_eq!(session.offer("g:x", 2), Offer::Fetch);
        let asked = session.fetch_from("g:x").unwrap();
        assert_eq!(asked, Missing { after: 0, known: 2 });
        assert_eq!(session.offer("g:x", 3), Offer::Skip);
        session.fetch_found_none("g:x", asked);
        assert_eq!(
            session.fetch_from("g:x"),
            Some(Missing { after: 2, known: 3 })
        );
        session.delivered("g:x", 3);
        assert_eq!(session.fetch_from("g:x"), None);
    }
}
