//! What is refused, in the words and with the places that a user reads.

use std::fs;
use std::path::Path;

use waystation_service_build::{Config, Error};

/// Checks the message for a file `test.proto` in a folder of its own; paths are shown as seen from
/// that folder.
#[track_caller]
fn check(proto: &str, expected: &str) {
    check_files(&[("test.proto", proto)], expected);
}

/// The same for several files, of which the first is compiled.
#[track_caller]
fn check_files(files: &[(&str, &str)], expected: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file in it");
    }
    let error = Config::new().include(dir.path()).generate(&[files[0].0]);
    let error = error.expect_err("the file has a fault").to_string();
    let folder = format!("{}/", dir.path().display());
    assert_eq!(error.replace(&folder, ""), expected);
}

/// A file of package `im` with `body` from line 3 on.
fn in_package(body: &str) -> String {
    format!("syntax = \"proto3\";\npackage im;\n{body}")
}

#[test]
fn a_syntax_error_is_shown_with_its_place() {
    check(
        "syntax = \"proto3\";\npackage im;\nmessage A {\n  string text = ;\n}\n",
        "cannot compile protobuf\n  test.proto:4:17: expected an integer, but found ';'",
    );
}

#[test]
fn all_unknown_names_of_a_file_are_shown() {
    check(
        &in_package("message A {\n  Nope a = 1;\n  Neither b = 2;\n}\n"),
        "cannot compile protobuf\
         \n  test.proto:4:3: name 'Nope' is not defined\
         \n  test.proto:5:3: name 'Neither' is not defined",
    );
}

#[test]
fn a_missing_import_is_shown_where_it_is_imported() {
    check(
        &in_package("import \"nope.proto\";\n"),
        "cannot compile protobuf\n  test.proto:3:1: import 'nope.proto' not found",
    );
}

#[test]
fn a_fault_in_an_import_names_the_import() {
    check_files(
        &[
            (
                "test.proto",
                "syntax = \"proto3\";\npackage im;\nimport \"other.proto\";\n",
            ),
            (
                "other.proto",
                "syntax = \"proto3\";\npackage im;\nservice S {\n  rpc A(M) returns (stream M);\n}\nmessage M {}\n",
            ),
        ],
        "cannot generate services\
         \n  other.proto:4:3: rpc `im.S/A` streams: only one request and one reply are supported; \
         send several messages, or push to the peer",
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::new().generate(&["nowhere/nope.proto"]).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(error.to_string().contains("nowhere/nope.proto"), "{error}");
}

#[test]
fn files_that_are_not_proto3_or_have_no_package() {
    check(
        "syntax = \"proto2\";\npackage im;\n",
        "cannot generate services\n  test.proto:1:1: syntax is proto2: write `syntax = \"proto3\";`",
    );
    check(
        "package im;\n",
        "cannot generate services\n  test.proto: syntax is proto2: write `syntax = \"proto3\";`",
    );
    check(
        "syntax = \"proto3\";\n",
        "cannot generate services\n  test.proto:1:1: no package: write `package NAME;`, it names the \
         Rust module and the services",
    );
}

#[test]
fn streams_in_either_direction() {
    check(
        &in_package(
            "message M {}\nservice S {\n  rpc A(stream M) returns (M);\n  rpc B(M) returns (stream M);\n}\n",
        ),
        "cannot generate services\
         \n  test.proto:5:3: rpc `im.S/A` streams: only one request and one reply are supported; \
         send several messages, or push to the peer\
         \n  test.proto:6:3: rpc `im.S/B` streams: only one request and one reply are supported; \
         send several messages, or push to the peer",
    );
}

#[test]
fn messages_of_protobuf_itself() {
    check(
        &in_package(
            "import \"google/protobuf/empty.proto\";\n\
             import \"google/protobuf/timestamp.proto\";\n\
             message M {\n  google.protobuf.Timestamp at = 1;\n}\n\
             service S {\n  rpc A(M) returns (google.protobuf.Empty);\n}\n",
        ),
        "cannot generate services\
         \n  test.proto:6:3: field `im.M.at` uses google.protobuf.Timestamp, which is not supported: \
         declare a message of your own (an empty one for Empty, milliseconds for Timestamp)\
         \n  test.proto:9:3: rpc `im.S/A` uses google.protobuf.Empty, which is not supported: \
         declare a message of your own (an empty one for Empty, milliseconds for Timestamp)",
    );
    // In a map the type stands in a message that protobuf makes behind the scenes.
    check(
        &in_package(
            "import \"google/protobuf/duration.proto\";\n\
             message M {\n  map<string, google.protobuf.Duration> waits = 1;\n}\n",
        ),
        "cannot generate services\
         \n  test.proto:5:3: field `im.M.waits` uses google.protobuf.Duration, which is not \
         supported: declare a message of your own (an empty one for Empty, milliseconds for \
         Timestamp)",
    );
}

/// FNV-1a of 32 bits gives these two names the same id.
#[test]
fn two_rpcs_with_one_message_id() {
    check(
        &in_package(
            "message M {}\nservice S {\n  rpc SplitNewZone(M) returns (M);\n  rpc OpenRemoteQuotaLater(M) returns (M);\n}\n",
        ),
        "cannot generate services\
         \n  test.proto:6:3: rpc `im.S/OpenRemoteQuotaLater` and rpc `im.S/SplitNewZone` have the same message id: \
         rename one",
    );
}

#[test]
fn names_that_become_one_in_rust() {
    let clash = |body: &str, expected: &str| {
        check(
            &in_package(body),
            &format!("cannot generate services\n  test.proto:{expected}"),
        );
    };
    clash(
        "message FooBar {}\nmessage foo_bar {}\n",
        "4:1: message `im.foo_bar` and message `im.FooBar` would both be `FooBar` in Rust: rename one",
    );
    clash(
        "message M {}\nservice S {\n  rpc DoIt(M) returns (M);\n  rpc Do_it(M) returns (M);\n}\n",
        "6:3: rpc `im.S/Do_it` and rpc `im.S/DoIt` would both be `do_it` in Rust: rename one\
         \n  test.proto:6:3: rpc `im.S/Do_it` and rpc `im.S/DoIt` would both be `DoIt` in Rust: \
         rename one",
    );
    clash(
        "message Logic {\n  enum Inner { A = 0; }\n}\nservice LOGIC {}\n",
        "6:1: service `im.LOGIC` and message `im.Logic` would both be `logic` in Rust: rename one",
    );
    clash(
        "enum Kind {\n  KIND_TEXT = 0;\n  TEXT = 1;\n}\n",
        "5:3: enum value `im.Kind.TEXT` and enum value `im.Kind.KIND_TEXT` would both be `Text` in \
         Rust: rename one",
    );
    clash(
        "message M {\n  oneof inner { string a = 1; }\n  message Inner {}\n}\n",
        "5:3: message `im.M.Inner` and oneof `im.M.inner` would both be `Inner` in Rust: rename one",
    );
    clash(
        "message M {\n  oneof a_b { string c = 1; }\n  string aB = 2;\n}\n",
        "4:3: oneof `im.M.a_b` and field `im.M.aB` would both be `a_b` in Rust: rename one",
    );
}

#[test]
fn packages_that_become_one_in_rust() {
    check_files(
        &[
            (
                "test.proto",
                "syntax = \"proto3\";\npackage chat_room;\nimport \"other.proto\";\n",
            ),
            ("other.proto", "syntax = \"proto3\";\npackage chatRoom;\n"),
        ],
        "cannot generate services\
         \n  test.proto:2:1: package `chat_room` and package `chatRoom` would both be `chat_room` in \
         Rust: rename one",
    );
    check_files(
        &[
            (
                "test.proto",
                "syntax = \"proto3\";\npackage im;\nimport \"other.proto\";\nservice Logic {}\n",
            ),
            ("other.proto", "syntax = \"proto3\";\npackage im.logic;\n"),
        ],
        "cannot generate services\
         \n  test.proto:4:1: service `im.Logic` and package `im.logic` would both be `logic` in Rust: \
         rename one",
    );
}

#[test]
fn names_that_cannot_be_used() {
    let refuse = |body: &str, expected: &str| {
        check(
            &in_package(body),
            &format!("cannot generate services\n  test.proto:{expected}"),
        );
    };
    refuse(
        "message M {}\nservice S {\n  rpc New(M) returns (M);\n}\n",
        "5:3: rpc `im.S/New` clashes with `new` of the client: rename it",
    );
    refuse(
        "message M {\n  string gen = 1;\n}\n",
        "4:3: field name `gen` has no Rust name: rename it",
    );
    refuse(
        "message Vec {}\n",
        "3:1: message `im.Vec` cannot be `Vec` in Rust: rename it",
    );
    refuse(
        "message Serde {\n  enum E { A = 0; }\n}\n",
        "3:1: message `im.Serde` cannot have a module `serde` in Rust: rename it",
    );
    refuse(
        "enum E {\n  E_SELF = 0;\n}\n",
        "4:3: enum value `im.E.E_SELF` has no Rust name: rename it",
    );
    refuse(
        "message M {\n  string a = 1 [json_name = 'a\"b'];\n}\n",
        "4:3: field `im.M.a` has a `json_name` with a quote, a backslash or a control character",
    );
}

#[test]
fn all_faults_are_reported_at_once_and_by_place() {
    let dir = tempfile::tempdir().unwrap();
    let proto = in_package("message Vec {}\nmessage M {\n  string gen = 1;\n}\n");
    fs::write(dir.path().join("test.proto"), proto).unwrap();
    let error = Config::new().include(dir.path()).generate(&["test.proto"]);
    let error = error.unwrap_err();
    let places = error
        .faults()
        .iter()
        .map(|fault| (fault.line, fault.column));
    assert_eq!(
        places.collect::<Vec<_>>(),
        [(Some(3), Some(1)), (Some(5), Some(3))]
    );
    assert_eq!(
        error.faults()[0].file.as_deref(),
        Some(&*dir.path().join("test.proto"))
    );
    // A build script shows the `Debug` form.
    assert_eq!(format!("{error:?}"), error.to_string());
}

#[test]
fn output_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("test.proto"), in_package("message M {}\n")).unwrap();
    let missing = dir.path().join("missing");
    let config = Config::new().include(dir.path()).out_dir(&missing);
    let error = config.compile(&["test.proto"]).unwrap_err();
    let Error::Write { path, .. } = &error else {
        panic!("expected a write error, got {error}");
    };
    assert_eq!(path, Path::new(&missing.join("_mod.rs")));
    assert!(format!("{error:?}").contains("No such file"), "{error:?}");
}
