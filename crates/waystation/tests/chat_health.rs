//! The chat's roles when leases say one thing and nodes another: a node that
//! hangs under a lease that lives, and a start without the registry.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::chat::{Chat, free_address, look_until, signal};
use common::load::{goes_on, lasting_load, size, stop};
use common::role::{Process, Role, nodes};
use common::waystation;

/// Nodes that Entry thinks so of, all its shards together.
fn thought(chat: &Chat, verdict: &str) -> f64 {
    let page = chat.console("/metrics");
    let is_it = |line: &&str| {
        line.starts_with("waystation_im_nodes{")
            && line.contains("role=\"entry-1\"")
            && line.contains(&format!("verdict=\"{verdict}\""))
    };
    let lines = page.lines().filter(is_it);
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Story: a Logic hung while something beside it kept its lease. It was listed
/// as serving, its kernel took connections for it, and its conversations stood
/// still.
#[test]
fn a_logic_that_hangs_under_a_live_lease_is_left_out() {
    let chat = Chat::start();
    let dir = chat.dir();
    let socket = dir.join("run").join("logic-3.rpc");
    // It finds Das by a list, and is registered by somebody else.
    let das = format!(
        "{{\"id\":\"das-1\",\"service\":\"im.das\",\"address\":\"unix:{}\"}}\n",
        dir.join("run").join("das-1.rpc").display()
    );
    std::fs::write(dir.join("list"), das).unwrap();
    let list = format!("file://{}", dir.join("list").display());
    let logic = Role::start(dir, "logic", "3", &["--registry", &list]);
    logic.serves();
    let address = format!("unix:{}", socket.display());
    let register = [
        "node",
        "register",
        "im.logic",
        &address,
        "--id",
        "logic-3",
        "--registry",
        chat.registry(),
    ];
    let mut lease = Process::new(waystation(&register).stdout(Stdio::piped()));
    lease.first_line();

    let size = size();
    let load = lasting_load(&chat, &size);
    look_until("it gets requests", || {
        logic.metric("waystation_requests_started_total") > 20.0
    });
    look_until("nobody is suspect", || thought(&chat, "use") >= 3.0);
    logic.signal("STOP");
    look_until("Entry finds that it hangs", || {
        thought(&chat, "suspect") + thought(&chat, "gone") >= 1.0
    });
    let listed = ("logic-3".to_owned(), "serving".to_owned());
    assert!(nodes(chat.registry()).contains(&listed), "its lease lives");
    goes_on(&chat, size.between);
    logic.signal("CONT");
    look_until("Entry finds that it is back", || {
        thought(&chat, "use") >= 3.0
    });
    goes_on(&chat, size.between);
    stop(load);
}

/// Story: a role that died while the registry was away could not find anybody,
/// and stayed out for as long as the registry did.
#[test]
fn a_role_starts_without_the_registry_by_the_view_it_kept() {
    let at = free_address();
    let folder = tempfile::tempdir().unwrap();
    let serve = |folder: &Path| {
        let dir = folder.to_str().unwrap();
        let args = ["registry", "serve", "--dir", dir, "--listen", &at];
        let mut registry = Process::new(waystation(&args).stdout(Stdio::piped()));
        assert!(registry.first_line().starts_with("ready "));
        registry
    };
    let registry = serve(folder.path());
    let chat = Chat::joined_by(&format!("embedded://{at}"));
    let size = size();
    let load = lasting_load(&chat, &size);
    goes_on(&chat, size.between);
    drop(registry);

    let before = chat.pids()["logic-2"];
    signal(before, "KILL");
    let socket = chat.dir().join("run").join("logic-2.sock");
    look_until("another process answers requests", || {
        let started = common::role::metric(&socket, "waystation_requests_started_total");
        chat.pid("logic-2").is_some_and(|pid| pid != before) && started > 20.0
    });
    goes_on(&chat, size.between);
    let _registry = serve(folder.path());
    look_until("all are listed again", || {
        let nodes = nodes(chat.registry());
        nodes.iter().filter(|(_, state)| state == "serving").count() == 4
    });
    stop(load);
}
