//! `waystation sync` as a user runs it: a hub in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use common::{run, stderr, stdout, waystation};
use tempfile::TempDir;

/// A hub, killed when it is dropped.
struct Hub {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Hub {
    fn start(folder: &TempDir, listen: &str) -> Self {
        let dir = folder.path().to_str().unwrap();
        let args = ["sync", "hub", "--dir", dir, "--listen", listen];
        let mut child = waystation(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ");
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self {
            child,
            out,
            address,
        }
    }

    fn ask(&self, args: &[&str]) -> Output {
        let mut all = vec!["sync"];
        all.extend_from_slice(args);
        all.extend_from_slice(&["--hub", &self.address]);
        run(&all)
    }

    fn end(&mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(kill.unwrap().success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes standard input under a key: the place that is printed.
fn publish(hub: &Hub, key: &str, input: &str) -> String {
    let args = ["sync", "publish", "--hub", &hub.address, "--key", key, "-"];
    let mut command = waystation(&args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    stdout(&output).trim_end().to_owned()
}

#[test]
fn what_is_published_is_there_after_the_hub_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(&folder, "127.0.0.1:0");
    let first = publish(&hub, "a", "one");
    let history = first.strip_suffix("/1").unwrap().to_owned();
    assert_eq!(publish(&hub, "b", "two"), format!("{history}/2"));
    assert_eq!(publish(&hub, "a", "one"), first);
    hub.end("KILL");
    let mut hub = Hub::start(&folder, "127.0.0.1:0");
    assert_eq!(publish(&hub, "b", "two"), format!("{history}/2"));
    assert_eq!(publish(&hub, "c", "three"), format!("{history}/3"));
    let status = stdout(&hub.ask(&["status"]));
    assert!(status.starts_with(&format!("history {history}, entries 1 to 3")));
    assert_eq!(hub.end("TERM"), Some(0));
}

#[test]
fn a_file_is_published_and_the_place_is_told_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&folder, "127.0.0.1:0");
    let file = folder.path().join("statement.sql");
    std::fs::write(&file, "INSERT INTO t VALUES (1)").unwrap();
    let output = hub.ask(&["publish", file.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let place: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(place["seq"], 1);
    assert!(stderr(&output).contains("unsafe: "), "{}", stderr(&output));
    // One that is no statement is of no use to a database.
    let opaque = folder.path().join("hostname");
    std::fs::write(&opaque, "vm\n").unwrap();
    let output = hub.ask(&["publish", opaque.to_str().unwrap()]);
    assert!(output.status.success(), "no site has a database");
    assert!(stderr(&output).contains("opaque: "), "{}", stderr(&output));
    // An empty key is none.
    for key in [String::new(), "k".repeat(65)] {
        let refused = hub.ask(&["publish", file.to_str().unwrap(), "--key", &key]);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    }
    let missing = hub.ask(&["publish", "/nonexistent/file"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nonexistent/file"));
}

#[test]
fn a_second_hub_on_the_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _hub = Hub::start(&folder, "127.0.0.1:0");
    let dir = folder.path().to_str().unwrap();
    let second = run(&["sync", "hub", "--dir", dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("another hub"),
        "{}",
        stderr(&second)
    );
}

#[test]
fn nothing_is_proven_without_sites_and_an_unknown_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&folder, "127.0.0.1:0");
    let proof = hub.ask(&["verify", "--wait", "1"]);
    assert_eq!(proof.status.code(), Some(1));
    let trimmed = hub.ask(&["trim", "--json"]);
    assert_eq!(stdout(&trimmed).trim_end(), r#"{"through":0,"end":0}"#);
    let forgotten = hub.ask(&["forget", "nobody"]);
    assert_eq!(forgotten.status.code(), Some(1));
    assert!(stderr(&forgotten).contains("nobody"));
}

/// Story: `sync verify` said nothing for the time of a whole proof where no hub was,
/// and none of `sync` named the hub that it asked, nor asked that of the configuration.
#[test]
fn a_hub_that_is_not_there_is_named_as_the_configuration_has_it() {
    let calls = [
        (&["status"][..], "no status from the hub at 127.0.0.1:1: "),
        (
            &["verify", "--wait", "600"],
            "no status from the hub at 127.0.0.1:1: ",
        ),
        (&["trim"], "not trimmed by the hub at 127.0.0.1:1: "),
        (&["grant", "a"], "not changed by the hub at 127.0.0.1:1: "),
    ];
    // All at once: each waits for a hub for a while.
    let asked = calls.map(|(what, said)| {
        let mut command = waystation(&[&["sync"], what].concat());
        command.env("WAYSTATION_UP__HUB", "127.0.0.1:1");
        (command.stderr(Stdio::piped()).spawn().unwrap(), said)
    });
    for (child, said) in asked {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}
