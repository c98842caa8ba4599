//! Answers leave in the order of requests, and reach nobody else: properties
//! over arbitrary schedules of requests, suspensions, faults and disconnects.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Memory, NAME, Peer, Setup, answer_to, on, on_shard, request};
use proptest::prelude::*;
use waystation_net::native::{Inbound, Router, reply};
use waystation_net::{Conn, Faults, Label, MemoryIo, MemoryStream, NetConfig, Shard};

/// What one client does.
#[derive(Debug, Clone)]
struct Client {
    /// How long each request's handler is suspended, in turns, and how many
    /// bytes its answer has.
    requests: Vec<(u8, u16)>,
    /// Requests that leave in one write.
    burst: usize,
    /// Answers after which it goes away; past their number it stays.
    leaves_after: usize,
}

#[derive(Debug, Clone)]
struct Schedule {
    seed: u64,
    concurrency: u32,
    faults: [f64; 3],
    capacity: usize,
    clients: Vec<Client>,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let client = (
        proptest::collection::vec((0..6_u8, 0..3000_u16), 1..25),
        1..8_usize,
        0..40_usize,
    )
        .prop_map(|(requests, burst, leaves_after)| Client {
            requests,
            burst,
            leaves_after,
        });
    (
        any::<u64>(),
        prop_oneof![Just(1_u32), 2..9_u32],
        [0.0..0.5, 0.0..0.5, 0.0..0.3],
        prop_oneof![Just(100_usize), Just(5000), Just(65_536)],
        proptest::collection::vec(client, 1..5),
    )
        .prop_map(|(seed, concurrency, faults, capacity, clients)| Schedule {
            seed,
            concurrency,
            faults,
            capacity,
            clients,
        })
}

/// Answers with the bytes that the request asks for, after as many turns.
fn slow_echo(concurrency: u32) -> Router {
    let mut router = Router::new();
    router.set_concurrency(concurrency);
    on(
        &mut router,
        "test/Slow",
        |conn: &Conn, message: Inbound<'_>| {
            let (conn, header) = (conn.clone(), answer_to(message.header));
            let body = message.body.to_vec();
            let turns = body[1];
            if turns == 0 {
                let _ = reply(&conn, &header, &body);
                return None;
            }
            let (shard, guard) = (conn.shard().clone(), conn.handler_guard());
            let finish = async move {
                for turn in 0..turns {
                    if turn % 2 == 0 {
                        tokio::task::yield_now().await;
                    } else {
                        conn.shard().sleep(Duration::from_millis(2)).await;
                    }
                }
                let _ = reply(&conn, &header, &body);
            };
            if turns >= 4 {
                // Something else answers; the guard counts as a handler that runs.
                shard.spawn(Label::of("answers later"), async move {
                    let _guard = guard;
                    finish.await;
                });
                return None;
            }
            Some(Box::pin(finish))
        },
    );
    router
}

fn body(client: usize, turns: u8, index: usize, length: u16) -> Vec<u8> {
    let mut body = vec![u8::try_from(client).unwrap(), turns];
    body.extend(u32::try_from(index).unwrap().to_le_bytes());
    body.resize(
        body.len() + usize::from(length),
        u8::try_from(index % 251).unwrap(),
    );
    body
}

/// Sends all, reads all, and says which calls were answered, in order.
async fn drive(io: MemoryIo, number: usize, client: Client) -> Vec<u64> {
    let peer: Peer<MemoryStream> = Peer::new(io.dial(NAME).unwrap());
    let bodies: Vec<Vec<u8>> = (0..)
        .zip(&client.requests)
        .map(|(index, &(turns, length))| body(number, turns, index, length))
        .collect();
    let (read, mut write) = tokio::io::split(peer.stream);
    let sent = bodies.clone();
    let sender = tokio::task::spawn_local(async move {
        let frames: Vec<Vec<u8>> = (1..)
            .zip(&sent)
            .map(|(call, body)| request(call, "test/Slow", body))
            .collect();
        for burst in frames.chunks(client.burst) {
            if tokio::io::AsyncWriteExt::write_all(&mut write, &burst.concat())
                .await
                .is_err()
            {
                break;
            }
        }
        write
    });
    let mut peer = Peer::new(tokio::io::join(read, tokio::io::sink()));
    let mut answered = Vec::new();
    while answered.len() < bodies.len().min(client.leaves_after) {
        let Some((call, body)) = peer.answer().await else {
            break;
        };
        assert_eq!(
            body[0],
            u8::try_from(number).unwrap(),
            "somebody else's answer"
        );
        assert_eq!(
            body,
            bodies[usize::try_from(call).unwrap() - 1],
            "another call's answer"
        );
        answered.push(call);
    }
    let everything = answered.len() == bodies.len();
    sender.abort();
    assert!(
        everything || client.leaves_after < bodies.len(),
        "the connection was lost"
    );
    answered
}

fn check(schedule: &Schedule) {
    let [short, spurious, delay] = schedule.faults;
    let setup = Setup {
        config: NetConfig {
            // Names wrap during the test.
            first_generation: u32::MAX - 1,
            ..NetConfig::default()
        },
        faults: Faults {
            short,
            spurious,
            delay,
            capacity: schedule.capacity,
            ..Faults::default()
        },
        seed: schedule.seed,
        paused: true,
    };
    let concurrency = schedule.concurrency;
    let Memory { io, server } = setup.start(move |_| slow_echo(concurrency));
    let clients = schedule.clients.clone();
    let answered = on_shard(&server, 0, move |_: Shard| {
        Box::pin(async move {
            let tasks: Vec<_> = (0..)
                .zip(clients)
                .map(|(number, client)| tokio::task::spawn_local(drive(io.clone(), number, client)))
                .collect();
            let mut answered = Vec::new();
            for task in tasks {
                answered.push(task.await.unwrap());
            }
            answered
        })
    });
    for (client, calls) in schedule.clients.iter().zip(answered) {
        assert_eq!(calls.len(), client.requests.len().min(client.leaves_after));
        let distinct: BTreeSet<u64> = calls.iter().copied().collect();
        assert_eq!(distinct.len(), calls.len(), "a call was answered twice");
        if concurrency == 1 {
            let in_order: Vec<u64> = (1..).take(calls.len()).collect();
            assert_eq!(calls, in_order, "answers passed one another");
        }
    }
    // Everyone is gone: so is everything of theirs.
    common::eventually("the slots are free", || {
        let counters = &server.counters()[0];
        counters.connections_open.get() == 0 && counters.connections_closing.get() == 0
    });
    server.drain();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// When the next packet of a connection was handled before the previous
    /// one's database answer came, results were wrong and nobody found out why.
    #[test]
    fn every_call_gets_its_own_answer_in_order(schedule in schedules()) {
        check(&schedule);
    }
}

/// Cuts at any operation: nothing panics, nobody gets what is not theirs, and
/// every slot comes back.
#[test]
fn cut_connections_leave_nothing_behind() {
    for seed in 0..30 {
        let setup = Setup {
            faults: Faults {
                short: 0.2,
                spurious: 0.2,
                cut: 0.05,
                ..Faults::default()
            },
            seed,
            ..Setup::paused()
        };
        let Memory { io, server } =
            setup.start(move |_| slow_echo(1 + u32::try_from(seed).unwrap() % 3));
        let baseline = common::figures(&server);
        let answers = on_shard(&server, 0, move |_| {
            Box::pin(async move {
                let mut answers = 0;
                for round in 0..20 {
                    let mut peer = Peer::new(io.dial(NAME).unwrap());
                    for call in 1..6 {
                        let frame = request(call, "test/Slow", &body(round, 3, 0, 500));
                        let write = tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &frame);
                        if write.await.is_err() {
                            break;
                        }
                    }
                    while let Some((_, body)) = peer.answer().await {
                        assert_eq!(usize::from(body[0]), round, "somebody else's answer");
                        answers += 1;
                        if answers % 5 == 0 {
                            break;
                        }
                    }
                }
                answers
            })
        });
        assert!(answers > 0, "seed {seed} cut everything at once");
        common::back_at(&server, &baseline);
        assert_eq!(server.counters()[0].panics.get(), 0, "seed {seed}");
        server.drain();
    }
}
