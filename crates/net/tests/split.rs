//! Split placement: sockets on I/O shards, handlers on workers. The rest of
//! this crate's tests run in both placements; here is what differs.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use waystation_base::{CallId, Clock, MessageId};
use waystation_net::native::{NativeProtocol, Router, Upstream, UpstreamConfig, reply};
use waystation_net::udp::{Udp, UdpCall, UdpClient, UdpClientConfig, UdpConfig, UdpListener};
use waystation_net::{
    Address, Batch, Connecting, DatagramOptions, Datagrams, DetachedDatagrams, DetachedListener,
    DetachedStream, Faults, Io, Label, Listener, MemoryIo, MonotonicClock, NetConfig, Outgoing,
    Server, Stream,
};
use waystation_wire::{Flags, Header, Kind, Load, Status, encode_header};

use common::{NAME, Peer, answer_to, echo_router, eventually, on, on_shard, run};

fn split(shards: u16, io_shards: u16, io: impl Io) -> NetConfig {
    NetConfig {
        shards,
        io_shards,
        io: Arc::new(io),
        ..NetConfig::default()
    }
}

fn start(config: NetConfig, router: impl Fn() -> Router + Send + Sync + 'static) -> Server {
    Server::builder(config)
        .listen(Address::Memory(NAME.into()), move |_| {
            NativeProtocol::new(Rc::new(router()))
        })
        .start()
        .unwrap()
}

/// A router whose `test/Computes` keeps its thread until `go_on` is set.
fn computing_router(go_on: &Arc<AtomicBool>) -> impl Fn() -> Router + Send + Sync + use<> {
    let go_on = go_on.clone();
    move || {
        let mut router = echo_router();
        let go_on = go_on.clone();
        on(&mut router, "test/Computes", move |conn, message| {
            let most = MonotonicClock.now() + common::WAIT;
            while !go_on.load(Ordering::Acquire) && MonotonicClock.now() < most {
                std::hint::spin_loop();
            }
            let _ = reply(conn, &answer_to(message.header), b"computed");
            None
        });
        router
    }
}

fn ping(call: u64) -> [u8; waystation_wire::HEADER_LEN] {
    encode_header(&Header::ping(CallId(call)))
}

/// A worker computed for seconds; its clients' heartbeats went unanswered, and
/// all of them connected anew.
#[test]
fn heartbeats_are_answered_while_a_handler_computes() {
    let io = MemoryIo::new(1, Faults::default());
    let go_on = Arc::new(AtomicBool::new(false));
    let server = start(split(1, 1, io.clone()), computing_router(&go_on));
    run(async {
        let mut computes = Peer::new(io.dial(NAME).unwrap());
        let mut other = Peer::new(io.dial(NAME).unwrap());
        other.check_echo().await;
        computes.request(1, "test/Computes", b"").await;
        for (peer, calls) in [(&mut computes, 10..13), (&mut other, 20..23)] {
            for call in calls {
                peer.write(&ping(call)).await;
                let (header, _) = peer.frame().await.unwrap();
                assert_eq!((header.kind, header.call.0), (Kind::Pong, call));
            }
        }
        go_on.store(true, Ordering::Release);
        let answer = computes.answer().await;
        assert_eq!(answer, Some((1, b"computed".to_vec())));
        // Each was answered once: the next frame is no second pong.
        computes.check_echo().await;
        other.check_echo().await;
    });
    let io_shard = &server.counters()[1];
    assert_eq!(io_shard.split_heartbeats.get(), 6);
}

/// A host that computed answered no probe, and whoever balanced by what hosts
/// told knew nothing of the one that was busiest.
#[test]
fn probes_are_answered_while_a_handler_computes() {
    let io = MemoryIo::new(2, Faults::default());
    let go_on = Arc::new(AtomicBool::new(false));
    let server = start(split(2, 1, io.clone()), computing_router(&go_on));
    let load = Load {
        in_flight: 3,
        latency_us: 1500,
    };
    for shard in 0..2 {
        on_shard(&server, shard, move |shard| {
            Box::pin(async move { shard.load_place().tell(load) })
        });
    }
    run(async {
        let mut computes = Peer::new(io.dial(NAME).unwrap());
        computes.check_echo().await;
        computes.request(1, "test/Computes", b"").await;
        // The name of a handler is as good as none.
        for message in [MessageId(0), MessageId::of("test/Computes")] {
            let probe = Header::request(message, CallId(7)).with_flags(Flags::PROBE);
            computes.write(&encode_header(&probe)).await;
            let (header, body) = computes.frame().await.unwrap();
            assert_eq!((header.kind, header.call.0), (Kind::Reply, 7));
            assert_eq!((header.message, header.status), (message, Status::Ok));
            assert_eq!((header.load.in_flight, header.load.latency_us), (6, 1500));
            assert!(body.is_empty());
        }
        go_on.store(true, Ordering::Release);
        let answer = computes.answer().await;
        assert_eq!(answer, Some((1, b"computed".to_vec())));
        // Each was answered once.
        computes.check_echo().await;
    });
    assert_eq!(server.counters()[2].split_heartbeats.get(), 2);
}

/// A browser's or a proxy's WebSocket pings are heartbeats, too.
#[test]
fn websocket_pings_are_answered_while_a_handler_computes() {
    let io = MemoryIo::new(5, Faults::default());
    let go_on = Arc::new(AtomicBool::new(false));
    let native = computing_router(&go_on);
    let server = start(split(1, 1, io.clone()), move || {
        let mut router = native();
        router.set_websocket_path("/ws");
        router
    });
    // RFC 6455, 5.2: masked by a client, here with zeros.
    let frame = |first: u8, payload: &[u8]| {
        let mut frame = vec![
            first,
            0x80 | u8::try_from(payload.len()).unwrap(),
            0,
            0,
            0,
            0,
        ];
        frame.extend(payload);
        frame
    };
    run(async {
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        let upgrade = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        peer.write(upgrade).await;
        peer.until(b"\r\n\r\n").await;
        let request = common::request(1, "test/Computes", b"");
        peer.write(&frame(0x82, &request)).await;
        for payload in [&b"one"[..], b"two"] {
            peer.write(&frame(0x89, payload)).await;
            while peer.received.len() < 2 + payload.len() {
                assert!(peer.read().await);
            }
            assert_eq!(peer.received[..2], [0x8A, 3]);
            assert_eq!(peer.received.split_off(2), payload);
            peer.received.clear();
        }
        go_on.store(true, Ordering::Release);
        // Its answer comes next: no ping was answered twice.
        while peer.received.len() < 2 + waystation_wire::HEADER_LEN + 8 {
            assert!(peer.read().await);
        }
        assert_eq!(peer.received[0], 0x82);
        assert!(peer.received.ends_with(b"computed"));
    });
    assert_eq!(server.counters()[1].split_heartbeats.get(), 2);
}

/// Threads that used a stream.
#[derive(Clone, Default)]
struct Users(Arc<Mutex<BTreeSet<String>>>);

impl Users {
    fn note(&self) {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        self.0.lock().unwrap().insert(name);
    }

    fn list(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().cloned().collect()
    }
}

/// Sockets that note who uses them.
#[derive(Clone)]
struct WatchedIo {
    inner: MemoryIo,
    users: Users,
    read: Arc<AtomicUsize>,
}

struct Watched<T: ?Sized> {
    watch: WatchedIo,
    inner: Box<T>,
}

impl WatchedIo {
    fn new(inner: MemoryIo) -> Self {
        Self {
            inner,
            users: Users::default(),
            read: Arc::default(),
        }
    }

    fn watch<T: ?Sized>(&self, inner: Box<T>) -> Watched<T> {
        let watch = self.clone();
        Watched { watch, inner }
    }
}

impl Io for WatchedIo {
    fn listen(&self, address: &Address) -> io::Result<Box<dyn DetachedListener>> {
        Ok(Box::new(self.watch(self.inner.listen(address)?)))
    }

    fn connect(&self, address: &Address) -> Connecting {
        self.users.note();
        let (watch, connecting) = (self.clone(), self.inner.connect(address));
        Box::pin(async move { Ok(Box::new(watch.watch(connecting.await?)) as Box<dyn Stream>) })
    }

    fn bind_datagrams(
        &self,
        address: &Address,
        options: &DatagramOptions,
    ) -> io::Result<Box<dyn DetachedDatagrams>> {
        let socket = self.inner.bind_datagrams(address, options)?;
        Ok(Box::new(self.watch(socket)))
    }

    fn connect_datagrams(&self, to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
        Ok(Box::new(self.watch(self.inner.connect_datagrams(to)?)))
    }
}

impl DetachedDatagrams for Watched<dyn DetachedDatagrams> {
    fn address(&self) -> Address {
        self.inner.address()
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Datagrams>> {
        self.watch.users.note();
        Ok(Box::new(self.watch.watch(self.inner.attach()?)))
    }
}

impl Datagrams for Watched<dyn Datagrams> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.watch.users.note();
        self.inner.poll_receive(cx, batch)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &[Outgoing<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.users.note();
        self.inner.poll_send(cx, queue)
    }
}

impl DetachedListener for Watched<dyn DetachedListener> {
    fn address(&self) -> Address {
        self.inner.address()
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(self.watch.watch(self.inner.attach()?)))
    }
}

impl Listener for Watched<dyn Listener> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Box<dyn DetachedStream>>> {
        self.watch.users.note();
        let accepted = self.inner.poll_accept(cx);
        accepted.map_ok(|stream| Box::new(self.watch.watch(stream)) as Box<dyn DetachedStream>)
    }
}

impl DetachedStream for Watched<dyn DetachedStream> {
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.watch.watch(self.inner.attach()?)))
    }
}

impl Stream for Watched<dyn Stream> {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.users.note();
        self.inner.poll_read_ready(cx)
    }

    fn peer(&self) -> Address {
        self.inner.peer()
    }

    fn detach(self: Box<Self>) -> io::Result<Box<dyn DetachedStream>> {
        Ok(Box::new(self.watch.watch(self.inner.detach()?)))
    }
}

impl AsyncRead for Watched<dyn Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch.users.note();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.inner).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.watch.read.fetch_add(count, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Watched<dyn Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch.users.note();
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.users.note();
        Pin::new(&mut *self.inner).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.users.note();
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}

/// The Logic framework's worker never does I/O: neither for its clients nor for
/// the servers that it asks.
#[test]
fn only_io_shards_touch_sockets() {
    let io = MemoryIo::new(2, Faults::default());
    let callee = NetConfig {
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let _callee = Server::builder(callee)
        .listen(Address::Memory("callee".into()), |_| {
            NativeProtocol::new(Rc::new(echo_router()))
        })
        .start()
        .unwrap();
    let watched = WatchedIo::new(io.clone());
    let server = start(split(2, 2, watched.clone()), echo_router);
    run(async {
        for _ in 0..8 {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.check_echo().await;
            peer.request(1, "test/Echo", &vec![7; 300_000]).await;
            assert_eq!(peer.answer().await.unwrap().1.len(), 300_000);
        }
    });
    for worker in 0..2 {
        let answer = on_shard(&server, worker, |shard| {
            Box::pin(async move {
                let config = UpstreamConfig::new(Address::Memory("callee".into()));
                let router = Rc::new(Router::new());
                let upstream = Upstream::new(&shard, config, router);
                let call = common::call(&shard, "test/Echo", common::WAIT);
                let answer = upstream.call(&call, b"hello").await.unwrap();
                answer.body.to_vec()
            })
        });
        assert_eq!(answer, b"hello");
    }
    server.drain();
    // Two I/O shards behind the two workers.
    assert_eq!(watched.users.list(), ["io-2", "io-3"]);
}

/// Datagrams were received and sent by the worker that handled them, though
/// all other I/O was on the I/O shards.
#[test]
fn only_io_shards_touch_datagram_sockets() {
    let watched = WatchedIo::new(MemoryIo::new(4, Faults::default()));
    let config = split(1, 1, watched.clone());
    let address = Address::Memory("datagrams".into());
    let listener = UdpListener::bind(&config, &address, UdpConfig::default()).unwrap();
    let echo = |socket: &Udp, from: &Address, datagram: &[u8]| socket.send(from, datagram).unwrap();
    let server = Server::builder(config)
        .serve_udp(listener, move |_| echo)
        .start()
        .unwrap();
    let client = UdpClientConfig::new(address);
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let key = |datagram: &[u8]| Some(u64::from(*datagram.first()?));
            let client = UdpClient::new(&shard, &client, key).unwrap();
            for number in 0..3_u8 {
                let call = UdpCall {
                    deadline: shard.now() + common::WAIT,
                    tries: 1,
                    label: Label::of("echo"),
                };
                let answer = client.call(u64::from(number), &[number; 9], &call).await;
                assert_eq!(answer.unwrap(), [number; 9].as_slice());
            }
        })
    });
    let moved = server.counters()[1].clone();
    server.drain();
    assert_eq!(watched.users.list(), ["io-1"]);
    assert_eq!(moved.split_pumps.get(), 0, "a drain closes the sockets");
}

/// While a worker computed, its receive queue took whatever its peers sent.
#[test]
fn the_receive_queue_is_bounded_and_loses_nothing() {
    const REQUESTS: u64 = 400;
    let io = MemoryIo::new(3, Faults::default());
    let watched = WatchedIo::new(io.clone());
    let go_on = Arc::new(AtomicBool::new(false));
    let config = split(1, 1, watched.clone());
    let window = config.connection.input_queue;
    let server = start(config, computing_router(&go_on));
    run(async {
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        peer.request(0, "test/Computes", b"").await;
        let io_shard = server.counters()[1].clone();
        let (reading, mut writing) = tokio::io::split(peer.stream);
        let mut reading = Peer::new(tokio::io::join(reading, tokio::io::sink()));
        let all = async {
            for call in 1..=REQUESTS {
                let request = common::request(call, "test/Echo", &[1; 5000]);
                tokio::io::AsyncWriteExt::write_all(&mut writing, &request)
                    .await
                    .unwrap();
            }
        };
        let answers = async {
            let paused = async {
                while io_shard.split_paused.get() == 0 {
                    tokio::task::yield_now().await;
                }
            };
            paused.await;
            // Each queue on the way may be full, with one read on top.
            let read = watched.read.load(Ordering::Relaxed);
            assert!(read <= 2 * (window + 64 * 1024), "{read} bytes were read");
            go_on.store(true, Ordering::Release);
            assert_eq!(reading.answer().await.unwrap().0, 0);
            for call in 1..=REQUESTS {
                assert_eq!(reading.answer().await, Some((call, vec![1; 5000])));
            }
        };
        tokio::join!(all, answers);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Answers to heartbeats that broke into a large reply made it unreadable:
    /// the I/O side may put them only between two messages. And each request
    /// is answered in order, each ping once, however both sides' bytes are cut.
    #[test]
    fn pongs_go_between_messages(
        seed in any::<u64>(),
        io_shards in 1_u16..3,
        bodies in prop::collection::vec(prop_oneof![0_usize..200, 10_000..200_000_usize], 1..12),
    ) {
        let io = MemoryIo::new(seed, Faults { short: 0.3, spurious: 0.2, ..Faults::default() });
        let server = start(split(1, io_shards, io.clone()), echo_router);
        run(async {
            let peer = Peer::new(io.dial(NAME).unwrap());
            let (reading, mut writing) = tokio::io::split(peer.stream);
            let mut reading = Peer::new(tokio::io::join(reading, tokio::io::sink()));
            let write = async {
                for (call, size) in (0..).zip(&bodies) {
                    let mut bytes = common::request(call, "test/Echo", &vec![5; *size]);
                    bytes.extend(ping(1000 + call));
                    tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes).await.unwrap();
                }
            };
            let read = async {
                let (mut replies, mut pongs) = (0, 0);
                while replies < bodies.len() || pongs < bodies.len() {
                    let (header, body) = reading.frame().await.expect("it goes on");
                    if header.kind == Kind::Pong {
                        assert_eq!(header.call.0, 1000 + pongs as u64);
                        pongs += 1;
                    } else {
                        assert_eq!(header.call.0, replies as u64);
                        assert_eq!(body.len(), bodies[replies]);
                        replies += 1;
                    }
                }
            };
            tokio::join!(write, read);
        });
        eventually("its sockets are gone", || {
            server.counters().iter().all(|c| c.split_pumps.get() == 0)
        });
    }
}
