//! Every backend passes the suite.

use std::path::Path;

use waystation_registry_check::{
    Embedded, Etcd, StaticList, ZooKeeper, conform, etcd_program, has_zookeeper,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

#[test]
fn the_embedded_registry_conforms() {
    conform::<Embedded>(Path::new(PROGRAM));
}

#[test]
fn a_static_list_conforms() {
    conform::<StaticList>(Path::new(PROGRAM));
}

#[test]
fn needs_etcd_a_registry_in_etcd_conforms() {
    if etcd_program().is_some() {
        conform::<Etcd>(Path::new(PROGRAM));
    }
}

#[test]
fn needs_zookeeper_a_registry_in_zookeeper_conforms() {
    if has_zookeeper() {
        conform::<ZooKeeper>(Path::new(PROGRAM));
    }
}
