//! What `cargo metadata` says about the workspace, as far as the tasks use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::environment;

/// The workspace and its resolved dependency graph for the host.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
    pub(crate) target_directory: PathBuf,
}

/// One package of the graph.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// The manifest's `[package.metadata]`.
    #[serde(default)]
    pub(crate) metadata: serde_json::Value,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// One library, binary, test or example of a package.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    #[serde(default)]
    pub(crate) src_path: PathBuf,
}

/// The resolved graph: a node for each package.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

/// A package's outgoing edges.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Edge>,
}

/// One edge, with the kinds in which the dependency is declared.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Edge {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// `None` is a normal dependency; else `dev` or `build`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct EdgeKind {
    pub(crate) kind: Option<String>,
}

impl Edge {
    /// True when the dependency is linked into the package itself.
    pub(crate) fn is_normal(&self) -> bool {
        self.dep_kinds.iter().any(|entry| entry.kind.is_none())
    }

    /// True when only tests, examples and benches use the dependency.
    pub(crate) fn is_only_dev(&self) -> bool {
        self.dep_kinds
            .iter()
            .all(|entry| entry.kind.as_deref() == Some("dev"))
    }
}

impl Metadata {
    /// Asks cargo, with the lockfile as it stands and the host's platform only, so that what
    /// stands behind another platform or `cfg(loom)` is not counted.
    ///
    /// # Errors
    /// Cargo or rustc cannot be run, the lockfile is stale, or the answer has an unknown shape.
    pub(crate) fn load() -> Result<Self> {
        let output = environment::cargo()
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
            ])
            .arg(host()?)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("cannot read the answer of cargo metadata")
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The package with this id. Cost: linear in the number of packages.
    pub(crate) fn package(&self, id: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.id == id)
    }

    /// The edges of one package; empty when it has none.
    pub(crate) fn edges(&self, id: &str) -> &[Edge] {
        self.resolve
            .nodes
            .iter()
            .find(|node| node.id == id)
            .map_or(&[][..], |node| node.deps.as_slice())
    }
}

impl Package {
    /// The layer that the manifest declares in `[package.metadata]`.
    pub(crate) fn layer(&self) -> Option<&str> {
        self.metadata
            .get("layer")
            .and_then(serde_json::Value::as_str)
    }

    /// The file of the integration test of this name.
    pub(crate) fn test_file(&self, name: &str) -> Option<&Path> {
        let is_wanted =
            |target: &&Target| target.name == name && target.kind.iter().any(|kind| kind == "test");
        self.targets
            .iter()
            .find(is_wanted)
            .map(|target| target.src_path.as_path())
    }
}

fn host() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .current_dir(environment::root())
        .output()
        .context("cannot run rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
