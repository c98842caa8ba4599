//! Clients under test, against a callee that a test plays by hand: deadlines,
//! cancellation, lost connections, and what a caller may conclude from each.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::{Memory, NAME, Notes, Peer, Setup, answer_to, back_at, call, figures, on, on_shard};
use futures_util::future::LocalBoxFuture;
use waystation_base::{BackoffConfig, CallId, MessageId};
use waystation_net::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_WAIT};
use waystation_net::native::{
    Answer, CallError, Control, Router, Upstream, UpstreamConfig, UpstreamEvents, UpstreamState,
    reply,
};
use waystation_net::{
    Address, CloseReason, Conn, ConnectionLimits, Io, Label, Listener, MemoryIo, NetConfig, Shard,
    Stream,
};
use waystation_wire::{Header, Kind, Status, encode_header, encode_into};

const CALLEE: &str = "callee";
const SECOND: Duration = Duration::from_secs(1);

/// A callee played by the test.
struct Callee(Box<dyn Listener>);

impl Callee {
    fn listen(io: &MemoryIo) -> Self {
        let listener = io.listen(&Address::Memory(CALLEE.into())).unwrap();
        Self(listener.attach().unwrap())
    }

    async fn accept(&mut self) -> Peer<Box<dyn Stream>> {
        let stream = poll_fn(|cx| self.0.poll_accept(cx)).await.unwrap();
        Peer::new(stream.attach().unwrap())
    }
}

async fn answer(peer: &mut Peer<Box<dyn Stream>>, call: CallId, body: &[u8]) {
    let header = Header::reply(call, MessageId::of("test/Echo"), Status::Ok);
    let mut frame = Vec::new();
    encode_into(&header, body, &mut frame).unwrap();
    peer.write(&frame).await;
}

/// The callee's next request: its call id and body.
async fn asked(peer: &mut Peer<Box<dyn Stream>>) -> (CallId, Vec<u8>) {
    loop {
        let (header, body) = peer.frame().await.unwrap();
        if header.kind == Kind::Request {
            return (header.call, body);
        }
    }
}

fn config() -> UpstreamConfig {
    UpstreamConfig::new(Address::Memory(CALLEE.into()))
}

fn upstream(shard: &Shard, config: UpstreamConfig) -> Upstream {
    Upstream::new(shard, config, Rc::new(Router::new()))
}

/// A call that runs by itself.
struct Running(tokio::task::JoinHandle<Result<Answer, CallError>>);

impl Running {
    fn start(shard: &Shard, upstream: &Upstream, body: &'static str, within: Duration) -> Self {
        let (upstream, call) = (upstream.clone(), call(shard, "test/Echo", within));
        Self(tokio::task::spawn_local(async move {
            upstream.call(&call, body.as_bytes()).await
        }))
    }

    async fn body(self) -> Result<Bytes, CallError> {
        self.0.await.unwrap().map(|answer| answer.body)
    }
}

/// Runs a test on a paused shard, then looks for what it left behind.
fn check(test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static) {
    check_with(Setup::paused(), test);
}

fn check_with(
    setup: Setup,
    test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static,
) {
    let Memory { io, server } = setup.start(|_| common::echo_router());
    let baseline = figures(&server);
    on_shard(&server, 0, move |shard| test(shard, io));
    back_at(&server, &baseline);
    let counters = server.counters()[0].clone();
    assert_eq!(counters.calls_in_flight.get(), 0);
    assert_eq!(counters.panics.get(), 0);
    server.drain();
}

#[test]
fn answers_may_come_in_any_order() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let calls: Vec<_> = ["a", "b", "c", "d"]
                .map(|body| Running::start(&shard, &upstream, body, SECOND))
                .into();
            let mut peer = callee.accept().await;
            let mut requests = Vec::new();
            for _ in 0..4 {
                requests.push(asked(&mut peer).await);
            }
            let order: Vec<_> = requests.iter().map(|(_, body)| body[0]).collect();
            assert_eq!(
                order, b"abcd",
                "calls leave in the order in which they were made"
            );
            for (call, body) in requests.iter().rev() {
                answer(&mut peer, *call, body).await;
            }
            for (call, body) in calls.into_iter().zip(["a", "b", "c", "d"]) {
                assert_eq!(call.body().await.unwrap(), body);
            }
        })
    });
}

#[test]
fn a_call_that_is_overdue_is_cancelled_and_its_answer_discarded() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let slow = Running::start(&shard, &upstream, "slow", SECOND);
            let mut peer = callee.accept().await;
            let (header, _) = peer.frame().await.unwrap();
            let left = header.deadline_left.unwrap();
            assert!(
                left > SECOND / 2 && left <= SECOND,
                "{left:?} travels with it"
            );
            let error = slow.body().await.unwrap_err();
            assert_eq!(error, CallError::Timeout);
            assert!(!error.was_not_sent());
            let (cancel, _) = peer.frame().await.unwrap();
            assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, header.call));

            // The late answer is not for the next call of the slot.
            let next = Running::start(&shard, &upstream, "next", SECOND);
            let (next_call, _) = asked(&mut peer).await;
            assert_ne!(next_call, header.call);
            answer(&mut peer, header.call, b"late").await;
            answer(&mut peer, next_call, b"mine").await;
            assert_eq!(next.body().await.unwrap(), "mine");
            // Nor is a second answer anybody's.
            answer(&mut peer, next_call, b"again").await;
            let last = Running::start(&shard, &upstream, "last", SECOND);
            let (call, _) = asked(&mut peer).await;
            answer(&mut peer, call, b"fine").await;
            assert_eq!(last.body().await.unwrap(), "fine");
            assert_eq!(shard.counters().late_answers.get(), 2);
            assert_eq!(shard.counters().calls_failed.get(), 1);
        })
    });
}

#[test]
fn a_dropped_call_is_cancelled() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let call = Running::start(&shard, &upstream, "x", SECOND);
            let mut peer = callee.accept().await;
            let (id, _) = asked(&mut peer).await;
            assert_eq!(upstream.in_flight(), 1);
            call.0.abort();
            assert!(call.0.await.unwrap_err().is_cancelled());
            let (cancel, _) = peer.frame().await.unwrap();
            assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, id));
            assert_eq!(upstream.in_flight(), 0);
        })
    });
}

#[test]
fn too_many_calls_are_refused_at_once() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let few = UpstreamConfig {
                in_flight_max: 2,
                ..config()
            };
            let upstream = upstream(&shard, few);
            let first = Running::start(&shard, &upstream, "first", SECOND);
            let second = Running::start(&shard, &upstream, "second", SECOND);
            let mut peer = callee.accept().await;
            let (id, _) = asked(&mut peer).await;
            asked(&mut peer).await;
            let started = shard.now();
            let third = Running::start(&shard, &upstream, "third", SECOND);
            assert_eq!(third.body().await.unwrap_err(), CallError::Overloaded(2));
            assert_eq!(shard.now(), started);
            answer(&mut peer, id, b"done").await;
            assert_eq!(first.body().await.unwrap(), "done");
            let fourth = Running::start(&shard, &upstream, "fourth", SECOND);
            let (id, body) = asked(&mut peer).await;
            assert_eq!(body, b"fourth");
            answer(&mut peer, id, b"done").await;
            assert_eq!(fourth.body().await.unwrap(), "done");
            assert_eq!(second.body().await.unwrap_err(), CallError::Timeout);
            assert_eq!(shard.counters().calls_refused.get(), 1);
        })
    });
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_waits() {
    check(|shard, _| {
        Box::pin(async move {
            let upstream = upstream(&shard, config());
            let started = shard.now();
            let large = vec![0; waystation_wire::MESSAGE_LEN_MAX + 1];
            let later = call(&shard, "test/Echo", SECOND);
            assert_eq!(
                upstream.call(&later, &large).await.unwrap_err(),
                CallError::TooLarge
            );
            let past = call(&shard, "test/Echo", Duration::ZERO);
            let error = upstream.call(&past, b"").await.unwrap_err();
            assert_eq!(error, CallError::Expired);
            assert!(error.was_not_sent());
            assert_eq!(error.status(), Status::DeadlineExceeded);
            assert_eq!(shard.now(), started);
            let push = upstream.push(MessageId::of("test/Push"), b"");
            assert_eq!(push.unwrap_err(), CallError::NotConnected);
            // Nobody listens: a call waits for its deadline and no longer.
            assert_eq!(
                upstream.call(&later, b"").await.unwrap_err(),
                CallError::NotConnected
            );
            assert!(shard.now() >= started + SECOND);
            assert!(upstream.fault().unwrap().contains("refused"));
            assert_eq!(shard.counters().calls_in_flight.get(), 0);
        })
    });
}

/// The callee dies: what it may have seen has an unknown outcome, what it has
/// not seen goes to the next one.
#[test]
fn sent_calls_fail_and_unsent_ones_survive_a_lost_callee() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let sent = Running::start(&shard, &upstream, "sent", SECOND * 60);
            let mut peer = callee.accept().await;
            asked(&mut peer).await;
            drop(callee);
            drop(peer);
            let error = sent.body().await.unwrap_err();
            assert_eq!(error, CallError::OutcomeUnknown);
            assert!(!error.was_not_sent());
            assert_ne!(upstream.state(), UpstreamState::Up);

            // While it is down, attempts are spaced out, and bounded.
            let waiting = Running::start(&shard, &upstream, "waits", SECOND * 60);
            let before = shard.counters().connect_errors.get();
            shard.sleep(SECOND * 30).await;
            let attempts = shard.counters().connect_errors.get() - before;
            assert!((25..90).contains(&attempts), "{attempts} attempts in 30 s");
            let mut callee = Callee::listen(&io);
            let mut peer = callee.accept().await;
            let (id, body) = asked(&mut peer).await;
            assert_eq!(body, b"waits");
            answer(&mut peer, id, b"at last").await;
            assert_eq!(waiting.body().await.unwrap(), "at last");
            assert_eq!(upstream.fault(), None);
        })
    });
}

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

#[test]
fn a_callee_that_goes_away_ends_what_it_has_begun() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let begun = Running::start(&shard, &upstream, "begun", SECOND * 10);
            let mut old = callee.accept().await;
            let (id, _) = asked(&mut old).await;
            old.write(&encode_header(&Header::go_away())).await;
            while upstream.state() != UpstreamState::Draining {
                tokio::task::yield_now().await;
            }
            let new = Running::start(&shard, &upstream, "new", SECOND * 10);
            answer(&mut old, id, b"the last").await;
            assert_eq!(begun.body().await.unwrap(), "the last");
            assert_eq!(old.rest().await, b"", "nothing new is sent to it");
            let mut next = callee.accept().await;
            let (id, body) = asked(&mut next).await;
            assert_eq!(body, b"new");
            answer(&mut next, id, b"the first").await;
            assert_eq!(new.body().await.unwrap(), "the first");
        })
    });
}

/// A callee whose machine is gone answers nothing, and says nothing.
#[test]
fn a_callee_without_a_sign_of_life_is_lost() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let call = Running::start(&shard, &upstream, "x", SECOND * 600);
            let mut peer = callee.accept().await;
            asked(&mut peer).await;
            let started = shard.now();
            assert_eq!(call.body().await.unwrap_err(), CallError::OutcomeUnknown);
            let took = shard.now().saturating_since(started);
            assert!(took >= KEEPALIVE_WAIT && took <= KEEPALIVE_WAIT + KEEPALIVE_INTERVAL * 2);
            assert_eq!(peer.frame().await.unwrap().0.kind, Kind::Ping);

            // One that only answers heartbeats is kept.
            let mut peer = callee.accept().await;
            let call = Running::start(&shard, &upstream, "y", SECOND * 600);
            let (id, _) = asked(&mut peer).await;
            let started = shard.now();
            while shard.now() < started + KEEPALIVE_WAIT * 5 {
                let (header, _) = peer.frame().await.unwrap();
                assert_eq!(header.kind, Kind::Ping);
                peer.write(&encode_header(&Header::pong(header.call))).await;
            }
            answer(&mut peer, id, b"alive").await;
            assert_eq!(call.body().await.unwrap(), "alive");
            assert_eq!(shard.counters().connects.get(), 2);
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
    const CALLS: u32 = 20_000;
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

/// A callee that was slow for a while was closed as a slow reader, and every
/// call in flight on it had an unknown outcome.
#[test]
fn calls_wait_for_a_callee_that_is_behind() {
    let setup = Setup {
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
    };
    check_with(setup, |shard, io| {
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
    let caller = NetConfig {
        io: std::sync::Arc::new(callee.io.clone()),
        ..NetConfig::default()
    };
    let caller = common::builder(caller, false).start().unwrap();
    on_shard(&caller, 0, move |shard| {
        Box::pin(async move {
            let upstream = upstream(&shard, UpstreamConfig::new(address));
            upstream.up().await.unwrap();
            shard.set_extension(Rc::new(upstream));
        })
    });
    let counters = caller.counters()[0].clone();
    caller.drain();
    assert_eq!(counters.connects.get(), 1);
    assert_eq!(counters.connections_open.get(), 0);
    common::eventually("the callee has seen it", || {
        callee.counters().connections_open.get() == 0
    });
    assert_eq!(callee.counters().accepted.get(), 1);
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

/// Nothing is asked of a future that is never polled.
#[test]
fn a_call_begins_when_it_is_polled() {
    check(|shard, _| {
        Box::pin(async move {
            let upstream = upstream(&shard, config());
            let call = call(&shard, "test/Echo", SECOND);
            let future: LocalBoxFuture<'_, _> = Box::pin(upstream.call(&call, b""));
            assert_eq!(upstream.in_flight(), 0);
            let _: &dyn Future<Output = _> = &future;
            drop(future);
            assert_eq!(shard.counters().calls.get(), 0);
        })
    });
}
