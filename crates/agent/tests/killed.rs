//! Agents that are killed, or end in good order, while their callers are at work, and
//! what a report server has counted in the end.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use waystation_agent::{Agent, AgentConfig, ReportTo};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::{Rng, ServiceName};
use waystation_client::{Caller, CallerConfig, Error, PickedHost, Source, machine_now};
use waystation_membership::{Instance, InstanceId, Owner};
use waystation_registry::instance_to_json;
use waystation_report::{HistoryQuery, ReportConfig, ReportServer, Span, SqliteStore, Store as _};
use waystation_test_process::Part;

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_mins(1);

/// How many agents end before the last one, killed or in good order; with
/// `WAYSTATION_TEST_LONG=1` more.
const ENDS: usize = 12;
const ENDS_LONG: usize = 42;

/// Most agents of which anything is lost: those that are killed between their note of
/// what they tell and its last byte, which is a moment of each second.
const LOSSES_MAX: usize = 2;

const CALLERS: usize = 4;

/// Starts the agent of this number, as a process of its own. Its one host has a port
/// that tells it from others.
fn start(folder: &Path, number: usize, report: SocketAddr, policy: PolicyKind) -> Part {
    let id = InstanceId::new("pay-1").unwrap();
    let service = ServiceName::new("pay").unwrap();
    let one = Instance::new(id, service, host(number).parse().unwrap(), Owner::default());
    let nodes = folder.join(format!("nodes-{number}"));
    std::fs::write(&nodes, format!("{}\n", instance_to_json(&one))).unwrap();
    let given = format!("{} {} {report} {policy}", folder.display(), nodes.display());
    Part::start("calls_are_counted_once_whoever_kills_their_agent", &given)
}

/// Runs in that process.
fn run_agent(given: &str) {
    let [folder, nodes, report, policy] = given.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{given}");
    };
    let registry = format!("file://{nodes}").parse().unwrap();
    let mut config = AgentConfig::new(Path::new(folder).join("agent.sock"), registry, 7);
    config.udp.iter_mut().for_each(|at| at.set_port(0));
    config.policy = policy.parse().unwrap();
    config.report = Some(ReportTo {
        caller: "m1".to_owned(),
        ..ReportTo::new(report.parse().unwrap())
    });
    let agent = Agent::start(config).unwrap();
    Part::wait_for_the_end();
    agent.drain();
}

fn host(number: usize) -> String {
    format!("127.0.0.1:{}", 9000 + number)
}

/// Calls that callers have reported, by the agent that gave them their host.
struct Made {
    calls: Vec<AtomicU64>,
    /// Callers that have been with it.
    callers: Vec<AtomicU64>,
    is_end: AtomicBool,
}

impl Made {
    fn with(agents: usize) -> Self {
        let zeros = || (0..agents).map(|_| AtomicU64::new(0)).collect();
        Self {
            calls: zeros(),
            callers: zeros(),
            is_end: AtomicBool::new(false),
        }
    }

    /// Picks and reports until the end, by turns itself and by another clone.
    fn call(&self, socket: &Path) {
        let mut config = CallerConfig::new("pay", socket);
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        let mut caller = Caller::new(config);
        let mut other = caller.clone();
        let mut last = None;
        while !self.is_end.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_micros(100));
            let Ok(picked) = caller.pick() else { continue };
            std::mem::swap(&mut caller, &mut other);
            if !matches!(picked.source, Source::Segment | Source::Kept) {
                caller.report(&picked, CallEnd::Cancelled, None, Load::default());
                continue;
            }
            caller.report(&picked, CallEnd::Ok, None, Load::default());
            let address = picked.address.to_string();
            let mut all = 0..self.calls.len();
            let number = all.find(|&one| host(one) == address).unwrap();
            self.calls[number].fetch_add(1, Ordering::SeqCst);
            if last != Some(number) {
                assert!(last < Some(number), "a host of an agent that is gone");
                last = Some(number);
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

/// What is stored of each agent's host.
fn stored(file: &Path, agents: usize) -> Vec<u64> {
    let query = HistoryQuery {
        span: Span::TenSeconds,
        service: None,
        since: 0,
        until: u64::MAX >> 1,
        limit: 10_000,
    };
    let history = SqliteStore::reader(file.to_owned())
        .history(&query)
        .unwrap();
    let of = |number| {
        let of_it = history.iter().filter(|row| row.host == host(number));
        of_it.map(|row| row.ok + row.failed).sum()
    };
    (0..agents).map(of).collect()
}

/// Whether the agent of this number is killed. First each other one is: callers
/// come to it at once, and it dies before it has told what it took over. Then none
/// is.
const fn is_killed(number: usize, agents: usize) -> bool {
    number % 2 == 1 && number < agents * 2 / 3
}

/// Story: an agent that was killed took with it what it had not told of its callers'
/// calls, and those that they made until they noticed: three seconds of all calls of
/// the machine, and nobody said so. Each that was restarted took two seconds of them.
#[test]
fn calls_are_counted_once_whoever_kills_their_agent() {
    if let Some(given) = Part::given() {
        return run_agent(&given);
    }
    let is_long = std::env::var_os("WAYSTATION_TEST_LONG").is_some_and(|value| value == "1");
    let agents = if is_long { ENDS_LONG } else { ENDS } + 1;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.db");
    let store = format!("sqlite://{}", file.display()).parse().unwrap();
    let server = ReportConfig::new("127.0.0.1:0".parse().unwrap(), store);
    let server = ReportServer::start(&server).unwrap();
    let made = Arc::new(Made::with(agents));
    let socket = folder.path().join("agent.sock");
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (made, socket) = (Arc::clone(&made), socket.clone());
            std::thread::spawn(move || made.call(&socket))
        })
        .collect();
    let mut rng = Rng::from_seed(5);
    for number in 0..agents {
        let policy = PolicyKind::default();
        let agent = start(folder.path(), number, server.address(), policy);
        // From shared memory: no other way leads to the host of this one.
        until("all callers are with it", || {
            made.callers[number].load(Ordering::SeqCst) == CALLERS as u64
        });
        // Anywhere between two of its reports, or in one.
        std::thread::park_timeout(Duration::from_millis(rng.below(1_200)));
        if number + 1 < agents && is_killed(number, agents) {
            agent.kill();
        } else if number + 1 < agents {
            agent.end();
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
    let made: Vec<_> = made
        .calls
        .iter()
        .map(|one| one.load(Ordering::SeqCst))
        .collect();
    let stored = stored(&file, agents);
    let mut both = made.iter().zip(&stored);
    assert!(
        both.all(|(made, stored)| stored <= made),
        "{stored:?} of {made:?}"
    );
    let loses = |number: &usize| stored[*number] < made[*number];
    let losses = (0..agents).filter(loses).count();
    assert!(losses <= LOSSES_MAX, "{stored:?} of {made:?}");
    // What ends after its agent is told by the next one.
    let is_well = |number: usize| number + 1 >= agents || !is_killed(number, agents);
    let losses = (0..agents).filter(|&one| is_well(one) && is_well(one + 1));
    let losses = losses.filter(loses).count();
    assert_eq!(losses, 0, "of those in good order: {stored:?} of {made:?}");
    assert_eq!(stored.last(), made.last(), "the last one was not killed");
}

/// Calls by `pick` under `policy`, while the agent is killed and after. The agent after
/// it counts those that nobody was asked for.
fn calls_go_on(policy: PolicyKind, pick: impl Fn(&mut Caller) -> Result<PickedHost, Error>) {
    const CALLS: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.db");
    let store = format!("sqlite://{}", file.display()).parse().unwrap();
    let server = ReportConfig::new("127.0.0.1:0".parse().unwrap(), store);
    let server = ReportServer::start(&server).unwrap();
    let start = |number| start(folder.path(), number, server.address(), policy);
    let mut config = CallerConfig::new("pay", folder.path().join("agent.sock"));
    config.timeout = WAIT;
    config.pause = Duration::from_millis(1);
    let mut caller = Caller::new(config);
    let mut other = caller.clone();
    // Whether this process has the memory of the agent of this number.
    let mut has_memory_of = |number| {
        let hosts = other.hosts();
        hosts.is_some_and(|hosts| {
            hosts
                .iter()
                .any(|one| one.address.to_string() == host(number))
        })
    };
    let mut call = || {
        let picked = pick(&mut caller)?;
        caller.report(&picked, CallEnd::Ok, None, Load::default());
        Ok::<_, Error>((picked.source, picked.address.to_string()))
    };
    let agent = start(0);
    until("the first agent is asked", || {
        call().is_ok_and(|(source, _)| source == Source::Socket) && has_memory_of(0)
    });
    agent.kill();
    for _ in 0..CALLS {
        assert_eq!(call().unwrap(), (Source::Kept, host(0)));
    }
    let agent = start(1);
    // Which it is before it is given what is left of the first one.
    until("the next agent is asked", || {
        call().unwrap() == (Source::Socket, host(1)) && has_memory_of(1)
    });
    agent.end();
    server.drain();
    let stored = stored(&file, 1);
    assert!(stored[0] >= CALLS, "{stored:?}");
}

/// Story: under a policy that asks the agent each pick failed for two seconds from the
/// moment on that it was killed, although all hosts were in the caller's memory.
#[test]
fn calls_that_ask_the_agent_go_on_when_it_is_killed() {
    calls_go_on(PolicyKind::RoundRobin, Caller::pick);
}

/// Story: a process that only picked by key had no memory, and so no host, until the
/// next agent came.
#[test]
fn calls_by_key_go_on_when_the_agent_is_killed() {
    calls_go_on(PolicyKind::Maglev, |caller| caller.pick_by(7));
}
