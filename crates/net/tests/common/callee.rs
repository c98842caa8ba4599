//! A callee that a test plays by hand, and calls of the client under test.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use waystation_base::{CallId, MessageId};
use waystation_net::native::{Answer, CallError, Router, Upstream, UpstreamConfig};
use waystation_net::{Address, Io, Listener, MemoryIo, Shard, Stream};
use waystation_wire::{Header, Kind, Status, encode_into};

use super::{Memory, Peer, Setup, back_at, call, figures, on_shard};

pub(crate) const CALLEE: &str = "callee";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A callee played by the test.
pub(crate) struct Callee(pub(crate) Box<dyn Listener>);

impl Callee {
    pub(crate) fn listen(io: &MemoryIo) -> Self {
        let listener = io.listen(&Address::Memory(CALLEE.into())).unwrap();
        Self(listener.attach().unwrap())
    }

    pub(crate) async fn accept(&mut self) -> Peer<Box<dyn Stream>> {
        let stream = poll_fn(|cx| self.0.poll_accept(cx)).await.unwrap();
        Peer::new(stream.attach().unwrap())
    }
}

pub(crate) async fn answer(peer: &mut Peer<Box<dyn Stream>>, call: CallId, body: &[u8]) {
    let header = Header::reply(call, MessageId::of("test/Echo"), Status::Ok);
    let mut frame = Vec::new();
    encode_into(&header, body, &mut frame).unwrap();
    peer.write(&frame).await;
}

/// The callee's next request: its call id and body.
pub(crate) async fn asked(peer: &mut Peer<Box<dyn Stream>>) -> (CallId, Vec<u8>) {
    loop {
        let (header, body) = peer.frame().await.unwrap();
        if header.kind == Kind::Request {
            return (header.call, body);
        }
    }
}

pub(crate) fn config() -> UpstreamConfig {
    UpstreamConfig::new(Address::Memory(CALLEE.into()))
}

pub(crate) fn upstream(shard: &Shard, config: UpstreamConfig) -> Upstream {
    Upstream::new(shard, config, Rc::new(Router::new()))
}

/// A call that runs by itself.
pub(crate) struct Running(pub(crate) tokio::task::JoinHandle<Result<Answer, CallError>>);

impl Running {
    pub(crate) fn start(
        shard: &Shard,
        upstream: &Upstream,
        body: &'static str,
        within: Duration,
    ) -> Self {
        let (upstream, call) = (upstream.clone(), call(shard, "test/Echo", within));
        Self(tokio::task::spawn_local(async move {
            upstream.call(&call, body.as_bytes()).await
        }))
    }

    pub(crate) async fn body(self) -> Result<Bytes, CallError> {
        self.0.await.unwrap().map(|answer| answer.body)
    }
}

/// Runs a test on a paused shard, then looks for what it left behind.
pub(crate) fn check(
    test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static,
) {
    check_with(Setup::paused(), test);
}

pub(crate) fn check_with(
    setup: Setup,
    test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static,
) {
    let Memory { io, server } = setup.start(|_| super::echo_router());
    let baseline = figures(&server);
    on_shard(&server, 0, move |shard| test(shard, io));
    back_at(&server, &baseline);
    let counters = server.counters()[0].clone();
    assert_eq!(counters.calls_in_flight.get(), 0);
    assert_eq!(counters.panics.get(), 0);
    server.drain();
}
