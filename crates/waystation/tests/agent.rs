//! `waystation agent` and `waystation host` as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{run, stderr, stdout, waystation};
use waystation_client::{Caller, CallerConfig, Source};
use waystation_test_process::Watchdog;

/// Two nodes of a service, in a file.
const NODES: &str = "\
{\"id\":\"pay-1\",\"service\":\"pay\",\"address\":\"127.0.0.1:9001\"}
{\"id\":\"pay-2\",\"service\":\"pay\",\"address\":\"127.0.0.1:9002\",\"lars\":{\"modid\":1,\"cmdid\":1}}
";

struct Agent {
    child: Child,
    folder: tempfile::TempDir,
    /// It ends with this process, whatever ends that.
    _watchdog: Watchdog,
}

impl Agent {
    fn start(folder: tempfile::TempDir) -> Self {
        Self::start_with(folder, &[])
    }

    fn start_with(folder: tempfile::TempDir, more: &[&str]) -> Self {
        Self::start_set(folder, more, &[])
    }

    /// With these settings of the section `agent`, too.
    fn start_set(folder: tempfile::TempDir, more: &[&str], settings: &[(&str, &str)]) -> Self {
        let nodes = folder.path().join("nodes");
        std::fs::write(&nodes, NODES).unwrap();
        let registry = format!("file://{}", nodes.display());
        let dir = folder.path().to_str().unwrap();
        let args = [
            "agent",
            "--dir",
            dir,
            "--udp-port",
            "0",
            "--registry",
            &registry,
        ];
        let mut command = waystation(&[&args[..], more].concat());
        for (key, value) in settings {
            command.env(format!("WAYSTATION_AGENT__{key}"), value);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&child);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let socket = folder.path().join("run/agent.sock");
        assert_eq!(line, format!("ready unix:{}\n", socket.display()));
        let agent = Self {
            child,
            folder,
            _watchdog: watchdog,
        };
        // The routes come a moment later; each look starts a process.
        let is_there = (0..1000).any(|_| agent.host(&["list", "pay"]).0);
        assert!(is_there, "no routes after a thousand looks");
        agent
    }

    /// Runs `waystation host`; whether it succeeded, and what it printed.
    fn host(&self, args: &[&str]) -> (bool, String) {
        let dir = self.folder.path().to_str().unwrap();
        let all = [&["host"], args, &["--dir", dir]].concat();
        let output = run(&all);
        let text = if output.status.success() {
            stdout(&output)
        } else {
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            stderr(&output)
        };
        (output.status.success(), text)
    }

    /// Ends it without a chance to clean up.
    fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn hosts_are_got_listed_explained_and_reported() {
    let agent = Agent::start(tempfile::tempdir().unwrap());
    let (_, got) = agent.host(&["get", "pay", "--json"]);
    assert!(got.contains("\"source\":\"segment\""), "{got}");
    let (_, got) = agent.host(&["get", "pay"]);
    assert!(
        ["127.0.0.1:9001\n", "127.0.0.1:9002\n"].contains(&got.as_str()),
        "{got}"
    );
    let (_, why) = agent.host(&["get", "pay", "--explain"]);
    assert!(
        why.contains("policy fresh; 2 hosts serve, 0 are out"),
        "{why}"
    );
    assert!(why.contains("pay-1") && why.contains("pay-2"), "{why}");
    assert_eq!(
        agent.host(&["report", "pay", "127.0.0.1:9002", "error"]),
        (true, String::new())
    );
    let (_, list) = agent.host(&["list", "pay", "--json"]);
    let failed = list.lines().find(|line| line.contains("pay-2")).unwrap();
    assert!(!failed.contains("\"error_share\":0.0"), "{list}");
    let (is_done, refusal) = agent.host(&["get", "nobody"]);
    assert!(
        !is_done && refusal.contains("nobody offers nobody"),
        "{refusal}"
    );
    let (is_done, refusal) = agent.host(&["report", "pay", "10.0.0.1:1", "ok"]);
    assert!(
        !is_done && refusal.contains("no host at 10.0.0.1:1"),
        "{refusal}"
    );
}

/// An agent that was killed left its socket behind, and the next one could not
/// bind it.
#[test]
fn an_agent_that_was_killed_is_replaced_by_the_next() {
    let folder = Agent::start(tempfile::tempdir().unwrap()).kill();
    let socket: PathBuf = folder.path().join("run/agent.sock");
    assert!(socket.exists(), "it had no chance to remove it");
    let dir = folder.path().to_str().unwrap();
    let output = run(&["host", "get", "pay", "--dir", dir]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("agent"), "{}", stderr(&output));
    let agent = Agent::start(folder);
    let (is_done, _) = agent.host(&["get", "pay"]);
    assert!(is_done);
}

/// Story: callers of an agent that had stopped hung until it went on, or for ever.
#[test]
fn an_agent_that_stops_holds_nobody_up() {
    let agent = Agent::start(tempfile::tempdir().unwrap());
    let signal = |name: &str| {
        let process = agent.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status();
        assert!(sent.unwrap().success());
    };
    let socket = agent.folder.path().join("run/agent.sock");
    let caller = Caller::new(CallerConfig::new("pay", socket));
    assert_eq!(caller.clone().pick().unwrap().source, Source::Segment);
    signal("STOP");
    // First by what shared memory has, then by what it had, and at last again by
    // that: each pick ends with a host.
    let until = |mut caller: Caller, source: Source| {
        let (_never, pause) = channel::<()>();
        while caller.pick().unwrap().source != source {
            let _nothing = pause.recv_timeout(Duration::from_millis(5));
        }
    };
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let caller = caller.clone();
            std::thread::spawn(move || until(caller, Source::Kept))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    signal("CONT");
    until(caller, Source::Segment);
}

/// Story: for a pair `--explain` was taken for nothing.
#[test]
fn what_callers_of_lars_are_given_is_explained_and_listed() {
    let agent = Agent::start(tempfile::tempdir().unwrap());
    let (is_done, why) = agent.host(&["get", "1/1", "--explain"]);
    assert!(is_done, "{why}");
    assert!(
        why.contains("policy lars; 1 hosts serve, 0 are out"),
        "{why}"
    );
    assert!(why.contains("idle: 0 ok, 0 failed, 0 in a row"), "{why}");
    let (_, list) = agent.host(&["list", "1/1", "--json"]);
    assert!(
        list.contains("pay-2") && list.contains("\"verdict\":\"idle\""),
        "{list}"
    );
    let (is_done, refusal) = agent.host(&["list", "-1/1"]);
    assert!(
        !is_done && refusal.contains("nobody offers -1/1"),
        "{refusal}"
    );
}

/// Story: what an agent counted was seen nowhere: hosts that did not fit an answer,
/// questions without a host, results that came too late.
#[test]
fn what_an_agent_counts_is_among_its_metrics() {
    let agent = Agent::start(tempfile::tempdir().unwrap());
    let (is_done, _) = agent.host(&["simulate", "pay", "--calls", "100"]);
    assert!(is_done);
    let page = || {
        let admin = agent.folder.path().join("run/agent-1.sock");
        let mut stream = UnixStream::connect(admin).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    };
    let sent = "\nwaystation_agent_calls_sent_total 100\n";
    // They are shown every second.
    let is_shown = (0..30_000).any(|_| page().contains(sent));
    let page = page();
    assert!(is_shown, "{page}");
    for gauge in ["services 1", "panics 0", "routes_kept 0", "ledgers 0"] {
        assert!(
            page.contains(&format!("\nwaystation_agent_{gauge}\n")),
            "{page}"
        );
    }
    for counter in ["lars_left_out", "calls_uncounted", "calls_dropped"] {
        assert!(
            page.contains(&format!("\nwaystation_agent_{counter}_total 0\n")),
            "{page}"
        );
    }
}

#[test]
fn calls_are_simulated_and_measured() {
    let agent = Agent::start(tempfile::tempdir().unwrap());
    let fails = "127.0.0.1:9001=1";
    let simulate = [
        "simulate", "pay", "--calls", "300", "--fail", fails, "--json",
    ];
    let (is_done, lines) = agent.host(&simulate);
    assert!(is_done, "{lines}");
    let rows: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |row: &serde_json::Value| (row["ok"].as_u64(), row["failed"].as_u64());
    let total: u64 = rows
        .iter()
        .map(|row| told(row).0.unwrap_or(0) + told(row).1.unwrap_or(0))
        .sum();
    let refused = rows.last().unwrap()["refused"].as_u64().unwrap();
    assert_eq!(total + refused, 300, "{lines}");
    for row in &rows[..rows.len() - 1] {
        let is_bad = row["address"] == "127.0.0.1:9001";
        let (ok, failed) = told(row);
        assert_eq!(if is_bad { ok } else { failed }, Some(0), "{lines}");
    }
    let (is_done, line) =
        agent.host(&["rate", "pay", "--threads", "2", "--seconds", "1", "--json"]);
    assert!(is_done, "{line}");
    let rate: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(rate["source"], "segment", "{line}");
    assert!(
        rate["pairs"].as_u64().unwrap() > 0 && rate["p99_ns"].as_u64() >= rate["p50_ns"].as_u64()
    );
    let (is_done, said) = agent.host(&["simulate", "nobody"]);
    assert!(!is_done && said.contains("nobody offers nobody"), "{said}");
    // That nothing at all was picked was a rate of 0.
    let (is_done, said) = agent.host(&["rate", "nobody", "--seconds", "1"]);
    assert!(!is_done && said.contains("nobody offers nobody"), "{said}");
    let wrong = run(&["host", "simulate", "pay", "--fail", "127.0.0.1:9001=2"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// Why there is no agent was lost, and no host by UDP was laid on the socket.
#[test]
fn an_agent_that_is_not_there_is_told_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let socket = socket.to_str().unwrap();
    for what in [
        &["get"][..],
        &["get", "--explain"],
        &["list"],
        &["rate"],
        &["simulate"],
    ] {
        let (name, more) = what.split_first().unwrap();
        let args = [&["host", name, "pay", "--socket", socket], more].concat();
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        let agent = format!("no answer from the agent at {socket}: ");
        assert!(
            said.contains(&agent) && said.contains("No such file"),
            "{args:?}: {said}"
        );
    }
    for what in ["get", "rate", "simulate"] {
        let output = run(&["host", what, "1/1", "--udp-port", "1"]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        let said = stderr(&output);
        assert!(
            said.starts_with("error: no host by UDP: "),
            "{what}: {said}"
        );
    }
}

/// An agent refused a second registry, so that callers lost their hosts on the
/// way from one registry to another.
#[test]
fn an_agent_shows_the_hosts_of_several_registries() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let third = NODES.lines().next().unwrap();
    let third = third.replace("pay-1", "pay-3").replace("9001", "9003");
    // One host stands in both.
    let both = NODES.lines().last().unwrap();
    std::fs::write(&other, format!("{third}\n{both}\n")).unwrap();
    let registry = format!("file://{}", other.display());
    let agent = Agent::start_with(folder, &["--registry", &registry]);
    let mut list = String::new();
    let has_all = (0..1000).any(|_| {
        (_, list) = agent.host(&["list", "pay", "--json"]);
        list.lines().count() == 3
    });
    assert!(has_all, "{list}");
    for id in ["pay-1", "pay-2", "pay-3"] {
        assert_eq!(list.matches(id).count(), 1, "{list}");
    }
}

/// Story: an agent chose by one rule, and near hosts came first for nobody, since
/// nothing told it where it stands.
#[test]
fn the_policy_and_the_place_of_an_agent_are_settings() {
    let settings = [("POLICY", "round-robin"), ("SITE", "hel-1")];
    let agent = Agent::start_set(tempfile::tempdir().unwrap(), &[], &settings);
    let (_, why) = agent.host(&["get", "pay", "--explain"]);
    assert!(why.contains("policy round-robin; 2 hosts serve"), "{why}");
    // Whoever does not say where it stands is not near.
    let (_, list) = agent.host(&["list", "pay", "--json"]);
    let tiers = list.lines().map(|line| {
        let host: serde_json::Value = serde_json::from_str(line).unwrap();
        host["tier"].as_u64()
    });
    assert_eq!(tiers.collect::<Vec<_>>(), [Some(2), Some(2)], "{list}");
}
