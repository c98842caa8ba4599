//! Messages to connections and shards from any thread.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use common::{Memory, Notes, Setup, eventually, on_shard, run};
use waystation_base::{ConnName, ShardId};
use waystation_net::limits::MAILBOX_MESSAGES;
use waystation_net::{Conn, NetConfig, RemoteError, Server};

fn two_shards() -> Memory {
    let setup = Setup {
        config: NetConfig {
            shards: 2,
            ..NetConfig::default()
        },
        ..Setup::default()
    };
    setup.start(|_| common::echo_router())
}

fn names(server: &Server, shard: u16) -> Vec<ConnName> {
    on_shard(server, shard, |shard| {
        Box::pin(async move { shard.connections().iter().map(Conn::name).collect() })
    })
}

#[test]
fn messages_reach_one_connection_one_shard_or_all() {
    let memory = two_shards();
    let remote = memory.server.remote().clone();
    run(async {
        let mut peers = Vec::new();
        for _ in 0..4 {
            let mut peer = memory.dial();
            peer.check_echo().await;
            let names = [names(&memory.server, 0), names(&memory.server, 1)].concat();
            let known: Vec<ConnName> = peers.iter().map(|(name, _)| *name).collect();
            let name = names
                .into_iter()
                .find(|name| !known.contains(name))
                .unwrap();
            peers.push((name, peer));
        }
        // From a thread that is no shard.
        let addressed: Vec<ConnName> = peers.iter().map(|(name, _)| *name).collect();
        std::thread::spawn(move || {
            for name in addressed {
                let text = format!("to {name};");
                remote.send(name, Bytes::from(text.into_bytes())).unwrap();
            }
            remote
                .send_to_shard(ShardId(1), Bytes::from_static(b"to shard 1;"))
                .unwrap();
            remote.send_to_all(&Bytes::from_static(b"to all;")).unwrap();
        })
        .join()
        .unwrap();
        for (name, peer) in &mut peers {
            let mut expected = format!("to {name};");
            if name.shard == ShardId(1) {
                expected.push_str("to shard 1;");
            }
            expected.push_str("to all;");
            let received = peer.until(b"to all;").await;
            assert_eq!(String::from_utf8(received).unwrap(), expected);
            peer.check_echo().await;
        }
        let on_one = peers
            .iter()
            .filter(|(name, _)| name.shard == ShardId(1))
            .count();
        assert_eq!(on_one, 2);
    });
}

/// Messages of one sender to one connection stay in order, whatever others do.
#[test]
fn messages_of_one_sender_stay_in_order() {
    const MESSAGES: u32 = 2_000;
    let memory = two_shards();
    run(async {
        let mut peer = memory.dial();
        peer.check_echo().await;
        let name = [names(&memory.server, 0), names(&memory.server, 1)].concat()[0];
        let senders: Vec<_> = (0..3_u8)
            .map(|sender| {
                let remote = memory.server.remote().clone();
                std::thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let mut message = vec![sender];
                        message.extend(number.to_le_bytes());
                        remote.send(name, message.into()).unwrap();
                    }
                })
            })
            .collect();
        let mut next = [0_u32; 3];
        while next != [MESSAGES; 3] {
            assert!(peer.read().await);
            while peer.received.len() >= 5 {
                let message: Vec<u8> = peer.received.drain(..5).collect();
                let sender = usize::from(message[0]);
                let number = u32::from_le_bytes(message[1..].try_into().unwrap());
                assert_eq!(number, next[sender]);
                next[sender] += 1;
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn stale_names_are_counted_where_they_arrive() {
    let memory = two_shards();
    run(async {
        let mut peer = memory.dial();
        peer.check_echo().await;
        let name = [names(&memory.server, 0), names(&memory.server, 1)].concat()[0];
        drop(peer);
        let counters = &memory.server.counters()[usize::from(name.shard.0)];
        eventually("it is gone", || {
            counters.connections_open.get() + counters.connections_closing.get() == 0
        });
        // The slot serves another by now; the old name means nobody.
        let mut others = vec![memory.dial(), memory.dial()];
        for other in &mut others {
            other.check_echo().await;
        }
        let remote = memory.server.remote();
        remote.send(name, Bytes::from_static(b"stale")).unwrap();
        eventually("it is counted", || counters.stale_sends.get() == 1);
        for other in &mut others {
            other.check_echo().await;
            assert_eq!(other.received, b"");
        }
        let nowhere = ConnName {
            shard: ShardId(9),
            ..name
        };
        let error = remote.send(nowhere, Bytes::new()).unwrap_err();
        assert_eq!(error, RemoteError::Ended(ShardId(9)));
    });
}

/// A shard that is busy, so that its mailbox fills up.
struct Busy {
    release: Arc<Barrier>,
}

impl Busy {
    fn block(server: &Server) -> Self {
        let release = Arc::new(Barrier::new(2));
        let (begun, blocked) = mpsc::channel();
        let waits = release.clone();
        let block = move |_: &waystation_net::Shard| {
            begun.send(()).unwrap();
            waits.wait();
        };
        server.remote().run_on(ShardId(0), block).unwrap();
        blocked.recv_timeout(common::WAIT).unwrap();
        Self { release }
    }

    fn go_on(self) {
        self.release.wait();
    }
}

#[test]
fn a_full_mailbox_refuses() {
    let memory = Setup::default().start(|_| common::echo_router());
    let notes = Notes::default();
    let busy = Busy::block(&memory.server);
    let remote = memory.server.remote();
    let mut taken = 0;
    let refused = loop {
        match remote.run_on(ShardId(0), |_| ()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, RemoteError::Full(ShardId(0)));
    assert_eq!(taken, MAILBOX_MESSAGES);
    busy.go_on();
    eventually("all are taken out", || {
        memory.counters().mailbox_in.get() > MAILBOX_MESSAGES as u64
    });
    let noted = notes.clone();
    remote
        .run_on(ShardId(0), move |_| noted.add("ran"))
        .unwrap();
    eventually("there is room again", || notes.count("ran") == 1);
}

/// The order to stop was lost when the mailbox was full, and whoever waited
/// for the end waited for ever.
#[test]
fn a_full_mailbox_does_not_prevent_the_end() {
    let memory = Setup::default().start(|_| common::echo_router());
    let counters = memory.server.counters()[0].clone();
    let busy = Busy::block(&memory.server);
    while memory.server.remote().run_on(ShardId(0), |_| ()).is_ok() {}
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        memory.server.drain();
        ended.send(()).unwrap();
    });
    assert!(end.recv_timeout(Duration::from_millis(50)).is_err());
    busy.go_on();
    end.recv_timeout(common::WAIT).unwrap();
    assert!(counters.mailbox_in.get() > MAILBOX_MESSAGES as u64);
}

#[test]
fn a_panic_in_a_message_is_counted_and_the_next_is_taken() {
    let memory = Setup::default().start(|_| common::echo_router());
    let remote = memory.server.remote();
    remote
        .run_on(ShardId(0), |_| panic!("a job with a fault"))
        .unwrap();
    run(async { memory.dial().check_echo().await });
    assert_eq!(memory.counters().panics.get(), 1);
}

/// What ends meanwhile answers so.
#[test]
fn a_shard_that_has_ended_says_so() {
    let memory = Setup::default().start(|_| common::echo_router());
    let remote = memory.server.remote().clone();
    memory.server.drain();
    let error = remote.run_on(ShardId(0), |_| ()).unwrap_err();
    assert_eq!(error, RemoteError::Ended(ShardId(0)));
    assert!(remote.send_to_all(&Bytes::new()).is_err());
}
