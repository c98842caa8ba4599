//! What one setting is: its name, kind, default and documentation, in one
//! table beside the typed struct that carries its value.
//!
//! [`section!`] declares both at once, so that the file reader, the overrides,
//! `config show` and the reference page cannot disagree about a field.

use std::net::SocketAddr;

use toml::Value;
use waystation_membership::Label;
use waystation_net::native::Origins;
use waystation_registry::{RegistryUrl, UrlError};
use waystation_service::ProbeKind;

use super::up_registries::UpRegistries;

/// No probe.
pub(crate) const PROBE_OFF: &str = "off";

/// The registry that `up` runs itself.
pub(crate) const OWN_REGISTRY: &str = "embedded";

/// The URLs of registries, for the reference page.
const REGISTRY_URLS: &str = "`embedded://HOST:PORT`, `etcd://HOST:PORT,…/PREFIX`, \
                             `zookeeper://HOST:PORT,…/ROOT`, `file://PATH`";

/// A group of fields: one `[table]` of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// The table's name.
    pub(crate) name: &'static str,
    /// What the section governs, one string a line.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "only the reference page says it")
    )]
    pub(crate) about: &'static [&'static str],
    /// Its fields, in the order of the reference page.
    pub(crate) fields: &'static [Field],
}

impl Section {
    /// The field called `key`.
    pub(crate) fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.key == key)
    }
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its key within the section.
    pub(crate) key: &'static str,
    /// What it does, one string a line.
    pub(crate) about: &'static [&'static str],
    /// Which values it takes.
    pub(crate) kind: Kind,
    /// The value when nobody sets it.
    pub(crate) default: Literal,
    /// What a higher (or other) value costs.
    pub(crate) cost: &'static str,
}

/// Which values a field takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number of `unit`, both ends included.
    Integer {
        /// What is counted.
        unit: &'static str,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// `IP:PORT`.
    Address,
    /// A path, not empty.
    Path,
    /// A number from 0 to 1.
    Share,
    /// `SCHEME://…`, or empty.
    Url,
    /// `same`, `any` or origins with commas between them.
    Origins,
    /// URLs of registries with spaces between them.
    Registry,
    /// How a node is probed, or [`PROBE_OFF`].
    Probe,
    /// The same, where one may be [`OWN_REGISTRY`].
    RegistryOrOwn,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a place, or empty.
    Place,
}

/// A default, as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Literal {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number from 0 to 1.
    Share(f64),
    /// A string.
    Text(&'static str),
}

impl Literal {
    /// The same as a TOML value.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Self::Bool(value) => Value::Boolean(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Share(value) => Value::Float(value),
            Self::Text(value) => Value::String(value.to_owned()),
        }
    }
}

impl Kind {
    /// What a reader of the reference or of a fault is told to write.
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { unit, .. } => format!("a whole number of {unit}"),
            Self::Address => "an address such as \"127.0.0.1:7070\"".to_owned(),
            Self::Path => "a path in quotes".to_owned(),
            Self::Registry => "a URL such as \"embedded://127.0.0.1:7071\" or \"etcd://127.0.0.1:2379/waystation\""
                .to_owned(),
            Self::RegistryOrOwn => format!("\"{OWN_REGISTRY}\" or URLs of registries"),
            Self::Probe => "\"native\", \"tcp\", \"http:/PATH\" or \"off\"".to_owned(),
            Self::Share => "a number from 0 to 1".to_owned(),
            Self::Url => "a URL such as \"mysql://user@host/name\"".to_owned(),
            Self::Origins => {
                "\"same\", \"any\" or origins such as \"https://chat.example.org\"".to_owned()
            }
            Self::Choice(words) => format!("one of {}", quoted(words)),
            Self::Place => "a name such as \"hel-1\"".to_owned(),
        }
    }

    /// The allowed values in short, for the reference page.
    pub(crate) fn range(self) -> String {
        match self {
            Self::Bool => "`true`, `false`".to_owned(),
            Self::Integer { min, max, .. } => format!("{min} to {max}"),
            Self::Address => "any local `IP:PORT`".to_owned(),
            Self::Path => "not empty".to_owned(),
            Self::Registry => REGISTRY_URLS.to_owned(),
            Self::RegistryOrOwn => format!("`{OWN_REGISTRY}`, {REGISTRY_URLS}"),
            Self::Probe => "`native`, `tcp`, `http:/PATH`, `off`".to_owned(),
            Self::Share => "0 to 1".to_owned(),
            Self::Url => "`SCHEME://…`, or empty".to_owned(),
            Self::Origins => "`same`, `any`, or `SCHEME://HOST[:PORT]` with commas".to_owned(),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                words.join(", ")
            }
            Self::Place => "a name, or empty".to_owned(),
        }
    }

    /// The unit in short, for the reference page.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Bool => "switch",
            Self::Integer { unit, .. } => unit,
            Self::Address => "address",
            Self::Path => "path",
            Self::Share => "share",
            Self::Url | Self::Registry | Self::RegistryOrOwn => "URL",
            Self::Probe => "probe",
            Self::Origins => "origins",
            Self::Choice(_) => "word",
            Self::Place => "name",
        }
    }

    /// Checks a value as the file gives it.
    ///
    /// # Errors
    /// Says what is wrong, for a person, when type or range do not fit.
    pub(crate) fn check(self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Self::Path, Value::String(text)) if text.is_empty() => {
                Err("the path is empty".to_owned())
            }
            (Self::Bool, Value::Boolean(_)) | (Self::Path, Value::String(_)) => Ok(()),
            (Self::Integer { min, max, unit }, Value::Integer(number)) => {
                if (min..=max).contains(number) {
                    Ok(())
                } else {
                    Err(format!("{number} is out of range: {min} to {max} {unit}"))
                }
            }
            (Self::Address, Value::String(text)) => match text.parse::<SocketAddr>() {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("`{text}` is not {}", self.expected())),
            },
            (Self::Share, Value::Float(_) | Value::Integer(_)) => match share_of(value) {
                Some(_) => Ok(()),
                None => Err(format!("{value} is not {}", self.expected())),
            },
            (Self::Url, Value::String(text)) => {
                if text.is_empty() || text.contains("://") {
                    Ok(())
                } else {
                    Err(format!("`{text}` is not {}", self.expected()))
                }
            }
            (Self::Origins, Value::String(text)) => match Origins::parse(text) {
                Ok(_) => Ok(()),
                Err(part) => Err(format!("`{part}` is not {}", self.expected())),
            },
            (Self::Probe, Value::String(text)) if text == PROBE_OFF => Ok(()),
            (Self::Probe, Value::String(text)) => match text.parse::<ProbeKind>() {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}, nor {PROBE_OFF}")),
            },
            (Self::Registry, Value::String(text)) => told(RegistryUrl::list(text)),
            (Self::RegistryOrOwn, Value::String(text)) => told(text.parse::<UpRegistries>()),
            (Self::Choice(words), Value::String(text)) => {
                if words.contains(&text.as_str()) {
                    Ok(())
                } else {
                    Err(format!("`{text}` is not {}", self.expected()))
                }
            }
            (Self::Place, Value::String(text)) if text.is_empty() => Ok(()),
            (Self::Place, Value::String(text)) => match Label::new(text) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("`{text}` is not {}: {error}", self.expected())),
            },
            (_, other) => Err(format!(
                "expected {}, found {}",
                self.expected(),
                article(other.type_str())
            )),
        }
    }

    /// Reads the text of an environment variable.
    ///
    /// # Errors
    /// Says what is wrong when the text is no value of this kind.
    pub(crate) fn parse(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::Bool => text.parse().map(Value::Boolean).ok(),
            Self::Integer { .. } => text.parse().map(Value::Integer).ok(),
            Self::Share => text.parse().map(Value::Float).ok(),
            Self::Address
            | Self::Path
            | Self::Url
            | Self::Origins
            | Self::Registry
            | Self::RegistryOrOwn
            | Self::Probe
            | Self::Choice(_)
            | Self::Place => Some(Value::String(text.to_owned())),
        };
        let value = value.ok_or_else(|| format!("`{text}` is not {}", self.expected()))?;
        self.check(&value).map(|()| value)
    }
}

/// Whether it is good, or why not.
fn told<T>(parsed: Result<T, UrlError>) -> Result<(), String> {
    parsed.map(drop).map_err(|error| error.to_string())
}

fn share_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Float(number) => *number,
        Value::Integer(0) => 0.0,
        Value::Integer(1) => 1.0,
        _ => return None,
    };
    (0.0..=1.0).contains(&number).then_some(number)
}

/// The word of `known` that `wrong` was probably meant to be: the nearest by
/// edit distance, at most a third of its length (and at least one) away.
pub(crate) fn did_you_mean<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(wrong, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(", ")
}

fn article(noun: &str) -> String {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        format!("an {noun}")
    } else {
        format!("a {noun}")
    }
}

/// Declares a section: the typed struct that carries its values and the table
/// that describes them.
///
/// Each field reads `key: Type = default, kind, "cost";` below its doc comment.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        struct $name:ident as $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $variant:ident($default:expr), $kind:expr, $cost:literal;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $( $(#[doc = $doc])* pub(crate) $key: $type, )*
        }

        impl $name {
            /// The fields of this section, described.
            pub(crate) const SECTION: $crate::config::field::Section =
                $crate::config::field::Section {
                    name: $section,
                    about: &[$($about),*],
                    fields: &[
                        $( $crate::config::field::Field {
                            key: stringify!($key),
                            about: &[$($doc),*],
                            kind: $kind,
                            default: $crate::config::field::Literal::$variant($default),
                            cost: $cost,
                        }, )*
                    ],
                };
        }
    };
}
pub(crate) use section;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_recognised_and_a_stranger_is_not() {
        let known = ["listen", "max_connections", "dir"];
        assert_eq!(did_you_mean("lisen", known), Some("listen"));
        assert_eq!(
            did_you_mean("max_conections", known),
            Some("max_connections")
        );
        assert_eq!(did_you_mean("dri", known), Some("dir"));
        assert_eq!(did_you_mean("colour", known), None);
    }

    #[test]
    fn the_text_of_a_variable_is_read_by_kind() {
        let number = Kind::Integer {
            unit: "ms",
            min: 1,
            max: 10,
        };
        assert_eq!(number.parse("7"), Ok(Value::Integer(7)));
        assert_eq!(
            number.parse("11"),
            Err("11 is out of range: 1 to 10 ms".to_owned())
        );
        assert_eq!(
            number.parse("7s"),
            Err("`7s` is not a whole number of ms".to_owned())
        );
        assert_eq!(Kind::Bool.parse("true"), Ok(Value::Boolean(true)));
        assert!(Kind::Bool.parse("yes").is_err());
        assert!(Kind::Address.parse("7070").is_err());
        assert!(Kind::Address.parse("[::1]:7070").is_ok());
    }
}
