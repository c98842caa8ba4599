//! From the text of a TOML file to checked values, each with its place.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::field::{Section, did_you_mean};
use super::{Setting, Values};
use crate::limits::CONFIG_FILE_BYTES_MAX;

/// Reads `path` and adds what it sets to `values` and what is wrong with it to
/// `faults`.
pub(super) fn read(
    path: &Path,
    sections: &[&'static Section],
    values: &mut Values,
    faults: &mut Vec<Fault>,
) {
    match text_of(path) {
        Ok(text) => parse(path, &text, sections, values, faults),
        Err(fault) => faults.push(fault),
    }
}

/// Reads a whole file, within the bound on its size.
///
/// # Errors
/// It cannot be read, or is larger.
pub(crate) fn bytes_of(path: &Path) -> Result<Vec<u8>, Fault> {
    let whole_file = |message: String| Fault {
        origin: start_of(path),
        message,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| whole_file(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(whole_file(format!(
            "larger than {CONFIG_FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn text_of(path: &Path) -> Result<String, Fault> {
    let bytes = bytes_of(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let place = Place {
            path,
            text: &String::from_utf8_lossy(valid),
        };
        Fault {
            origin: place.at(valid.len()),
            message: "not valid UTF-8".to_owned(),
        }
    })
}

fn start_of(path: &Path) -> Origin {
    Origin::File {
        path: path.to_owned(),
        line: 1,
        column: 1,
    }
}

/// Checks `text` as the content of `path`; see [`read`].
pub(super) fn parse(
    path: &Path,
    text: &str,
    sections: &[&'static Section],
    values: &mut Values,
    faults: &mut Vec<Fault>,
) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        place: Place { path, text },
        sections,
        values,
        faults: Vec::new(),
    };
    let broken = !errors.is_empty();
    for error in errors {
        let at = error.span().unwrap_or(0..0);
        reader.fault(&at, error.message().replace('\n', ", "));
    }
    // After a syntax error the rest of the document is a guess: its values are
    // still checked where the parser recovered, but what it could not place is
    // not reported a second time.
    for (name, value) in document.get_ref() {
        reader.section(name.get_ref(), &name.span(), value.get_ref(), broken);
    }
    faults.append(&mut reader.faults);
}

struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    /// Turns a byte offset into a line and a column. Cost: one pass over the
    /// text before it.
    fn at(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: self.path.to_owned(),
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

struct Reader<'a> {
    place: Place<'a>,
    sections: &'a [&'static Section],
    values: &'a mut Values,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, at: &Range<usize>, message: String) {
        let origin = self.place.at(at.start);
        self.faults.push(Fault { origin, message });
    }

    fn section(&mut self, name: &str, at: &Range<usize>, value: &DeValue<'_>, broken: bool) {
        let Some(section) = self
            .sections
            .iter()
            .copied()
            .find(|section| section.name == name)
        else {
            if !broken {
                let message = self.unknown_section(name, value);
                self.fault(at, message);
            }
            return;
        };
        let DeValue::Table(table) = value else {
            self.fault(
                at,
                format!("{name}: expected a section, written `[{name}]`"),
            );
            return;
        };
        for (key, value) in table {
            self.field(section, key.get_ref(), &key.span(), value.get_ref());
        }
    }

    fn unknown_section(&self, name: &str, value: &DeValue<'_>) -> String {
        let names = self.sections.iter().map(|section| section.name);
        if !value.is_table() {
            let owners = self
                .sections
                .iter()
                .filter(|section| section.field(name).is_some());
            let owners: Vec<_> = owners
                .map(|section| format!("`[{}]`", section.name))
                .collect();
            return match owners.as_slice() {
                [] => format!("{name}: unknown key outside of any section"),
                owners => format!(
                    "{name}: stands outside its section, {}",
                    owners.join(" or ")
                ),
            };
        }
        if let Some(near) = did_you_mean(name, names.clone()) {
            return format!("{name}: unknown section; did you mean `{near}`?");
        }
        let names: Vec<_> = names.collect();
        format!("{name}: unknown section; there are {}", names.join(", "))
    }

    fn field(
        &mut self,
        section: &'static Section,
        key: &str,
        at: &Range<usize>,
        value: &DeValue<'_>,
    ) {
        let Some(field) = section.field(key) else {
            let message = super::unknown_key(section, key);
            self.fault(at, format!("{}.{key}: {message}", section.name));
            return;
        };
        let checked = plain(value).and_then(|value| field.kind.check(&value).map(|()| value));
        match checked {
            Ok(value) => {
                let origin = self.place.at(at.start);
                self.values
                    .insert((section.name, field.key), Setting { value, origin });
            }
            Err(message) => self.fault(at, format!("{}.{key}: {message}", section.name)),
        }
    }
}

/// The value without its places. Tables, dates and numbers that do not fit keep
/// only their type: no field takes them, and the fault names what was found.
fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.map_err(|_| format!("{number} does not fit into 64 bits"))?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(value) => Value::Datetime(*value),
        DeValue::Array(items) => {
            let items: Result<_, _> = items.iter().map(|item| plain(item.get_ref())).collect();
            Value::Array(items?)
        }
        DeValue::Table(_) => Value::Table(toml::Table::new()),
    })
}
