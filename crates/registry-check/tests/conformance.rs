//! Every backend passes the suite.

use std::path::Path;

use waystation_registry_check::{Embedded, StaticList, conform};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

#[test]
fn the_embedded_registry_conforms() {
    conform::<Embedded>(Path::new(PROGRAM));
}

#[test]
fn a_static_list_conforms() {
    conform::<StaticList>(Path::new(PROGRAM));
}
