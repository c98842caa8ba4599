//! Calls, against a callee that the test plays by hand: deadlines,
//! cancellation, lost connections, and what a caller may conclude from each.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use common::call;
use common::callee::{Callee, Running, SECOND, answer, asked, check, config, upstream};
use futures_util::future::LocalBoxFuture;
use std::future::Future;
use waystation_base::MessageId;
use waystation_net::Address;
use waystation_net::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_WAIT};
use waystation_net::native::{CallError, UpstreamConfig, UpstreamState};
use waystation_wire::{Flags, Header, Kind, Load, Status, encode_header, encode_into};

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
fn a_callee_tells_its_load_to_a_probe_or_that_it_knows_none() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let until = shard.now() + SECOND;
            let probe = || {
                let upstream = upstream.clone();
                tokio::task::spawn_local(async move { upstream.probe(until).await })
            };
            let first = probe();
            let mut peer = callee.accept().await;
            let second = probe();
            let load = Load {
                in_flight: 9,
                latency_us: 700,
            };
            for status in [Status::Ok, Status::Unimplemented] {
                let (header, body) = loop {
                    let (header, body) = peer.frame().await.unwrap();
                    if header.kind == Kind::Request {
                        break (header, body);
                    }
                };
                assert!(header.flags.contains(Flags::PROBE) && body.is_empty());
                let reply = Header::reply(header.call, header.message, status).with_load(load);
                peer.write(&encode_header(&reply)).await;
            }
            assert_eq!(first.await.unwrap(), Ok(Some(load)));
            assert_eq!(second.await.unwrap(), Ok(None));
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

/// A call that stood behind others, which the callee did not read, failed as
/// "not connected before the deadline".
#[test]
fn a_callee_that_does_not_read_is_behind_and_not_away() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let large = "x".repeat(1 << 20).leak();
            let first = Running::start(&shard, &upstream, large, SECOND);
            let _silent = callee.accept().await;
            upstream.up().await.unwrap();
            let second = Running::start(&shard, &upstream, "second", SECOND / 2);
            let error = second.body().await.unwrap_err();
            assert_eq!(error, CallError::Behind);
            assert!(error.was_not_sent());
            assert_eq!(error.status(), Status::Overloaded);
            assert_eq!(first.body().await.unwrap_err(), CallError::Timeout);
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

/// A callee that was taken off a list was cut off with the answers that were on
/// their way, or kept its connection for ever.
#[test]
fn a_retired_upstream_ends_what_was_sent_takes_nothing_new_and_closes() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let sent = Running::start(&shard, &upstream, "sent", SECOND);
            let mut peer = callee.accept().await;
            let (call, body) = asked(&mut peer).await;
            upstream.retire();
            let late = Running::start(&shard, &upstream, "late", SECOND);
            assert_eq!(late.body().await.unwrap_err(), CallError::Closed);
            answer(&mut peer, call, &body).await;
            assert_eq!(sent.body().await.unwrap(), "sent");
            assert!(peer.frame().await.is_none(), "it closes");
            assert_eq!(upstream.state(), UpstreamState::Closed);

            // One without a connection closes at once, and tries no more.
            let away = self::upstream(
                &shard,
                UpstreamConfig {
                    address: Address::Memory("nowhere".to_owned()),
                    ..config()
                },
            );
            let waits = Running::start(&shard, &away, "waits", SECOND);
            away.retire();
            assert_eq!(waits.body().await.unwrap_err(), CallError::Closed);
            assert_eq!(away.state(), UpstreamState::Closed);
        })
    });
}

/// `im load` said of an Entry that had refused it, having too many
/// connections, that it does not answer: an upstream forgot what it was told.
#[test]
fn a_callee_that_refuses_the_connection_is_quoted() {
    check(|shard, io| {
        Box::pin(async move {
            let mut callee = Callee::listen(&io);
            let upstream = upstream(&shard, config());
            let mut peer = callee.accept().await;
            let mut header = Header::go_away();
            header.status = Status::Overloaded;
            let mut frame = Vec::new();
            encode_into(&header, b"too many connections", &mut frame).unwrap();
            peer.write(&frame).await;
            peer.rest().await;
            let fault = upstream.fault();
            assert_eq!(fault.as_deref(), Some("too many connections"));

            // What it said does not outlive the refusal.
            let _peer = callee.accept().await;
            upstream.up().await.unwrap();
            assert_eq!(upstream.fault(), None);
        })
    });
}
