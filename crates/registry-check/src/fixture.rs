//! What a backend brings to the suite.

use std::path::{Path, PathBuf};

use waystation_membership::Instance;
use waystation_registry::RegistryUrl;

use crate::proxy::Proxy;

/// What a backend can do, or can have done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// It takes registrations.
    Register,
    /// It is reached over a network.
    Network,
    /// It knows who holds which version, and drains wait for that.
    Holders,
    /// It numbers its starts, so that a restore from a backup shows.
    Epochs,
    /// Leases outlive it: after a restart, however long, each node has the token
    /// that it had.
    Leases,
}

/// A backend under test: a registry of its own, empty at first, that is gone
/// when the fixture is dropped.
pub trait Fixture: Sized {
    /// Its name in the table.
    const NAME: &'static str;
    /// What it can do.
    const ABILITIES: &'static [Ability];
    /// Cases that may run at once, each with a fixture of its own.
    const AT_ONCE: usize = 6;

    /// Makes a registry, but does not start it. `program` is this crate's. One
    /// that is not alone is never killed, and may share its server with others.
    fn new(program: &Path, is_alone: bool) -> Self;

    /// Starts the registry, for the first time or again, and waits until it
    /// answers.
    fn start(&mut self);

    /// Ends the registry as a crash does: at once, with no word to anybody.
    fn kill(&mut self);

    /// Where it is; the same over restarts.
    fn url(&self) -> RegistryUrl;

    /// Where it is, by way of [`Fixture::proxy`]. Only for backends with
    /// [`Ability::Network`].
    fn proxied_url(&self) -> RegistryUrl;

    /// The network between the registry and whoever uses
    /// [`Fixture::proxied_url`]. Only for backends with [`Ability::Network`].
    fn proxy(&self) -> &Proxy;

    /// Empties the registry behind its back. It may restart for it.
    fn wipe(&mut self);

    /// Puts something into the registry's data that is not ours, and something
    /// that is ours and malformed. It may restart for it. The ends of the places
    /// that clients are to name; none when the registry itself skips them, which
    /// is looked at here.
    fn add_foreign(&mut self) -> Vec<&'static str>;

    /// Puts an instance into a registry without [`Ability::Register`].
    fn put(&mut self, instance: &Instance) {
        panic!(
            "{} takes registrations, {} is not put by hand",
            Self::NAME,
            instance.id
        );
    }

    /// Takes an instance out of a registry without [`Ability::Register`].
    fn take(&mut self, instance: &Instance) {
        panic!(
            "{} takes registrations, {} is not taken by hand",
            Self::NAME,
            instance.id
        );
    }

    /// The folder that it keeps its state in. Only for backends with
    /// [`Ability::Epochs`].
    fn data(&self) -> PathBuf {
        panic!("{} has no backups", Self::NAME);
    }

    /// Makes a backup of the registry's state in an empty folder. It restarts.
    fn back_up(&mut self, to: &Path) {
        self.kill();
        copy(&self.data(), to);
        self.start();
    }

    /// Puts the registry back to the state of a backup. It restarts.
    fn restore(&mut self, from: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.data()).expect("a folder");
        copy(from, &self.data());
        self.start();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}
