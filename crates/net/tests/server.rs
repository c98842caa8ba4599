//! What a server is made of: listeners that are handed over, starts that
//! fail, typed properties, other protocols than the native one.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use common::{NAME, Peer, Setup, eventually, on_shard, run};
use futures_util::future::LocalBoxFuture;
use waystation_base::{Moment, ShardId};
use waystation_net::native::NativeProtocol;
use waystation_net::{
    Address, CloseReason, Conn, Filled, Input, MemoryIo, NetConfig, Protocol, Server, Session,
    Slot, StartError, Turn, listener_from_fd,
};

/// A restart without a gap: the next process serves the same socket.
#[test]
fn a_listener_is_handed_over() {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = bound.local_addr().unwrap();
    let serve = |fd: OwnedFd| {
        let listener = listener_from_fd(fd).unwrap();
        common::builder(NetConfig::default(), false)
            .listen_on(listener, |_| {
                NativeProtocol::new(Rc::new(common::echo_router()))
            })
            .start()
            .unwrap()
    };
    let old = serve(bound.try_clone().unwrap().into());
    assert_eq!(old.addresses(), [Address::Tcp(address)]);
    run(async {
        common::connect(address).await.check_echo().await;
        let new = serve(bound.into());
        old.drain();
        // Who knocks between the two waits in the socket's own queue.
        let mut peer = common::connect(address).await;
        peer.check_echo().await;
        assert_eq!(common::accepting(&new).accepted.get(), 1);
    });
}

#[test]
fn what_is_no_listener_is_refused() {
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = listener_from_fd(one.into()).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_unix_listener_is_handed_over() {
    let path = std::env::temp_dir().join(format!("waystation-fd-{}", std::process::id()));
    let bound = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let listener = listener_from_fd(bound.into()).unwrap();
    assert_eq!(listener.address(), Address::Unix(path.clone()));
    let server = Server::builder(NetConfig::default())
        .listen_on(listener, |_| {
            NativeProtocol::new(Rc::new(common::echo_router()))
        })
        .start()
        .unwrap();
    run(async {
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        Peer::new(stream).check_echo().await;
    });
    server.drain();
    std::fs::remove_file(path).unwrap();
}

/// A shard whose start panicked was missing, and the server said that it runs.
#[test]
fn a_start_that_fails_is_told() {
    let io = MemoryIo::new(1, waystation_net::Faults::default());
    let config = || NetConfig {
        shards: 3,
        io: std::sync::Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let start = |faulty: u16| {
        Server::builder(config())
            .on_shard(move |shard| assert!(shard.id() != ShardId(faulty), "a start with a fault"))
            .listen(Address::Memory(NAME.into()), |_| {
                NativeProtocol::new(Rc::new(common::echo_router()))
            })
            .start()
    };
    for faulty in 0..3 {
        let Err(StartError::Shard(shard, source)) = start(faulty) else {
            panic!("shard {faulty} is missing and nobody says so")
        };
        assert_eq!(shard, ShardId(faulty));
        assert!(source.to_string().contains("panicked"), "{source}");
    }
    // Nothing is left of them: the address is free.
    start(9).unwrap().drain();
    let none = NetConfig {
        shards: 0,
        ..config()
    };
    assert!(matches!(
        Server::builder(none).start(),
        Err(StartError::NoShards)
    ));
}

#[derive(Debug, PartialEq)]
struct User(&'static str);

/// Timer, socket and worker threads were pinned to one CPU by default, and
/// shared it while others idled.
#[test]
fn shards_may_run_wherever_the_process_may() {
    let allowed = || {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
        cpus.collect::<Vec<_>>()
    };
    let memory = Setup::default().start(|_| common::echo_router());
    let on_shard = on_shard(&memory.server, 0, move |_| {
        Box::pin(async move { allowed() })
    });
    assert_eq!(on_shard, allowed());
    memory.server.drain();
}

#[test]
fn properties_are_found_by_their_type() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        let mut peer = memory.dial();
        peer.check_echo().await;
        on_shard(&memory.server, 0, |shard| {
            Box::pin(async move {
                let conn = shard.connections()[0].clone();
                assert_eq!(conn.property::<User>(), None);
                conn.set_property(Rc::new(User("ann")));
                conn.set_property(Rc::new(7_u32));
                assert_eq!(*conn.property::<User>().unwrap(), User("ann"));
                conn.set_property(Rc::new(User("bob")));
                assert_eq!(*conn.property::<User>().unwrap(), User("bob"));
                assert_eq!(conn.property::<u64>(), None);
                // Another handle of the same connection, by name.
                let same = shard.connection(conn.name()).unwrap();
                assert_eq!(*same.take_property::<User>().unwrap(), User("bob"));
                assert_eq!(conn.property::<User>(), None);
                assert_eq!(*conn.property::<u32>().unwrap(), 7);
                assert!(conn.is_accepted() && conn.is_open() && !conn.is_websocket());
                assert!(conn.received() >= conn.opened());
            })
        });
    });
}

/// A protocol of lines, on the same loop.
struct Lines;

struct LineSession;

impl Session for LineSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        let Some(end) = input.bytes().iter().position(|byte| *byte == b'\n') else {
            input.want(1000);
            return match input.len() {
                0..1000 => Ok(Turn::NeedMore),
                _ => Err(CloseReason::Protocol("line_too_long")),
            };
        };
        let line = input.bytes()[..end].to_vec();
        input.consume(end + 1);
        if line == b"quit" {
            return Err(CloseReason::Local);
        }
        let mut answer: Vec<u8> = line.into_iter().rev().collect();
        answer.push(b'\n');
        // A peer that does not read ends by the policy.
        let _ = conn.send(&answer);
        Ok(Turn::Yield)
    }

    fn handle_end(&mut self, conn: &Conn, reason: CloseReason) {
        assert!(conn.is_open() || reason != CloseReason::Reset);
    }
}

impl Protocol for Lines {
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let transport = match slot.transport() {
                Ok(transport) => transport,
                Err(reason) => return reason,
            };
            // Nobody waits for a greeting.
            let _ = transport.conn().send(b"hello\n");
            match transport.fill().await {
                Ok(Filled::Bytes) => transport.run(&mut LineSession).await,
                Ok(_) => CloseReason::Peer,
                Err(reason) => reason,
            }
        })
    }
}

#[test]
fn another_protocol_runs_on_the_same_loop() {
    let io = MemoryIo::new(1, waystation_net::Faults::default());
    let config = NetConfig {
        io: std::sync::Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let server = Server::builder(config)
        .listen(Address::Memory(NAME.into()), |_| Lines)
        .start()
        .unwrap();
    run(async {
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        assert_eq!(peer.until(b"\n").await, b"hello\n");
        peer.write(b"abc\ndef\n").await;
        assert_eq!(peer.until(b"fed\n").await, b"cba\nfed\n");
        peer.write(b"quit\nnot this\n").await;
        assert_eq!(peer.rest().await, b"");
        drop(peer);
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        peer.write(&[b'x'; 2000]).await;
        assert_eq!(peer.rest().await, b"hello\n");
        // What is no reason of ours has a counter in common.
        eventually("it is counted", || common::closed(&server, "protocol") == 1);
        assert_eq!(common::closed(&server, "local"), 1);
    });
    server.drain();
}

/// A wait until the end of time is one.
#[test]
fn far_deadlines_never_come() {
    let memory = Setup::paused().start(|_| common::echo_router());
    on_shard(&memory.server, 0, |shard| {
        Box::pin(async move {
            let far = shard.sleep_until(Moment::FAR_FUTURE);
            let longer = shard.sleep(std::time::Duration::MAX);
            let soon = shard.sleep(std::time::Duration::from_hours(24));
            tokio::select! {
                () = far => panic!("the end of time"),
                () = longer => panic!("the end of time"),
                () = soon => {}
            }
            assert_eq!(shard.load_figures().1, 0, "their deadlines are gone");
        })
    });
}

/// The order in which timers were made says nothing on the order in which
/// they come, and one that was made later may be the first.
#[test]
fn deadlines_come_in_their_order() {
    let memory = Setup::paused().start(|_| common::echo_router());
    let order = on_shard(&memory.server, 0, |shard| {
        Box::pin(async move {
            let order = Rc::new(std::cell::RefCell::new(Vec::new()));
            let tasks: Vec<_> = [900_u64, 3, 70_000, 40, 5_000, 3_600_000, 41, 200]
                .map(|delay_ms| {
                    let (task, order) = (shard.clone(), order.clone());
                    tokio::task::spawn_local(async move {
                        let due = task.now() + std::time::Duration::from_millis(delay_ms);
                        task.sleep_until(due).await;
                        assert!(task.now() >= due);
                        order.borrow_mut().push(delay_ms);
                        // A second one, shorter than all that are pending.
                        task.sleep(std::time::Duration::from_millis(1)).await;
                    })
                })
                .into();
            for task in tasks {
                task.await.unwrap();
            }
            order.take()
        })
    });
    assert_eq!(order, [3, 40, 41, 200, 900, 5_000, 70_000, 3_600_000]);
}
