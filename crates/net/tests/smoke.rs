//! A call through a server and back, over each kind of socket.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use waystation_base::{FencingToken, MessageId, Sid, SiteId, TraceId};
use waystation_net::native::{
    Call, Handler, Inbound, NativeProtocol, Router, Started, Upstream, UpstreamConfig, reply,
};
use waystation_net::{Address, Conn, Faults, Label, MemoryIo, NetConfig, Server, Shard};
use waystation_wire::{Header, Status};

const ECHO: MessageId = MessageId::of("test/Echo");

struct Echo;

impl Handler for Echo {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = Header::reply(message.header.call, message.header.message, Status::Ok);
        reply(conn, &header, message.body).unwrap();
        None
    }

    fn label(&self) -> Label {
        Label::of("test/Echo")
    }
}

fn router() -> Rc<Router> {
    let mut router = Router::new();
    router.route(ECHO, Rc::new(Echo)).unwrap();
    Rc::new(router)
}

fn call(shard: &Shard) -> Call {
    Call {
        message: ECHO,
        label: Label::of("test/Echo"),
        sid: Sid(1),
        trace: TraceId(2),
        deadline: shard.now() + Duration::from_secs(10),
        idempotent: false,
        site: SiteId(0),
        fencing: FencingToken(0),
    }
}

fn round_trips(config: NetConfig, address: Address) {
    let server = Server::builder(config)
        .listen(address, |_| NativeProtocol::new(router()))
        .start()
        .unwrap();
    let address = server.addresses()[0].clone();
    let (done, result) = mpsc::channel();
    server
        .remote()
        .run_on(waystation_base::ShardId(0), move |shard| {
            let task = shard.clone();
            shard.spawn(Label::of("client"), async move {
                let upstream =
                    Upstream::new(&task, UpstreamConfig::new(address), Rc::new(Router::new()));
                let mut bodies = Vec::new();
                for size in [0, 1, 70_000, 3 << 20] {
                    let body = vec![7; size];
                    let answer = upstream.call(&call(&task), &body).await.unwrap();
                    bodies.push(answer.body == body);
                }
                done.send(bodies).unwrap();
            });
        })
        .unwrap();
    assert_eq!(
        result.recv_timeout(Duration::from_secs(20)).unwrap(),
        [true; 4]
    );
    server.drain();
}

#[test]
fn over_tcp() {
    round_trips(
        NetConfig {
            shards: 2,
            ..NetConfig::default()
        },
        "127.0.0.1:0".parse().unwrap(),
    );
}

#[test]
fn over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("waystation-smoke-{}", std::process::id()));
    round_trips(NetConfig::default(), Address::Unix(path.clone()));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn in_memory_with_faults() {
    for seed in 0..20 {
        let faults = Faults {
            short: 0.3,
            spurious: 0.3,
            ..Faults::default()
        };
        let io = std::sync::Arc::new(MemoryIo::new(seed, faults));
        round_trips(
            NetConfig {
                io,
                ..NetConfig::default()
            },
            Address::Memory("echo".into()),
        );
    }
}
