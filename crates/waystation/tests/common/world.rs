//! A chat without a supervisor, so that who is killed stays away.

use std::collections::BTreeMap;

use tempfile::TempDir;
use waystation_registry::{EmbeddedConfig, EmbeddedServer};

use super::chat::free_address;
use super::role::Role;

/// Roles by hand in one directory, with a registry of this process.
pub(crate) struct World {
    roles: BTreeMap<String, Role>,
    registry: String,
    entries: BTreeMap<String, String>,
    _server: EmbeddedServer,
    dir: TempDir,
}

impl World {
    /// Starts these roles, such as `logic-1`, with these lines of configuration,
    /// and waits until they serve.
    pub(crate) fn start(lines: &str, roles: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("registry");
        let serve = EmbeddedConfig::new(folder, "127.0.0.1:0".parse().unwrap());
        let server = EmbeddedServer::start(serve).unwrap();
        std::fs::write(dir.path().join("waystation.toml"), lines).unwrap();
        let mut world = Self {
            roles: BTreeMap::new(),
            registry: format!("embedded://{}", server.address()),
            entries: BTreeMap::new(),
            _server: server,
            dir,
        };
        for role in roles {
            world.begin(role);
        }
        world.roles.values().for_each(Role::serves);
        world
    }

    fn begin(&mut self, name: &str) {
        let (role, index) = name.split_once('-').unwrap();
        let config = self.dir.path().join("waystation.toml");
        let mut args = vec!["--registry", &self.registry];
        args.extend(["--config", config.to_str().unwrap()]);
        if role == "entry" {
            let listen = self.entries.entry(name.to_owned());
            args.extend(["--listen", listen.or_insert_with(free_address)]);
        }
        let started = Role::start(self.dir.path(), role, index, &args);
        self.roles.insert(name.to_owned(), started);
    }

    /// Starts one more role and waits until it serves.
    pub(crate) fn add(&mut self, name: &str) {
        self.begin(name);
        self.role(name).serves();
    }

    /// Kills a role, for good.
    pub(crate) fn kill(&mut self, name: &str) {
        self.roles.remove(name).unwrap().kill();
    }

    /// Waits until a role ends by itself; its exit code.
    pub(crate) fn end_of(&mut self, name: &str) -> Option<i32> {
        let mut role = self.roles.remove(name).unwrap();
        role.child.wait().unwrap().code()
    }

    /// A role.
    pub(crate) fn role(&self, name: &str) -> &Role {
        &self.roles[name]
    }

    /// The roles of a kind, such as `logic`, by name.
    pub(crate) fn roles(&self, kind: &str) -> impl Iterator<Item = (&String, &Role)> {
        let kind = format!("{kind}-");
        (self.roles.iter()).filter(move |(name, _)| name.starts_with(&kind))
    }

    /// The registry's URL.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Where the first Entry listens, as `IP:PORT`.
    pub(crate) fn entry(&self) -> &str {
        self.entry_of("entry-1")
    }

    /// Where an Entry listens, as `IP:PORT`.
    pub(crate) fn entry_of(&self, name: &str) -> &str {
        &self.entries[name]
    }

    /// See [`Role::until_uses`].
    pub(crate) fn until_uses(&self, role: &str, service: &str, nodes: u32) {
        self.role(role).until_uses(service, nodes);
    }
}
