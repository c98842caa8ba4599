//! The end of a process: hooks, then handlers, then connections; and what
//! panics on the way ends only itself.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::{
    Memory, NAME, Notes, Peer, Setup, answer_to, back_at, closed, eventually, figures, on, run,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use waystation_base::ShardId;
use waystation_net::native::{Control, Router, reply};
use waystation_net::{CloseReason, Conn, NetConfig, Shard};
use waystation_wire::Kind;

/// A router whose `test/Wait` answers when the gate opens.
fn waiting_router(gate: &Arc<Semaphore>, concurrency: u32) -> Router {
    let mut router = common::echo_router();
    router.set_concurrency(concurrency);
    let gate = gate.clone();
    on(&mut router, "test/Wait", move |conn, message| {
        let (conn, header) = (conn.clone(), answer_to(message.header));
        let gate = gate.clone();
        Some(Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            let _ = reply(&conn, &header, b"done");
        }))
    });
    router
}

/// Runs on the shard, to see that it still does.
fn on_first_shard(memory: &Memory, job: impl FnOnce(&Shard) + Send + 'static) {
    memory.server.remote().run_on(ShardId(0), job).unwrap();
}

fn draining(memory: Memory) -> JoinHandle<()> {
    std::thread::spawn(move || memory.server.drain())
}

/// Termination signals were ignored, so that a stopped node stayed routed.
#[test]
fn hooks_come_first_then_handlers_end_then_everyone_goes() {
    for concurrency in [1, 4] {
        let (gate, hook) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (notes, opened) = (Notes::default(), gate.clone());
        let memory = Setup {
            config: NetConfig {
                drain: Duration::from_secs(20),
                ..NetConfig::default()
            },
            ..Setup::default()
        }
        .start(move |_| waiting_router(&opened, concurrency));
        let (noted, hooked) = (notes.clone(), hook.clone());
        on_first_shard(&memory, move |shard| {
            let (first, last) = (noted.clone(), noted);
            shard.on_drain(move |shard| {
                assert!(!shard.is_draining());
                Box::pin(async move {
                    first.add("deregistering");
                    hooked.acquire().await.unwrap().forget();
                    first.add("deregistered");
                })
            });
            shard.on_drain(|_| Box::pin(async { panic!("a hook with a fault") }));
            shard.on_drain(|_| panic!("a hook with a fault, at once"));
            shard.on_drain(move |_| Box::pin(async move { last.add("last hook") }));
        });
        let (io, counters) = (memory.io.clone(), memory.server.counters()[0].clone());
        let dial = || Peer::new(io.dial(NAME).unwrap());
        run(async {
            let (mut idle, mut busy) = (dial(), dial());
            idle.check_echo().await;
            busy.request(1, "test/Wait", b"").await;
            busy.check_echo_behind(concurrency).await;
            let ended = draining(memory);
            eventually("the hook runs", || notes.count("deregistering") == 1);
            // Who does not know yet is served as ever.
            let (mut late, silent) = (dial(), dial());
            late.check_echo().await;
            eventually("all are there", || counters.connections_open.get() == 4);
            hook.add_permits(1);

            assert_eq!(idle.frame().await.unwrap().0.kind, Kind::GoAway);
            assert_eq!(late.frame().await.unwrap().0.kind, Kind::GoAway);
            eventually("nobody new is let in", || io.dial(NAME).is_err());
            // What was sent before the peer could know is still answered.
            late.check_echo().await;
            let mut silent = silent;
            silent.request(1, "test/Echo", b"first words").await;
            assert_eq!(silent.frame().await.unwrap().1, b"first words");
            assert_eq!(silent.frame().await.unwrap().0.kind, Kind::GoAway);

            gate.add_permits(1);
            let rest = busy.kinds().await;
            assert_eq!(rest.iter().filter(|kind| **kind == Kind::GoAway).count(), 1);
            let answers = if concurrency == 1 { 2 } else { 1 };
            assert_eq!(
                rest.iter().filter(|kind| **kind == Kind::Reply).count(),
                answers
            );
            for mut peer in [idle, late, silent] {
                assert_eq!(peer.rest().await, b"");
            }
            ended.join().unwrap();
        });
        assert_eq!(notes.list(), ["deregistering", "deregistered", "last hook"]);
        assert_eq!(counters.panics.get(), 2);
        let reasons = counters.closed.list().into_iter();
        let draining = reasons.filter(|(reason, _)| *reason == "draining");
        assert_eq!(draining.map(|(_, count)| count).sum::<u64>(), 4);
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Peer<S> {
    /// Sees that the server has read what was sent before: at once where
    /// handlers run beside one another, else only the request goes out.
    async fn check_echo_behind(&mut self, concurrency: u32) {
        if concurrency > 1 {
            self.check_echo().await;
        } else {
            self.request(77, "test/Echo", b"").await;
        }
    }

    async fn kinds(&mut self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        while let Some((header, _)) = self.frame().await {
            kinds.push(header.kind);
        }
        kinds
    }
}

/// A handler that never ends holds the process for the drain's time, and no
/// longer; its peer sees the end.
#[test]
fn the_deadline_of_a_drain_ends_the_rest() {
    for concurrency in [1, 4] {
        let gate = Arc::new(Semaphore::new(0));
        let setup = Setup {
            config: NetConfig {
                drain: Duration::from_millis(100),
                ..NetConfig::default()
            },
            ..Setup::default()
        };
        let memory = setup.start(move |_| waiting_router(&gate, concurrency));
        on_first_shard(&memory, |shard| {
            shard.on_drain(|_| Box::pin(std::future::pending()));
        });
        let counters = memory.server.counters()[0].clone();
        let mut peer = memory.dial();
        run(async {
            peer.request(1, "test/Wait", b"").await;
            eventually("it is there", || counters.messages_in.get() == 1);
            memory.server.drain();
            let kinds = peer.kinds().await;
            assert!(!kinds.contains(&Kind::Reply), "{kinds:?}");
        });
        assert_eq!(counters.connections_open.get(), 0);
    }
}

/// One shard deregistered the process while the others sent their peers away,
/// who came again at once, since the registry still had it.
#[test]
fn hooks_of_all_shards_come_before_anyone_is_told() {
    let hook = Arc::new(Semaphore::new(0));
    let setup = Setup {
        config: NetConfig {
            shards: 3,
            drain: Duration::from_secs(20),
            ..NetConfig::default()
        },
        ..Setup::default()
    };
    let memory = setup.start(|_| common::echo_router());
    let (hooked, notes) = (hook.clone(), Notes::default());
    let noted = notes.clone();
    on_first_shard(&memory, move |shard| {
        shard.on_drain(move |_| {
            Box::pin(async move {
                noted.add("deregistering");
                hooked.acquire().await.unwrap().forget();
            })
        });
    });
    let (io, counters) = (memory.io.clone(), memory.server.counters().to_vec());
    run(async {
        let dial = || Peer::new(io.dial(NAME).unwrap());
        let mut peers: Vec<_> = (0..6).map(|_| dial()).collect();
        let open = |shard: usize| counters[shard].connections_open.get();
        eventually("they are spread", || (0..3).all(|shard| open(shard) == 2));
        for peer in &mut peers {
            peer.check_echo().await;
        }
        let ended = draining(memory);
        eventually("the hook runs", || notes.count("deregistering") == 1);
        // The other shards have nothing to do before, and wait.
        peers.extend((0..6).map(|_| dial()));
        eventually("newcomers are spread too", || {
            (0..3).all(|shard| open(shard) == 4)
        });
        for peer in &mut peers {
            peer.check_echo().await;
        }
        hook.add_permits(1);
        for peer in &mut peers {
            assert_eq!(peer.kinds().await, [Kind::GoAway]);
        }
        ended.join().unwrap();
    });
}

/// A handler whose peer had left was cut off in the middle of its work.
#[test]
fn handlers_of_lost_peers_end_too() {
    for concurrency in [1, 4] {
        let gate = Arc::new(Semaphore::new(0));
        let opened = gate.clone();
        let setup = Setup {
            config: NetConfig {
                drain: Duration::from_secs(20),
                ..NetConfig::default()
            },
            ..Setup::default()
        };
        let memory = setup.start(move |_| waiting_router(&opened, concurrency));
        let counters = memory.server.counters()[0].clone();
        run(async {
            let mut peer = memory.dial();
            peer.request(1, "test/Wait", b"").await;
            eventually("it is there", || counters.messages_in.get() == 1);
            peer.stream.cut();
            eventually("its peer is gone", || counters.connections_open.get() == 0);
            let ended = draining(memory);
            gate.add_permits(1);
            ended.join().unwrap();
        });
        // The handler has tried to answer: it ran to its end.
        assert_eq!(counters.stale_sends.get(), 1);
    }
}

#[test]
fn an_http_connection_ends_after_its_answer() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        let mut idle = memory.dial();
        idle.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        idle.until(b"here\"}\n").await;
        // Another has just begun its head; it may not keep the process.
        let mut begun = memory.dial();
        begun.write(b"GET / HT").await;
        let reads = &memory.counters().reads;
        eventually("both are read", || reads.get() >= 2);
        let ended = draining(memory);
        assert_eq!(idle.rest().await, b"");
        begun.rest().await;
        ended.join().unwrap();
    });
}

/// Panics in hooks of connections, in the middle of other ends.
#[test]
fn panics_end_their_own_connection_and_free_its_slot() {
    struct Faulty(Notes);
    impl Control for Faulty {
        fn on_open(&self, _: &Conn) {
            self.0.add("opened");
            assert!(self.0.count("opened") != 3, "an open hook with a fault");
        }

        fn on_close(&self, _: &Conn, reason: CloseReason) {
            self.0.add(format!("closed: {reason}"));
            panic!("a close hook with a fault");
        }
    }
    for concurrency in [1, 4] {
        let notes = Notes::default();
        let noted = notes.clone();
        let memory = Setup::default().start(move |_| {
            let mut router = common::echo_router();
            router.set_concurrency(concurrency);
            router.set_control(Rc::new(Faulty(noted.clone())));
            on(&mut router, "test/Panic", |_, message| {
                assert!(message.body != b"at once", "a handler with a fault");
                Some(Box::pin(async move {
                    tokio::task::yield_now().await;
                    panic!("a handler with a fault, later");
                }))
            });
            router
        });
        let baseline = figures(&memory.server);
        run(async {
            let mut at_once = memory.dial();
            at_once.request(1, "test/Panic", b"at once").await;
            assert_eq!(at_once.rest().await, b"");
            let mut later = memory.dial();
            later.request(1, "test/Panic", b"later").await;
            if concurrency == 1 {
                assert_eq!(later.rest().await, b"");
            } else {
                // A handler beside the connection takes only itself along.
                later.check_echo().await;
            }
            assert_eq!(memory.dial().rest().await, b"", "the third is not opened");
            memory.dial().check_echo().await;
        });
        back_at(&memory.server, &baseline);
        assert_eq!(notes.count("opened"), 4);
        let panicked = if concurrency == 1 { 3 } else { 2 };
        assert_eq!(notes.count("closed: handler_panic"), panicked);
        assert_eq!(closed(&memory.server, "handler_panic"), panicked as u64);
        // Three handlers or open hooks, and a close hook of each connection.
        assert_eq!(memory.counters().panics.get(), 3 + 4);
    }
}

/// What belongs to the shard is dropped while its thread still is one, and may
/// ask for its neighbours.
#[test]
fn the_shards_own_things_end_with_it() {
    struct Looks(Notes);
    impl Drop for Looks {
        fn drop(&mut self) {
            let shard = Shard::current();
            let neighbour = shard.map(|shard| shard.extension::<u8>().is_some());
            self.0.add(format!("{neighbour:?}"));
        }
    }
    let memory = Setup::default().start(|_| common::echo_router());
    let notes = Notes::default();
    let noted = notes.clone();
    on_first_shard(&memory, move |shard| {
        shard.set_extension(Rc::new(7_u8));
        // Replacing one looks around, too.
        shard.set_extension(Rc::new(Looks(noted.clone())));
        shard.set_extension(Rc::new(Looks(noted.clone())));
        let held = Looks(noted);
        shard.spawn(waystation_net::Label::of("holder"), async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
    });
    memory.server.drain();
    assert_eq!(notes.list(), ["Some(true)", "Some(true)", "Some(false)"]);
}

/// Connections in a burst before the drain are all told or served.
#[test]
fn a_drain_under_load_answers_what_it_took() {
    let memory = Setup::default().start(|_| common::echo_router());
    let counters = common::accepting(&memory.server).clone();
    let io = memory.io.clone();
    run(async {
        let mut peers: Vec<_> = (0..50).map(|_| Peer::new(io.dial(NAME).unwrap())).collect();
        for (call, peer) in (1..).zip(&mut peers) {
            peer.request(call, "test/Echo", b"x").await;
        }
        eventually("all were taken", || counters.accepted.get() == 50);
        let ended = draining(memory);
        for peer in &mut peers {
            let kinds = peer.kinds().await;
            let replies = kinds.iter().filter(|kind| **kind == Kind::Reply).count();
            assert_eq!(replies, 1, "{kinds:?}");
            let _ = peer.stream.shutdown().await;
        }
        ended.join().unwrap();
    });
}
