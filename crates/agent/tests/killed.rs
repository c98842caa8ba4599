//! Agents that are killed while their callers are at work, and what a report server
//! has counted in the end.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use waystation_agent::{Agent, AgentConfig, ReportTo};
use waystation_balance::{CallEnd, Load};
use waystation_base::{Rng, ServiceName};
use waystation_client::{Caller, CallerConfig, Source, machine_now};
use waystation_membership::{Instance, InstanceId, Owner};
use waystation_registry::instance_to_json;
use waystation_report::{
    HistoryQuery, ReportConfig, ReportServer, Span, SqliteStore, Store as _, ask_calls,
};

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_mins(1);

/// Says that this process is an agent, with its folder, its hosts and where it
/// reports.
const AGENT: &str = "WAYSTATION_TEST_KILLED_AGENT";

/// Agents, one after the other; all but the last are killed.
const AGENTS: usize = 5;

const CALLERS: usize = 4;

/// An agent in a process of its own. It ends when its input does.
struct AgentProcess(Child, Option<ChildStdin>);

impl AgentProcess {
    /// The agent of this number. Its one host has a port that tells it from others.
    fn start(folder: &Path, number: usize, report: SocketAddr) -> Self {
        let id = InstanceId::new("pay-1").unwrap();
        let service = ServiceName::new("pay").unwrap();
        let one = Instance::new(id, service, host(number).parse().unwrap(), Owner::default());
        let nodes = folder.join(format!("nodes-{number}"));
        std::fs::write(&nodes, format!("{}\n", instance_to_json(&one))).unwrap();
        let given = format!("{} {} {report}", folder.display(), nodes.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "a_killed_agent_loses_what_it_had_not_told_and_nothing_counts_twice",
                "--exact",
            ])
            .env(AGENT, given)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self(child, input)
    }

    /// Runs in that process.
    fn run(given: &str) {
        let [folder, nodes, report] = given.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{given}");
        };
        let registry = format!("file://{nodes}").parse().unwrap();
        let mut config = AgentConfig::new(Path::new(folder).join("agent.sock"), registry, 7);
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        config.report = Some(ReportTo {
            caller: "m1".to_owned(),
            ..ReportTo::new(report.parse().unwrap())
        });
        let agent = Agent::start(config).unwrap();
        let _end = std::io::stdin().read(&mut [0]);
        agent.drain();
    }

    /// Lets it end by itself.
    fn end(mut self) {
        drop(self.1.take());
        assert!(self.0.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn host(number: usize) -> String {
    format!("127.0.0.1:{}", 9000 + number)
}

/// Calls that callers have reported, by the agent that gave them their host.
#[derive(Default)]
struct Made {
    calls: [AtomicU64; AGENTS],
    /// Callers that have been with it.
    callers: [AtomicU64; AGENTS],
    is_end: AtomicBool,
}

impl Made {
    /// Picks and reports until the end.
    fn call(&self, socket: &Path) {
        let mut config = CallerConfig::new("pay", socket);
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        let mut caller = Caller::new(config);
        let mut last = None;
        while !self.is_end.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_micros(200));
            let Ok(picked) = caller.pick() else { continue };
            if picked.source != Source::Segment {
                caller.report(&picked, CallEnd::Cancelled, None, Load::default());
                continue;
            }
            caller.report(&picked, CallEnd::Ok, None, Load::default());
            let address = picked.address.to_string();
            let number = (0..AGENTS).find(|&one| host(one) == address).unwrap();
            self.calls[number].fetch_add(1, Ordering::SeqCst);
            if last.replace(number) != Some(number) {
                self.callers[number].fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = machine_now() + WAIT;
    while !is_so() {
        assert!(machine_now() < end, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Story: an agent that was killed was said to lose a second of counts, and nobody had
/// looked: its callers go on with what it gave to them until they notice.
#[test]
fn a_killed_agent_loses_what_it_had_not_told_and_nothing_counts_twice() {
    if let Some(given) = std::env::var_os(AGENT) {
        return AgentProcess::run(given.to_str().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.db");
    let store = format!("sqlite://{}", file.display()).parse().unwrap();
    let server = ReportConfig::new("127.0.0.1:0".parse().unwrap(), store);
    let server = ReportServer::start(&server).unwrap();
    let made = Arc::new(Made::default());
    let socket = folder.path().join("agent.sock");
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (made, socket) = (Arc::clone(&made), socket.clone());
            std::thread::spawn(move || made.call(&socket))
        })
        .collect();
    let mut rng = Rng::from_seed(5);
    let mut told = [0; AGENTS];
    for (number, told) in told.iter_mut().enumerate() {
        let agent = AgentProcess::start(folder.path(), number, server.address());
        until("all callers are with it", || {
            made.callers[number].load(Ordering::SeqCst) == CALLERS as u64
        });
        // From here on no call goes to the agent before.
        let so_far = made.calls[number].load(Ordering::SeqCst);
        until("the report server knows", || {
            let (rows, _) = ask_calls(server.address(), Some("pay"), 99, WAIT).unwrap();
            let row = rows.into_iter().find(|row| row.host == host(number));
            *told = row.map_or(0, |row| row.ok);
            *told >= so_far
        });
        if number + 1 < AGENTS {
            // Anywhere between two of its reports, or in one.
            std::thread::park_timeout(Duration::from_millis(rng.below(1_200)));
            agent.kill();
        } else {
            made.is_end.store(true, Ordering::SeqCst);
            until("callers end", || {
                callers.iter().all(JoinHandle::is_finished)
            });
            agent.end();
        }
    }
    for caller in callers {
        caller.join().unwrap();
    }
    server.drain();
    let query = HistoryQuery {
        span: Span::TenSeconds,
        service: None,
        since: 0,
        until: u64::MAX >> 1,
        limit: 10_000,
    };
    let history = SqliteStore::reader(file).history(&query).unwrap();
    for (number, told) in told.into_iter().enumerate() {
        let of_it = history.iter().filter(|row| row.host == host(number));
        let stored: u64 = of_it.map(|row| row.ok + row.failed).sum();
        let made = made.calls[number].load(Ordering::SeqCst);
        let is_last = number + 1 == AGENTS;
        let least = if is_last { made } else { told };
        assert!(
            (least..=made).contains(&stored),
            "{number}: {least} {stored} {made}"
        );
    }
}
