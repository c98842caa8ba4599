//! A whole server in memory, for targets that feed it a connection's bytes.

#![allow(dead_code, reason = "each target uses a part of it")]

pub mod agent;
pub mod sockets;
pub mod websocket;

use std::rc::Rc;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waystation_base::{MessageId, ShardId};
use waystation_net::native::{
    Handler, HttpHandler, Inbound, NativeProtocol, Router, Started, TextHandler, reply,
};
use waystation_net::{Address, Conn, Faults, Label, MemoryIo, NetConfig, Server, Shard};
use waystation_wire::{Header, Kind, Status};

const NAME: &str = "fuzzed";

/// Echoes, at once or after some time.
struct Echo {
    label: Label,
    delay: Duration,
}

impl Handler for Echo {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        if message.header.kind != Kind::Request {
            return None;
        }
        let header = Header::reply(message.header.call, message.header.message, Status::Ok);
        let (conn, body) = (conn.clone(), message.body.to_vec());
        if self.delay.is_zero() {
            let _ = reply(&conn, &header, &body);
            return None;
        }
        let delay = conn.shard().sleep(self.delay);
        Some(Box::pin(async move {
            delay.await;
            let _ = reply(&conn, &header, &body);
        }))
    }

    fn label(&self) -> Label {
        self.label
    }
}

struct Shouts;

impl TextHandler for Shouts {
    fn handle(&self, conn: &Conn, text: &str) -> Started {
        let _ = conn.send_text(&text.to_uppercase());
        None
    }

    fn label(&self) -> Label {
        Label::OTHER
    }
}

struct Measures;

impl HttpHandler for Measures {
    fn handle(
        &self,
        _: &Conn,
        request: http::Request<Bytes>,
    ) -> LocalBoxFuture<'static, http::Response<Bytes>> {
        let text = format!("{} {}\n", request.uri().path(), request.body().len());
        Box::pin(async move { http::Response::new(text.into()) })
    }
}

fn router() -> Router {
    let mut router = Router::new();
    for (name, delay_ms) in [("test/Echo", 0), ("test/Slow", 3)] {
        let echo = Echo {
            label: Label::of(name),
            delay: Duration::from_millis(delay_ms),
        };
        router
            .route(MessageId::of(name), Rc::new(echo))
            .expect("the names differ");
    }
    router.set_text(Rc::new(Shouts));
    router.set_http(Rc::new(Measures));
    router.set_websocket_path("/ws");
    router
}

/// A server under fuzzing.
pub struct Host {
    server: Server,
    io: MemoryIo,
}

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::start(|_| NativeProtocol::new(Rc::new(router()))));

impl Host {
    /// A server in memory on one shard.
    pub fn start(protocol: impl Fn(&Shard) -> NativeProtocol + Send + Sync + 'static) -> Self {
        let io = MemoryIo::new(1, Faults::default());
        let config = NetConfig {
            io: Arc::new(io.clone()),
            ..NetConfig::default()
        };
        let server = Server::builder(config)
            // Time passes only when there is nothing else to do.
            .on_shard(|_| tokio::time::pause())
            .listen(Address::Memory(NAME.into()), protocol)
            .start()
            .expect("nothing else listens there");
        Self { server, io }
    }

    /// As [`exchange`], with this server.
    pub fn exchange(&self, bytes: &[u8], cut: usize) -> Vec<u8> {
        let host = self;
        let ends = || {
            let reasons = host.server.counters()[0].closed.list();
            reasons.iter().map(|(_, count)| count).sum::<u64>()
        };
        let before = ends();
        let (done, answer) = mpsc::channel();
        let (io, bytes) = (host.io.clone(), bytes.to_vec());
        let job = move |shard: &Shard| {
            let task = shard.clone();
            shard.spawn(Label::OTHER, async move {
                let received = converse(&io, &bytes, cut).await;
                let limit = task.now() + Duration::from_secs(5);
                while task.slot_figures() != (0, 0) {
                    assert!(task.now() < limit, "the connection's slot is not released");
                    task.sleep(Duration::from_millis(1)).await;
                }
                let _ = done.send(received);
            });
        };
        host.server
            .remote()
            .run_on(ShardId(0), job)
            .expect("the mailbox is empty");
        let received = answer
            .recv_timeout(Duration::from_secs(20))
            .expect("the connection hangs");
        assert_eq!(host.server.counters()[0].panics.get(), 0);
        assert_eq!(ends(), before + 1);
        received
    }
}

/// Sends `bytes` in pieces of `cut` on a connection of its own, ends that
/// side, and answers all that came back. The connection is gone then, and it
/// has ended exactly once.
pub fn exchange(bytes: &[u8], cut: usize) -> Vec<u8> {
    HOST.exchange(bytes, cut)
}

async fn converse(io: &MemoryIo, bytes: &[u8], cut: usize) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(io.dial(NAME).expect("it listens"));
    let send = async {
        for piece in bytes.chunks(cut.max(1)) {
            // It may have been closed for what was sent before.
            if write.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let receive = async {
        let mut received = Vec::new();
        let _ = read.read_to_end(&mut received).await;
        received
    };
    tokio::join!(send, receive).1
}
