//! The whole chat under load, while its processes are killed with SIGKILL:
//! nothing that was acknowledged is lost, doubled or reordered.
//!
//! The short form kills each process once under a small load, which goes on until
//! all is done, however slow the machine. With `WAYSTATION_TEST_LONG=1`
//! (`cargo xtask test --long chat_kills`) it is the full one: 500 clients, and
//! 20,000 messages before each kill.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::chat::Chat;
use common::load::{goes_on, lasting_load, size, stop};

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

/// The same with several shards in each Logic, Entry and Das.
#[test]
fn nothing_acknowledged_is_lost_with_several_shards() {
    let chat = Chat::configured("[logic]\nshards = 2\n[entry]\nshards = 2\n[das]\nshards = 2\n");
    kills_of_each_role(&chat);
    let page = chat.console("/metrics");
    let handed_over = page
        .lines()
        .filter(|line| line.starts_with("waystation_im_handed_over_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>();
    assert!(handed_over > 0.0, "it was one shard: {page}");
}

fn kills_of_each_role(chat: &Chat) {
    let size = size();
    let load = lasting_load(chat, &size);
    for role in ["logic-1", "das-1", "entry-1", "logic-2"] {
        goes_on(chat, size.between);
        chat.kill(role);
    }
    goes_on(chat, size.between);
    let report = stop(load);
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
    let load = lasting_load(&chat, &size);
    goes_on(&chat, size.between);
    chat.kill_supervisor();
    goes_on(&chat, size.between);
    let report = stop(load);
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
    let load = lasting_load(&chat, &size);
    goes_on(&chat, size.between);
    let up = chat.take_up();
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));
    chat.start_up();
    goes_on(&chat, size.between);
    stop(load);
}
