//! FIFO clients of servers that come and go, take nothing, or send too much.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::Setup;
use common::played::{
    Notes, Played, SECOND, check, check_with, client, command, config, echo_until_closed, end,
    hasty, polled, start, within,
};
use waystation_net::Faults;
use waystation_net::fifo::{FifoConfig, FifoError, FifoSink};

/// A server that accepts and closes at once made the client spin.
#[test]
fn a_server_that_flaps_does_not_keep_us_busy() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, config());
            let flaps = tokio::task::spawn_local(async move {
                loop {
                    drop(played.accept().await);
                }
            });
            shard.sleep(60 * SECOND).await;
            let connects = shard.counters().connects.get();
            // Pauses of 10 ms to 1 s, doubled each time: 7, then one a second.
            assert!(
                (30..150).contains(&connects),
                "{connects} connections in 60 s"
            );
            drop(fifo);
            flaps.abort();
        })
    });
}

/// A server that closes each connection on the first request, until it is told
/// to stay. Answers then, and notes by connection what was asked.
async fn flap(mut played: Played, stays: Rc<Cell<bool>>, asked: Rc<RefCell<Vec<Vec<String>>>>) {
    loop {
        let mut peer = played.accept().await;
        let mut noted = false;
        while let Some(name) = peer.asked_or_end().await {
            if !stays.get() {
                break;
            }
            if !std::mem::replace(&mut noted, true) {
                asked.borrow_mut().push(Vec::new());
            }
            let on_this = |all: &mut Vec<Vec<String>>| all.last_mut().unwrap().push(name.clone());
            on_this(&mut asked.borrow_mut());
            let _ = peer.try_write(&format!("+{name}\r\n")).await;
        }
    }
}

/// While a server flapped, what was marked idempotent went out again though
/// its caller had left. Here the caller leaves at each await point, also at
/// those between two connections.
#[test]
fn a_call_that_is_sent_again_may_be_dropped_at_every_await_point() {
    for times in 0..24 {
        check(move |shard, io| {
            Box::pin(async move {
                let played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                let (stays, asked) = (Rc::new(Cell::new(false)), Rc::default());
                let server = flap(played, stays.clone(), Rc::clone(&asked));
                let server = tokio::task::spawn_local(server);
                let call = within(&shard, 60 * SECOND, true);
                let request = command("again");
                let dropped = polled(fifo.call(&request, &call), times).await;
                assert!(dropped.is_none(), "nobody answers");
                stays.set(true);
                let next = fifo.call(&command("next"), &call).await;
                assert_eq!(next.unwrap(), "+next\r\n", "dropped at poll {times}");
                // What was on its way may still come, and nothing else.
                let asked: Vec<Vec<String>> = asked.take();
                let (last, before) = asked.split_last().unwrap();
                let repeated = asked.iter().flatten().filter(|name| *name == "again");
                assert!(repeated.count() <= 1 && before.len() <= 1, "{asked:?}");
                assert_eq!(last.last().unwrap(), "next");
                assert_eq!(fifo.in_flight(), 0);
                server.abort();
            })
        });
    }
}

/// Callers who waited for a connection were served last come, first served.
#[test]
fn calls_that_wait_for_a_connection_go_out_in_their_order() {
    const CALLS: usize = 1000;
    check(|shard, io| {
        Box::pin(async move {
            let fifo = client(&shard, hasty());
            let call = within(&shard, 60 * SECOND, false);
            let mut calls = Vec::new();
            for number in 0..CALLS {
                calls.push(start(&shard, &fifo, &number.to_string(), call));
            }
            shard.sleep(SECOND).await;
            let mut peer = Played::listen(&io).accept().await;
            for number in 0..CALLS {
                assert_eq!(peer.asked().await, number.to_string());
                peer.write(&format!(":{number}\r\n")).await;
            }
            for (number, call) in calls.into_iter().enumerate() {
                assert_eq!(end(call).await.unwrap(), format!(":{number}"));
            }
        })
    });
}

/// While a server was down every caller waited for it until his deadline,
/// however many came.
#[test]
fn callers_who_wait_for_a_connection_are_bounded() {
    check(|shard, io| {
        Box::pin(async move {
            let fifo = client(
                &shard,
                FifoConfig {
                    in_flight_max: 3,
                    ..hasty()
                },
            );
            let call = within(&shard, 60 * SECOND, false);
            let waiting = ["a", "b", "c"].map(|name| start(&shard, &fifo, name, call));
            let refused = start(&shard, &fifo, "d", call);
            assert_eq!(end(refused).await, Err(FifoError::Overloaded(3)));
            let [gives_up, others @ ..] = waiting;
            gives_up.abort();
            assert!(gives_up.await.unwrap_err().is_cancelled());
            let taken = start(&shard, &fifo, "e", call);
            let mut peer = Played::listen(&io).accept().await;
            for name in ["b", "c", "e"] {
                assert_eq!(peer.asked().await, name);
                peer.write(&format!("+{name}\r\n")).await;
            }
            let [b, c] = others.map(end);
            assert_eq!(
                (b.await.unwrap(), c.await.unwrap()),
                ("+b".into(), "+c".into())
            );
            assert_eq!(end(taken).await.unwrap(), "+e");
        })
    });
}

/// Requests to a server that does not read them took memory without bound.
#[test]
fn a_server_that_reads_nothing_is_sent_a_bounded_amount() {
    let narrow = Setup {
        faults: Faults {
            capacity: 1000,
            ..Faults::default()
        },
        ..Setup::paused()
    };
    check_with(narrow, |shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            fifo.connected().await.unwrap();
            let deaf = played.accept().await;
            let call = within(&shard, 60 * SECOND, false);
            let large = "x".repeat(100_000);
            let (mut sent, mut refused) = (Vec::new(), 0);
            for _ in 0..200 {
                let running = start(&shard, &fifo, &large, call);
                let before = fifo.in_flight();
                tokio::task::yield_now().await;
                if fifo.in_flight() > before {
                    sent.push(running);
                } else {
                    let error = end(running).await.unwrap_err();
                    assert!(matches!(error, FifoError::Overloaded(_)), "{error}");
                    refused += 1;
                }
            }
            // The bound on the output of a connection is 4 MiB.
            assert!((40..44).contains(&sent.len()), "{} were sent", sent.len());
            assert_eq!(sent.len() + refused, 200);
            for running in sent {
                assert_eq!(end(running).await, Err(FifoError::OutcomeUnknown));
            }
            drop(deaf);
            let server = tokio::task::spawn_local(async move {
                echo_until_closed(played.accept().await).await;
            });
            let next = fifo.call(&command("next"), &call).await;
            assert_eq!(next.unwrap(), "$4\r\nnext\r\n");
            server.abort();
        })
    })
    .server
    .drain();
}

/// A subscription that nobody reads: what comes unasked is kept up to a bound.
#[test]
fn a_flood_of_messages_ends_its_lease() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let shared = played.accept().await;
            let call = within(&shard, 60 * SECOND, false);
            let lease = fifo.lease(call.deadline).await.unwrap();
            let mut own = played.accept().await;
            for _ in 0..4096 {
                own.write("+message\r\n").await;
            }
            let first = lease.next(&call).await;
            assert_eq!(first.unwrap(), "+message\r\n", "they are kept");
            for _ in 0..2 {
                own.write("+message\r\n").await;
            }
            own.closed().await;
            let after = lease.call(&command("x"), &call).await;
            assert_eq!(after, Err(FifoError::NotConnected));
            // The connection that others share knows nothing of it.
            let server = tokio::task::spawn_local(echo_until_closed(shared));
            let next = fifo.call(&command("next"), &call).await;
            assert_eq!(next.unwrap(), "$4\r\nnext\r\n");
            server.abort();
        })
    });
}

/// More answers than requests, at every place in the stream of answers: the
/// client is out of step, and says so to everyone who waits.
#[test]
fn a_surplus_answer_poisons_the_connection_wherever_it_comes() {
    for surplus_after in 0..3 {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                fifo.connected().await.unwrap();
                let mut peer = played.accept().await;
                let call = within(&shard, 60 * SECOND, false);
                for number in 0..surplus_after {
                    let running = start(&shard, &fifo, "x", call);
                    peer.asked().await;
                    peer.write(&format!(":{number}\r\n")).await;
                    assert_eq!(end(running).await.unwrap(), format!(":{number}"));
                }
                peer.write("+surplus\r\n").await;
                peer.closed().await;
                let mut peer = played.accept().await;
                let running = start(&shard, &fifo, "y", call);
                assert_eq!(peer.asked().await, "y");
                peer.write("+Y\r\n").await;
                assert_eq!(end(running).await.unwrap(), "+Y");
            })
        });
    }
}

/// A proxy's batch is told once of its loss, wherever the connection ends in
/// its answers; what had come whole was handed over.
#[test]
fn a_relayed_batch_ends_once_at_every_byte() {
    const ANSWERS: &str = "$2\r\nr0\r\n$2\r\nr1\r\n$2\r\nr2\r\n";
    const ONE: usize = ANSWERS.len() / 3;
    for cut in 0..ANSWERS.len() {
        check(move |shard, io| {
            Box::pin(async move {
                let mut played = Played::listen(&io);
                let fifo = client(&shard, hasty());
                fifo.connected().await.unwrap();
                let mut peer = played.accept().await;
                let notes = Rc::new(Notes::default());
                let sink: Rc<dyn FifoSink> = notes.clone();
                let lane = fifo.lane();
                let batch = ["r0", "r1", "r2"].map(command).concat();
                lane.relay(&batch, 3, &sink, 0).unwrap();
                for name in ["r0", "r1", "r2"] {
                    assert_eq!(peer.asked().await, name);
                }
                peer.write(&ANSWERS[..cut]).await;
                drop(peer);
                drop(played.accept().await);
                let whole = cut / ONE;
                let expected: Vec<_> = (0..3_u64)
                    .map(|number| {
                        let come = usize::try_from(number).unwrap() < whole;
                        let answer = come.then(|| format!("r{number}"));
                        (number, answer.ok_or(FifoError::OutcomeUnknown))
                    })
                    .collect();
                assert_eq!(*notes.answers.borrow(), expected, "cut at {cut}");
            })
        });
    }
}
