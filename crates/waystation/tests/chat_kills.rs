//! The whole chat under load, while its processes are killed with SIGKILL:
//! nothing that was acknowledged is lost, doubled or reordered.
//!
//! The short form kills each process once under a small load. With
//! `WAYSTATION_TEST_LONG=1` (`cargo xtask test --long chat_kills`) it is the
//! full one: 500 clients for 60 s.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Up, waystation};
use serde_json::Value;
use tempfile::TempDir;

/// How much is sent, and for how long.
struct Size {
    clients: &'static str,
    seconds: &'static str,
    rate: &'static str,
    /// Messages that are stored between two kills, which shows that each hits
    /// the running load.
    between: u64,
}

fn size() -> Size {
    let long =
        std::env::vars_os().any(|(name, value)| name == "WAYSTATION_TEST_LONG" && value == "1");
    if long {
        return Size {
            clients: "500",
            seconds: "60",
            rate: "2000",
            between: 20_000,
        };
    }
    Size {
        clients: "40",
        seconds: "24",
        rate: "200",
        between: 200,
    }
}

/// A chat on ports and a directory of its own.
struct Chat {
    dir: TempDir,
    entry: String,
    console: String,
    up: Option<Up>,
}

/// A port that was free a moment ago. Two tests may be given the same one
/// only if one of them has not bound it yet; the loser's `up` says so.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Chat {
    fn start() -> Self {
        Self::configured("")
    }

    /// A chat with these lines of configuration.
    fn configured(lines: &str) -> Self {
        let mut chat = Self {
            dir: tempfile::tempdir().unwrap(),
            entry: free_port(),
            console: String::new(),
            up: None,
        };
        std::fs::write(chat.config(), lines).unwrap();
        chat.start_up();
        chat
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("waystation.toml")
    }

    fn start_up(&mut self) {
        let (dir, config) = (self.dir.path().to_str().unwrap(), self.config());
        let mut up = Up::start(&[
            "--dir",
            dir,
            "--config",
            config.to_str().unwrap(),
            "--entry",
            &self.entry,
            "--console",
            "127.0.0.1:0",
        ]);
        self.console = up.ready();
        self.up = Some(up);
    }

    fn get(&self, path: &str) -> Value {
        let body = self.page(path);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.console).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Messages that Das has stored since it was started.
    fn stored(&self) -> u64 {
        let page = self.page("/metrics");
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with("waystation_im_writes_total{"));
        let value = line.and_then(|line| line.rsplit_once(' '));
        value.map_or(0, |(_, value)| value.parse().unwrap())
    }

    /// Waits until the load has stored so many messages from now on: it runs.
    fn goes_on(&self, messages: u64) {
        let mut last = self.stored();
        let mut stored = 0;
        for _ in 0..1200 {
            wait(Duration::from_millis(50));
            let now = self.stored();
            // A Das that was started again counts from 0.
            stored += now.checked_sub(last).unwrap_or(now);
            last = now;
            if stored >= messages {
                return;
            }
        }
        panic!("the load stored {stored} messages in 60 s");
    }

    /// The process ids of the roles that serve.
    fn pids(&self) -> HashMap<String, u64> {
        let rows = self.get("/api/v1/processes");
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["state"] == "healthy")
            .map(|row| {
                (
                    row["role"].as_str().unwrap().to_owned(),
                    row["pid"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    /// Kills a role and waits until its successor serves.
    fn kill(&self, role: &str) {
        let before = self.pids()[role];
        kill_9(before);
        for _ in 0..600 {
            if self.pids().get(role).is_some_and(|pid| *pid != before) {
                return;
            }
            wait(Duration::from_millis(50));
        }
        panic!("{role} was not started again in 30 s");
    }

    /// Kills the supervisor and starts another on the same directory.
    fn kill_supervisor(&mut self) {
        let up = self.up.take().unwrap();
        kill_9(up.pid().into());
        drop(up);
        self.start_up();
    }
}

fn kill_9(pid: u64) {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[allow(
    clippy::disallowed_methods,
    reason = "paces kills; no test waits for it to be enough"
)]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn load(chat: &Chat, size: &Size) -> Child {
    let args = [
        "im",
        "load",
        "--clients",
        size.clients,
        "--seconds",
        size.seconds,
        "--rate",
        size.rate,
        "--entry",
        &chat.entry,
        "--settle",
        "60",
        "--json",
    ];
    waystation(&args).stdout(Stdio::piped()).spawn().unwrap()
}

/// The report of a load, which must be clean.
fn clean_report(load: Child) -> Value {
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|error| panic!("{error} in {text:?}, exit {:?}", output.status.code()));
    println!("{report}");
    for fault in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(report[fault], 0, "{fault} in {report}");
    }
    let acknowledged = report["acknowledged"].as_u64().unwrap();
    assert!(acknowledged > 0, "{report}");
    assert_eq!(output.status.code(), Some(0), "{report}");
    report
}

#[test]
fn nothing_acknowledged_is_lost_when_any_role_is_killed() {
    kills_of_each_role(&Chat::start());
}

/// The same in split placement: all roles' sockets on threads of their own.
#[test]
fn nothing_acknowledged_is_lost_in_split_placement() {
    let chat = Chat::configured("[net]\nio_shards = 1\n");
    kills_of_each_role(&chat);
    let metrics = chat.page("/metrics");
    let sockets = metrics
        .lines()
        .filter(|line| line.starts_with("waystation_net_split_sockets{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>();
    assert!(sockets > 0.0, "it was not split: {metrics}");
}

fn kills_of_each_role(chat: &Chat) {
    let size = size();
    let load = load(chat, &size);
    for role in ["logic-1", "das-1", "entry-1", "logic-2"] {
        chat.goes_on(size.between);
        chat.kill(role);
    }
    // The load outlives the last kill, so that each hit it.
    chat.goes_on(size.between);
    let report = clean_report(load);
    assert!(
        report["reconnects"].as_u64().unwrap() > 0,
        "Entry was killed: {report}"
    );
    assert_eq!(chat.get("/healthz")["status"], "ok");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_supervisor_is_killed() {
    let size = size();
    let mut chat = Chat::start();
    let load = load(&chat, &size);
    chat.goes_on(size.between);
    chat.kill_supervisor();
    chat.goes_on(size.between);
    let report = clean_report(load);
    assert!(
        report["reconnects"].as_u64().unwrap() > 0,
        "Entry went with it: {report}"
    );
}

/// SIGTERM loses nothing either, and every process ends well.
#[test]
fn a_drain_under_load_ends_with_exit_0() {
    let size = size();
    let mut chat = Chat::start();
    let load = load(&chat, &size);
    chat.goes_on(size.between);
    let up = chat.up.take().unwrap();
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));
    chat.start_up();
    chat.goes_on(size.between);
    clean_report(load);
}
