//! Layers: each crate declares one, and dependencies point from shell to core.

use std::collections::HashSet;
use std::path::Path;

use super::Fault;
use crate::metadata::{Metadata, Package};

/// Packages that no core may reach through normal dependencies: runtimes, sockets, the operating
/// system's random source.
const FORBIDDEN_IN_CORE: &[&str] = &["tokio", "mio", "socket2", "getrandom"];

const CORE: &str = "core";
const SHELL: &str = "shell";
const TEST: &str = "test";

/// Checks the resolved graph. Cost: packages times edges, for each core crate.
pub(super) fn check(metadata: &Metadata) -> Vec<Fault> {
    let mut faults = Vec::new();
    for member in metadata.members() {
        match member.layer() {
            Some(CORE) => {
                faults.extend(forbidden_packages(metadata, member));
                faults.extend(outward_edges(metadata, member));
            }
            Some(SHELL) => {}
            Some(TEST) => continue,
            _ => {
                let message = "declare `layer` in [package.metadata]: core, shell or test";
                faults.push(Fault::new(&member.name, 0, message));
            }
        }
        faults.extend(test_dependencies(metadata, member));
    }
    faults
}

/// The folders of the core crates, as paths from the root.
pub(super) fn core_folders(metadata: &Metadata, root: &Path) -> Vec<String> {
    let cores = metadata
        .members()
        .filter(|member| member.layer() == Some(CORE));
    let folders = cores.filter_map(|member| member.manifest_path.parent()?.strip_prefix(root).ok());
    folders
        .map(|folder| folder.to_string_lossy().into_owned())
        .collect()
}

/// Each forbidden package that `core` reaches, with the way to it.
fn forbidden_packages(metadata: &Metadata, core: &Package) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut seen = HashSet::from([core.id.as_str()]);
    let mut open = vec![(core, core.name.clone())];
    while let Some((package, way)) = open.pop() {
        for edge in metadata
            .edges(&package.id)
            .iter()
            .filter(|edge| edge.is_normal())
        {
            let Some(next) = metadata.package(&edge.pkg) else {
                continue;
            };
            if !seen.insert(next.id.as_str()) {
                continue;
            }
            let way = format!("{way} → {}", next.name);
            if FORBIDDEN_IN_CORE.contains(&next.name.as_str()) {
                faults.push(Fault::new(
                    &core.name,
                    0,
                    format!("a core crate reaches {}: {way}", next.name),
                ));
            } else {
                open.push((next, way));
            }
        }
    }
    faults
}

/// Direct dependencies of a core on a workspace crate of another layer, outside its tests.
fn outward_edges(metadata: &Metadata, core: &Package) -> Vec<Fault> {
    let edges = metadata
        .edges(&core.id)
        .iter()
        .filter(|edge| !edge.is_only_dev());
    let targets = edges.filter_map(|edge| metadata.members().find(|member| member.id == edge.pkg));
    let outward = targets.filter(|target| target.layer() == Some(SHELL));
    outward
        .map(|target| {
            Fault::new(
                &core.name,
                0,
                format!("a core crate depends on the shell crate {}", target.name),
            )
        })
        .collect()
}

/// Dependencies of a core or shell on a test crate, outside its tests.
fn test_dependencies(metadata: &Metadata, member: &Package) -> Vec<Fault> {
    let edges = metadata
        .edges(&member.id)
        .iter()
        .filter(|edge| !edge.is_only_dev());
    let targets = edges.filter_map(|edge| metadata.members().find(|other| other.id == edge.pkg));
    let tests = targets.filter(|target| target.layer() == Some(TEST));
    tests
        .map(|target| {
            Fault::new(
                &member.name,
                0,
                format!(
                    "depends on the test crate {} outside its tests",
                    target.name
                ),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_support::printed;
    use super::*;
    use crate::metadata::{Edge, EdgeKind, Node, Resolve};

    /// A graph from `name layer` members, names of others, and `from → to` edges with a kind.
    fn graph(
        members: &[(&str, &str)],
        others: &[&str],
        edges: &[(&str, &str, Option<&str>)],
    ) -> Metadata {
        let package = |name: &str, metadata| Package {
            id: name.to_owned(),
            name: name.to_owned(),
            metadata,
            manifest_path: format!("/root-of-tree/crates/{name}/Cargo.toml").into(),
            ..Package::default()
        };
        let own = members
            .iter()
            .map(|(name, layer)| package(name, serde_json::json!({ "layer": layer })));
        let foreign = others
            .iter()
            .map(|name| package(name, serde_json::Value::Null));
        let nodes = edges.iter().map(|(from, to, kind)| Node {
            id: (*from).to_owned(),
            deps: vec![Edge {
                pkg: (*to).to_owned(),
                dep_kinds: vec![EdgeKind {
                    kind: kind.map(str::to_owned),
                }],
            }],
        });
        Metadata {
            packages: own.chain(foreign).collect(),
            workspace_members: members.iter().map(|(name, _)| (*name).to_owned()).collect(),
            resolve: Resolve {
                nodes: nodes.collect(),
            },
            ..Metadata::default()
        }
    }

    #[test]
    fn a_core_that_reaches_tokio_is_a_fault() {
        let graph = graph(
            &[("base", CORE)],
            &["util", "tokio"],
            &[("base", "util", None), ("util", "tokio", None)],
        );
        assert_eq!(
            printed(&check(&graph)),
            ["base: a core crate reaches tokio: base → util → tokio"]
        );
    }

    #[test]
    fn a_core_may_reach_it_in_tests_and_builds() {
        for kind in ["dev", "build"] {
            let graph = graph(
                &[("base", CORE)],
                &["getrandom"],
                &[("base", "getrandom", Some(kind))],
            );
            assert!(check(&graph).is_empty());
        }
    }

    #[test]
    fn a_shell_may_reach_tokio() {
        let graph = graph(&[("net", SHELL)], &["tokio"], &[("net", "tokio", None)]);
        assert!(check(&graph).is_empty());
    }

    #[test]
    fn a_core_that_depends_on_a_shell_is_a_fault() {
        for kind in [None, Some("build")] {
            let graph = graph(
                &[("base", CORE), ("net", SHELL)],
                &[],
                &[("base", "net", kind)],
            );
            assert_eq!(check(&graph).len(), 1, "kind {kind:?}");
        }
        let graph = graph(
            &[("base", CORE), ("net", SHELL)],
            &[],
            &[("net", "base", None)],
        );
        assert!(check(&graph).is_empty());
    }

    #[test]
    fn a_test_crate_is_a_dependency_of_tests_only() {
        let members = [("net", SHELL), ("sim", TEST), ("bench", TEST)];
        let faults = check(&graph(&members, &[], &[("net", "sim", None)]));
        assert_eq!(
            printed(&faults),
            ["net: depends on the test crate sim outside its tests"]
        );
        assert!(check(&graph(&members, &[], &[("net", "sim", Some("dev"))])).is_empty());
        assert!(check(&graph(&members, &[], &[("bench", "sim", None)])).is_empty());
    }

    #[test]
    fn a_crate_without_a_known_layer_is_a_fault() {
        assert_eq!(check(&graph(&[("net", "middle")], &[], &[])).len(), 1);
    }

    #[test]
    fn core_folders_are_named_from_the_root() {
        let graph = graph(&[("base", CORE), ("net", SHELL)], &[], &[]);
        assert_eq!(
            core_folders(&graph, Path::new("/root-of-tree")),
            ["crates/base"]
        );
    }
}
