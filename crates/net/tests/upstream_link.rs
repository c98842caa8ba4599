//! The connection behind calls: made, lost, shared by many, and ended, against
//! a callee that the test plays by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::callee::{Callee, Running, SECOND, answer, asked, check, check_with, config, upstream};
use common::{Memory, NAME, Notes, Setup, answer_to, call, on, on_shard};
use waystation_base::{BackoffConfig, CallId, MessageId};
use waystation_net::native::{
    CallError, Control, Router, Upstream, UpstreamConfig, UpstreamEvents, UpstreamState, reply,
};
use waystation_net::{Address, CloseReason, Conn, ConnectionLimits, Label, NetConfig, SlowReader};
use waystation_wire::{Header, Kind, encode_header};

/// A callee that accepts and closes at once made the caller spin.
#[test]
fn a_flapping_callee_does_not_keep_us_busy() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let config = UpstreamConfig {
                backoff: BackoffConfig {
                    base: Duration::from_millis(10),
                    max: SECOND,
                    jitter: 0.5,
                },
                ..config()
            };
            let upstream = upstream(&shard, config);
            let flaps = tokio::task::spawn_local(async move {
                loop {
                    drop(callee.accept().await);
                }
            });
            shard.sleep(SECOND * 60).await;
            let connects = shard.counters().connects.get();
            assert!(
                (30..150).contains(&connects),
                "{connects} connections in 60 s"
            );
            drop(upstream);
            flaps.abort();
        })
    });
}

/// An upstream that was dropped while it connected kept its connection, and
/// its task, for ever.
#[test]
fn an_upstream_without_users_leaves_nothing_behind() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            drop(upstream(&shard, config()));
            let used = upstream(&shard, config());
            used.up().await.unwrap();
            let mut peer = callee.accept().await;
            drop(used);
            assert_eq!(peer.rest().await, b"");
            // One whose address nobody listens on.
            let nowhere = UpstreamConfig::new(Address::Memory("nowhere".into()));
            let used = upstream(&shard, nowhere);
            shard.sleep(SECOND).await;
            used.close();
            assert_eq!(used.up().await.unwrap_err(), CallError::Closed);
            let call = call(&shard, "test/Echo", SECOND);
            assert_eq!(used.call(&call, b"").await.unwrap_err(), CallError::Closed);
        })
    });
}

/// Thousands of calls wait for a callee: looking through all of them for each
/// took seconds, and they went out in any order.
#[test]
fn many_waiting_calls_go_out_in_order() {
    const CALLS: u32 = 5_000;
    check(|shard, io| {
        Box::pin(async move {
            let upstream = upstream(&shard, config());
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..CALLS {
                let (upstream, call) = (upstream.clone(), call(&shard, "test/Echo", SECOND * 60));
                calls.spawn_local(async move {
                    upstream
                        .call(&call, &number.to_le_bytes())
                        .await
                        .map(|answer| answer.body)
                });
            }
            shard.sleep(SECOND).await;
            let mut peer = Callee::listen(&io).accept().await;
            for number in 0..CALLS {
                let (id, body) = asked(&mut peer).await;
                assert_eq!(body, number.to_le_bytes());
                answer(&mut peer, id, b"ok").await;
            }
            while let Some(answer) = calls.join_next().await {
                assert_eq!(answer.unwrap().unwrap(), "ok");
            }
        })
    });
}

/// Little room for what waits to be sent.
fn narrow() -> Setup {
    Setup {
        config: NetConfig {
            connection: ConnectionLimits {
                output_high_water: 3_000,
                output_bytes_max: 9_000,
                ..ConnectionLimits::default()
            },
            ..NetConfig::default()
        },
        faults: waystation_net::Faults {
            capacity: 500,
            ..waystation_net::Faults::default()
        },
        ..Setup::paused()
    }
}

/// A callee that was slow for a while was closed as a slow reader, and every
/// call in flight on it had an unknown outcome.
#[test]
fn calls_wait_for_a_callee_that_is_behind() {
    check_with(narrow(), |shard, io| {
        Box::pin(async move {
            const BODY: &str = "a request of some length, so that few of them fill the output";
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let calls: Vec<_> = (0..100)
                .map(|_| Running::start(&shard, &upstream, BODY, SECOND * 20))
                .collect();
            let late = Running::start(&shard, &upstream, BODY, SECOND);
            let mut peer = callee.accept().await;
            // It was never sent: the callee was behind until its deadline.
            let error = late.body().await.unwrap_err();
            assert!(error.was_not_sent(), "{error}");
            let conn = upstream.conn().unwrap();
            assert!(
                conn.output_len() <= 3_500,
                "{} bytes wait",
                conn.output_len()
            );
            drop(conn);
            for _ in 0..100 {
                let (id, _) = asked(&mut peer).await;
                answer(&mut peer, id, b"ok").await;
            }
            for call in calls {
                assert_eq!(call.body().await.unwrap(), "ok");
            }
            assert_eq!(shard.counters().connects.get(), 1);
        })
    });
}

/// A caller did not read answers while its callee did not read pushes: each
/// waited for the other. Pushes themselves do not wait; those that a slow callee has no room for are refused,
/// and the calls beside them do not notice.
#[test]
fn pushes_to_a_callee_that_is_behind_are_refused() {
    check_with(narrow(), |shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let call = Running::start(&shard, &upstream, "beside", SECOND * 20);
            let mut peer = callee.accept().await;
            let (id, _) = asked(&mut peer).await;
            let push = || upstream.push(MessageId::of("test/Push"), &[0; 100]);
            let refused = loop {
                if let Err(error) = push() {
                    break error;
                }
            };
            assert_eq!(refused, CallError::Overloaded(1));
            answer(&mut peer, id, b"fine").await;
            assert_eq!(call.body().await.unwrap(), "fine");
            while peer.received.len() < 5_000 {
                assert!(peer.read().await);
            }
            push().unwrap();
            assert_eq!(shard.counters().connects.get(), 1);
        })
    });
}

/// Heartbeats waited behind a suspended handler, so that callers took a callee
/// for dead that only worked; and a cancellation came when there was nothing
/// left to cancel.
#[test]
fn heartbeats_and_cancellations_pass_a_suspended_handler() {
    struct Cancels(Notes);
    impl Control for Cancels {
        fn on_cancel(&self, _: &Conn, _: CallId) {
            self.0.add("cancelled");
        }
    }
    let notes = Notes::default();
    let noted = notes.clone();
    let Memory { io: _io, server } = Setup::paused().start(move |_| {
        let mut router = common::echo_router();
        router.set_control(Rc::new(Cancels(noted.clone())));
        let notes = noted.clone();
        on(&mut router, "test/Slow", move |conn, message| {
            let (conn, header) = (conn.clone(), answer_to(message.header));
            let notes = notes.clone();
            Some(Box::pin(async move {
                notes.add("begun");
                conn.shard().sleep(SECOND * 100).await;
                notes.add("ended");
                let _ = reply(&conn, &header, b"at last");
            }))
        });
        router
    });
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let upstream = upstream(&shard, UpstreamConfig::new(Address::Memory(NAME.into())));
            let slow = call(&shard, "test/Slow", SECOND * 200);
            assert_eq!(upstream.call(&slow, b"").await.unwrap().body, "at last");
            assert_eq!(shard.counters().connects.get(), 1);

            let hasty = call(&shard, "test/Slow", SECOND);
            assert_eq!(
                upstream.call(&hasty, b"").await.unwrap_err(),
                CallError::Timeout
            );
            // Behind the cancellation, and not before its handler has ended.
            let echo = call(&shard, "test/Echo", SECOND * 200);
            assert_eq!(upstream.call(&echo, b"x").await.unwrap().body, "x");
        })
    });
    let order = ["begun", "ended", "begun", "cancelled", "ended"];
    assert_eq!(notes.list(), order);
    server.drain();
}

/// A handler of the callee's pushes that asked the callee something waited for
/// an answer that waited behind it.
#[test]
fn a_push_handler_may_call_back() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let own: Rc<RefCell<Option<Upstream>>> = Rc::default();
            let notes = Notes::default();
            let mut router = Router::new();
            let (asks, noted) = (own.clone(), notes.clone());
            on(&mut router, "test/Push", move |conn, _| {
                let upstream = asks.borrow().clone().unwrap();
                let (call, notes) = (call(conn.shard(), "test/Echo", SECOND), noted.clone());
                Some(Box::pin(async move {
                    let answer = upstream.call(&call, b"asks").await;
                    notes.add(format!("{:?}", answer.map(|answer| answer.body)));
                }))
            });
            let upstream = Upstream::new(&shard, config(), Rc::new(router));
            own.replace(Some(upstream));
            let mut peer = callee.accept().await;
            let push = encode_header(&Header::push(MessageId::of("test/Push")));
            for _ in 0..2 {
                peer.write(&push).await;
                // More of the same is queued behind it, before the answer.
                let (id, _) = {
                    peer.write(&push).await;
                    asked(&mut peer).await
                };
                answer(&mut peer, id, b"told").await;
                let (id, _) = asked(&mut peer).await;
                answer(&mut peer, id, b"told").await;
            }
            while notes.list().len() < 4 {
                tokio::task::yield_now().await;
            }
            assert_eq!(notes.count("Ok(b\"told\")"), 4, "{:?}", notes.list());
            own.replace(None);
        })
    });
}

#[test]
fn hooks_tell_of_connections_made_and_lost() {
    struct Tells(Notes);
    impl UpstreamEvents for Tells {
        fn on_up(&self, upstream: &Upstream, conn: &Conn) {
            assert!(conn.is_open() && !conn.is_accepted());
            upstream
                .push(MessageId::of("test/Hello"), b"it is me")
                .unwrap();
            self.0.add("up");
        }

        fn on_down(&self, upstream: &Upstream, reason: CloseReason) {
            assert_ne!(upstream.state(), UpstreamState::Up);
            self.0.add(format!("down: {reason}"));
            assert!(self.0.list().len() < 4, "a hook with a fault");
        }
    }
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let notes = Notes::default();
            let events = Rc::new(Tells(notes.clone()));
            let router = Rc::new(Router::new());
            let upstream = Upstream::with_events(&shard, config(), router, events);
            for round in 1..=3 {
                let mut peer = callee.accept().await;
                let (hello, body) = peer.frame().await.unwrap();
                assert_eq!((hello.kind, &body[..]), (Kind::Push, &b"it is me"[..]));
                drop(peer);
                while notes.list().len() < round * 2 {
                    shard.sleep(SECOND).await;
                }
            }
            let twice = ["up", "down: peer", "up", "down: peer"];
            assert_eq!(notes.list()[..4], twice);
            // A hook that panics costs nothing but itself.
            assert_eq!(shard.counters().panics.get(), 2);
            drop(upstream);
        })
    });
    server.drain();
}

/// At the end of a process its upstreams connected again and again, until the
/// last moment of the drain had passed.
#[test]
fn a_shard_that_ends_makes_no_new_connections() {
    let callee = Setup::default().start(|_| common::echo_router());
    let address = Address::Memory(NAME.into());
    let config = NetConfig {
        io: std::sync::Arc::new(callee.io.clone()),
        drain: Duration::from_millis(50),
        ..NetConfig::default()
    };
    let caller = common::builder(config, false)
        .listen(Address::Memory("caller".into()), |_| {
            let mut router = Router::new();
            // More than the pipe holds: the drain has to wait for its peer.
            on(&mut router, "test/Stuck", |conn, _| {
                conn.set_slow_reader(SlowReader::Refuse);
                conn.send(&vec![7; 200_000]).unwrap();
                None
            });
            waystation_net::native::NativeProtocol::new(router.into())
        })
        .start()
        .unwrap();
    let counters = caller.counters()[0].clone();
    let mut stuck = common::Peer::new(callee.io.dial("caller").unwrap());
    common::run(async { stuck.request(1, "test/Stuck", b"").await });
    common::eventually("its output is stuck", || counters.messages_out.get() == 1);
    on_shard(&caller, 0, move |shard| {
        Box::pin(async move {
            let upstream = upstream(&shard, UpstreamConfig::new(address));
            upstream.up().await.unwrap();
            shard.set_extension(Rc::new(upstream));
        })
    });
    caller.drain();
    assert_eq!(counters.connects.get(), 1);
    assert_eq!(counters.connections_open.get(), 0);
    common::eventually("the callee has seen it", || {
        callee.counters().connections_open.get() == 0
    });
    assert_eq!(common::accepting(&callee.server).accepted.get(), 1);
}

/// What a dump says of calls that wait.
#[test]
fn a_dump_says_whom_a_call_waits_for() {
    check(|shard, io| {
        Box::pin(async move {
            let upstream = upstream(&shard, config());
            let (asks, task) = (upstream.clone(), call(&shard, "test/Echo", SECOND * 10));
            shard.spawn(Label::of("asker"), async move {
                let answer = asks.call(&task, b"").await;
                assert_eq!(answer.unwrap().body, "ok");
            });
            let waits = |name: &str| {
                let tasks = shard.tasks_dump().into_iter();
                let mut of_name = tasks.filter(|task| task.task == name);
                of_name
                    .next()
                    .map(|task| task.waits_for)
                    .unwrap_or_default()
            };
            shard.sleep(Duration::from_millis(1)).await;
            assert_eq!(waits("asker"), "connection to memory:callee");
            assert_eq!(waits("upstream"), "back-off");
            let mut callee = Callee::listen(&io);
            let mut peer = callee.accept().await;
            let (id, _) = asked(&mut peer).await;
            assert_eq!(waits("asker"), "answer to test/Echo");
            assert_eq!(waits("upstream"), "input");
            answer(&mut peer, id, b"ok").await;
            while !waits("asker").is_empty() {
                tokio::task::yield_now().await;
            }
        })
    });
}
