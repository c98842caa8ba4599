//! Which source wins, and what is said of wrong ones. What a whole file with
//! faults leads to stands in `tests/config.rs` beside the texts it prints.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn variable(name: &str, value: &str) -> Variable {
    Variable {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    }
}

fn file(folder: &tempfile::TempDir, text: &[u8]) -> PathBuf {
    let path = folder.path().join("waystation.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// The faults of these sources, one a line, without the folder's name.
fn faults(sources: Sources) -> String {
    let folder = sources
        .file
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| format!("{}/", folder.display()));
    let text = Config::load(sources).unwrap_err().to_string();
    folder.map_or(text.clone(), |folder| text.replace(&folder, ""))
}

#[test]
fn without_sources_the_defaults_hold() {
    let config = Config::load(Sources::default()).unwrap();
    assert_eq!(config.console.listen.port(), 7070);
    assert_eq!(config.up.entry.port(), 7080);
    assert_eq!(config.dir(), Path::new("./waystation-data"));
    assert!(
        config
            .values
            .values()
            .all(|setting| setting.origin == Origin::Default)
    );
}

/// Every default must itself pass the checks that the reference promises.
#[test]
fn defaults_lie_in_their_ranges() {
    for section in SECTIONS {
        for field in section.fields {
            let checked = field.kind.check(&field.default.to_value());
            assert_eq!(checked, Ok(()), "{}.{}", section.name, field.key);
        }
    }
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"[console]\nmax_connections = 11\nscrape_timeout_ms = 12\nheader_timeout_ms = 13\n";
    let config = Config::load(Sources {
        file: Some(file(&folder, text)),
        variables: vec![
            variable("WAYSTATION_CONSOLE__MAX_CONNECTIONS", "21"),
            variable("WAYSTATION_CONSOLE__SCRAPE_TIMEOUT_MS", "22"),
        ],
        flags: vec![Flag {
            name: "--max",
            section: "console",
            key: "max_connections",
            value: Value::Integer(31),
        }],
    })
    .unwrap();
    assert_eq!(config.console.max_connections, 31);
    assert_eq!(config.console.scrape_timeout_ms, 22);
    assert_eq!(config.console.header_timeout_ms, 13);
    let origin = |key| config.values[&("console", key)].origin.to_string();
    assert_eq!(origin("max_connections"), "--max");
    assert_eq!(
        origin("scrape_timeout_ms"),
        "WAYSTATION_CONSOLE__SCRAPE_TIMEOUT_MS"
    );
    assert!(origin("header_timeout_ms").ends_with("waystation.toml:4:1"));
    assert_eq!(origin("listen"), "default");
}

/// The time for a message in several frames had no key: on a slow link nobody
/// could send a large one.
#[test]
fn times_of_the_file_reach_the_connections() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"[net]\nframe_timeout_ms = 1100\nmessage_timeout_ms = 1200\n";
    let config = Config::load(Sources {
        file: Some(file(&folder, text)),
        ..Sources::default()
    });
    let limits = config.unwrap().net.connection();
    assert_eq!(limits.frame_wait.as_millis(), 1100);
    assert_eq!(limits.message_wait.as_millis(), 1200);
}

#[test]
fn faults_of_all_sources_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let text = faults(Sources {
        file: Some(file(&folder, b"[up]\ndmeo = true\n")),
        variables: vec![
            variable("WAYSTATION_CONSOLE__LISEN", "127.0.0.1:1"),
            variable("WAYSTATION_LOG__LEVEL", "loud"),
            Variable {
                name: "WAYSTATION_UP__DIR".to_owned(),
                value: None,
            },
        ],
        flags: vec![Flag {
            name: "--dir",
            section: "up",
            key: "dir",
            value: Value::String(String::new()),
        }],
    });
    assert_eq!(
        text,
        "waystation.toml:2:1: up.dmeo: unknown key; did you mean `demo`?\n\
         WAYSTATION_CONSOLE__LISEN: unknown override; did you mean `WAYSTATION_CONSOLE__LISTEN`?\n\
         WAYSTATION_LOG__LEVEL: `loud` is not one of \"off\", \"error\", \"warn\", \"info\", \
         \"debug\", \"trace\"\n\
         WAYSTATION_UP__DIR: not valid UTF-8\n\
         --dir: the path is empty\n\
         5 faults in the configuration"
    );
}

/// Story: on a container platform a service called `waystation` gave every
/// process variables such as `WAYSTATION_PORT_7070_TCP`, and none would start.
#[test]
fn variables_of_container_platforms_are_left_alone() {
    let sources = |name| Sources {
        variables: vec![variable(name, "tcp://10.0.0.1:7070")],
        ..Sources::default()
    };
    Config::load(sources("WAYSTATION_PORT_7070_TCP")).unwrap();
    assert!(
        faults(sources("WAYSTATION_CONSOLE_LISTEN"))
            .contains("did you mean `WAYSTATION_CONSOLE__LISTEN`?")
    );
}

#[test]
fn a_rule_over_two_fields_names_the_place_of_the_one_to_change() {
    let text = faults(Sources {
        variables: vec![variable("WAYSTATION_UP__RESTART_DELAY_MIN_MS", "6000")],
        ..Sources::default()
    });
    assert_eq!(
        text,
        "WAYSTATION_UP__RESTART_DELAY_MIN_MS: up.restart_delay_min_ms: 6000 is more than \
         restart_delay_max_ms, 5000\n1 fault in the configuration"
    );
}

#[test]
fn a_file_that_cannot_be_text_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let sources = |path| Sources {
        file: Some(path),
        ..Sources::default()
    };
    assert_eq!(
        faults(sources(file(&folder, b"[up]\ndir = \"\xff\"\n"))),
        "waystation.toml:2:8: not valid UTF-8\n1 fault in the configuration"
    );
    let huge = vec![b'\n'; 1_048_577];
    assert_eq!(
        faults(sources(file(&folder, &huge))),
        "waystation.toml:1:1: larger than 1048576 bytes\n1 fault in the configuration"
    );
    let missing = faults(sources(folder.path().join("missing.toml")));
    assert!(
        missing.starts_with("missing.toml:1:1: cannot be read: "),
        "{missing}"
    );
}

#[test]
fn a_flood_of_faults_is_cut_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("[up]\n");
    for key in 0..150 {
        let _ = writeln!(text, "strange_key_{key} = 1");
    }
    let sources = Sources {
        file: Some(file(&folder, text.as_bytes())),
        ..Sources::default()
    };
    let text = faults(sources);
    assert_eq!(text.lines().count(), 102);
    assert!(
        text.ends_with("and 50 more\n150 faults in the configuration"),
        "{text}"
    );
}

proptest! {
    /// A file is a person's bytes: whatever they are, there is an answer.
    #[test]
    fn no_file_panics(
        heads in vec("(\\[(up|console|log|x)\\])|((dir|listen|level|demo) ?= ?)|\\PC{0,3}", 0..6),
        tails in vec("(\"\\PC{0,4}\"?)|(-?[0-9]{1,20})|\\{|\\[|true|\\PC{0,3}", 6),
    ) {
        let lines: Vec<String> = heads.iter().zip(tails).map(|(a, b)| format!("{a}{b}")).collect();
        let text = lines.join("\n");
        let mut values = defaults();
        let mut faults = Vec::new();
        file::parse(Path::new("f"), &text, SECTIONS, &mut values, &mut faults);
        for (section, key) in values.keys() {
            let section = SECTIONS.iter().find(|known| known.name == *section).unwrap();
            let value = &values[&(section.name, *key)].value;
            prop_assert_eq!(section.field(key).unwrap().kind.check(value), Ok(()));
        }
    }
}

/// `config check` accepted a drain that the supervisor would have cut short,
/// and one port for two listeners.
#[test]
fn settings_that_cannot_stand_together_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[up]\nentry = \"127.0.0.1:7070\"\ndrain_timeout_ms = 2000\n\
                [entry]\ndrain_ms = 5000\n[logic]\ndrain_ms = 2000\n[das]\ndrain_ms = 1\n";
    let sources = Sources {
        file: Some(file(&folder, text.as_bytes())),
        ..Sources::default()
    };
    let expected = "waystation.toml:2:1: up.entry: 127.0.0.1:7070 is taken by console.listen, \
                    127.0.0.1:7070\n\
                    waystation.toml:5:1: entry.drain_ms: 5000 is more than \
                    up.drain_timeout_ms, 2000: it would be killed before\n\
                    2 faults in the configuration";
    assert_eq!(faults(sources), expected);
}

/// `config check` passed a registry on the port of the console or of Entry,
/// and `up` failed then; of three bounds of output that contradict each other
/// it named one.
#[test]
fn listeners_and_bounds_that_exclude_each_other_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[registry]\nlisten = \"0.0.0.0:7080\"\n[console]\nlisten = \"127.0.0.1:7080\"\n\
                [net]\noutput_high_water_bytes = 2048\noutput_low_water_bytes = 30000000\n\
                output_bytes_max = 1024\n";
    let sources = |text: &str| Sources {
        file: Some(file(&folder, text.as_bytes())),
        ..Sources::default()
    };
    let expected = "waystation.toml:2:1: registry.listen: 0.0.0.0:7080 is taken by \
                    console.listen, 127.0.0.1:7080\n\
                    waystation.toml:2:1: registry.listen: 0.0.0.0:7080 is taken by \
                    up.entry, 127.0.0.1:7080\n\
                    waystation.toml:4:1: console.listen: 127.0.0.1:7080 is taken by \
                    up.entry, 127.0.0.1:7080\n\
                    waystation.toml:6:1: net.output_high_water_bytes: 2048 is more than \
                    output_bytes_max, 1024\n\
                    waystation.toml:7:1: net.output_low_water_bytes: 30000000 is more than half \
                    of output_high_water_bytes, 1024\n\
                    5 faults in the configuration";
    assert_eq!(faults(sources(text)), expected);
    // What does not run beside the others is not in their way.
    for text in [
        "[up]\ndemo = false\n[console]\nlisten = \"127.0.0.1:7080\"\n",
        "[up]\nregistry = \"etcd://10.0.0.5:2379/chat\"\n[console]\nlisten = \"127.0.0.1:7071\"\n",
        "[registry]\nlisten = \"10.0.0.5:7070\"\n[net]\noutput_high_water_bytes = 2048\n",
    ] {
        assert!(Config::load(sources(text)).is_ok(), "{text}");
    }
}

/// Sites whose Entries or hub have no place were found when they were started.
#[test]
fn each_site_has_a_port_for_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let sources = |text: &str| Sources {
        file: Some(file(&folder, text.as_bytes())),
        ..Sources::default()
    };
    let up = |text: &str| Config::load(sources(text)).unwrap().up;
    let ports = |text| -> Vec<u16> { up(text).entries().iter().map(SocketAddr::port).collect() };
    assert_eq!(ports(""), [7080, 7081]);
    assert_eq!(ports("[up]\nsites = 1\n"), [7080]);
    assert_eq!(ports("[up]\nsites = 3\n"), [7080, 7081, 7082]);
    assert_eq!(ports("[up]\nsites = 2\nentry = \"127.0.0.1:0\"\n"), [0, 0]);
    let expected = "waystation.toml:2:1: up.entry: there are no 2 ports from 127.0.0.1:65535 on";
    let found = faults(sources("[up]\nentry = \"127.0.0.1:65535\"\nsites = 2\n"));
    assert!(found.contains(expected), "{found}");
    let taken = "[up]\nhub = \"127.0.0.1:7070\"\n";
    let alone = format!("{taken}sites = 1\n");
    assert!(Config::load(sources(&alone)).is_ok(), "one site has no hub");
    let alone = format!("{taken}demo = false\n");
    assert!(
        Config::load(sources(&alone)).is_ok(),
        "nor do they without a chat"
    );
    let expected = "waystation.toml:2:1: up.hub: 127.0.0.1:7070 is taken by console.listen";
    let found = faults(sources(taken));
    assert!(found.contains(expected), "{found}");
}
