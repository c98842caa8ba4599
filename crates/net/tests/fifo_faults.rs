//! FIFO clients when callers go away at any moment and servers do their worst.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;

use common::Setup;
use common::played::{
    Notes, Played, SECOND, check, check_with, client, command, config, echo_until_closed, end,
    hasty, polled, start, within,
};
use tokio::io::AsyncReadExt;
use waystation_net::fifo::{Fifo, FifoCodec, FifoConfig, FifoError, FifoScan, FifoSink};

/// A caller that went away at an unlucky moment left half a request behind, or
/// took its place along. Here one goes away at each of its await points, with
/// and without a connection; the next one's request is whole (the played
/// server would panic) and the answer its own.
#[test]
fn a_call_may_be_dropped_at_every_await_point() {
    for connected in [true, false] {
        for times in 0..8 {
            check(move |shard, io| {
                Box::pin(async move {
                    let mut played = Played::listen(&io);
                    let fifo = client(&shard, hasty());
                    let server = tokio::task::spawn_local(async move {
                        echo_until_closed(played.accept().await).await;
                    });
                    while connected && fifo.up() == 0 {
                        tokio::task::yield_now().await;
                    }
                    let call = within(&shard, 60 * SECOND, false);
                    let request = command("dropped");
                    let dropped = polled(fifo.call(&request, &call), times).await;
                    if let Some(answer) = dropped {
                        assert_eq!(answer.unwrap(), "$7\r\ndropped\r\n");
                    }
                    let next = fifo.call(&command("next"), &call).await;
                    assert_eq!(next.unwrap(), "$4\r\nnext\r\n", "dropped at poll {times}");
                    assert_eq!(fifo.in_flight(), 0);
                    server.abort();
                })
            });
        }
    }
}

/// A lease that was given up while it connected stayed counted, and in the end
/// none was left.
#[test]
fn a_lease_may_be_dropped_at_every_await_point() {
    for times in 0..8 {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let settings = FifoConfig {
                    leases_max: 1,
                    ..hasty()
                };
                let fifo = client(&shard, settings);
                let server = tokio::task::spawn_local(async move {
                    loop {
                        tokio::task::spawn_local(echo_until_closed(played.accept().await));
                    }
                });
                let call = within(&shard, 60 * SECOND, false);
                drop(polled(fifo.lease(call.deadline), times).await);
                let lease = fifo.lease(call.deadline).await.unwrap();
                let request = command("dropped");
                drop(polled(lease.call(&request, &call), times).await);
                let next = lease.call(&command("next"), &call).await;
                assert_eq!(next.unwrap(), "$4\r\nnext\r\n", "dropped at poll {times}");
                server.abort();
            })
        });
    }
}

/// The server accepts and closes, again and again, at every byte of a request.
#[test]
fn a_flapping_server_is_tried_until_it_answers() {
    let length = command("again").len();
    check_with(Setup::paused(), move |shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let again = start(&shard, &fifo, "again", within(&shard, 60 * SECOND, true));
            for read in 0..length {
                let mut peer = played.accept().await;
                let mut bytes = vec![0; read];
                peer.stream.read_exact(&mut bytes).await.unwrap();
                assert_eq!(bytes, command("again")[..read]);
                drop(peer);
            }
            let mut peer = played.accept().await;
            assert_eq!(peer.asked().await, "again");
            peer.write("+done\r\n").await;
            assert_eq!(end(again).await.unwrap(), "+done");
        })
    })
    .server
    .drain();
}

/// The server answers one of two, and then never: too little.
#[test]
fn an_answer_too_few_ends_by_the_stall_timeout() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let call = within(&shard, 60 * SECOND, false);
            let first = start(&shard, &fifo, "a", call);
            let second = start(&shard, &fifo, "b", call);
            let mut peer = played.accept().await;
            peer.asked().await;
            peer.asked().await;
            peer.write("+A\r\n$5\r\nhel").await;
            assert_eq!(end(first).await.unwrap(), "+A");
            assert_eq!(end(second).await, Err(FifoError::OutcomeUnknown));
            peer.closed().await;
        })
    });
}

/// Those who waited on a connection that was given up heard of it only when
/// its socket had ended, which a server that does not close it delays.
#[test]
fn waiters_fail_at_once_though_the_socket_ends_slowly() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let waits = start(&shard, &fifo, "a", within(&shard, 60 * SECOND, false));
            let mut peer = played.accept().await;
            peer.asked().await;
            let before = shard.now();
            peer.write("?what\r\n").await;
            assert_eq!(end(waits).await, Err(FifoError::OutcomeUnknown));
            // The clock stands still unless everything waits for it.
            assert_eq!(shard.now(), before);
            peer.closed().await;
        })
    });
}

/// Panics at the second answer.
struct Fragile {
    answers: u32,
}

impl FifoCodec for Fragile {
    type Answer = usize;

    fn scan(&mut self, input: &[u8]) -> Result<FifoScan, &'static str> {
        let end = input.iter().position(|&byte| byte == b'\n');
        Ok(end.map_or(FifoScan::Need(input.len() + 1), |end| {
            FifoScan::Answer(end + 1)
        }))
    }

    fn read(&mut self, answer: &[u8]) -> Result<usize, &'static str> {
        self.answers += 1;
        assert!(self.answers < 2, "the test wants it");
        Ok(answer.len())
    }
}

/// A panic in the reader left everyone behind it waiting for ever.
#[test]
fn a_panic_in_a_codec_fails_its_connection_and_nothing_else() {
    let memory = check_with(Setup::paused(), |shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = Fifo::new(&shard, hasty(), || Fragile { answers: 0 });
            let call = within(&shard, 60 * SECOND, false);
            let ask = |name: &str| {
                let (fifo, request) = (fifo.clone(), command(name));
                tokio::task::spawn_local(async move { fifo.call(&request, &call).await })
            };
            let asked = [ask("a"), ask("b"), ask("c")];
            let mut peer = played.accept().await;
            peer.asked().await;
            peer.write("+1\r\n+2\r\n+3\r\n").await;
            let mut answers = Vec::new();
            for asked in asked {
                answers.push(asked.await.unwrap());
            }
            let unknown = Err(FifoError::OutcomeUnknown);
            assert_eq!(answers, [Ok(4), unknown, unknown]);
            let next = ask("d");
            let mut peer = played.accept().await;
            assert_eq!(peer.asked().await, "d");
            peer.write("+four\r\n").await;
            assert_eq!(next.await.unwrap(), Ok(7));
        })
    });
    assert_eq!(memory.server.counters()[0].panics.get(), 1);
    memory.server.drain();
}

#[test]
fn relayed_batches_are_answered_between_the_calls_around_them() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let notes = Rc::new(Notes::default());
            let sink: Rc<dyn FifoSink> = notes.clone();
            let lane = fifo.lane();
            assert_eq!(
                lane.relay(&command("r"), 1, &sink, 7),
                Err(FifoError::NotConnected)
            );
            let mut peer = played.accept().await;
            let call = within(&shard, SECOND, false);
            let before = start(&shard, &fifo, "before", call);
            assert_eq!(peer.asked().await, "before");
            let batch: Vec<u8> = ["r0", "r1", "r2"].map(command).concat();
            lane.relay(&batch, 3, &sink, 0).unwrap();
            let behind = start(&shard, &fifo, "behind", call);
            for name in ["r0", "r1", "r2", "behind"] {
                assert_eq!(peer.asked().await, name);
            }
            assert_eq!(fifo.in_flight(), 5);
            // Cut within the batch.
            peer.write("+B\r\n$2\r\nr0\r\n$2\r\nr").await;
            assert_eq!(end(before).await.unwrap(), "+B");
            peer.write("1\r\n$2\r\nr2\r\n+C\r\n").await;
            assert_eq!(end(behind).await.unwrap(), "+C");
            let expected = ["r0", "r1", "r2"].map(|text| Ok(text.to_owned()));
            let expected: Vec<_> = (0..).zip(expected).collect();
            assert_eq!(*notes.answers.borrow(), expected);
            assert_eq!(fifo.in_flight(), 0);
            drop(lane);
        })
    });
}

/// Nothing listens at first.
#[test]
fn a_server_that_comes_late_is_found() {
    check(|shard, io| {
        Box::pin(async move {
            let fifo = client(&shard, hasty());
            let call = start(&shard, &fifo, "a", within(&shard, 60 * SECOND, false));
            shard.sleep(SECOND).await;
            assert!(io.dial(common::played::REDIS).is_err());
            let mut played = Played::listen(&io);
            let mut peer = played.accept().await;
            assert_eq!(peer.asked().await, "a");
            peer.write("+A\r\n").await;
            assert_eq!(end(call).await.unwrap(), "+A");
        })
    });
}
