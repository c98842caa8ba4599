//! A connection's bytes to a whole route server: what an agent of Lars may say.
//!
//! The first byte is the size of the pieces. Each question is answered by the hosts
//! of its pair, in the order of questions and whatever the cut; other frames are
//! skipped; a bad length ends the connection. Native subscribers share the port, and
//! whatever they say the next agent is answered. What begins like HTTP is left out:
//! it changes routes.
#![no_main]

mod support;

use std::net::SocketAddr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use support::sockets;
use waystation_route::{AdminClient, RouteConfig, RouteForm, RouteServer};
use waystation_wire::lars::{GetRouteResponse, HostInfo, Message, Scan, scan};
use waystation_wire::{FirstByte, classify};

/// Pairs that have hosts, in the order in which the server tells them: as numbers
/// that may be negative.
const ROUTES: [(i32, i32, [u8; 4], u16); 4] = [
    (0, 0, [10, 0, 0, 1], 80),
    (1, 1, [200, 0, 0, 1], 7000),
    (1, 1, [127, 0, 0, 1], 9001),
    (-5, i32::MIN, [255, 255, 255, 254], 65_535),
];

struct Host {
    server: RouteServer,
    at: SocketAddr,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let folder = sockets::folder("route-port");
    let store = format!("sqlite://{}", folder.join("routes.db").display());
    let listen = "127.0.0.1:0".parse().expect("an address");
    let store = store.parse().expect("a store");
    let server = RouteServer::start(RouteConfig::new(folder.to_owned(), listen, store));
    let server = server.expect("it starts");
    let at: SocketAddr = server.address().to_string().parse().expect("an address");
    let admin = AdminClient::new(at);
    for (modid, cmdid, ip, port) in ROUTES {
        let form = RouteForm::new(
            format!("{modid}/{cmdid}"),
            SocketAddr::from((ip, port)).to_string(),
        );
        admin.add(&form).expect("it is added");
    }
    Host { server, at }
});

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let kind = bytes.first().map(|first| classify(*first));
    if kind == Some(FirstByte::Http) {
        return;
    }
    let host = &*HOST;
    let whole = sockets::exchange(sockets::tcp(host.at), bytes, bytes.len());
    if kind == Some(FirstByte::Native) {
        // 1/1, of somebody else.
        let question = [1, 0, 0, 0, 4, 0, 0, 0, 8, 1, 16, 1];
        let answer = sockets::exchange(sockets::tcp(host.at), &question, question.len());
        assert_eq!(routes(&answer), expected(&question));
    } else {
        assert_eq!(routes(&whole), expected(bytes));
        let in_pieces = sockets::exchange(sockets::tcp(host.at), bytes, usize::from(cut));
        assert_eq!(in_pieces, whole, "it depends on the cut");
    }
    assert_eq!(host.server.server().counters()[0].panics.get(), 0);
});

/// What is answered to a stream of frames.
fn expected(mut stream: &[u8]) -> Vec<GetRouteResponse> {
    let mut answers = Vec::new();
    while let Ok(Scan::Frame(frame)) = scan(stream) {
        if let Ok(Message::GetRouteRequest(ask)) = Message::parse(frame.id, frame.body) {
            let is_its =
                |route: &&(i32, i32, [u8; 4], u16)| (route.0, route.1) == (ask.modid, ask.cmdid);
            let hosts = ROUTES.iter().filter(is_its);
            answers.push(GetRouteResponse {
                modid: ask.modid,
                cmdid: ask.cmdid,
                hosts: hosts
                    .map(|one| HostInfo::new(one.2.into(), one.3))
                    .collect(),
            });
        }
        stream = &stream[frame.len()..];
    }
    answers
}

/// What was answered.
fn routes(mut received: &[u8]) -> Vec<GetRouteResponse> {
    let mut routes = Vec::new();
    while !received.is_empty() {
        let Ok(Scan::Frame(frame)) = scan(received) else {
            panic!("{received:?} is no frame")
        };
        match Message::parse(frame.id, frame.body) {
            Ok(Message::GetRouteResponse(route)) => routes.push(route),
            other => panic!("{other:?}"),
        }
        received = &received[frame.len()..];
    }
    routes
}
