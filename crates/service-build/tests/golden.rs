//! The generated text, byte by byte, against the files in `testdata/expected`.
//!
//! `UPDATE_EXPECTED=1 cargo test -p waystation-service-build` writes those files anew; read the
//! difference before it is committed. `tests/generated` compiles and runs the same files.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use waystation_service_build::{Config, Generated};

fn testdata(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(below)
}

fn config() -> Config {
    Config::new().include(testdata("proto"))
}

fn generate() -> Generated {
    config()
        .generate(&["im.proto", "containers.proto"])
        .expect("the test data is valid")
}

/// The lines in which two texts differ, with three lines around them.
fn difference(expected: &str, actual: &str) -> String {
    let expected = expected.lines().collect::<Vec<_>>();
    let actual = actual.lines().collect::<Vec<_>>();
    let same = |(a, b): &(&&str, &&str)| a == b;
    let front = expected.iter().zip(&actual).take_while(same).count();
    let back = expected[front..].iter().rev();
    let back = back.zip(actual[front..].iter().rev());
    let back = back.take_while(same).count();
    let mut text = String::new();
    let mut show = |mark: char, lines: &[&str]| {
        for line in lines {
            let _ = writeln!(text, "{mark} {line}");
        }
    };
    show(' ', &expected[front.saturating_sub(3)..front]);
    show('-', &expected[front..expected.len() - back]);
    show('+', &actual[front..actual.len() - back]);
    let behind = expected.len() - back;
    show(' ', &expected[behind..(behind + 3).min(expected.len())]);
    format!("at line {}:\n{text}", front + 1)
}

#[test]
fn the_generated_text_is_the_expected_one() {
    let mut faults = String::new();
    for file in generate().files {
        let path = testdata("expected").join(&file.name);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&path, &file.code).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != file.code {
            let _ = writeln!(
                faults,
                "{} {}",
                file.name,
                difference(&expected, &file.code)
            );
        }
    }
    assert!(
        faults.is_empty(),
        "generated text differs (- expected, + generated); see the head of this file\n{faults}"
    );
}

#[test]
fn every_package_has_a_file_and_the_tree_comes_first() {
    let generated = generate();
    let names = generated.files.iter().map(|file| file.name.as_str());
    let names = names.collect::<Vec<_>>();
    let expected = [
        "_mod.rs",
        "containers.rs",
        "every_type.rs",
        "im.rs",
        "im.common.rs",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_same_input_gives_the_same_text() {
    assert_eq!(generate().files, generate().files);
}

#[test]
fn imports_count_as_inputs() {
    let mut inputs = config().generate(&["im.proto"]).unwrap().inputs;
    inputs.sort_by_key(|path| path.components().count());
    let common = testdata("proto/im/common.proto");
    assert_eq!(inputs, [testdata("proto/im.proto"), common]);
}

#[test]
fn files_are_written_once_and_then_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().out_dir(dir.path());
    config.compile(&["im.proto"]).unwrap();
    let path = dir.path().join("im.rs");
    let first = fs::metadata(&path).unwrap().modified().unwrap();
    let generated = config.generate(&["im.proto"]).unwrap();
    for file in &generated.files {
        let written = fs::read_to_string(dir.path().join(&file.name)).unwrap();
        assert_eq!(written, file.code, "{}", file.name);
    }
    config.compile(&["im.proto"]).unwrap();
    let second = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(first, second, "an unchanged file was written again");
}

#[test]
fn a_difference_is_shown_with_its_surroundings() {
    let shown = difference("1\n2\n3\n4\n5\n6\n7\n8\n9", "1\n2\n3\n4\nfive\n6\n7\n8\n9");
    assert_eq!(
        shown,
        "at line 5:\n  2\n  3\n  4\n- 5\n+ five\n  6\n  7\n  8\n"
    );
}
