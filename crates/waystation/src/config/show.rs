//! `config show`: the values in force and who set each.

use std::io::{self, Write};

use serde_json::{Map, json};

use super::field::{Field, Section};
use super::{SECTIONS, Setting, Values};

/// Writes all values, as aligned columns or as one JSON object.
///
/// # Errors
/// What the writer reports.
pub(crate) fn show(values: &Values, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if as_json {
        return writeln!(out, "{}", object(values));
    }
    let rows: Vec<[String; 3]> = in_order(values)
        .map(|(section, field, setting)| {
            [
                format!("{}.{}", section.name, field.key),
                setting.value.to_string(),
                setting.origin.to_string(),
            ]
        })
        .collect();
    crate::table::write(out, ["setting", "value", "origin"], &rows)
}

/// Every field with its value, in the order of the reference page.
fn in_order(
    values: &Values,
) -> impl Iterator<Item = (&'static Section, &'static Field, &Setting)> + '_ {
    SECTIONS.iter().flat_map(move |section| {
        section.fields.iter().filter_map(move |field| {
            let setting = values.get(&(section.name, field.key))?;
            Some((*section, field, setting))
        })
    })
}

fn object(values: &Values) -> serde_json::Value {
    let mut sections = Map::new();
    for (section, field, setting) in in_order(values) {
        let fields = sections.entry(section.name).or_insert_with(|| json!({}));
        fields[field.key] = json!({
            "value": setting.value,
            "origin": setting.origin.to_string(),
            "default": field.default.to_value(),
            "unit": field.kind.unit(),
            "range": field.kind.range(),
            "about": prose(field.about),
            "cost": field.cost,
        });
    }
    sections.into()
}

/// The lines of a doc comment as one text.
pub(super) fn prose(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join("\n")
}
