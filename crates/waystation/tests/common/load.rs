//! `im load` on a chat, whose report must be clean.

use std::process::{Child, Stdio};

use serde_json::Value;

use super::chat::{Chat, look_until, signal};
use super::waystation;

/// How much is sent.
pub(crate) struct Size {
    pub(crate) clients: &'static str,
    pub(crate) rate: &'static str,
    /// Messages that are stored between two kills, which shows that each hits
    /// the running load.
    pub(crate) between: u64,
}

pub(crate) fn size() -> Size {
    let long =
        std::env::vars_os().any(|(name, value)| name == "WAYSTATION_TEST_LONG" && value == "1");
    if long {
        return Size {
            clients: "500",
            rate: "2000",
            between: 20_000,
        };
    }
    Size {
        clients: "40",
        rate: "200",
        between: 200,
    }
}

/// Messages that Das has stored since it was started; of several sites, all
/// together.
pub(crate) fn stored(chat: &Chat) -> u64 {
    let page = chat.console("/metrics");
    let lines = page.lines();
    let lines = lines.filter(|line| line.starts_with("waystation_im_writes_total{"));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// Waits until the load has stored so many messages from now on: it runs.
pub(crate) fn goes_on(chat: &Chat, messages: u64) {
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

/// A load that goes on until [`stop`], for ten minutes at most.
pub(crate) fn lasting_load(chat: &Chat, size: &Size) -> Child {
    load_of(chat.entry(), size, "600")
}

/// Ends a load before its time, which then settles; its report, which must be
/// clean.
pub(crate) fn stop(load: Child) -> Value {
    signal(load.id().into(), "TERM");
    clean_report(load)
}

/// A load of so many seconds on the Entry at that address.
pub(crate) fn load_of(entry: &str, size: &Size, seconds: &str) -> Child {
    let args = [
        "im",
        "load",
        "--clients",
        size.clients,
        "--seconds",
        seconds,
        "--rate",
        size.rate,
        "--entry",
        entry,
        "--settle",
        "60",
        "--json",
    ];
    waystation(&args).stdout(Stdio::piped()).spawn().unwrap()
}

/// The report of a load, which must be clean.
pub(crate) fn clean_report(load: Child) -> Value {
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
