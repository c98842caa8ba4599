//! The chat's roles beside the agent of `up`: what becomes of a Logic shows in its
//! list of hosts, and in where calls go.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::process::{Child, Command};

use serde_json::Value;
use waystation_test_process::Watchdog;

use common::chat::{Chat, look_until, signal};
use common::load::{goes_on, lasting_load, size, stop};
use common::role::Role;
use common::{run, stderr, stdout};

/// What `waystation host list` says of a service's host.
fn host(chat: &Chat, service: &str, id: &str) -> Option<Value> {
    let hosts = chat.host(&["list", service]);
    hosts.into_iter().find(|host| host["id"] == id)
}

fn is_eligible(chat: &Chat, service: &str, id: &str) -> bool {
    host(chat, service, id).is_some_and(|host| host["eligible"] == true)
}

fn is_called(chat: &Chat, service: &str, id: &str) -> bool {
    host(chat, service, id).is_some_and(|host| host["latency_us"].as_u64() > Some(0))
}

/// Picks of some calls that are made up, by the address they went to.
fn simulated(chat: &Chat, service: &str) -> Vec<String> {
    let rows = chat.host(&["simulate", service, "--calls", "20"]);
    let address = |row: &Value| Some(row["address"].as_str()?.to_owned());
    rows.iter().filter_map(address).collect()
}

/// Story: an agent knew nothing of the chat's calls, since its roles are at Unix
/// sockets and picked by discovery alone; what one Entry met, another had to meet
/// itself.
#[test]
fn what_becomes_of_a_logic_shows_in_the_agents_hosts() {
    let chat = Chat::start();
    let logic = Role::start(chat.dir(), "logic", "3", &["--registry", chat.registry()]);
    logic.serves();
    let size = size();
    let load = lasting_load(&chat, &size);
    for (service, id) in [("im.logic", "logic-3"), ("im.das", "das-1")] {
        look_until("calls are counted by the agent", || {
            is_called(&chat, service, id) && is_eligible(&chat, service, id)
        });
    }
    let third = host(&chat, "im.logic", "logic-3").unwrap()["address"].clone();
    let third = third.as_str().unwrap();
    // It hangs.
    logic.signal("STOP");
    look_until("a Logic that hangs is left out", || {
        !is_eligible(&chat, "im.logic", "logic-3")
            && !simulated(&chat, "im.logic").iter().any(|at| at == third)
    });
    goes_on(&chat, size.between);
    logic.signal("CONT");
    look_until("it is used again", || {
        is_eligible(&chat, "im.logic", "logic-3")
            && simulated(&chat, "im.logic").iter().any(|at| at == third)
    });
    // It dies.
    drop(logic);
    look_until("a Logic that died is left out", || {
        !is_eligible(&chat, "im.logic", "logic-3")
    });
    goes_on(&chat, size.between);
    // Without an agent discovery says where; and the next agent is found.
    chat.kill("agent-1");
    goes_on(&chat, size.between);
    look_until("calls are counted by the next agent", || {
        is_called(&chat, "im.logic", "logic-1")
    });
    stop(load);
}

/// A process that runs a tenth of the time, until this is dropped.
struct Slowed {
    pid: u64,
    shell: Child,
    _watchdog: Watchdog,
}

impl Slowed {
    fn new(pid: u32) -> Self {
        let cycle =
            "while kill -s STOP $0 && sleep 0.09 && kill -s CONT $0 && sleep 0.01; do :; done";
        let pid = pid.to_string();
        let shell = Command::new("sh").args(["-c", cycle, &pid]).spawn();
        let shell = shell.unwrap();
        Self {
            pid: pid.parse().unwrap(),
            _watchdog: Watchdog::over(&shell),
            shell,
        }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        signal(self.pid, "CONT");
    }
}

/// The share of a host's picks, of all that were made in some looks.
fn share(chat: &Chat, service: &str, address: &str) -> f64 {
    let count = |row: &Value| u32::try_from(row["ok"].as_u64()?).ok().map(f64::from);
    let (mut own, mut all) = (0.0, 0.0);
    for _ in 0..20 {
        for row in chat.host(&["simulate", service, "--calls", "20"]) {
            let calls = count(&row).unwrap_or(0.0);
            all += calls;
            own += if row["address"] == address {
                calls
            } else {
                0.0
            };
        }
    }
    own / all
}

/// Story: a Logic that was neither dead nor stuck, but slow, was seen by nobody
/// except those who waited for it.
#[test]
fn a_slow_logic_gets_fewer_picks_and_its_time_is_listed() {
    let chat = Chat::start();
    let logic = Role::start(chat.dir(), "logic", "3", &["--registry", chat.registry()]);
    logic.serves();
    let size = size();
    let load = lasting_load(&chat, &size);
    let ids = ["logic-1", "logic-2", "logic-3"];
    look_until("all are called", || {
        ids.iter().all(|id| is_called(&chat, "im.logic", id))
    });
    let latency = |id: &str| {
        let host = host(&chat, "im.logic", id);
        host.and_then(|host| host["latency_us"].as_u64())
            .unwrap_or(0)
    };
    let third = host(&chat, "im.logic", "logic-3").unwrap()["address"].clone();
    let third = third.as_str().unwrap();
    look_until("it gets its part", || share(&chat, "im.logic", third) > 0.2);
    let slowed = Slowed::new(logic.child.id());
    look_until("its time is longer than that of the others", || {
        latency("logic-3") > 3 * latency("logic-1").max(latency("logic-2"))
    });
    look_until("it gets far less than the others", || {
        share(&chat, "im.logic", third) < 0.1
    });
    goes_on(&chat, size.between);
    drop(slowed);
    look_until("it gets its part again", || {
        share(&chat, "im.logic", third) > 0.2
    });
    stop(load);
}

/// Story: `up` ran the chat by registration alone; who wanted to see where calls
/// go had to start a route server, an agent and a report server by hand, and to
/// tell each where the others are.
#[test]
fn everything_runs_beside_the_chat() {
    let chat = Chat::start();
    let pids = chat.pids();
    for role in ["registry-1", "route-1", "report-1", "agent-1"] {
        assert!(pids.contains_key(role), "{role} is not among {pids:?}");
    }
    look_until("a Logic is picked, and it is said why", || {
        let told = chat.host(&["get", "im.logic", "--explain"]);
        let serving = told.first().map(|one| one["explained"]["serving"].clone());
        serving == Some(2.into())
    });
    let dir = chat.dir().to_str().unwrap();
    let why = stdout(&run(&[
        "host",
        "get",
        "im.logic",
        "--explain",
        "--dir",
        dir,
    ]));
    assert!(why.contains("logic-1") && why.contains("logic-2"), "{why}");
    // What is registered is a route, and so is what somebody adds.
    let route = |args: &[&str]| {
        let output = run(&[&["route"], args, &["--server", chat.route(), "--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(
        route(&["list", "im.das"]).contains("das-1"),
        "it is registered"
    );
    route(&["add", "pay", "10.0.0.1:7000"]);
    look_until("a route that was added is picked", || {
        let got = chat.host(&["get", "pay"]);
        got.first()
            .is_some_and(|one| one["address"] == "10.0.0.1:7000")
    });
    // The chat's calls are counted, from the one on before which Entry met the agent.
    let mut said = 0;
    look_until("calls of the chat are in the report server", || {
        said += 1;
        chat.post("ada", "bob", &format!("hello, {said}"));
        let args = [
            "report",
            "show",
            "im.logic",
            "--json",
            "--server",
            chat.report(),
        ];
        let shown = stdout(&run(&args));
        let rows = shown.lines().map(serde_json::from_str::<Value>);
        let ok = rows.map(|row| row.unwrap()["ok"].as_u64());
        ok.flatten().sum::<u64>() > 0
    });
    // The agent's socket for callers is none of a role.
    let contexts = run(&["ctx", "--dir", dir]);
    assert_eq!(contexts.status.code(), Some(0), "{}", stderr(&contexts));
    // Without the route server the agent goes by what it had.
    let killed = chat.signal("route-1", "KILL");
    assert_eq!(chat.host(&["get", "pay"])[0]["address"], "10.0.0.1:7000");
    chat.await_successor("route-1", killed);
    // Once it is told of changes again; a guard keeps what is gone without a word.
    route(&["add", "stock", "10.0.0.2:7000"]);
    look_until("the agent is back at the route server", || {
        !chat.host(&["get", "stock"]).is_empty()
    });
    route(&["remove", "pay", "10.0.0.1:7000"]);
    look_until("a route that was removed is not picked any more", || {
        chat.host(&["get", "pay"]).is_empty()
    });
}
