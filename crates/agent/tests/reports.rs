//! An agent and its report server: ours, and one that only takes notes.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig, ReportTo};
use waystation_balance::{CallEnd, Load};
use waystation_base::ServiceName;
use waystation_client::{Caller, CallerConfig, LarsCaller, machine_now};
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;
use waystation_report::{CallRow, ReportConfig, ReportServer, ask_calls};

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

const HOST: &str = "127.0.0.1:9001";

/// An agent that knows one host of `pay`, which is (1, 1) for Lars.
struct World {
    folder: TempDir,
    agent: Agent,
    /// Waiting on it is how a test pauses between two looks.
    pause: (Sender<()>, Receiver<()>),
}

impl World {
    fn new(report: SocketAddr, is_native: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = ServiceName::new("pay").unwrap();
        let id = InstanceId::new("pay-1").unwrap();
        let mut one = Instance::new(id, service, HOST.parse().unwrap(), Owner::default());
        one.lars = Some(LarsPair { modid: 1, cmdid: 1 });
        let file = folder.path().join("nodes");
        std::fs::write(&file, format!("{}\n", instance_to_json(&one))).unwrap();
        let registry = format!("file://{}", file.display()).parse().unwrap();
        let mut config = AgentConfig::new(folder.path().join("agent.sock"), registry, 7);
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        config.report = Some(ReportTo {
            caller: "m1".to_owned(),
            caller_ip: Some(Ipv4Addr::new(200, 0, 0, 1)),
            is_native,
            ..ReportTo::new(report)
        });
        let world = Self {
            agent: Agent::start(config).unwrap(),
            folder,
            pause: channel(),
        };
        let mut caller = world.caller();
        world.until(|| match caller.pick() {
            Ok(picked) => {
                caller.report(&picked, CallEnd::Cancelled, None, Load::default());
                true
            }
            Err(_) => false,
        });
        world
    }

    fn caller(&self) -> Caller {
        let mut config = CallerConfig::new("pay", self.agent.socket());
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        Caller::new(config)
    }

    fn lars(&self) -> LarsCaller {
        let mut caller = LarsCaller::new(1, 1);
        let udp = self.agent.udp_addresses();
        caller.ports = [udp[0].port(), udp[1].port(), udp[2].port()];
        caller.timeout = WAIT;
        caller
    }

    fn until(&self, mut is_so: impl FnMut() -> bool) {
        let end = machine_now() + WAIT;
        while !is_so() {
            assert!(machine_now() < end, "it did not come about");
            let _nothing = self.pause.1.recv_timeout(Duration::from_millis(5));
        }
    }
}

fn call(caller: &mut Caller, ends: &[CallEnd]) {
    for &end in ends {
        let picked = caller.pick().unwrap();
        caller.report(&picked, end, None, Load::default());
    }
}

fn server(folder: &Path, listen: &str) -> ReportServer {
    let store = format!("sqlite://{}/r.db", folder.display())
        .parse()
        .unwrap();
    ReportServer::start(&ReportConfig::new(listen.parse().unwrap(), store)).unwrap()
}

fn row(server: &ReportServer, service: &str) -> Option<CallRow> {
    let (rows, _) = ask_calls(server.address(), Some(service), 9, WAIT).unwrap();
    assert!(rows.len() < 2, "{rows:?}");
    rows.into_iter().next()
}

#[test]
fn what_callers_did_reaches_the_report_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), "127.0.0.1:0");
    let world = World::new(server.address(), true);
    let mut caller = world.caller();
    let ends = [
        CallEnd::Ok,
        CallEnd::Failed,
        CallEnd::TimedOut,
        CallEnd::Cancelled,
    ];
    call(&mut caller, &ends);
    world.until(|| row(&server, "pay").is_some_and(|row| (row.ok, row.failed) == (1, 2)));
    let found = row(&server, "pay").unwrap();
    assert_eq!((found.host.as_str(), found.caller.as_str()), (HOST, "m1"));
    // A caller of Lars.
    let lars = world.lars();
    let host = lars.get_host().unwrap();
    for is_ok in [true, true, false] {
        lars.report(host, is_ok);
    }
    world.until(|| row(&server, "1/1").is_some_and(|row| (row.ok, row.failed) == (2, 1)));
    let found = row(&server, "1/1").unwrap();
    assert_eq!(
        (found.host.as_str(), found.caller.as_str()),
        (HOST, "200.0.0.1")
    );
    call(&mut caller, &[CallEnd::Ok; 10]);
    // What was not told yet is told at the end.
    world.agent.drain();
    drop(world.folder);
    assert!(
        row(&server, "pay").is_some_and(|row| row.ok == 11),
        "{:?}",
        row(&server, "pay")
    );
}

/// A connection to a reporter that was refused was never tried again in Lars, and
/// the counts of that time were lost.
#[test]
fn a_report_server_that_comes_later_and_goes_is_told_all() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let world = World::new(address, true);
    let (mut caller, lars) = (world.caller(), world.lars());
    call(&mut caller, &[CallEnd::Ok; 5]);
    let host = lars.get_host().unwrap();
    lars.report(host, true);
    let (mut ok, mut lars_ok) = (5, 1);
    for _ in 0..3 {
        let server = server(folder.path(), &address.to_string());
        call(&mut caller, &[CallEnd::Ok; 5]);
        lars.report(host, true);
        (ok, lars_ok) = (ok + 5, lars_ok + 1);
        world.until(|| row(&server, "pay").is_some_and(|row| row.ok == ok));
        world.until(|| row(&server, "1/1").is_some_and(|row| row.ok == lars_ok));
        server.drain();
        call(&mut caller, &[CallEnd::Ok; 5]);
        lars.report(host, true);
        (ok, lars_ok) = (ok + 5, lars_ok + 1);
    }
}

/// Lars' own reporter: it reads frames and never says a word.
#[test]
fn a_reporter_of_lars_gets_frames_of_lars_and_nothing_else() {
    let reporter = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::new(reporter.local_addr().unwrap(), false);
    call(&mut world.caller(), &[CallEnd::Ok; 3]);
    let lars = world.lars();
    let host = lars.get_host().unwrap();
    for _ in 0..7 {
        lars.report(host, true);
    }
    let (mut ok, mut failed) = (0, 0);
    while ok < 7 {
        let (mut stream, _) = reporter.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let told = next_report(&mut stream);
        assert!((ok..=7).contains(&told.0), "totals fell: {told:?}");
        assert!(told.1 <= failed);
        // It closes after each message: the totals come again.
        ok = told.0;
        lars.report(host, false);
        failed += 1;
    }
}

/// Reads the frame of a report of 1/1 by 200.0.0.1 about one host, 127.0.0.1:9001,
/// which has these successes and errors and is not overloaded.
fn next_report(stream: &mut impl Read) -> (u8, u8) {
    let mut head = [0; 8 + 15];
    stream.read_exact(&mut head).unwrap();
    let length = head[4];
    let ip = [0x81, 0x80, 0x80, 0xc0, 0xfc, 0xff, 0xff, 0xff, 0xff, 1];
    let golden = [&[3, 0, 0, 0, length, 0, 0, 0, 8, 1, 16, 1, 24], &ip[..]].concat();
    assert_eq!(head[..], golden);
    let mut rest = vec![0; usize::from(length) - 15];
    stream.read_exact(&mut rest).unwrap();
    // Neither a count of 0 nor false is written.
    let numbers = match rest.len() {
        19 => &rest[11..13],
        21 => &rest[11..15],
        _ => panic!("{rest:?}"),
    };
    let (ok, failed) = (numbers[1], numbers.get(3).copied().unwrap_or(0));
    let counted: &[u8] = if failed == 0 {
        &[24, ok]
    } else {
        &[24, ok, 32, failed]
    };
    let result = u8::try_from(9 + counted.len()).unwrap();
    let host = [8, 0x81, 0x80, 0x80, 0xf8, 7, 16, 0xa9, 0x46];
    let (result, time) = (
        [&[34, result], &host[..], counted, &[40]].concat(),
        rest.split_off(rest.len() - 5),
    );
    assert_eq!(rest, result);
    let seconds = time
        .iter()
        .rev()
        .fold(0, |sum, byte| (sum << 7) | u64::from(byte & 0x7f));
    assert!(seconds > 1_600_000_000);
    (ok, failed)
}
