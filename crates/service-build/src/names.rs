//! How protobuf names become Rust names.
//!
//! Three writers work on one file: prost (types), pbjson (JSON) and this crate (services). They
//! have to agree on every name, so the rules stand here once, and `check` refuses a name on which
//! they would not.

use heck::{ToSnakeCase, ToUpperCamelCase};

/// Words that become `r#word` where they stand as an identifier.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "static",
    "struct", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

/// Words that Rust does not take as raw identifiers; they get an underscore behind.
const NEVER_RAW: &[&str] = &["_", "super", "self", "Self", "extern", "crate"];

/// The name of a function, a field or a module.
pub(crate) fn snake(name: &str) -> String {
    escape(name.to_snake_case())
}

/// The name of a type or a variant.
pub(crate) fn upper_camel(name: &str) -> String {
    escape(name.to_upper_camel_case())
}

/// The variant of an enum value: `KIND_TEXT` of `Kind` is `Text`.
pub(crate) fn variant(enumeration: &str, value: &str) -> String {
    let value = value.to_upper_camel_case();
    let stripped = value.strip_prefix(&enumeration.to_upper_camel_case());
    match stripped {
        // `Foo` is no prefix of `Foobar`, and a digit cannot begin a name.
        Some(rest) if rest.starts_with(char::is_uppercase) => escape(rest.to_owned()),
        _ => escape(value),
    }
}

/// Whether prost and pbjson give `name` the same field or module name. They part at `gen`, a
/// keyword that pbjson does not know, and where nothing but a digit is left in front.
pub(crate) fn is_agreed_snake(name: &str) -> bool {
    let plain = name.to_snake_case();
    !plain.is_empty() && plain != "gen" && !starts_with_digit(&plain)
}

/// Whether prost and pbjson give `name` the same type name.
pub(crate) fn is_agreed_type(name: &str) -> bool {
    let plain = name.to_upper_camel_case();
    !plain.is_empty() && !starts_with_digit(&plain)
}

/// Whether prost and pbjson give an enum value the same variant; pbjson escapes nothing there.
pub(crate) fn is_agreed_variant(variant: &str) -> bool {
    let ends_escaped = variant.ends_with('_');
    !variant.is_empty() && !ends_escaped && !variant.starts_with('_') && !starts_with_digit(variant)
}

fn starts_with_digit(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit())
}

fn escape(name: String) -> String {
    if KEYWORDS.contains(&name.as_str()) {
        format!("r#{name}")
    } else if NEVER_RAW.contains(&name.as_str()) {
        format!("{name}_")
    } else if starts_with_digit(&name) {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rust_conventions() {
        assert_eq!(snake("FetchHistory"), "fetch_history");
        assert_eq!(snake("HTTPGet"), "http_get");
        assert_eq!(upper_camel("fetch_history"), "FetchHistory");
    }

    #[test]
    fn keywords_are_escaped() {
        assert_eq!(snake("Type"), "r#type");
        assert_eq!(snake("Self"), "self_");
        assert_eq!(upper_camel("self"), "Self_");
        assert_eq!(snake("_1"), "_1");
    }

    #[test]
    fn an_enum_value_loses_the_name_of_its_enum() {
        assert_eq!(variant("Kind", "KIND_TEXT"), "Text");
        assert_eq!(variant("Kind", "TEXT"), "Text");
        assert_eq!(variant("Foo", "FOOBAR"), "Foobar");
        assert_eq!(variant("Kind", "KIND_1"), "Kind1");
    }

    #[test]
    fn names_without_agreement_are_found() {
        assert!(is_agreed_snake("type"));
        assert!(!is_agreed_snake("gen"));
        assert!(!is_agreed_snake("_1"));
        assert!(!is_agreed_type("_1"));
        assert!(is_agreed_variant("Text"));
        assert!(!is_agreed_variant(&variant("Kind", "KIND_SELF")));
    }
}
