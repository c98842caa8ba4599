//! Which user is on which Entry connection.

use std::collections::{HashMap, HashSet};

use waystation_base::ConnName;

/// Users by connection and connections by user. A connection is named, not
/// held: a name that is stale reaches nobody.
#[derive(Debug, Default)]
pub(super) struct Presence {
    by_entry: HashMap<ConnName, HashSet<String>>,
    by_user: HashMap<String, Vec<ConnName>>,
}

impl Presence {
    /// Takes what an Entry says as the whole truth about its connection.
    /// Answers who came and who left the system by that.
    pub(super) fn attach(
        &mut self,
        entry: ConnName,
        users: HashSet<String>,
    ) -> (Vec<String>, Vec<String>) {
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
    pub(super) fn online(&mut self, entry: ConnName, user: &str) -> bool {
        self.by_entry
            .entry(entry)
            .or_default()
            .insert(user.to_owned())
            && self.put_on(user, entry)
    }

    /// A user left this connection. True when that takes it offline.
    pub(super) fn offline(&mut self, entry: ConnName, user: &str) -> bool {
        let was = self
            .by_entry
            .get_mut(&entry)
            .is_some_and(|users| users.remove(user));
        was && self.take_off(user, entry)
    }

    /// The connection is gone. Answers who went offline by that.
    pub(super) fn detach(&mut self, entry: ConnName) -> Vec<String> {
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
    use waystation_base::ShardId;

    fn entry(slot: u32) -> ConnName {
        ConnName {
            shard: ShardId(0),
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
}
