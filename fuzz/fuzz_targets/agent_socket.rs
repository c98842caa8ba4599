//! A caller's bytes to the Unix socket of a whole agent.
//!
//! The first byte is the size of the pieces; from 128 on the rest is the stream as it
//! is, below it each line is a request with its length before it. Each request has
//! exactly one answer of its kind, but a report has none, whatever the cut; and once
//! the connection is gone nothing of it is in flight.
#![no_main]

mod support;

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use support::sockets;
use waystation_agent::limits::REQUEST_MAX;
use waystation_agent::{Agent, AgentConfig, Probes};
use waystation_base::ServiceName;
use waystation_client::framed;
use waystation_client::protocol::{Answer, Code, MESSAGE_MAX, Request};
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;

/// From here on the first byte means a stream as it is.
const RAW: u8 = 128;

struct Host {
    agent: Agent,
    socket: PathBuf,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let folder = sockets::folder("agent-socket");
    let mut nodes = String::new();
    for number in 1..=3 {
        let id = InstanceId::new(&format!("pay-{number}")).expect("an id");
        let service = ServiceName::new("pay").expect("a name");
        let address = format!("127.0.0.1:900{number}")
            .parse()
            .expect("an address");
        let mut one = Instance::new(id, service, address, Owner::default());
        one.lars = Some(LarsPair { modid: 1, cmdid: 1 });
        nodes.push_str(&instance_to_json(&one));
        nodes.push('\n');
    }
    let file = folder.join("nodes");
    std::fs::write(&file, nodes).expect("it is written");
    let registry = format!("file://{}", file.display())
        .parse()
        .expect("a registry");
    let socket = folder.join("agent.sock");
    let mut config = AgentConfig::new(&socket, registry, 7);
    config.udp.clear();
    config.probes = Probes::Never;
    let agent = Agent::start(config).expect("it starts");
    let host = Host { agent, socket };
    while in_flight(&host).is_none() {
        std::thread::yield_now();
    }
    host
});

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    let stream = if first >= RAW {
        bytes.to_vec()
    } else {
        lines(bytes)
    };
    let host = &*HOST;
    let requests = requests(&stream);
    for cut in [stream.len(), usize::from(first % RAW)] {
        let received = sockets::exchange(sockets::unix(&host.socket), &stream, cut);
        let answers = answers(&received);
        let answered = requests
            .iter()
            .filter(|one| !matches!(one, Some(Request::Report { .. })));
        assert_eq!(answers.len(), answered.clone().count());
        for (request, answer) in answered.zip(&answers) {
            assert!(fits(request.as_ref(), answer), "{request:?}: {answer:?}");
        }
        assert_eq!(in_flight(host), Some(0));
    }
    let server = host.agent.server().expect("it runs");
    assert_eq!(server.counters()[0].panics.get(), 0);
});

fn lines(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let length = u32::try_from(line.len()).expect("a fuzzer's input is short");
        stream.extend(length.to_le_bytes());
        stream.extend_from_slice(line);
    }
    stream
}

/// The bodies of all whole messages, up to one that is too long.
fn bodies(mut stream: &[u8], longest: usize) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).expect("it fits");
        if length > longest || rest.len() < length {
            break;
        }
        let (body, rest) = rest.split_at(length);
        bodies.push(body);
        stream = rest;
    }
    bodies
}

/// What is asked; nothing for a body that is no request.
fn requests(stream: &[u8]) -> Vec<Option<Request>> {
    let bodies = bodies(stream, REQUEST_MAX);
    bodies
        .into_iter()
        .map(|body| serde_json::from_slice(body).ok())
        .collect()
}

fn answers(received: &[u8]) -> Vec<Answer> {
    let bodies = bodies(received, MESSAGE_MAX);
    let length: usize = bodies.iter().map(|body| 4 + body.len()).sum();
    assert_eq!(length, received.len(), "an answer is whole");
    let answer = |body: &[u8]| serde_json::from_slice(body).expect("it is an answer");
    bodies.into_iter().map(answer).collect()
}

/// Whether an answer is one to that request.
fn fits(request: Option<&Request>, answer: &Answer) -> bool {
    match (request, answer) {
        (None, Answer::Refused { code, .. }) => *code == Code::BadRequest,
        (Some(_), Answer::Refused { .. }) => true,
        (Some(Request::Attach { .. }), other) => *other == Answer::Attached,
        (Some(Request::Pick { .. }), other) => matches!(other, Answer::Picked { .. }),
        (Some(Request::ReportAddress { .. }), other) => *other == Answer::Reported,
        (Some(Request::List { .. } | Request::ListPair { .. }), other) => {
            matches!(other, Answer::Listed { .. })
        }
        (Some(Request::Explain { .. } | Request::ExplainPair { .. }), other) => {
            matches!(other, Answer::Explained { .. })
        }
        _ => false,
    }
}

/// Calls in flight to all hosts; nothing while the agent does not know them.
fn in_flight(host: &Host) -> Option<u32> {
    let (service, from) = ("pay".to_owned(), 0);
    let request = framed(&Request::List { service, from }).expect("it is written");
    let received = sockets::exchange(sockets::unix(&host.socket), &request, request.len());
    match answers(&received).as_slice() {
        [Answer::Listed { hosts, .. }] if hosts.len() == 3 => {
            Some(hosts.iter().map(|host| host.in_flight).sum())
        }
        _ => None,
    }
}
