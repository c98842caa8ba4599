//! A slot that is given to a new peer while a handler still works for the old
//! one: the old answer must reach nobody.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{
    Memory, Notes, Peer, Setup, answer_to, back_at, call, closed, eventually, figures, on,
    on_shard, run,
};
use tokio::sync::Semaphore;
use waystation_base::{ConnName, ShardId};
use waystation_net::native::{Control, Router, Upstream, UpstreamConfig, reply};
use waystation_net::{Address, CloseReason, Conn, NetConfig};

/// Notes every end, with what it finds on the connection.
struct Ends(Notes);

impl Control for Ends {
    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        let user = conn.property::<String>();
        let user = user.as_deref().map_or("nobody", String::as_str);
        self.0.add(format!("{user} left: {reason}"));
    }
}

/// A server whose method `test/Wait` is suspended until the gate opens.
struct Suspended {
    memory: Memory,
    notes: Notes,
    gate: Arc<Semaphore>,
}

impl Suspended {
    fn start(concurrency: u32) -> Self {
        let (notes, gate) = (Notes::default(), Arc::new(Semaphore::new(0)));
        let setup = Setup {
            config: NetConfig {
                first_generation: u32::MAX,
                ..NetConfig::default()
            },
            ..Setup::default()
        };
        let (noted, opened) = (notes.clone(), gate.clone());
        let memory = setup.start(move |_| {
            let mut router = common::echo_router();
            router.set_concurrency(concurrency);
            router.set_control(Rc::new(Ends(noted.clone())));
            let (notes, gate) = (noted.clone(), opened.clone());
            on(&mut router, "test/Wait", move |conn, message| {
                let (conn, header) = (conn.clone(), answer_to(message.header));
                let (notes, gate) = (notes.clone(), gate.clone());
                conn.set_property(Rc::new(String::from_utf8_lossy(message.body).into_owned()));
                notes.add("begun");
                Some(Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    notes.add(match reply(&conn, &header, b"too late") {
                        Ok(()) => "answered".to_owned(),
                        Err(error) => format!("refused: {error}"),
                    });
                }))
            });
            router
        });
        Self {
            memory,
            notes,
            gate,
        }
    }

    fn names(&self) -> Vec<ConnName> {
        on_shard(&self.memory.server, 0, |shard| {
            Box::pin(async move { shard.connections().iter().map(Conn::name).collect() })
        })
    }

    fn close_here(&self, name: ConnName) {
        let close = move |shard: &waystation_net::Shard| {
            shard.connection(name).unwrap().close(CloseReason::Local);
        };
        self.memory
            .server
            .remote()
            .run_on(ShardId(0), close)
            .unwrap();
    }
}

/// A peer closed while the worker still had its packets; its slot was given to
/// a new peer, and the handler's reply went to the wrong one.
fn the_old_answer_reaches_nobody(concurrency: u32, we_close: bool) {
    let test = Suspended::start(concurrency);
    let baseline = figures(&test.memory.server);
    run(async {
        let mut old = test.memory.dial();
        old.request(1, "test/Wait", b"old").await;
        eventually("the handler has begun", || test.notes.count("begun") == 1);
        let old_name = test.names()[0];
        if we_close {
            test.close_here(old_name);
            // The socket goes at once; only the slot waits for the handler.
            assert_eq!(old.rest().await, b"");
        } else {
            old.stream.cut();
        }
        let counters = test.memory.counters();
        eventually("only the slot is left", || {
            (
                counters.connections_open.get(),
                counters.connections_closing.get(),
            ) == (0, 1)
        });
        let mut new = test.memory.dial();
        new.check_echo().await;
        let new_name = test.names()[0];
        assert_ne!(
            new_name.slot, old_name.slot,
            "the slot is still the handler's"
        );

        test.gate.add_permits(1);
        let refused = format!("refused: connection {old_name} is closed");
        eventually("the reply is an error value", || {
            test.notes.count(&refused) == 1
        });
        eventually("it is counted", || counters.stale_sends.get() == 1);
        eventually("the slot is released", || {
            counters.connections_closing.get() == 0
        });
        new.check_echo().await;
        assert_eq!(new.received, b"", "somebody else's answer");

        // The next peer gets the slot, under another name.
        let mut next = test.memory.dial();
        next.check_echo().await;
        let next_name = test.names().into_iter().find(|name| *name != new_name);
        let next_name = next_name.unwrap();
        assert_eq!(next_name.slot, old_name.slot);
        assert_ne!(next_name.generation, old_name.generation);
    });
    back_at(&test.memory.server, &baseline);
    let left = test
        .notes
        .list()
        .into_iter()
        .filter(|note| note.contains("left"));
    let left: Vec<String> = left.collect();
    let reason = if we_close { "local" } else { "reset" };
    let ends = [
        "nobody left: peer",
        "nobody left: peer",
        &format!("old left: {reason}"),
    ];
    for end in ends {
        assert!(left.iter().any(|note| note == end), "{end} in {left:?}");
    }
    assert_eq!(left.len(), 3, "each end is told once: {left:?}");
    assert_eq!(closed(&test.memory.server, reason), 1);
}

#[test]
fn when_we_close_in_the_middle_of_a_handler() {
    the_old_answer_reaches_nobody(1, true);
}

#[test]
fn when_the_peer_is_lost_in_the_middle_of_a_handler() {
    the_old_answer_reaches_nobody(1, false);
}

#[test]
fn when_we_close_beside_a_handler() {
    the_old_answer_reaches_nobody(4, true);
}

#[test]
fn when_the_peer_is_lost_beside_a_handler() {
    the_old_answer_reaches_nobody(4, false);
}

/// A peer that ends its side still gets the answers to what it has asked.
#[test]
fn a_peer_that_only_ends_its_own_side_is_answered() {
    for concurrency in [1, 4] {
        let test = Suspended::start(concurrency);
        run(async {
            let mut peer = test.memory.dial();
            peer.request(1, "test/Wait", b"").await;
            peer.request(2, "test/Echo", b"queued").await;
            tokio::io::AsyncWriteExt::shutdown(&mut peer.stream)
                .await
                .unwrap();
            eventually("the handler has begun", || test.notes.count("begun") == 1);
            test.gate.add_permits(1);
            let mut answers = [
                peer.answer().await.unwrap().0,
                peer.answer().await.unwrap().0,
            ];
            answers.sort_unstable();
            assert_eq!(answers, [1, 2]);
            assert_eq!(peer.rest().await, b"");
        });
        eventually("it is counted", || closed(&test.memory.server, "peer") == 1);
    }
}

/// Properties were dropped before the close hook ran, so that nobody could
/// tell who had left; and with a borrow held, so that a destructor that looked
/// at another property panicked.
#[test]
fn destructors_of_properties_may_look_around() {
    struct Looks(Conn, Notes);
    impl Drop for Looks {
        fn drop(&mut self) {
            let user = self.0.property::<String>();
            self.0.set_property(Rc::new(7_u8));
            self.1.add(format!("dropped, user {}", user.is_some()));
        }
    }
    let notes = Notes::default();
    let noted = notes.clone();
    let memory = Setup::default().start(move |_| {
        let mut router = Router::new();
        let notes = noted.clone();
        on(&mut router, "test/Echo", move |conn, message| {
            conn.set_property(Rc::new("someone".to_owned()));
            conn.set_property(Rc::new(Looks(conn.clone(), notes.clone())));
            conn.set_property(Rc::new(Looks(conn.clone(), notes.clone())));
            assert!(conn.take_property::<u8>().is_some());
            assert!(conn.take_property::<u8>().is_none());
            let _ = reply(conn, &answer_to(message.header), message.body);
            None
        });
        router
    });
    run(async { memory.dial().check_echo().await });
    eventually("both are dropped", || notes.list().len() == 2);
    assert_eq!(notes.list(), ["dropped, user true", "dropped, user false"]);
    let counters = memory.counters();
    eventually("the slot is released", || {
        counters.connections_open.get() + counters.connections_closing.get() == 0
    });
    assert_eq!(counters.panics.get(), 0);
}

/// What was queued behind a message that closed the connection was handled
/// all the same, and its answers went nowhere.
#[test]
fn nothing_is_handled_after_the_end() {
    let notes = Notes::default();
    let noted = notes.clone();
    let memory = Setup::default().start(move |_| {
        let mut router = Router::new();
        on(&mut router, "test/Close", |conn, message| {
            let conn = conn.clone();
            if message.body == b"at once" {
                conn.close(CloseReason::Local);
                return None;
            }
            Some(Box::pin(async move {
                tokio::task::yield_now().await;
                conn.close(CloseReason::Local);
            }))
        });
        let notes = noted.clone();
        on(&mut router, "test/Next", move |_, _| {
            notes.add("handled");
            None
        });
        router
    });
    run(async {
        for body in ["at once", "later"] {
            let mut peer = memory.dial();
            let close = common::request(1, "test/Close", body.as_bytes());
            let next = common::request(2, "test/Next", b"");
            peer.write(&[&close[..], &next].concat()).await;
            assert_eq!(peer.rest().await, b"");
        }
    });
    assert_eq!(notes.list(), [""; 0]);
}

/// A property that holds its own connection, attached by a handler that had
/// outlived it, kept the slot for ever.
#[test]
fn properties_of_an_ended_connection_are_not_kept() {
    struct Holds(#[allow(dead_code, reason = "it only keeps the slot")] Conn);
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let memory = Setup::default().start(move |_| {
        let mut router = common::echo_router();
        let gate = opened.clone();
        on(&mut router, "test/Wait", move |conn, _| {
            let (conn, gate) = (conn.clone(), gate.clone());
            conn.set_property(Rc::new(Holds(conn.clone())));
            let shard = conn.shard().clone();
            shard.spawn(waystation_net::Label::of("late"), async move {
                gate.acquire().await.unwrap().forget();
                conn.set_property(Rc::new(Holds(conn.clone())));
                assert!(conn.property::<Holds>().is_none());
            });
            None
        });
        router
    });
    let baseline = figures(&memory.server);
    run(async {
        let mut peer = memory.dial();
        peer.request(1, "test/Wait", b"").await;
        peer.check_echo().await;
        peer.stream.cut();
    });
    let counters = memory.counters();
    eventually("its peer is gone", || {
        counters.connections_closing.get() == 1
    });
    gate.add_permits(1);
    back_at(&memory.server, &baseline);
}

/// Calls of a handler whose own peer is gone do not disturb later ones.
#[test]
fn answers_of_upstreams_are_matched_by_call_not_by_place() {
    let memory = Setup::paused().start(|_| common::echo_router());
    let io_address = Address::Memory(common::NAME.into());
    let answers = on_shard(&memory.server, 0, move |shard| {
        Box::pin(async move {
            let config = UpstreamConfig {
                first_generation: u32::MAX - 2,
                in_flight_max: 2,
                ..UpstreamConfig::new(io_address)
            };
            let upstream = Upstream::new(&shard, config, Rc::new(Router::new()));
            upstream.up().await.unwrap();
            let mut answers = 0;
            for round in 0..20_u32 {
                let body = round.to_le_bytes();
                let call = call(&shard, "test/Echo", Duration::from_secs(1));
                // Sent, then dropped: its answer comes when the next waits.
                {
                    let mut dropped = std::pin::pin!(upstream.call(&call, b"dropped"));
                    let once = |cx: &mut Context<'_>| {
                        assert!(dropped.as_mut().poll(cx).is_pending());
                        Poll::Ready(())
                    };
                    std::future::poll_fn(once).await;
                }
                let answer = upstream.call(&call, &body).await.unwrap();
                assert_eq!(answer.body, &body[..]);
                answers += 1;
            }
            answers
        })
    });
    assert_eq!(answers, 20);
    assert_eq!(memory.counters().late_answers.get(), 20);
    assert_eq!(memory.counters().calls_in_flight.get(), 0);
    drop(memory);
}

/// A name of one shard or time means nothing on another.
#[test]
fn names_are_refused_where_they_do_not_belong() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        let mut peer: Peer<_> = memory.dial();
        peer.check_echo().await;
        let name = on_shard(&memory.server, 0, |shard| {
            Box::pin(async move { shard.connections()[0].name() })
        });
        let wrong = [
            ConnName {
                shard: ShardId(1),
                ..name
            },
            ConnName {
                slot: name.slot + 1,
                ..name
            },
            ConnName {
                generation: name.generation + 1,
                ..name
            },
        ];
        let found = on_shard(&memory.server, 0, move |shard| {
            let found = wrong.map(|name| shard.connection(name).is_ok());
            Box::pin(async move { found })
        });
        assert_eq!(found, [false; 3]);
    });
}
