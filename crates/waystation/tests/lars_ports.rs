//! The programs of Lars at the ports where they have always been, in a network
//! namespace of the test's own: there those ports are free, whatever runs beside it.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use common::chat::look_until;
use common::role::Process;
use common::{run, stderr, stdout, waystation};
use waystation_test_process::namespace::{self, Inside, Namespaces};

/// For answers; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

/// 10.0.0.1:7000, as its fields 1 and 2.
const HOST: [u8; 8] = [8, 0x81, 0x80, 0x80, 0x50, 16, 0xd8, 0x36];

/// Story: every test gave each server a port of its own, so that nothing but a
/// user would have noticed that a default was not the port of Lars, whose callers
/// know no other. Two namespaces at once show that tests do not meet there.
#[test]
fn needs_iproute_programs_of_lars_find_all_at_their_ports() {
    const TEST: &str = "needs_iproute_programs_of_lars_find_all_at_their_ports";
    const SETUP: &str = "\"$0\" link set lo up";
    if namespace::is_inside() {
        return all_are_at_their_ports();
    }
    match Namespaces::find(SETUP) {
        Ok(namespaces) => {
            let both = [(); 2].map(|()| namespaces.again(SETUP, TEST));
            both.into_iter().for_each(Inside::passes);
        }
        Err(reason) => namespace::leave_out(TEST, &reason),
    }
}

fn all_are_at_their_ports() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let serve = |args: &[&str]| {
        let args = [args, &["--dir", dir]].concat();
        let mut process = Process::new(waystation(&args).stdout(Stdio::piped()));
        let line = process.first_line();
        assert!(line.starts_with("ready "), "{line}");
        process
    };
    let _dns = serve(&["route", "serve", "--no-registry"]);
    let _reporter = serve(&["report", "serve"]);
    let from = ["--route", "127.0.0.1:7778", "--route-protocol", "lars"];
    let _agent = serve(&[&["agent"], &from[..]].concat());
    // The sums of their numbers lead to each of the agent's ports.
    let pairs: [(u8, u8, u16); 3] = [(1, 1, 8890), (1, 2, 8888), (1, 6, 8889)];
    for (modid, cmdid, _) in pairs {
        done(&["route", "add", &format!("{modid}/{cmdid}"), "10.0.0.1:7000"]);
    }

    route_server_answers();
    for (modid, cmdid, port) in pairs {
        agent_answers(modid, cmdid, port);
    }
    // What is not there is told in the bytes that Lars tells it in.
    let unknown = [5, 0, 0, 0, 6, 0, 0, 0, 0x10, 1, 0x18, 3, 0x20, 3];
    assert_eq!(
        asked(8889, &[4, 0, 0, 0, 4, 0, 0, 0, 0x10, 1, 0x18, 3]),
        unknown
    );
    reports_arrive();
    // And a caller that is told no port finds them, also for a pair that nobody
    // asked for yet: the first question was answered by "no such service".
    done(&["route", "add", "1/7", "10.0.0.1:7000"]);
    let output = run(&["host", "get", "1/7"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "10.0.0.1:7000\n");
}

/// dns, at 7778.
fn route_server_answers() {
    let ask = [1, 0, 0, 0, 4, 0, 0, 0, 8, 1, 16, 1];
    let answer = [&[2, 0, 0, 0, 14, 0, 0, 0, 8, 1, 16, 1, 26, 8], &HOST[..]].concat();
    let mut dns = TcpStream::connect("127.0.0.1:7778").unwrap();
    dns.set_read_timeout(Some(WAIT)).unwrap();
    dns.write_all(&ask).unwrap();
    let mut bytes = vec![0; answer.len()];
    dns.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, answer);
}

/// The agent, at one of its ports, once it has heard of the pair.
fn agent_answers(modid: u8, cmdid: u8, port: u16) {
    let pair = [16, modid, 24, cmdid];
    let ask = [&[4, 0, 0, 0, 6, 0, 0, 0, 8, 5], &pair[..]].concat();
    let head = [5, 0, 0, 0, 16, 0, 0, 0, 8, 5];
    let answer = [&head, &pair[..], &[42, 8], &HOST].concat();
    look_until("the pair is known", || asked(port, &ask) == answer);
    // A result of a call, which nobody answers.
    let report = [6, 0, 0, 0, 14, 0, 0, 0, 8, modid, 16, cmdid, 26, 8];
    let report = [&report, &HOST[..]].concat();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&report, ("127.0.0.1", port)).unwrap();
}

/// The reporter, at 7779: an agent of Lars tells it of a call, and our agent of
/// those that it was told of.
fn reports_arrive() {
    // (1, 2), by 10.0.0.9: three that went well.
    let head = [
        3, 0, 0, 0, 21, 0, 0, 0, 8, 1, 16, 2, 24, 0x89, 0x80, 0x80, 0x50, 34, 10,
    ];
    let frame = [&head, &HOST[..], &[24, 3]].concat();
    let mut reporter = TcpStream::connect("127.0.0.1:7779").unwrap();
    reporter.write_all(&frame).unwrap();
    let ok = |pair: &str| -> u64 {
        let rows = done(&["report", "show", pair, "--json"]);
        let rows = rows.lines().map(serde_json::from_str::<serde_json::Value>);
        rows.map(|row| row.unwrap()["ok"].as_u64().unwrap()).sum()
    };
    for (pair, calls) in [("1/1", 1), ("1/2", 4), ("1/6", 1)] {
        look_until("the calls are counted", || ok(pair) == calls);
    }
}

/// What the agent answers a datagram.
fn asked(port: u16, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.send(bytes).unwrap();
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

fn done(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}
