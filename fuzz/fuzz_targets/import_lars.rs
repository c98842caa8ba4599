//! A file of Lars, through the INI reader of `config import-lars`.
//!
//! Whatever is in it, the outcome is a configuration of ours that says the same
//! as TOML and as JSON, or faults that each name a line of the file; and line
//! ends, a byte order mark and comments change nothing.
//!
//! The modules are those of the binary. Its crate is not linked: it would bring
//! all the roles, with SQLite in C, under the sanitizer.
#![no_main]

#[allow(dead_code, unused_imports, reason = "the target imports only")]
#[path = "../../crates/waystation/src/config/mod.rs"]
mod config;
#[allow(dead_code, reason = "the target imports only")]
#[path = "../../crates/waystation/src/limits.rs"]
mod limits;
#[allow(dead_code, reason = "the target imports only")]
#[path = "../../crates/waystation/src/table.rs"]
mod table;

use std::path::Path;

use config::{Faults, Origin, SECTIONS, import_lars};
use libfuzzer_sys::fuzz_target;

/// What is printed for people and for programs.
type Printed = (String, String);

fuzz_target!(|input: &[u8]| {
    let outcome = import(input);
    match &outcome {
        Ok(printed) => check_printed(printed),
        Err(faults) => check_faults(faults, input),
    }
    if !input.starts_with(b"\xEF\xBB\xBF") {
        assert_eq!(outcome, import(&[b"\xEF\xBB\xBF", input].concat()));
    }
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    assert_eq!(outcome, import(&lines.join(&b"\r\n"[..])));
    assert_eq!(outcome, import(&[input, b"\n; \xFF\n\t# [x\n"].concat()));
});

fn import(input: &[u8]) -> Result<Printed, Faults> {
    let imported = import_lars(Path::new("x.conf"), input)?;
    let print = |as_json| {
        let mut out = Vec::new();
        let printed = imported.print(as_json, &mut out);
        printed.expect("a vector takes everything");
        String::from_utf8(out).expect("what is printed is text")
    };
    Ok((print(false), print(true)))
}

fn check_printed((ours, json): &Printed) {
    let table: toml::Table = ours.parse().expect("what is printed is TOML");
    for (section, fields) in &table {
        let known = SECTIONS.iter().find(|known| known.name == section);
        let known = known.expect("a section of ours");
        for (key, value) in fields.as_table().expect("a section is a table") {
            let field = known.field(key).expect("a key of ours");
            field.kind.check(value).expect("a value that is allowed");
        }
    }
    let json: serde_json::Value = serde_json::from_str(json).expect("what is printed is JSON");
    let same = serde_json::to_value(&table).expect("TOML without dates is JSON");
    assert_eq!(json["settings"], same);
    let unknown = json["unknown"].as_array().expect("a list").len();
    let comments = ours.lines().filter(|line| line.starts_with("# ")).count();
    assert_eq!(unknown, comments);
    assert!(!table.is_empty(), "nothing was imported");
}

fn check_faults(Faults(faults): &Faults, input: &[u8]) {
    assert!(!faults.is_empty() && faults.is_sorted());
    let lines = input.split(|byte| *byte == b'\n').count();
    for fault in faults {
        let Origin::File { line, .. } = fault.origin else {
            panic!("{fault} is nowhere in the file")
        };
        assert!((1..=lines).contains(&line), "{fault} of {lines} lines");
        let text = fault.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
