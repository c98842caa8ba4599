//! What connections hold: the marks of their output, pauses of reading that a
//! waiting reader overrides, and the bounds on memory of one and of all.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::callee::{self, Callee, Running, asked};
use common::{
    Memory, NAME, Notes, Peer, Setup, answer_to, builder, call, closed, echo_router, eventually,
    on, on_shard, request,
};
use futures_util::future::LocalBoxFuture;
use waystation_base::MessageId;
use waystation_net::limits::{IDLE, KEEPALIVE_WAIT};
use waystation_net::native::{Router, Upstream, reply};
use waystation_net::{
    Address, CloseReason, ConnectionLimits, Faults, MemoryIo, NetConfig, OutputLevel, Protocol,
    Slot, SlowReader, until,
};
use waystation_wire::{Header, encode_into};

const SECOND: Duration = Duration::from_secs(1);

fn with(connection: ConnectionLimits) -> Setup {
    Setup {
        config: NetConfig {
            connection,
            ..NetConfig::default()
        },
        faults: Faults {
            capacity: 1000,
            ..Faults::default()
        },
        ..Setup::paused()
    }
}

/// A writer that was not a handler of its connection had nothing to wait for
/// but the queue's end.
#[test]
fn the_output_tells_when_it_is_high_and_when_it_has_drained() {
    let notes = Notes::default();
    let noted = notes.clone();
    let setup = with(ConnectionLimits {
        output_high_water: 20_000,
        output_low_water: 5_000,
        ..ConnectionLimits::default()
    });
    let Memory { io, server } = setup.start(move |_| {
        let mut router = echo_router();
        let notes = noted.clone();
        on(&mut router, "test/Fill", move |conn, message| {
            let notes = notes.clone();
            conn.on_output(move |conn, level| match level {
                OutputLevel::High => notes.add(format!("high {}", conn.output_len() >= 20_000)),
                OutputLevel::Drained => {
                    notes.add(format!("drained {}", conn.output_len() <= 5_000));
                }
            });
            while conn.output_len() < 30_000 {
                conn.send(&[7; 1000]).unwrap();
            }
            reply(conn, &answer_to(message.header), b"the last").unwrap();
            None
        });
        router
    });
    let seen = notes.clone();
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            for round in 1..=3 {
                peer.request(round, "test/Fill", b"").await;
                peer.until(b"the last").await;
                assert_eq!(seen.list().len(), 2 * usize::try_from(round).unwrap());
            }
        })
    });
    assert_eq!(notes.list(), ["high true", "drained true"].repeat(3));
    assert_eq!(server.counters()[0].output_high.get(), 3);
    assert_eq!(server.counters()[0].queued_bytes.get(), 0);
}

/// The writer of much had to ask before each message, and forgot.
#[test]
fn a_write_waits_for_its_reader() {
    let setup = with(ConnectionLimits {
        output_high_water: 20_000,
        output_bytes_max: 30_000,
        ..ConnectionLimits::default()
    });
    let Memory { io, server } = setup.start(|_| {
        let mut router = Router::new();
        on(&mut router, "test/Stream", |conn, _| {
            let conn = conn.clone();
            Some(Box::pin(async move {
                for _ in 0..100 {
                    conn.write(&[7; 5_000]).await.unwrap();
                }
            }))
        });
        router
    });
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Stream", b"").await;
            while peer.received.len() < 500_000 {
                assert!(peer.read().await);
            }
        })
    });
    assert_eq!(server.counters()[0].output_refused.get(), 0);
}

fn pausing() -> Router {
    let mut router = echo_router();
    on(&mut router, "test/Pause", |conn, message| {
        conn.pause_reading();
        reply(conn, &answer_to(message.header), b"").unwrap();
        None
    });
    router
}

/// Beside the pause itself: a peer that we did not listen to was idle, and
/// closed for it.
#[test]
fn a_paused_connection_is_not_read_and_not_idle() {
    let Memory { io, server } = Setup::paused().start(|_| pausing());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Pause", b"").await;
            peer.answer().await.unwrap();
            peer.request(2, "test/Echo", b"later").await;
            let pause = shard.now() + 10 * IDLE;
            assert!(until(&shard, pause, peer.read()).await.is_err());
            let [conn] = <[_; 1]>::try_from(shard.connections()).unwrap();
            assert!(conn.is_reading_paused());
            conn.resume_reading();
            assert_eq!(peer.answer().await, Some((2, b"later".to_vec())));
            // The silence of a peer to which nobody listened is no silence.
            conn.pause_reading();
            shard.sleep(10 * IDLE).await;
            conn.resume_reading();
            shard.sleep(IDLE / 2).await;
            peer.check_echo().await;
        })
    });
    assert_eq!(closed(&server, "idle"), 0);
}

/// Reading was paused in the middle of a message: its decoder waited for the
/// rest, and the pause for the message's end. Both waited for ever.
#[test]
fn a_message_that_has_begun_is_read_in_spite_of_a_pause() {
    let Memory { io, server } = Setup::paused().start(|_| pausing());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let echo = request(2, "test/Echo", b"begun");
            let (begun, rest) = echo.split_at(90 - 7);
            let both = [&request(1, "test/Pause", b""), begun].concat();
            peer.write(&both).await;
            peer.answer().await.unwrap();
            peer.write(rest).await;
            assert_eq!(peer.answer().await, Some((2, b"begun".to_vec())));
            // Nobody waits for the next one.
            peer.request(3, "test/Echo", b"").await;
            let pause = shard.now() + SECOND;
            assert!(until(&shard, pause, peer.read()).await.is_err());
        })
    });
}

/// A handler waited for an answer that came on its own connection, behind more
/// than the input queue holds: reading was paused by that limit until the
/// handler ended, and the handler waited for what was not read. Both waited
/// until the call's deadline.
#[test]
fn an_answer_that_a_handler_waits_for_is_read_in_spite_of_the_limit() {
    const PUSHES: usize = 30;
    callee::check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let caller: Rc<RefCell<Option<Upstream>>> = Rc::default();
            let notes = Notes::default();
            let (uses, noted) = (caller.clone(), notes.clone());
            let mut router = Router::new();
            on(&mut router, "test/Work", move |conn, message| {
                noted.add("work");
                if message.body[0] > 0 {
                    return None;
                }
                let shard = conn.shard().clone();
                let upstream = uses.borrow().clone().unwrap();
                let noted = noted.clone();
                Some(Box::pin(async move {
                    let call = call(&shard, "test/Echo", SECOND);
                    let answer = upstream.call(&call, b"from a handler").await;
                    noted.add(format!("answered {}", answer.is_ok()));
                }))
            });
            let upstream = Upstream::new(&shard, callee::config(), Rc::new(router));
            *caller.borrow_mut() = Some(upstream.clone());
            let mut peer = callee.accept().await;
            for number in 0..PUSHES {
                let mut push = Vec::new();
                let mut body = vec![0; 10_000];
                body[0] = u8::try_from(number).unwrap();
                encode_into(&Header::push(MessageId::of("test/Work")), &body, &mut push).unwrap();
                peer.write(&push).await;
            }
            let (call, _) = asked(&mut peer).await;
            callee::answer(&mut peer, call, b"").await;
            while notes.count("work") < PUSHES {
                shard.sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(notes.list()[..2], ["work", "answered true"]);
            drop(upstream);
            caller.take();
        })
    });
}

/// A caller waited in vain for an answer on a connection that someone had
/// paused; and the callee, to which nobody listened, was taken for dead.
#[test]
fn an_answer_that_a_caller_waits_for_is_read_in_spite_of_a_pause() {
    callee::check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = callee::upstream(&shard, callee::config());
            let conn = upstream.up().await.unwrap();
            let mut peer = callee.accept().await;
            conn.pause_reading();
            for body in ["one", "two"] {
                let call = Running::start(&shard, &upstream, body, SECOND);
                let (id, _) = asked(&mut peer).await;
                callee::answer(&mut peer, id, b"read").await;
                assert_eq!(call.body().await.unwrap(), "read");
                // Nothing else wakes its task for the next one.
                shard.sleep(10 * KEEPALIVE_WAIT + SECOND).await;
                assert!(conn.is_open());
            }
            conn.resume_reading();
            shard.sleep(KEEPALIVE_WAIT / 2).await;
            assert!(
                conn.is_open(),
                "its silence counts from the end of the pause"
            );
        })
    });
}

/// A part of a message of this length, so much of it.
fn part(length: usize, sent: usize) -> Vec<u8> {
    let mut whole = request(1, "test/Echo", &vec![1; length]);
    whole.truncate(sent);
    whole
}

/// Each connection kept within its own bound of 64 MiB, and a few hundred of
/// them took all memory of the machine.
#[test]
fn the_connection_that_holds_most_goes_when_all_hold_too_much() {
    let mut setup = Setup::paused();
    setup.config.shard_bytes_max = 1_200_000;
    let Memory { io, server } = setup.start(|_| echo_router());
    let baseline = common::figures(&server);
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut large = Peer::new(io.dial(NAME).unwrap());
            large.write(&part(900_000, 400_000)).await;
            let mut small = Peer::new(io.dial(NAME).unwrap());
            let whole = part(300_000, usize::MAX);
            small.write(&whole[..200_000]).await;
            shard.sleep(SECOND / 100).await;
            assert!(shard.held_bytes() >= 600_000, "{}", shard.held_bytes());
            assert_eq!(
                shard.held_bytes() as u64,
                shard.counters().received_bytes.get()
            );
            let mut third = Peer::new(io.dial(NAME).unwrap());
            let rest = part(500_000, usize::MAX);
            third.write(&rest[..300_000]).await;
            assert_eq!(large.rest().await, b"", "it held most");
            small.write(&whole[200_000..]).await;
            assert_eq!(small.answer().await.unwrap().1.len(), 300_000);
            third.write(&rest[300_000..]).await;
            assert_eq!(third.answer().await.unwrap().1.len(), 500_000);
            shard.sleep(SECOND).await;
            assert_eq!(shard.held_bytes(), 0, "idle connections hold nothing");
        })
    });
    assert_eq!(closed(&server, "memory"), 1);
    common::back_at(&server, &baseline);
    assert_eq!(server.counters()[0].received_bytes.get(), 0);
}

/// The same for what waits to be written.
#[test]
fn queued_output_counts_as_held() {
    let mut setup = with(ConnectionLimits {
        slow_reader: SlowReader::Refuse,
        ..ConnectionLimits::default()
    });
    setup.config.shard_bytes_max = 300_000;
    let Memory { io, server } = setup.start(|_| {
        let mut router = echo_router();
        on(&mut router, "test/Give", |conn, message| {
            let count = usize::from(message.body[0]);
            conn.send(&vec![7; count * 10_000]).unwrap();
            None
        });
        router
    });
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut large = Peer::new(io.dial(NAME).unwrap());
            large.request(1, "test/Give", &[15]).await;
            let mut small = Peer::new(io.dial(NAME).unwrap());
            small.request(1, "test/Give", &[10]).await;
            shard.sleep(SECOND / 100).await;
            assert_eq!(shard.connections().len(), 2);
            assert!(shard.counters().queued_bytes.get() > 240_000);
            small.request(2, "test/Give", &[8]).await;
            assert!(large.rest().await.len() < 150_000, "it held most");
            let mut received = 0;
            while received < 180_000 {
                assert!(small.read().await);
                received += std::mem::take(&mut small.received).len();
            }
            small.check_echo().await;
        })
    });
    assert_eq!(closed(&server, "memory"), 1);
    assert_eq!(server.counters()[0].queued_bytes.get(), 0);
}

/// A connection alone may not take what is meant for many.
#[test]
fn one_connection_holds_no_more_than_it_may() {
    let setup = with(ConnectionLimits {
        received_max: 100_000,
        ..ConnectionLimits::default()
    });
    let Memory { io, server } = setup.start(|_| echo_router());
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.write(&part(90_000, usize::MAX)).await;
            assert_eq!(peer.answer().await.unwrap().1.len(), 90_000);
            let large = part(500_000, usize::MAX);
            let (read, mut write) = tokio::io::split(peer.stream);
            // It is closed while it sends.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &large).await;
            let mut peer = Peer::new(tokio::io::join(read, tokio::io::sink()));
            assert_eq!(peer.rest().await, b"");
        })
    });
    assert_eq!(closed(&server, "memory"), 1);
}

/// An HTTP body counts while it comes and while its handler runs.
#[test]
fn a_body_counts_as_held() {
    let mut setup = Setup::paused();
    setup.config.shard_bytes_max = 200_000;
    let Memory { io, server } = setup.start(|_| echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n";
            peer.write(head).await;
            peer.write(&[b'x'; 10_000]).await;
            shard.sleep(SECOND / 100).await;
            assert!(shard.held_bytes() >= 10_000);
            while tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &[b'x'; 10_000])
                .await
                .is_ok()
            {}
            peer.rest().await;
        })
    });
    assert_eq!(closed(&server, "memory"), 1);
    assert_eq!(server.counters()[0].received_bytes.get(), 0);
}

/// What a connection held stayed counted when its handler panicked, and after
/// enough of them the shard was full of nothing.
#[test]
fn what_a_lost_task_held_is_given_back() {
    let Memory { io, server } = Setup::paused().start(|_| {
        let mut router = echo_router();
        on(&mut router, "test/Panic", |_, _| {
            panic!("a handler with a fault")
        });
        router
    });
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Panic", &[0; 10_000]).await;
            assert_eq!(peer.rest().await, b"");
        })
    });
    let counters = &server.counters()[0];
    eventually("it is gone", || counters.connections_closing.get() == 0);
    assert_eq!(counters.panics.get(), 1);
    assert_eq!(counters.received_bytes.get(), 0);
}

/// A peer whose machine lost its power stayed connected for ever where the
/// idle limit did not apply.
#[test]
fn the_system_probes_silent_peers_of_both_sides() {
    let (server, address) = common::start_tcp(NetConfig::default(), |_| echo_router());
    let shard = waystation_base::ShardId(0);
    let config = waystation_net::native::UpstreamConfig::new(address.into());
    let client =
        waystation_net::Blocking::<Upstream>::connect(server.remote(), shard, config, common::WAIT);
    let port = format!(":{:04X}", address.port());
    // Local address, peer's, state, queues, timer: 01 is established, 02 the
    // timer of keep-alive.
    let probed = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let lines = table.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ours = words[1].ends_with(&port) || words[2].ends_with(&port);
            ours && words[3] == "01" && words[5].starts_with("02:")
        });
        lines.filter(|probed| *probed).count()
    };
    eventually("both ends are probed", || probed() == 2);
    drop(client);
}

/// Drives a connection by one task first and then by another.
struct Driven;

impl Protocol for Driven {
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let Ok(transport) = slot.transport() else {
                return CloseReason::Reset;
            };
            let mut filling = Box::pin(transport.fill());
            let nobody = &mut Context::from_waker(Waker::noop());
            assert!(filling.as_mut().poll(nobody).is_pending());
            match filling.await {
                Ok(_) => CloseReason::Local,
                Err(reason) => reason,
            }
        })
    }
}

/// A connection's timer keeps no waker of its own to compare. That of the task
/// which drove the connection before stayed armed, and a silent peer was never
/// found.
#[test]
fn limits_hold_for_whoever_drives_the_connection() {
    let io = MemoryIo::new(1, Faults::default());
    let config = NetConfig {
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let server = builder(config, true)
        .listen(Address::Memory(NAME.into()), |_| Driven)
        .start()
        .unwrap();
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            assert!(!peer.read().await);
        })
    });
    assert_eq!(closed(&server, "idle"), 1);
}
