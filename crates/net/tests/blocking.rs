//! Threads outside the runtime that ask a shard and wait for its answer.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use common::{Memory, NAME, Notes, Setup, WAIT, echo_router, eventually, figures, on};
use futures_util::future::LocalBoxFuture;
use waystation_base::{Clock, FencingToken, MessageId, ShardId, Sid, SiteId, TraceId};
use waystation_net::fifo::{Fifo, FifoCall, FifoConfig, RespCodec};
use waystation_net::native::{Call, CallError, Upstream, UpstreamConfig};
use waystation_net::{
    Address, Blocking, BlockingCallError, BlockingError, Label, MonotonicClock, NetConfig, Server,
};

const SHORT: Duration = Duration::from_millis(50);
const SHARD: ShardId = ShardId(0);

fn call(name: &str, within: Duration) -> Call {
    Call {
        message: MessageId::of(name),
        label: Label::of(name),
        sid: Sid(1),
        trace: TraceId(0),
        deadline: MonotonicClock.now() + within,
        idempotent: false,
        site: SiteId(0),
        fencing: FencingToken(0),
    }
}

fn start() -> Memory {
    Setup::default().start(|_| {
        let mut router = echo_router();
        on(&mut router, "test/Never", |conn, _| {
            let conn = conn.clone();
            Some(Box::pin(async move { conn.closed().await }))
        });
        router
    })
}

fn connect(memory: &Memory) -> Blocking<Upstream> {
    let config = UpstreamConfig::new(Address::Memory(NAME.into()));
    Blocking::<Upstream>::connect(memory.server.remote(), SHARD, config, WAIT).unwrap()
}

#[test]
fn threads_share_one_upstream_and_each_gets_its_own_answer() {
    let memory = start();
    let baseline = figures(&memory.server);
    let upstream = connect(&memory);
    let threads: Vec<_> = (0..8_u32)
        .map(|thread| {
            let upstream = upstream.clone();
            std::thread::spawn(move || {
                for number in 0..50_u32 {
                    let body = (thread * 1000 + number).to_le_bytes();
                    let answer = upstream.call(&call("test/Echo", WAIT), &body).unwrap();
                    assert_eq!(answer.body, body.as_slice());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(memory.counters().connects.get(), 1);
    drop(upstream);
    common::back_at(&memory.server, &baseline);
}

#[test]
fn a_call_without_an_answer_ends_at_its_deadline() {
    let memory = start();
    let upstream = connect(&memory);
    let answer = upstream.call(&call("test/Never", SHORT), b"");
    let error = answer.unwrap_err();
    assert!(
        matches!(
            error,
            BlockingCallError::Call(CallError::Timeout)
                | BlockingCallError::Facade(BlockingError::Timeout(_))
        ),
        "{error}"
    );
    let in_flight = &memory.counters().calls_in_flight;
    eventually("the call is gone", || in_flight.get() == 0);
}

/// A thread that waited for a shard which was stuck waited for ever: only the
/// shard looked at the deadline.
#[test]
fn a_stuck_shard_holds_nobody_beyond_the_deadline() {
    let memory = start();
    let remote = memory.server.remote().clone();
    let (release, stuck) = mpsc::channel::<()>();
    remote
        .run_on(SHARD, move |_| {
            let _ = stuck.recv_timeout(WAIT);
        })
        .unwrap();
    let answer = remote.ask(SHARD, SHORT, |_| Box::pin(async { 7 }));
    assert_eq!(answer, Err(BlockingError::Timeout(SHARD)));
    drop(release);
    let answer = remote.ask(SHARD, WAIT, |_| Box::pin(async { 7 }));
    assert_eq!(answer, Ok(7));
}

/// What a caller no longer waited for went on, and its results piled up.
#[test]
fn what_misses_its_deadline_is_dropped_on_its_shard() {
    struct Noted(Notes);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.add("dropped");
        }
    }
    let memory = start();
    let notes = Notes::default();
    let guard = Noted(notes.clone());
    let answer = memory.server.remote().ask(SHARD, SHORT, move |shard| {
        let shard = shard.clone();
        Box::pin(async move {
            let _guard = guard;
            shard.sleep(WAIT).await;
        })
    });
    assert_eq!(answer, Err(BlockingError::Timeout(SHARD)));
    eventually("it is dropped", || notes.count("dropped") == 1);
}

/// A shard that was stuck began, once it was not, what its callers had been
/// told was cancelled.
#[test]
fn what_has_missed_its_deadline_never_begins() {
    let memory = start();
    let remote = memory.server.remote().clone();
    let client = Blocking::start(&remote, SHARD, WAIT, |_| ()).unwrap();
    let (release, stuck) = mpsc::channel::<()>();
    remote
        .run_on(SHARD, move |_| {
            let _ = stuck.recv_timeout(WAIT);
        })
        .unwrap();
    let notes = Notes::default();
    let (asked, run) = (notes.clone(), notes.clone());
    let answer = remote.ask(SHARD, SHORT, move |_| {
        asked.add("asked");
        Box::pin(async {})
    });
    assert_eq!(answer, Err(BlockingError::Timeout(SHARD)));
    let answer = client.run(SHORT, move |_, _| {
        run.add("run");
        Box::pin(async {})
    });
    assert_eq!(answer, Err(BlockingError::Timeout(SHARD)));
    drop(release);
    // Both are started in the order in which they were asked.
    assert_eq!(remote.ask(SHARD, WAIT, |_| Box::pin(async { 7 })), Ok(7));
    assert_eq!(client.run(WAIT, |_, _| Box::pin(async { 8 })), Ok(8));
    assert!(notes.list().is_empty(), "{:?}", notes.list());
}

/// A function that panicked before it had made its future ended the client for
/// everyone.
#[test]
fn a_panic_ends_one_call_and_not_the_client() {
    let memory = start();
    let client = Blocking::start(memory.server.remote(), SHARD, WAIT, |_| 5).unwrap();
    let panics = client.run(WAIT, |_, _| -> LocalBoxFuture<'static, ()> {
        panic!("a fault in what was asked")
    });
    assert_eq!(panics, Err(BlockingError::Panicked(SHARD)));
    let answer = client.run(WAIT, |client, _| Box::pin(async move { *client }));
    assert_eq!(answer, Ok(5));
}

/// A drain was reported as a panic to those who waited.
#[test]
fn who_waits_while_the_shard_ends_is_told_so() {
    let memory = start();
    let remote = memory.server.remote().clone();
    let (begun, begins) = mpsc::channel();
    let waits = std::thread::spawn(move || {
        remote.ask(SHARD, WAIT, move |shard| {
            let _ = begun.send(());
            let shard = shard.clone();
            Box::pin(async move { shard.sleep(WAIT).await })
        })
    });
    begins.recv_timeout(WAIT).unwrap();
    memory.server.drain();
    assert_eq!(waits.join().unwrap(), Err(BlockingError::Ended(SHARD)));
}

/// A shard that blocked on itself never served anyone again.
#[test]
fn a_shard_is_refused() {
    let memory = start();
    let remote = memory.server.remote().clone();
    let asking = remote.clone();
    let inner = remote.ask(SHARD, WAIT, move |_| {
        let inner = asking.ask(SHARD, WAIT, |_| Box::pin(async {}));
        Box::pin(async move { inner })
    });
    assert_eq!(inner, Ok(Err(BlockingError::OnShard(SHARD))));
}

#[test]
fn a_panic_and_an_ended_shard_are_errors() {
    let memory = start();
    let remote = memory.server.remote().clone();
    let answer = remote.ask(SHARD, WAIT, |_| {
        Box::pin(async { panic!("a fault in what was asked") })
    });
    assert_eq!(answer, Err::<(), _>(BlockingError::Panicked(SHARD)));
    assert_eq!(remote.ask(SHARD, WAIT, |_| Box::pin(async { 1 })), Ok(1));
    let upstream = connect(&memory);
    memory.server.drain();
    let answer = remote.ask(SHARD, WAIT, |_| Box::pin(async {}));
    assert_eq!(answer, Err(BlockingError::Ended(SHARD)));
    assert!(upstream.call(&call("test/Echo", WAIT), b"").is_err());
}

/// A server that answers in order, on loopback, for one connection.
fn plays_redis() -> (Address, std::thread::JoinHandle<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            // One command in each read: the only caller waits for its answer.
            assert!(buffer[..count].starts_with(b"*1\r\n"));
            stream.write_all(b"+PONG\r\n").unwrap();
        }
    });
    (address, thread)
}

#[test]
fn a_thread_calls_a_server_that_answers_in_order() {
    let server = Server::builder(NetConfig::default()).start().unwrap();
    let baseline = figures(&server);
    let (address, redis) = plays_redis();
    let config = FifoConfig::new(address);
    let remote = server.remote();
    let fifo =
        Blocking::<Fifo<RespCodec>>::connect(remote, SHARD, config, RespCodec::default, WAIT);
    let fifo = fifo.unwrap();
    for _ in 0..10 {
        let call = FifoCall {
            deadline: MonotonicClock.now() + WAIT,
            idempotent: false,
            label: Label::of("PING"),
        };
        let answer = fifo.call(b"*1\r\n$4\r\nPING\r\n", &call).unwrap();
        assert_eq!(answer, b"+PONG\r\n".as_slice());
    }
    drop(fifo);
    redis.join().unwrap();
    common::back_at(&server, &baseline);
}
