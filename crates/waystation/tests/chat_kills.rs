//! The whole chat under load, while its processes are killed with SIGKILL:
//! nothing that was acknowledged is lost, doubled or reordered.
//!
//! The short form kills each process once under a small load. With
//! `WAYSTATION_TEST_LONG=1` (`cargo xtask test --long chat_kills`) it is the
//! full one: 500 clients for 60 s.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::process::{Child, Stdio};

use common::chat::{Chat, look_until};
use common::waystation;
use serde_json::Value;

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

/// Messages that Das has stored since it was started.
fn stored(chat: &Chat) -> u64 {
    let page = chat.console("/metrics");
    let mut lines = page.lines();
    let line = lines.find(|line| line.starts_with("waystation_im_writes_total{"));
    let value = line.and_then(|line| line.rsplit_once(' '));
    value.map_or(0, |(_, value)| value.parse().unwrap())
}

/// Waits until the load has stored so many messages from now on: it runs.
fn goes_on(chat: &Chat, messages: u64) {
    let mut last = stored(chat);
    let mut sum = 0;
    look_until("the load goes on", || {
        let now = stored(chat);
        // A Das that was started again counts from 0.
        sum += now.checked_sub(last).unwrap_or(now);
        last = now;
        sum >= messages
    });
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
        chat.entry(),
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
    let metrics = chat.console("/metrics");
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
        goes_on(chat, size.between);
        chat.kill(role);
    }
    // The load outlives the last kill, so that each hit it.
    goes_on(chat, size.between);
    let report = clean_report(load);
    assert!(
        report["reconnects"].as_u64().unwrap() > 0,
        "Entry was killed: {report}"
    );
    assert_eq!(chat.json("/healthz")["status"], "ok");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_supervisor_is_killed() {
    let size = size();
    let mut chat = Chat::start();
    let load = load(&chat, &size);
    goes_on(&chat, size.between);
    chat.kill_supervisor();
    goes_on(&chat, size.between);
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
    goes_on(&chat, size.between);
    let up = chat.take_up();
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));
    chat.start_up();
    goes_on(&chat, size.between);
    clean_report(load);
}
