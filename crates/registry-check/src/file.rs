//! A static list.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use waystation_membership::Instance;
use waystation_registry::{RegistryUrl, instance_to_json};

use crate::fixture::{Ability, Fixture};
use crate::proxy::Proxy;

/// A static list that the test edits.
pub struct StaticList {
    folder: TempDir,
    lines: Vec<String>,
    is_there: bool,
}

impl StaticList {
    fn path(&self) -> PathBuf {
        self.folder.path().join("nodes.jsonl")
    }

    /// Puts the list in place, whole at once.
    fn write(&self) {
        if self.is_there {
            let new = self.folder.path().join("new");
            std::fs::write(&new, self.lines.concat()).expect("a file");
            std::fs::rename(new, self.path()).expect("a rename");
        }
    }
}

impl Fixture for StaticList {
    const NAME: &'static str = "file";
    const ABILITIES: &'static [Ability] = &[];

    fn new(_program: &Path, _is_alone: bool) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            lines: Vec::new(),
            is_there: false,
        }
    }

    fn start(&mut self) {
        self.is_there = true;
        self.write();
    }

    fn kill(&mut self) {
        self.is_there = false;
        std::fs::remove_file(self.path()).expect("a list");
    }

    fn url(&self) -> RegistryUrl {
        let url = format!("file://{}", self.path().display());
        url.parse().expect("it is a URL")
    }

    fn proxied_url(&self) -> RegistryUrl {
        panic!("a list is not reached over a network")
    }

    fn proxy(&self) -> &Proxy {
        panic!("a list is not reached over a network")
    }

    fn wipe(&mut self) {
        self.lines.clear();
        self.write();
    }

    fn add_foreign(&mut self) -> Vec<&'static str> {
        self.lines.push("not JSON\n".to_owned());
        self.lines
            .push("{\"id\":\"a b\",\"service\":\"x\",\"address\":\"10.0.0.1:1\"}\n".to_owned());
        self.write();
        // Behind one that is good.
        vec!["nodes.jsonl:2", "nodes.jsonl:3"]
    }

    fn put(&mut self, instance: &Instance) {
        self.lines.push(instance_to_json(instance) + "\n");
        self.write();
    }

    fn take(&mut self, instance: &Instance) {
        let line = instance_to_json(instance) + "\n";
        self.lines.retain(|one| *one != line);
        self.write();
    }
}
