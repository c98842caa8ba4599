//! What the tests share: servers in memory and on loopback, handlers from
//! closures, raw peers, and waits with a deadline.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod callee;
pub(crate) mod log;
pub(crate) mod played;
pub(crate) mod redis;

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use waystation_base::{Clock, FencingToken, MessageId, ShardId, Sid, SiteId, TraceId};
use waystation_net::native::{Call, Handler, Inbound, NativeProtocol, Router, Started, reply};
use waystation_net::{
    Address, Conn, Counters, Faults, Label, MemoryIo, MemoryStream, MonotonicClock, NetConfig,
    Server, Shard,
};
use waystation_wire::{Decoded, HEADER_LEN, Header, Kind, Status, decode, encode_into};

/// No wait of a test is longer; none is meant to come near it.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// A method that answers its request's body.
pub(crate) const ECHO: MessageId = MessageId::of("test/Echo");

/// The name that servers in memory listen on.
pub(crate) const NAME: &str = "server";

/// A handler from a closure.
pub(crate) struct FnHandler<F> {
    label: Label,
    run: F,
}

impl<F: Fn(&Conn, Inbound<'_>) -> Started + 'static> Handler for FnHandler<F> {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        (self.run)(conn, message)
    }

    fn label(&self) -> Label {
        self.label
    }
}

/// Routes `name` to a closure.
pub(crate) fn on(
    router: &mut Router,
    name: &str,
    run: impl Fn(&Conn, Inbound<'_>) -> Started + 'static,
) {
    let label = Label::of(name);
    let handler = Rc::new(FnHandler { label, run });
    router.route(MessageId::of(name), handler).unwrap();
}

/// The header of the answer to `request`.
pub(crate) fn answer_to(request: &Header) -> Header {
    Header::reply(request.call, request.message, Status::Ok)
}

/// A router that knows `test/Echo`, which answers at once.
pub(crate) fn echo_router() -> Router {
    let mut router = Router::new();
    on(&mut router, "test/Echo", |conn, message| {
        // A connection that closes meanwhile counts it itself.
        let _ = reply(conn, &answer_to(message.header), message.body);
        None
    });
    router
}

/// A server in memory and its network.
pub(crate) struct Memory {
    pub(crate) io: MemoryIo,
    pub(crate) server: Server,
}

/// What a test changes of a server before it starts.
pub(crate) struct Setup {
    pub(crate) config: NetConfig,
    pub(crate) faults: Faults,
    pub(crate) seed: u64,
    /// The shards' clocks stand still and jump to the next timer when nothing
    /// else is left to do. Then everything of the test must run on the shard.
    pub(crate) paused: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: NetConfig {
                drain: Duration::from_secs(2),
                ..NetConfig::default()
            },
            faults: Faults::default(),
            seed: 1,
            paused: false,
        }
    }
}

impl Setup {
    pub(crate) fn paused() -> Self {
        Self {
            paused: true,
            ..Self::default()
        }
    }

    /// Starts a server in memory that speaks the native protocol.
    pub(crate) fn start(self, router: impl Fn(&Shard) -> Router + Send + Sync + 'static) -> Memory {
        let io = MemoryIo::new(self.seed, self.faults);
        let config = NetConfig {
            io: Arc::new(io.clone()),
            ..self.config
        };
        let server = builder(config, self.paused)
            .listen(Address::Memory(NAME.into()), move |shard| {
                NativeProtocol::new(Rc::new(router(shard)))
            })
            .start()
            .unwrap();
        Memory { io, server }
    }
}

/// Starts a server on a loopback port that speaks the native protocol.
pub(crate) fn start_tcp(
    config: NetConfig,
    router: impl Fn(&Shard) -> Router + Send + Sync + 'static,
) -> (Server, std::net::SocketAddr) {
    let server = builder(config, false)
        .listen("127.0.0.1:0".parse().unwrap(), move |shard| {
            NativeProtocol::new(Rc::new(router(shard)))
        })
        .start()
        .unwrap();
    let Address::Tcp(address) = server.addresses()[0] else {
        panic!("it listens on TCP")
    };
    (server, address)
}

/// Whether the tests run in split placement, where they can: the same suite
/// must pass in both. `cargo xtask test` runs it twice.
pub(crate) fn is_split() -> bool {
    #[allow(clippy::disallowed_methods, reason = "the test run says it, no user")]
    std::env::var("WAYSTATION_TEST_PLACEMENT").is_ok_and(|placement| placement == "split")
}

pub(crate) fn builder(mut config: NetConfig, paused: bool) -> waystation_net::ServerBuilder {
    if is_split() && !paused {
        // A clock that jumps when its own thread is idle would not wait for
        // the other thread, so those tests have shared placement only.
        config.io_shards = config.io_shards.max(1);
    }
    Server::builder(config).on_shard(move |_| {
        if paused {
            tokio::time::pause();
        }
    })
}

impl Memory {
    pub(crate) fn dial(&self) -> Peer<MemoryStream> {
        Peer::new(self.io.dial(NAME).unwrap())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.server.counters()[0]
    }
}

/// The counters of the shard that accepts.
pub(crate) fn accepting(server: &Server) -> &Arc<Counters> {
    let first = if is_split() {
        server.remote().shards()
    } else {
        0
    };
    &server.counters()[first]
}

/// How often connections ended for that reason, on all shards.
pub(crate) fn closed(server: &Server, label: &str) -> u64 {
    let reasons = server.counters().iter().flat_map(|c| c.closed.list());
    let of_label = reasons.filter(|(name, _)| *name == label);
    of_label.map(|(_, count)| count).sum()
}

/// Runs a test's peers on this thread.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .block_on(&runtime, async { tokio::time::timeout(WAIT, test).await })
        .expect("the test is stuck")
}

/// Runs a test's code as a task of a shard, and waits for what it answers.
pub(crate) fn on_shard<T: Send + 'static>(
    server: &Server,
    shard: u16,
    test: impl FnOnce(Shard) -> LocalBoxFuture<'static, T> + Send + 'static,
) -> T {
    let (done, result) = mpsc::channel();
    let job = move |shard: &Shard| {
        let test = test(shard.clone());
        shard.spawn(Label::of("test"), async move {
            // A test that gave up waits no more.
            let _ = done.send(test.await);
        });
    };
    server.remote().run_on(ShardId(shard), job).unwrap();
    result
        .recv_timeout(WAIT)
        .expect("the test's task panicked or is stuck")
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = MonotonicClock.now() + WAIT;
    while !condition() {
        assert!(MonotonicClock.now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Tasks, timers, offloaded jobs and slots of each shard, as a baseline.
pub(crate) fn figures(server: &Server) -> Vec<[usize; 5]> {
    let shards = u16::try_from(server.remote().shards()).unwrap();
    (0..shards)
        .map(|shard| {
            on_shard(server, shard, |shard| {
                Box::pin(async move {
                    let (tasks, timers, jobs) = shard.load_figures();
                    let (open, closing) = shard.slot_figures();
                    [tasks, timers, jobs, open, closing]
                })
            })
        })
        .collect()
}

/// Waits until a server is back at its baseline, and all counters agree.
#[track_caller]
pub(crate) fn back_at(server: &Server, baseline: &[[usize; 5]]) {
    eventually("no connection is open", || {
        let gone =
            |c: &Arc<Counters>| c.connections_open.get() == 0 && c.connections_closing.get() == 0;
        server.counters().iter().all(gone)
    });
    let deadline = MonotonicClock.now() + WAIT;
    loop {
        let now = figures(server);
        if now == baseline {
            return;
        }
        assert!(
            MonotonicClock.now() < deadline,
            "tasks, timers, jobs, slots: {now:?} instead of {baseline:?}"
        );
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// One end of a connection, without any of the code under test.
pub(crate) struct Peer<S> {
    pub(crate) stream: S,
    pub(crate) received: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn request(&mut self, call: u64, name: &str, body: &[u8]) {
        self.write(&request(call, name, body)).await;
    }

    /// Reads once; false at the end or when the connection is reset.
    pub(crate) async fn read(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.received).await;
        matches!(read, Ok(1..))
    }

    /// The next frame; nothing when the stream ends before it.
    pub(crate) async fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Decoded::Frame(header) = decode(&self.received).unwrap() {
                let rest = self.received.split_off(header.frame_len());
                let frame = std::mem::replace(&mut self.received, rest);
                return Some((header, frame[HEADER_LEN..].to_vec()));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next answer's call id and body.
    pub(crate) async fn answer(&mut self) -> Option<(u64, Vec<u8>)> {
        let (header, body) = self.frame().await?;
        assert_eq!((header.kind, header.status), (Kind::Reply, Status::Ok));
        Some((header.call.0, body))
    }

    /// Echoes once, to see that the other side is well.
    pub(crate) async fn check_echo(&mut self) {
        self.request(77, "test/Echo", b"are you there").await;
        let answer = self.answer().await;
        assert_eq!(answer, Some((77, b"are you there".to_vec())));
    }

    /// Reads to the end and answers all that came.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.received)
    }

    /// The first received bytes, up to and with `end`.
    pub(crate) async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.received.windows(end.len()).position(|w| w == end);
            if let Some(at) = found {
                let rest = self.received.split_off(at + end.len());
                return std::mem::replace(&mut self.received, rest);
            }
            let so_far = String::from_utf8_lossy(&self.received).into_owned();
            assert!(self.read().await, "ended after {so_far:?}");
        }
    }
}

/// A request's frames.
pub(crate) fn request(call: u64, name: &str, body: &[u8]) -> Vec<u8> {
    let header = Header::request(MessageId::of(name), waystation_base::CallId(call));
    let mut out = Vec::new();
    encode_into(&header, body, &mut out).unwrap();
    out
}

/// A call of the client under test.
pub(crate) fn call(shard: &Shard, name: &str, within: Duration) -> Call {
    Call {
        message: MessageId::of(name),
        label: Label::of(name),
        sid: Sid(1),
        trace: TraceId(0),
        deadline: shard.now() + within,
        idempotent: false,
        site: SiteId(0),
        fencing: FencingToken(0),
    }
}

/// A TCP connection to a server under test.
pub(crate) async fn connect(address: std::net::SocketAddr) -> Peer<tokio::net::TcpStream> {
    Peer::new(tokio::net::TcpStream::connect(address).await.unwrap())
}

/// Closes a TCP connection by a reset.
pub(crate) fn reset(stream: tokio::net::TcpStream) -> io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// What a server's threads noted, for the test to read.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, of: &str) -> usize {
        self.list().iter().filter(|note| *note == of).count()
    }
}
