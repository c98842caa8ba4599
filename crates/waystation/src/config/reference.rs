//! The reference page, written from the same table as everything else.

use std::fmt::Write as _;

use super::environment::variable_name;
use super::field::{Field, Section};
use super::show::prose;

/// `docs/configuration.md` as it should be. A test fails when the file differs;
/// `UPDATE_DOCS=1 cargo test -p waystation reference` writes it.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the page is written by its test")
)]
pub(super) fn page(sections: &[&'static Section]) -> String {
    let mut page = String::from(INTRODUCTION);
    for section in sections {
        let _ = write!(
            page,
            "\n## `[{}]`\n\n{}\n",
            section.name,
            prose(section.about)
        );
        for field in section.fields {
            write_field(&mut page, section, field);
        }
    }
    page
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written from the structs in crates/waystation/src/config by
     `UPDATE_DOCS=1 cargo test -p waystation reference`. Do not edit. -->

`waystation` needs no configuration. Where something should differ, it is read
from, in this order, a later one winning: the defaults below, the TOML file of
`--config FILE`, environment variables `WAYSTATION_SECTION__KEY`, flags.

Everything is read once and checked before anything starts. All faults are
reported together, each with its file, line and column or the variable's name,
and the process ends with exit code 2. `waystation config check` only checks;
`waystation config show` prints each value and where it came from.

```toml
# waystation.toml
[up]
dir = \"/var/lib/waystation\"

[console]
listen = \"127.0.0.1:7070\"
```
";

fn write_field(page: &mut String, section: &Section, field: &Field) {
    let _ = write!(
        page,
        "\n### `{}.{}`\n\n{}\n\n\
         | unit | default | range | override |\n| --- | --- | --- | --- |\n\
         | {} | `{}` | {} | `{}` |\n\nCost: {}.\n",
        section.name,
        field.key,
        prose(field.about),
        field.kind.unit(),
        field.default.to_value(),
        field.kind.range(),
        variable_name(section, field.key),
        field.cost,
    );
}

/// Story: a default was changed, and the page went on telling the old one.
#[test]
fn reference_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = page(super::SECTIONS);
    if std::env::vars_os().any(|(name, _)| name == "UPDATE_DOCS") {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is stale; write it with \
         `UPDATE_DOCS=1 cargo test -p waystation reference`"
    );
}
