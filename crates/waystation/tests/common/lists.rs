//! A chat without a registry: its roles find each other by lists that a test
//! writes, Entry by one of its own.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::chat::free_address;
use super::role::Role;

const LOGICS: [&str; 2] = ["logic-1", "logic-2"];

/// Das, two Logics that know each other, and an Entry.
pub(crate) struct Lists {
    dir: TempDir,
    entry: String,
    roles: BTreeMap<&'static str, Role>,
}

impl Lists {
    /// Starts the roles, with these Logics in the list of Entry.
    pub(crate) fn start(logics: &[&str]) -> Self {
        let mut lists = Self {
            dir: tempfile::tempdir().unwrap(),
            entry: free_address(),
            roles: BTreeMap::new(),
        };
        lists.write("all", &[&["das-1"], &LOGICS[..]].concat());
        lists.list(logics);
        lists.begin("das-1", "all", &[]);
        for logic in LOGICS {
            lists.begin(logic, "all", &[]);
        }
        let entry = lists.entry.clone();
        lists.begin("entry-1", "of-entry", &["--listen", &entry]);
        lists.roles.values().for_each(Role::serves);
        lists
    }

    fn begin(&mut self, name: &'static str, list: &str, args: &[&str]) {
        let (role, index) = name.split_once('-').unwrap();
        let registry = format!("file://{}", self.dir.path().join(list).display());
        let args = [&["--registry", &registry], args].concat();
        let started = Role::start(self.dir.path(), role, index, &args);
        self.roles.insert(name, started);
    }

    /// Kills a Logic, and starts it again.
    pub(crate) fn restart(&mut self, logic: &'static str) {
        self.roles.remove(logic).unwrap().kill();
        self.begin(logic, "all", &[]);
        self.role(logic).serves();
    }

    fn write(&self, list: &str, names: &[&str]) {
        let line = |name: &&str| {
            let (role, _) = name.split_once('-').unwrap();
            let socket = self.dir.path().join("run").join(format!("{name}.rpc"));
            let socket = socket.display();
            format!(
                "{{\"id\":\"{name}\",\"service\":\"im.{role}\",\"address\":\"unix:{socket}\"}}\n"
            )
        };
        let lines: String = names.iter().map(line).collect();
        replace(&self.dir.path().join(list), &lines);
    }

    /// From now on these Logics are in the list of Entry.
    pub(crate) fn list(&self, logics: &[&str]) {
        self.write("of-entry", logics);
    }

    /// A role.
    pub(crate) fn role(&self, name: &str) -> &Role {
        &self.roles[name]
    }

    /// Where Entry listens, as `IP:PORT`.
    pub(crate) fn entry(&self) -> &str {
        &self.entry
    }
}

/// Writes a file that nobody reads half of.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, path).unwrap();
}
