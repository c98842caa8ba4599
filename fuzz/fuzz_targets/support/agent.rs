//! A whole agent that knows three hosts of `pay`, and reports to nobody who is there.

use std::path::PathBuf;

use waystation_agent::{Agent, AgentConfig, Probes, ReportTo};
use waystation_base::ServiceName;
use waystation_client::framed;
use waystation_client::protocol::{Answer, MESSAGE_MAX, Request};
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;

use super::sockets;

/// The service whose hosts it knows.
pub const SERVICE: &str = "pay";

/// An agent under fuzzing.
pub struct Host {
    agent: Agent,
    pub socket: PathBuf,
}

impl Host {
    pub fn start(name: &str) -> Self {
        let folder = sockets::folder(name);
        let mut nodes = String::new();
        for number in 1..=3 {
            let id = InstanceId::new(&format!("{SERVICE}-{number}")).expect("an id");
            let service = ServiceName::new(SERVICE).expect("a name");
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
        // Counts are kept for it, within their bound.
        config.report = Some(ReportTo {
            caller: "fuzzed".to_owned(),
            ..ReportTo::new(([127, 0, 0, 1], 9).into())
        });
        let agent = Agent::start(config).expect("it starts");
        let host = Self { agent, socket };
        while host.in_flight().is_none() {
            std::thread::yield_now();
        }
        host
    }

    /// Calls in flight to all hosts; nothing while the agent does not know them.
    pub fn in_flight(&self) -> Option<u32> {
        let (service, from) = (SERVICE.to_owned(), 0);
        let request = framed(&Request::List { service, from }).expect("it is written");
        let received = sockets::exchange(sockets::unix(&self.socket), &request, request.len());
        match answers(&received).as_slice() {
            [Answer::Listed { hosts, .. }] if hosts.len() == 3 => {
                Some(hosts.iter().map(|host| host.in_flight).sum())
            }
            _ => None,
        }
    }

    /// Nothing in it has panicked.
    pub fn check(&self) {
        let server = self.agent.server().expect("it runs");
        assert_eq!(server.counters()[0].panics.get(), 0);
    }
}

/// The answers in what was received, each of them whole.
pub fn answers(received: &[u8]) -> Vec<Answer> {
    let bodies = bodies(received, MESSAGE_MAX);
    let length: usize = bodies.iter().map(|body| 4 + body.len()).sum();
    assert_eq!(length, received.len(), "an answer is whole");
    let answer = |body: &[u8]| serde_json::from_slice(body).expect("it is an answer");
    bodies.into_iter().map(answer).collect()
}

/// The bodies of all whole messages, up to one that is too long.
pub fn bodies(mut stream: &[u8], longest: usize) -> Vec<&[u8]> {
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
