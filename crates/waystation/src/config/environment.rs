//! Overrides from the environment: `WAYSTATION_SECTION__KEY`.

use super::fault::{Fault, Origin};
use super::field::{Section, did_you_mean};
use super::{Setting, Values};

/// What the names of all overrides begin with.
const PREFIX: &str = "WAYSTATION_";

/// One variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its whole name.
    pub(crate) name: String,
    /// Its value; none when it is not UTF-8.
    pub(crate) value: Option<String>,
}

/// The variables that begin with `WAYSTATION_`, by name. This is the only place
/// that reads the environment.
pub(crate) fn variables() -> Vec<Variable> {
    let mut found: Vec<Variable> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let value = value.into_string().ok();
            name.starts_with(PREFIX).then_some(Variable { name, value })
        })
        .collect();
    found.sort_by(|left, right| left.name.cmp(&right.name));
    found
}

/// Adds what `variables` set to `values` and what is wrong with them to
/// `faults`.
///
/// A name without a double underscore is left alone, because container
/// platforms set such names by themselves (`WAYSTATION_PORT`), unless only the
/// second underscore is missing.
pub(super) fn apply(
    variables: &[Variable],
    sections: &[&'static Section],
    values: &mut Values,
    faults: &mut Vec<Fault>,
) {
    for variable in variables {
        match lookup(&variable.name, sections) {
            Lookup::Found(section, key) => match read(section, key, variable) {
                Ok(setting) => {
                    values.insert((section.name, key), setting);
                }
                Err(message) => faults.push(fault(&variable.name, message)),
            },
            Lookup::Wrong(message) => faults.push(fault(&variable.name, message)),
            Lookup::NotOurs => {}
        }
    }
}

enum Lookup {
    Found(&'static Section, &'static str),
    Wrong(String),
    NotOurs,
}

fn lookup(name: &str, sections: &[&'static Section]) -> Lookup {
    let all = || {
        sections.iter().flat_map(|section| {
            section
                .fields
                .iter()
                .map(move |field| (*section, field.key, variable_name(section, field.key)))
        })
    };
    if let Some((section, key, _)) = all().find(|(_, _, known)| known == name) {
        return Lookup::Found(section, key);
    }
    if !name[PREFIX.len()..].contains("__") {
        return match all().find(|(_, _, known)| known.replace("__", "_") == name) {
            Some((_, _, known)) => {
                Lookup::Wrong(format!("unknown override; did you mean `{known}`?"))
            }
            None => Lookup::NotOurs,
        };
    }
    let known: Vec<String> = all().map(|(_, _, known)| known).collect();
    let upper = name.to_ascii_uppercase();
    match did_you_mean(&upper, known.iter().map(String::as_str)) {
        Some(near) => Lookup::Wrong(format!("unknown override; did you mean `{near}`?")),
        None => Lookup::Wrong("unknown override".to_owned()),
    }
}

/// The variable that overrides a field.
pub(super) fn variable_name(section: &Section, key: &str) -> String {
    format!(
        "{PREFIX}{}__{}",
        section.name.to_ascii_uppercase(),
        key.to_ascii_uppercase()
    )
}

fn read(section: &'static Section, key: &str, variable: &Variable) -> Result<Setting, String> {
    let field = section.field(key).expect("the lookup found this field");
    let text = variable.value.as_deref().ok_or("not valid UTF-8")?;
    let value = field.kind.parse(text)?;
    Ok(Setting {
        value,
        origin: Origin::Environment(variable.name.clone()),
    })
}

fn fault(name: &str, message: String) -> Fault {
    Fault {
        origin: Origin::Environment(name.to_owned()),
        message,
    }
}
