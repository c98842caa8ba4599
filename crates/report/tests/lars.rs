//! Lars' reporter protocol, byte by byte, and the faults that Lars' own reporter
//! was seen to have.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::{Agent, WAIT, bytes_of, config, report, start, status, until, until_stored};
use waystation_report::{ReportServer, ask_calls};
use waystation_wire::lars::{GetRouteRequest, Message};

/// A server on a file of its own.
struct Fixture {
    server: ReportServer,
    _folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&format!("sqlite://{}/r.db", folder.path().display()));
    Fixture {
        server,
        _folder: folder,
    }
}

fn closes(mut stream: TcpStream) {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut rest = Vec::new();
    // A reset is a close, too.
    let read = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a report has no answer: {read:?}");
    if let Err(error) = read {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// The bytes that Lars' own agent sends: service (1, 2), caller 10.0.0.1, host
/// 192.168.1.2:65535 with 300 successes and 7 errors, overloaded.
const GOLDEN: &[u8] = &[
    3, 0, 0, 0, 42, 0, 0, 0, // header
    8, 1, 16, 2, 24, 0x81, 0x80, 0x80, 0x50, // modid, cmdid, caller
    34, 22, 8, 0x82, 0x82, 0xa0, 0x85, 0xfc, 0xff, 0xff, 0xff, 0xff, 1, // a result's ip
    16, 0xff, 0xff, 3, 24, 0xac, 2, 32, 7, 40, 1, // port, successes, errors, overload
    40, 0x80, 0xe2, 0xcf, 0xaa, 6, // ts
];

#[test]
fn golden_bytes_are_counted_however_they_are_cut() {
    let fixture = fixture();
    let address = fixture.server.address();
    let mut golden = GOLDEN.to_vec();
    let length = u32::try_from(golden.len() - 8).unwrap();
    golden[4..8].copy_from_slice(&length.to_le_bytes());
    let parsed = Message::parse(3, &golden[8..]).unwrap();
    assert_eq!(
        bytes_of(&parsed),
        golden,
        "these are the bytes of an encoder"
    );
    // A reply or report that came in two reads killed its reader in Lars.
    for cut in 0..golden.len() {
        let mut agent = Agent::connect(address);
        let before = bytes_in(&fixture.server);
        agent.0.write_all(&golden[..cut]).unwrap();
        until("the first part is read", || {
            bytes_in(&fixture.server) == before + cut as u64
        });
        agent.0.write_all(&golden[cut..]).unwrap();
        until("the rest is read", || {
            bytes_in(&fixture.server) == before + golden.len() as u64
        });
    }
    until_stored(&fixture.server, golden.len() as u64);
    let (rows, is_all) = ask_calls(address, Some("1/2"), 10, WAIT).unwrap();
    assert!(is_all && rows.len() == 1);
    let row = &rows[0];
    assert_eq!(
        (row.host.as_str(), row.caller.as_str()),
        ("192.168.1.2:65535", "10.0.0.1")
    );
    assert_eq!((row.ok, row.failed, row.is_out), (300, 7, true));
}

fn bytes_in(server: &ReportServer) -> u64 {
    let counters = server.server().unwrap().counters();
    counters.iter().map(|one| one.bytes_in.get()).sum()
}

/// An empty body killed Lars' reporter.
#[test]
fn an_empty_body_counts_nothing_and_harms_nobody() {
    let fixture = fixture();
    let mut agent = Agent::connect(fixture.server.address());
    agent.0.write_all(&[3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    agent.tell(&report((0, 0), &[(1, 1, 0)]));
    until_stored(&fixture.server, 1);
    assert_eq!(status(&fixture.server)["messages"], 2);
}

#[test]
fn unknown_messages_and_broken_bodies_are_skipped_and_counted() {
    let fixture = fixture();
    let mut agent = Agent::connect(fixture.server.address());
    // An id that nobody knows, one of another role, and a body that is no proto3.
    agent.0.write_all(&[9, 0, 0, 0, 2, 0, 0, 0, 1, 2]).unwrap();
    let ask = GetRouteRequest { modid: 1, cmdid: 1 };
    agent.tell(&Message::GetRouteRequest(ask));
    agent.0.write_all(&[3, 0, 0, 0, 1, 0, 0, 0, 0x22]).unwrap();
    agent.tell(&report((1, 1), &[(1, 5, 0)]));
    until_stored(&fixture.server, 1);
    let status = status(&fixture.server);
    assert_eq!(
        (&status["unknown_messages"], &status["bad_bodies"]),
        (&2.into(), &1.into())
    );
}

#[test]
fn lengths_that_are_negative_or_too_large_end_their_connection_only() {
    let fixture = fixture();
    let mut good = Agent::connect(fixture.server.address());
    for length in [-1_i32, i32::MIN, 65_528, i32::MAX] {
        let mut bad = Agent::connect(fixture.server.address());
        bad.tell(&report((1, 1), &[(9, 1, 0)]));
        let mut header = vec![3, 0, 0, 0];
        header.extend(length.to_le_bytes());
        bad.0.write_all(&header).unwrap();
        closes(bad.0);
    }
    good.tell(&report((1, 1), &[(1, 5, 0)]));
    // The reports before the bad frames count.
    until_stored(&fixture.server, 5);
    assert_eq!(status(&fixture.server)["bad_frames"], 4);
}

/// Negative ids led outside of arrays in Lars.
#[test]
fn negative_and_extreme_numbers_are_keys_like_others() {
    let fixture = fixture();
    let mut agent = Agent::connect(fixture.server.address());
    for pair in [(-1, i32::MIN), (i32::MAX, 0), (0, 0)] {
        agent.tell(&report(pair, &[(1, u32::MAX, 1)]));
    }
    until_stored(&fixture.server, 3);
    let (rows, _) = ask_calls(fixture.server.address(), Some("-1/-2147483648"), 9, WAIT).unwrap();
    assert_eq!(
        (rows[0].ok, rows[0].caller.as_str()),
        (u32::MAX.into(), "200.0.0.9")
    );
}

/// A table in Lars was indexed by the number of a descriptor and had a thousand
/// places; one more connection wrote behind it.
#[test]
fn more_than_a_thousand_agents_report() {
    let fixture = fixture();
    let address = fixture.server.address();
    let mut agents: Vec<Agent> = (0..1_100).map(|_| Agent::connect(address)).collect();
    for (number, agent) in (0_i32..).zip(&mut agents) {
        agent.tell(&report((number, 1), &[(1, 1, 0)]));
    }
    until_stored(&fixture.server, 1_100);
    assert_eq!(status(&fixture.server)["keys"], 1_100);
}

/// In Lars every connection landed on the first thread.
#[test]
fn connections_are_spread_over_all_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&format!("sqlite://{}/r.db", folder.path().display()));
    config.shards = 2;
    let server = ReportServer::start(&config).unwrap();
    let mut agents: Vec<Agent> = (0..40).map(|_| Agent::connect(server.address())).collect();
    for (number, agent) in (0_i32..).zip(&mut agents) {
        agent.tell(&report((number % 4, 1), &[(1, 1, 0)]));
    }
    until_stored(&server, 40);
    let counters = server.server().unwrap().counters();
    let open: Vec<u64> = counters
        .iter()
        .map(|one| one.connections_open.get())
        .collect();
    assert!(
        open.len() == 2 && open.iter().all(|&open| open >= 10),
        "{open:?}"
    );
}

#[test]
fn a_largest_frame_is_taken_and_a_stream_without_end_is_bounded() {
    let fixture = fixture();
    let mut agent = Agent::connect(fixture.server.address());
    let hosts: Vec<(u8, u32, u32)> = (0..=255).map(|last| (last, 1, 0)).collect();
    let mut stream = Vec::new();
    for pair in 0..40 {
        stream.extend(bytes_of(&report((pair, 0), &hosts)));
    }
    let mut largest = vec![99, 0, 0, 0];
    largest.extend(65_527_i32.to_le_bytes());
    largest.resize(8 + 65_527, 0);
    stream.extend(largest);
    agent.0.write_all(&stream).unwrap();
    until_stored(&fixture.server, 40 * 256);
    until("the largest frame was read", || {
        status(&fixture.server)["unknown_messages"] == 1
    });
}

/// Native frames, HTTP and Lars come to one port, and noise to all of them.
#[test]
fn noise_ends_its_connection_and_nothing_else() {
    let fixture = fixture();
    let mut random = 88_172_645_463_325_252_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..200 {
        let mut noise: Vec<u8> = (0..next() % 200).map(|_| next().to_le_bytes()[0]).collect();
        if let Some(first) = noise.first_mut() {
            *first = [0xF7, b'G', 3, 0][(next() % 4) as usize];
        }
        let mut peer = TcpStream::connect(fixture.server.address()).unwrap();
        // It may be closed in the middle.
        let _ = peer.write_all(&noise);
    }
    let mut agent = Agent::connect(fixture.server.address());
    agent.tell(&report((1, 1), &[(1, 5, 0)]));
    until("a good report is taken among them", || {
        let found = ask_calls(fixture.server.address(), Some("1/1"), 9, WAIT).unwrap();
        found.0.iter().any(|row| row.ok == 5)
    });
}
