//! FIFO clients: answers in order, whoever gives up, whatever the server does.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;

use bytes::Bytes;
use common::Setup;
use common::played::{
    Peer, Played, SECOND, check, check_with, client, command, config, end, start, within,
};
use waystation_net::Faults;
use waystation_net::fifo::{FifoConfig, FifoError};

#[test]
fn requests_are_pipelined_and_answered_in_order() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let call = within(&shard, SECOND, false);
            let calls: Vec<_> = ["a", "b", "c"]
                .iter()
                .map(|name| start(&shard, &fifo, name, call))
                .collect();
            let mut peer = played.accept().await;
            for name in ["a", "b", "c"] {
                assert_eq!(peer.asked().await, name, "all come before any is answered");
            }
            // Split at every byte.
            for byte in "+A\r\n$1\r\nB\r\n:3\r\n".chars() {
                peer.write(&byte.to_string()).await;
                tokio::task::yield_now().await;
            }
            let mut answers = Vec::new();
            for call in calls {
                answers.push(end(call).await.unwrap());
            }
            assert_eq!(answers, ["+A", "$1\r\nB", ":3"]);
        })
    });
}

/// A caller that gave up took its place along, and the next in line got the
/// answer that was meant for it.
#[test]
fn a_late_answer_is_read_and_discarded() {
    let memory = check_with(Setup::paused(), |shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let overdue = start(&shard, &fifo, "a", within(&shard, SECOND, true));
            let dropped = start(&shard, &fifo, "b", within(&shard, 9 * SECOND, true));
            let patient = start(&shard, &fifo, "c", within(&shard, 9 * SECOND, false));
            let mut peer = played.accept().await;
            for name in ["a", "b", "c"] {
                assert_eq!(peer.asked().await, name);
            }
            dropped.abort();
            assert_eq!(end(overdue).await, Err(FifoError::Timeout));
            assert_eq!(
                fifo.in_flight(),
                3,
                "places live until their answers are read"
            );
            peer.write("+A\r\n+B\r\n+C\r\n").await;
            assert_eq!(end(patient).await.unwrap(), "+C");
            assert_eq!(fifo.in_flight(), 0);
        })
    });
    assert_eq!(memory.server.counters()[0].late_answers.get(), 2);
    memory.server.drain();
}

/// A server that never answers hung every later call for ever.
#[test]
fn a_stalled_connection_fails_everyone_on_it() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let settings = FifoConfig {
                stall_timeout: SECOND,
                ..config()
            };
            let fifo = client(&shard, settings);
            let once = start(&shard, &fifo, "once", within(&shard, 60 * SECOND, false));
            let again = start(&shard, &fifo, "again", within(&shard, 60 * SECOND, true));
            let first = played.accept().await;
            assert_eq!(end(once).await, Err(FifoError::OutcomeUnknown));
            first.closed().await;
            let mut second = played.accept().await;
            assert_eq!(
                second.asked().await,
                "again",
                "only what may be repeated is"
            );
            second.write("+ok\r\n").await;
            assert_eq!(end(again).await.unwrap(), "+ok");
        })
    });
}

/// One unknown reply type made all later calls hang.
#[test]
fn an_answer_out_of_protocol_poisons_the_connection() {
    for bad in [
        "?what\r\n",
        "$-7\r\n",
        "$3\r\nabcd\r\n",
        "*9999999\r\n",
        "+ok\n",
    ] {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, config());
                let first = start(&shard, &fifo, "a", within(&shard, 60 * SECOND, false));
                let second = start(&shard, &fifo, "b", within(&shard, 60 * SECOND, false));
                let mut peer = played.accept().await;
                peer.asked().await;
                peer.write(bad).await;
                assert_eq!(end(first).await, Err(FifoError::OutcomeUnknown), "{bad:?}");
                assert_eq!(end(second).await, Err(FifoError::OutcomeUnknown), "{bad:?}");
                peer.closed().await;
                let third = start(&shard, &fifo, "c", within(&shard, 60 * SECOND, false));
                let mut peer = played.accept().await;
                assert_eq!(peer.asked().await, "c");
                peer.write("+C\r\n").await;
                assert_eq!(end(third).await.unwrap(), "+C");
            })
        });
    }
}

#[test]
fn an_answer_that_nobody_asked_for_poisons_the_connection() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let first = start(&shard, &fifo, "a", within(&shard, 60 * SECOND, false));
            let mut peer = played.accept().await;
            peer.asked().await;
            peer.write("+A\r\n+surplus\r\n").await;
            assert_eq!(end(first).await.unwrap(), "+A");
            peer.closed().await;
        })
    });
}

/// The server closes after each byte of its answer.
#[test]
fn a_server_that_closes_at_every_byte_fails_nobody_for_long() {
    const ANSWER: &str = "$5\r\nhello\r\n";
    for cut in 0..ANSWER.len() {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, config());
                let call = start(&shard, &fifo, "a", within(&shard, 60 * SECOND, true));
                let mut peer = played.accept().await;
                peer.asked().await;
                peer.write(&ANSWER[..cut]).await;
                drop(peer);
                let mut peer = played.accept().await;
                assert_eq!(peer.asked().await, "a");
                peer.write(ANSWER).await;
                assert_eq!(end(call).await.unwrap(), "$5\r\nhello");
            })
        });
    }
}

#[test]
fn without_a_server_calls_wait_for_their_deadline() {
    check(|shard, _io| {
        Box::pin(async move {
            let fifo = client(&shard, config());
            let call = start(&shard, &fifo, "a", within(&shard, 3 * SECOND, false));
            assert_eq!(end(call).await, Err(FifoError::NotConnected));
        })
    });
}

#[test]
fn in_flight_is_bounded_by_what_the_server_owes() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(
                &shard,
                FifoConfig {
                    in_flight_max: 2,
                    ..config()
                },
            );
            let call = within(&shard, 9 * SECOND, false);
            let calls: Vec<_> = ["a", "b"]
                .iter()
                .map(|name| start(&shard, &fifo, name, call))
                .collect();
            let mut peer = played.accept().await;
            peer.asked().await;
            peer.asked().await;
            for call in calls {
                call.abort();
            }
            let refused = start(&shard, &fifo, "c", call);
            assert_eq!(end(refused).await, Err(FifoError::Overloaded(2)));
            peer.write("+A\r\n").await;
            let taken = loop {
                let taken = start(&shard, &fifo, "d", call);
                tokio::task::yield_now().await;
                if fifo.in_flight() == 2 {
                    break taken;
                }
                let _ = end(taken).await;
            };
            assert_eq!(peer.asked().await, "d");
            peer.write("+B\r\n+D\r\n").await;
            assert_eq!(end(taken).await.unwrap(), "+D");
        })
    });
}

/// A transaction on a shared connection caught other callers' commands.
#[test]
fn a_lease_has_a_connection_of_its_own() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(
                &shard,
                FifoConfig {
                    leases_max: 1,
                    ..config()
                },
            );
            let mut shared = played.accept().await;
            let call = within(&shard, 60 * SECOND, false);
            let lease = fifo.lease(call.deadline).await.unwrap();
            let mut own = played.accept().await;
            assert!(matches!(
                fifo.lease(call.deadline).await,
                Err(FifoError::Overloaded(1))
            ));
            let beside = start(&shard, &fifo, "beside", call);
            let on_lease = tokio::task::spawn_local(async move {
                let first = lease.call(&command("MULTI"), &call).await;
                // A message of a subscription comes without a request.
                let pushed = lease.next(&call).await;
                (first, pushed)
            });
            assert_eq!(own.asked().await, "MULTI");
            assert_eq!(shared.asked().await, "beside");
            own.write("+OK\r\n+pushed\r\n").await;
            shared.write("+B\r\n").await;
            assert_eq!(end(beside).await.unwrap(), "+B");
            let (first, pushed) = on_lease.await.unwrap();
            assert_eq!(
                (first.unwrap(), pushed.unwrap()),
                (Bytes::from("+OK\r\n"), Bytes::from("+pushed\r\n"))
            );
            own.closed().await;
            assert!(fifo.lease(call.deadline).await.is_ok(), "it came back");
        })
    });
}

/// Many calls over pipes with short and spurious reads and writes, some of
/// which give up: everyone who waits gets the answer to his own question.
#[test]
fn everyone_gets_his_own_answer_over_bad_pipes() {
    own_answers_over_bad_pipes(&Setup::paused);
}

/// The same where the client's sockets are on another thread.
#[test]
fn everyone_gets_his_own_answer_in_split_placement() {
    own_answers_over_bad_pipes(&|| {
        let mut setup = Setup::default();
        setup.config.io_shards = 1;
        setup
    });
}

fn own_answers_over_bad_pipes(setup: &dyn Fn() -> Setup) {
    for seed in 0..30 {
        let faults = Faults {
            short: 0.4,
            spurious: 0.3,
            ..Faults::default()
        };
        let setup = Setup {
            faults,
            seed,
            ..setup()
        };
        let memory = check_with(setup, move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(
                    &shard,
                    FifoConfig {
                        connections: 2,
                        ..config()
                    },
                );
                let serve = Rc::new(tokio::sync::Notify::new());
                let stop = serve.clone();
                let served = tokio::task::spawn_local(async move {
                    let (first, second) = (played.accept().await, played.accept().await);
                    let echo = async |mut peer: Peer| loop {
                        let asked = peer.asked().await;
                        peer.write(&format!("${}\r\n{asked}\r\n", asked.len()))
                            .await;
                    };
                    tokio::select! {
                        () = stop.notified() => {}
                        () = echo(first) => {}
                        () = echo(second) => {}
                    }
                });
                let mut calls = Vec::new();
                for index in 0..60 {
                    let name = format!("{index}-{}", "x".repeat(index * 7 % 50));
                    let call = start(&shard, &fifo, &name, within(&shard, 60 * SECOND, false));
                    if index % 7 == 3 {
                        tokio::task::yield_now().await;
                        call.abort();
                    } else {
                        calls.push((name, call));
                    }
                }
                for (name, call) in calls {
                    let expected = format!("${}\r\n{name}", name.len());
                    assert_eq!(end(call).await.unwrap(), expected, "seed {seed}");
                }
                serve.notify_one();
                served.await.unwrap();
            })
        });
        memory.server.drain();
    }
}
