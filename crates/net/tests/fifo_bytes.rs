//! FIFO clients and servers that split, delay, garble and end their answers at
//! every byte.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::Setup;
use common::played::{
    Played, SECOND, check, check_with, client, command, end, hasty, polled, start, within,
};
use waystation_net::Faults;
use waystation_net::fifo::FifoError;
use waystation_wire::resp::{RespLimits, Scan, Scanner};

/// Below the stall timeout of [`hasty`], and more than half of it.
const LATE: Duration = Duration::from_millis(700);

/// The answers to three requests, and each by itself.
const ANSWERS: &str = "+A\r\n$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n";
const EACH: [&str; 3] = ["+A", "$5\r\nhello", "*2\r\n:1\r\n$-1"];

/// The rest of an answer comes in another packet, and that comes late.
#[test]
fn answers_may_pause_at_every_byte() {
    for cut in 0..=ANSWERS.len() {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let call = within(&shard, 60 * SECOND, false);
                let calls = ["a", "b", "c"].map(|name| start(&shard, &fifo, name, call));
                let mut peer = played.accept().await;
                peer.write(&ANSWERS[..cut]).await;
                shard.sleep(LATE).await;
                peer.write(&ANSWERS[cut..]).await;
                for (call, expected) in calls.into_iter().zip(EACH) {
                    assert_eq!(end(call).await.unwrap(), expected, "cut at {cut}");
                }
                assert_eq!(fifo.in_flight(), 0);
            })
        });
    }
}

/// A pause before each single byte.
#[test]
fn answers_may_come_byte_by_byte() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let call = within(&shard, 60 * SECOND, false);
            let calls = ["a", "b", "c"].map(|name| start(&shard, &fifo, name, call));
            let mut peer = played.accept().await;
            let pause = LATE / u32::try_from(ANSWERS.len()).unwrap();
            for byte in ANSWERS.chars() {
                shard.sleep(pause).await;
                peer.write(&byte.to_string()).await;
            }
            for (call, expected) in calls.into_iter().zip(EACH) {
                assert_eq!(end(call).await.unwrap(), expected);
            }
        })
    });
}

/// Every byte that came was a sign of life, so a server that sent one now and
/// then held all callers of a connection for ever.
#[test]
fn a_trickle_is_no_progress() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let call = within(&shard, 600 * SECOND, false);
            let asked = shard.now();
            let first = start(&shard, &fifo, "a", call);
            let second = start(&shard, &fifo, "b", call);
            let mut peer = played.accept().await;
            peer.write("$100000\r\n").await;
            let trickle = tokio::task::spawn_local({
                let shard = shard.clone();
                async move {
                    while peer.try_write("x").await {
                        shard.sleep(SECOND / 100).await;
                    }
                }
            });
            assert_eq!(end(first).await, Err(FifoError::OutcomeUnknown));
            assert_eq!(end(second).await, Err(FifoError::OutcomeUnknown));
            // Virtual time: nothing but the clients' and the server's waits.
            assert!(shard.now() < asked + 2 * SECOND);
            trickle.await.unwrap();
        })
    });
}

/// A caller whose deadline passed between two bytes of its answer took the
/// rest of the answer for that of the next.
#[test]
fn a_deadline_may_pass_at_every_byte() {
    const FIRST: &str = "$5\r\nhello\r\n";
    for cut in 0..FIRST.len() {
        let memory = check_with(Setup::paused(), move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let hurried = within(&shard, LATE / 2, true);
                let patient = within(&shard, 60 * SECOND, false);
                let overdue = start(&shard, &fifo, "a", hurried);
                let waits = start(&shard, &fifo, "b", patient);
                let mut peer = played.accept().await;
                peer.write(&FIRST[..cut]).await;
                assert_eq!(end(overdue).await, Err(FifoError::Timeout), "cut at {cut}");
                peer.write(&FIRST[cut..]).await;
                peer.write("+B\r\n").await;
                assert_eq!(end(waits).await.unwrap(), "+B", "cut at {cut}");
                assert_eq!(fifo.in_flight(), 0);
            })
        });
        assert_eq!(memory.server.counters()[0].late_answers.get(), 1);
        memory.server.drain();
    }
}

/// The same when the caller's task is cancelled.
#[test]
fn a_caller_may_leave_at_every_byte() {
    const FIRST: &str = "*2\r\n+x\r\n$5\r\nhello\r\n";
    for cut in 0..FIRST.len() {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let call = within(&shard, 60 * SECOND, true);
                let leaves = start(&shard, &fifo, "a", call);
                let stays = start(&shard, &fifo, "b", call);
                let mut peer = played.accept().await;
                assert_eq!(peer.asked().await, "a");
                assert_eq!(peer.asked().await, "b");
                peer.write(&FIRST[..cut]).await;
                // The client has read it when the clock goes on.
                shard.sleep(LATE / 2).await;
                leaves.abort();
                assert!(leaves.await.unwrap_err().is_cancelled());
                assert_eq!(fifo.in_flight(), 2, "its place stays");
                peer.write(&FIRST[cut..]).await;
                peer.write("+B\r\n").await;
                assert_eq!(end(stays).await.unwrap(), "+B", "cut at {cut}");
            })
        });
    }
}

/// What the values of a stream are, up to where it is no protocol any more or
/// ends.
fn values(stream: &[u8]) -> Vec<String> {
    let (mut values, mut rest) = (Vec::new(), stream);
    while let Ok(Scan::Complete(length)) = Scanner::new().scan(rest, &RespLimits::default()) {
        let (value, behind) = rest.split_at(length);
        values.push(String::from_utf8_lossy(value).trim_end().to_owned());
        rest = behind;
    }
    values
}

/// A wrong byte anywhere: everyone whose answer can be told from the stream
/// has it, everyone else hears that nobody knows, by the stall timeout at the
/// latest; and the next connection is a new beginning.
#[test]
fn a_wrong_byte_anywhere_harms_nobody_for_long() {
    for at in 0..ANSWERS.len() {
        for wrong in [b'?', b'\n', b'9', b'-', 0, b'$'] {
            let mut stream = ANSWERS.as_bytes().to_vec();
            stream[at] = wrong;
            check(move |shard, io| {
                Box::pin(async move {
                    let mut played = Played::listen(&io);
                    let fifo = client(&shard, hasty());
                    let call = within(&shard, 60 * SECOND, false);
                    let calls = ["a", "b", "c"].map(|name| start(&shard, &fifo, name, call));
                    let mut peer = played.accept().await;
                    for _ in 0..3 {
                        peer.asked().await;
                    }
                    let told = values(&stream);
                    let case = format!("{wrong:#x} at {at}");
                    tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &stream)
                        .await
                        .unwrap();
                    for (index, call) in calls.into_iter().enumerate() {
                        let expected = told.get(index).cloned();
                        let expected = expected.ok_or(FifoError::OutcomeUnknown);
                        assert_eq!(end(call).await, expected, "{case}");
                    }
                    let surplus = told.len() > 3;
                    let in_step = stream == ANSWERS.as_bytes();
                    if surplus || told.len() < 3 {
                        assert!(!in_step);
                        peer.closed().await;
                        peer = played.accept().await;
                    }
                    // What is left of a garbled stream may be an answer in part
                    // that nobody asked for; whoever asks next finds it out.
                    let next = start(&shard, &fifo, "next", within(&shard, 60 * SECOND, true));
                    let serves = tokio::task::spawn_local(async move {
                        let mut peer = peer;
                        loop {
                            match peer.asked_or_end().await {
                                Some(asked) => {
                                    let _ = peer.try_write(&format!("+{asked}\r\n")).await;
                                }
                                None => peer = played.accept().await,
                            }
                        }
                    });
                    assert_eq!(end(next).await.unwrap(), "+next", "{case}");
                    serves.abort();
                })
            });
        }
    }
}

/// A caller left while its request was half written, and the server read the
/// next request as the rest of it.
#[test]
fn a_request_is_written_whole_whenever_its_caller_leaves() {
    let narrow = Faults {
        capacity: 64,
        ..Faults::default()
    };
    for times in 1..6 {
        let setup = Setup {
            faults: narrow,
            ..Setup::paused()
        };
        check_with(setup, move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                fifo.connected().await.unwrap();
                let mut peer = played.accept().await;
                let long = "long".repeat(500);
                let call = within(&shard, 60 * SECOND, false);
                let request = command(&long);
                assert!(polled(fifo.call(&request, &call), 1).await.is_none());
                // Now it is written as far as there is room.
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
                let next = start(&shard, &fifo, "next", call);
                assert_eq!(peer.asked().await, long);
                assert_eq!(peer.asked().await, "next");
                peer.write("+long\r\n+next\r\n").await;
                assert_eq!(end(next).await.unwrap(), "+next", "left after {times}");
            })
        })
        .server
        .drain();
    }
}

/// A lease is never made again: its user alone knows what was on it.
#[test]
fn a_lease_ends_with_its_connection_at_every_byte() {
    const ANSWER: &str = "*1\r\n$2\r\nhi\r\n";
    for cut in 0..ANSWER.len() {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let _shared = played.accept().await;
                let call = within(&shard, 60 * SECOND, true);
                let lease = fifo.lease(call.deadline).await.unwrap();
                let mut own = played.accept().await;
                let answers = tokio::task::spawn_local(async move {
                    let first = lease.call(&command("x"), &call).await;
                    (first, lease.call(&command("y"), &call).await)
                });
                assert_eq!(own.asked().await, "x");
                own.write(&ANSWER[..cut]).await;
                drop(own);
                let (first, second) = answers.await.unwrap();
                assert_eq!(first, Err(FifoError::OutcomeUnknown), "cut at {cut}");
                assert_eq!(second, Err(FifoError::NotConnected), "cut at {cut}");
            })
        });
    }
}

/// Whoever waited for a message of a subscription and gave up took the next
/// message along: with a deadline on every wait, a quiet subscription lost one
/// message for each that passed.
#[test]
fn waiting_for_a_message_may_be_dropped_at_every_await_point() {
    for times in 0..4 {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let _shared = played.accept().await;
                let call = within(&shard, 60 * SECOND, false);
                let lease = fifo.lease(call.deadline).await.unwrap();
                let mut own = played.accept().await;
                drop(polled(lease.next(&call), times).await);
                own.write("+first\r\n+second\r\n").await;
                for expected in ["+first\r\n", "+second\r\n"] {
                    // The one before may have had to wait for its deadline.
                    let call = within(&shard, 60 * SECOND, false);
                    let next = lease.next(&call).await.unwrap();
                    assert_eq!(next, Bytes::from(expected), "dropped at poll {times}");
                }
            })
        });
    }
}
