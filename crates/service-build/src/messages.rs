//! Messages and their JSON: prost and pbjson, told where the runtime crate keeps them.

use std::collections::BTreeMap;
use std::io;

use prost_build::Module;
use prost_types::{DescriptorProto, FileDescriptorProto};

use crate::check::is_map_entry;
use crate::services::ServiceWriter;

/// Where generated code finds prost, pbjson and serde, so that its crate need not depend on them.
const CODEGEN: &str = "::waystation_service::codegen";

/// The code of each package, by the name of the package in protobuf.
///
/// Maps become `BTreeMap`: equal messages then encode to equal bytes and to equal JSON.
pub(crate) fn generate(files: Vec<FileDescriptorProto>) -> io::Result<BTreeMap<String, String>> {
    let mut json = json_of(&files)?;
    let packages = files
        .iter()
        .map(|file| (module_of(file), file.package().to_owned()))
        .collect::<BTreeMap<_, _>>();
    let maps = messages_with_maps(&files);
    let mut prost = prost_build::Config::new();
    // prost's own `Debug` of a `BTreeMap` names `::prost`, whatever path it was given.
    prost.skip_debug(&maps);
    for message in &maps {
        prost.type_attribute(message, "#[derive(Debug)]");
    }
    let mut prost = prost
        .prost_path(format!("{CODEGEN}::prost"))
        .btree_map(["."])
        .service_generator(Box::new(ServiceWriter::new(&files)))
        .generate(
            files
                .into_iter()
                .map(|file| (module_of(&file), file))
                .collect(),
        )?;
    let mut packages_code = BTreeMap::new();
    for (module, package) in packages {
        let types = prost.remove(&module).unwrap_or_default();
        let parts = module.parts().collect::<Vec<_>>();
        let json = json.remove(&parts.join(".")).unwrap_or_default();
        let mut code =
            format!("// Generated from the protobuf package `{package}`. Do not edit.\n\n");
        code.extend(types.lines().skip(1).flat_map(|line| [line, "\n"]));
        code.push_str(&json);
        packages_code.insert(package, code);
    }
    Ok(packages_code)
}

/// The outermost messages that have a map in them or in a message below; paths of prost reach down.
fn messages_with_maps(files: &[FileDescriptorProto]) -> Vec<String> {
    fn has_map(message: &DescriptorProto) -> bool {
        is_map_entry(message) || message.nested_type.iter().any(has_map)
    }
    let mut paths = Vec::new();
    for file in files {
        let messages = file.message_type.iter().filter(|message| has_map(message));
        paths.extend(messages.map(|message| format!(".{}.{}", file.package(), message.name())));
    }
    paths
}

fn module_of(file: &FileDescriptorProto) -> Module {
    Module::from_protobuf_package_name(file.package())
}

/// The JSON code of each package, by the path of its module with dots between.
fn json_of(files: &[FileDescriptorProto]) -> io::Result<BTreeMap<String, String>> {
    let mut builder = pbjson_build::Builder::new();
    builder.btree_map(["."]);
    for file in files {
        builder.register_file_descriptor(file.clone());
    }
    let packages = builder.generate(&["."], |_| Ok(Vec::new()))?;
    packages
        .into_iter()
        .map(|(package, code)| {
            let code = String::from_utf8(code).map_err(io::Error::other)?;
            Ok((package.to_string(), rehome(&code)))
        })
        .collect()
}

/// Makes JSON code find its crates in the runtime crate.
///
/// The code names `serde`, `pbjson` and `::pbjson`. In an anonymous block the first two can be
/// imported without a trace in the module around it, whose names stay visible. Only code is
/// changed: every second piece between quotes is a string, and no string has a quote inside
/// (`check` refuses the one way to get one).
fn rehome(code: &str) -> String {
    let pieces = code.split('"').enumerate().map(|(index, piece)| {
        if index % 2 == 1 {
            piece.to_owned()
        } else {
            piece
                .replace("::pbjson::private", "pbjson::private")
                // Values that need a conversion are collected in a map first: keep its order.
                .replace("std::collections::HashMap", "std::collections::BTreeMap")
        }
    });
    let code = pieces.collect::<Vec<_>>().join("\"");
    // A package without numbers and bytes needs no pbjson.
    let mut block = format!(
        "\nconst _: () = {{\n    \
         #[allow(unused_imports, reason = \"generated code\")]\n    \
         use {CODEGEN}::{{pbjson, serde}};\n\n"
    );
    for line in code.lines() {
        if !line.is_empty() {
            block.push_str("    ");
            block.push_str(line.trim_end());
        }
        block.push('\n');
    }
    block.push_str("};\n");
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_left_alone() {
        let code = rehome("f::<::pbjson::private::X>(\"::pbjson::private::X\");");
        assert!(
            code.contains("    f::<pbjson::private::X>(\"::pbjson::private::X\");\n"),
            "{code}"
        );
    }
}
