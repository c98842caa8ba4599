//! The module tree that holds the files of all packages.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::names;

/// The file that includes all others. No package gives a file name that begins with `_`.
pub(crate) const TREE_FILE: &str = "_mod.rs";

/// Lints that generated code does not follow. Code of prost and pbjson cannot carry attributes
/// of its own everywhere, so they stand on the module around it.
const LINTS: &[&str] = &[
    "clippy::all",
    "clippy::pedantic",
    "clippy::allow_attributes_without_reason",
    "dead_code",
    "missing_docs",
    "rustdoc::all",
    "unreachable_pub",
    "unused_qualifications",
];

/// The name of the file of a package: `im.v1` is in `im.v1.rs`.
pub(crate) fn file_name(package: &str) -> String {
    format!("{}.rs", module_path(package).join("."))
}

fn module_path(package: &str) -> Vec<String> {
    package.split('.').map(names::snake).collect()
}

#[derive(Default)]
struct Tree {
    /// The package that ends here.
    package: Option<String>,
    children: BTreeMap<String, Tree>,
}

/// Nested modules, named as the packages are, each with the file of its package.
pub(crate) fn tree<'a>(packages: impl Iterator<Item = &'a str>) -> String {
    let mut root = Tree::default();
    for package in packages {
        let mut at = &mut root;
        for module in module_path(package) {
            at = at.children.entry(module).or_default();
        }
        at.package = Some(package.to_owned());
    }
    let mut code = "// Generated: one module for each protobuf package. Do not edit.\n".to_owned();
    for (module, child) in &root.children {
        code.push('\n');
        write_module(module, child, 0, &mut code);
    }
    code
}

fn write_module(module: &str, tree: &Tree, depth: usize, code: &mut String) {
    let indent = "    ".repeat(depth);
    let (about, include) = match &tree.package {
        Some(package) => (
            format!("Messages and services of the protobuf package `{package}`."),
            format!("{indent}    include!(\"{}\");\n", file_name(package)),
        ),
        None => (format!("Packages below `{module}`."), String::new()),
    };
    let _ = writeln!(code, "{indent}/// {about}");
    if depth == 0 {
        let lints = LINTS.join(",\n    ");
        let reason = "reason = \"generated code\"";
        let _ = writeln!(code, "#[allow(\n    {lints},\n    {reason}\n)]");
    }
    let _ = write!(code, "{indent}pub mod {module} {{\n{include}");
    for (module, child) in &tree.children {
        write_module(module, child, depth + 1, code);
    }
    let _ = writeln!(code, "{indent}}}");
}
