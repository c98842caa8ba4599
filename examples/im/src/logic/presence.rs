//! Which user is on which Entry connection.

use std::collections::{HashMap, HashSet};

use waystation_base::{ConnName, ShardId};

/// What happens to the users of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// These are all of them.
    Attached(HashSet<String>),
    /// One has come to it.
    Online(String),
    /// One has left it.
    Offline(String),
    /// It has ended.
    Ended,
}

/// Who came to the system and who left it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) came: Vec<String>,
    pub(super) left: Vec<String>,
}

/// Users by connection and connections by user. A connection is named, not
/// held: a name that is stale reaches nobody.
#[derive(Debug, Default)]
pub(super) struct Presence {
    by_entry: HashMap<ConnName, HashSet<String>>,
    by_user: HashMap<String, Vec<ConnName>>,
}

impl Presence {
    /// Takes note of a change.
    pub(super) fn change(&mut self, entry: ConnName, change: &Change) -> Moved {
        let one = |moves: bool, user: &String| moves.then(|| user.clone()).into_iter().collect();
        let (mut came, mut left) = (Vec::new(), Vec::new());
        match change {
            Change::Attached(users) => (came, left) = self.attach(entry, users.clone()),
            Change::Online(user) => came = one(self.online(entry, user), user),
            Change::Offline(user) => left = one(self.offline(entry, user), user),
            Change::Ended => left = self.detach(entry),
        }
        Moved { came, left }
    }

    /// Forgets all connections of a shard. Answers who went offline by that.
    pub(super) fn forget(&mut self, shard: ShardId) -> Vec<String> {
        let gone: Vec<ConnName> = self.entries().filter(|one| one.shard == shard).collect();
        gone.into_iter()
            .flat_map(|entry| self.detach(entry))
            .collect()
    }

    /// Whether a connection told of its users.
    pub(super) fn knows(&self, entry: ConnName) -> bool {
        self.by_entry.contains_key(&entry)
    }

    /// Takes what an Entry says as the whole truth about its connection.
    /// Answers who came and who left the system by that.
    fn attach(&mut self, entry: ConnName, users: HashSet<String>) -> (Vec<String>, Vec<String>) {
        let before = self.by_entry.remove(&entry).unwrap_or_default();
        let mut came = Vec::new();
        let mut left = Vec::new();
        for user in before.difference(&users) {
            if self.take_off(user, entry) {
                left.push(user.clone());
            }
        }
        for user in users.difference(&before) {
            if self.put_on(user, entry) {
                came.push(user.clone());
            }
        }
        self.by_entry.insert(entry, users);
        (came, left)
    }

    /// A user is on this connection. True when that brings it online.
    fn online(&mut self, entry: ConnName, user: &str) -> bool {
        self.by_entry
            .entry(entry)
            .or_default()
            .insert(user.to_owned())
            && self.put_on(user, entry)
    }

    /// A user left this connection. True when that takes it offline.
    fn offline(&mut self, entry: ConnName, user: &str) -> bool {
        let was = self
            .by_entry
            .get_mut(&entry)
            .is_some_and(|users| users.remove(user));
        was && self.take_off(user, entry)
    }

    /// The connection is gone. Answers who went offline by that.
    fn detach(&mut self, entry: ConnName) -> Vec<String> {
        let users = self.by_entry.remove(&entry).unwrap_or_default();
        users
            .into_iter()
            .filter(|user| self.take_off(user, entry))
            .collect()
    }

    pub(super) fn is_online(&self, user: &str) -> bool {
        self.by_user.contains_key(user)
    }

    /// Users on a connection.
    pub(super) fn count(&self, entry: ConnName) -> usize {
        self.by_entry.get(&entry).map_or(0, HashSet::len)
    }

    /// Every connection that told of its users.
    pub(super) fn entries(&self) -> impl Iterator<Item = ConnName> {
        self.by_entry.keys().copied()
    }

    /// The connections that some users are on, with those users each.
    pub(super) fn route<'a>(
        &self,
        users: impl Iterator<Item = &'a String>,
    ) -> HashMap<ConnName, Vec<String>> {
        let mut routes: HashMap<ConnName, Vec<String>> = HashMap::new();
        for user in users {
            for entry in self.by_user.get(user).into_iter().flatten() {
                routes.entry(*entry).or_default().push(user.clone());
            }
        }
        routes
    }

    fn put_on(&mut self, user: &str, entry: ConnName) -> bool {
        let entries = self.by_user.entry(user.to_owned()).or_default();
        entries.push(entry);
        entries.len() == 1
    }

    fn take_off(&mut self, user: &str, entry: ConnName) -> bool {
        let Some(entries) = self.by_user.get_mut(user) else {
            return false;
        };
        entries.retain(|other| *other != entry);
        let gone = entries.is_empty();
        if gone {
            self.by_user.remove(user);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u32) -> ConnName {
        entry_of(0, slot)
    }

    fn entry_of(shard: u16, slot: u32) -> ConnName {
        ConnName {
            shard: ShardId(shard),
            slot,
            generation: 1,
        }
    }

    fn users(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_user_on_two_entries_is_offline_only_when_both_are_left() {
        let mut presence = Presence::default();
        assert!(presence.online(entry(1), "ada"));
        assert!(!presence.online(entry(1), "ada"), "told twice");
        assert!(!presence.online(entry(2), "ada"));
        assert!(!presence.offline(entry(1), "ada"));
        assert!(!presence.offline(entry(1), "ada"), "told twice");
        assert_eq!(presence.detach(entry(2)), ["ada"]);
        assert!(!presence.is_online("ada"));
    }

    #[test]
    fn attach_replaces_what_was_known_of_a_connection() {
        let mut presence = Presence::default();
        presence.online(entry(1), "ada");
        presence.online(entry(1), "bob");
        let (came, left) = presence.attach(entry(1), users(&["bob", "cyd"]));
        assert_eq!(
            (came, left),
            (vec!["cyd".to_owned()], vec!["ada".to_owned()])
        );
        assert_eq!(presence.count(entry(1)), 2);
        let wanted = ["ada".to_owned(), "bob".to_owned()];
        let routes = presence.route(wanted.iter());
        assert_eq!(routes, HashMap::from([(entry(1), vec!["bob".to_owned()])]));
    }

    /// Two shards hear of the connections of each in another order; where they
    /// stop they agree.
    #[test]
    fn changes_of_two_shards_in_any_order_end_in_the_same_presence() {
        let moves = [
            (entry_of(0, 1), Change::Offline("ada".into())),
            (entry_of(1, 1), Change::Online("ada".into())),
        ];
        let begin = || {
            let mut presence = Presence::default();
            presence.change(entry_of(0, 1), &Change::Attached(users(&["ada", "bob"])));
            presence.change(entry_of(1, 1), &Change::Attached(users(&["cyd"])));
            presence
        };
        let (mut one, mut other) = (begin(), begin());
        let told = moves
            .clone()
            .map(|(entry, change)| one.change(entry, &change));
        let [left, came] = told;
        assert_eq!(
            (left.left, came.came),
            (vec!["ada".into()], vec!["ada".into()])
        );
        for (entry, change) in moves.iter().rev() {
            assert_eq!(other.change(*entry, change), Moved::default());
        }
        let all = ["ada", "bob", "cyd"].map(str::to_owned);
        assert_eq!(one.route(all.iter()), other.route(all.iter()));
        let mut left = one.forget(ShardId(1));
        left.sort();
        assert_eq!(left, ["ada", "cyd"].map(str::to_owned));
        assert!(one.is_online("bob") && !one.knows(entry_of(1, 1)));
    }
}
