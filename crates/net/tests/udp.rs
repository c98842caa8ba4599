//! Datagrams: batches, bounds, and calls that end by their deadline.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::Cell;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::{WAIT, eventually, on_shard};
use futures_util::future::LocalBoxFuture;
use waystation_base::Clock as _;
use waystation_net::udp::{
    Udp, UdpCall, UdpClient, UdpClientConfig, UdpConfig, UdpError, UdpListener,
};
use waystation_net::{
    Address, Faults, Io as _, Label, MemoryIo, MonotonicClock, NetConfig, Outgoing, Server, Shard,
};

const NAME: &str = "echo";
const SECOND: Duration = Duration::from_secs(1);

fn echo(socket: &Udp, from: &Address, datagram: &[u8]) {
    match datagram {
        b"panic" => panic!("a handler's fault"),
        b"mute" => {}
        _ => socket.send(from, datagram).unwrap(),
    }
}

/// The first eight bytes.
fn key_of(datagram: &[u8]) -> Option<u64> {
    let key = datagram.first_chunk()?;
    Some(u64::from_le_bytes(*key))
}

fn memory(seed: u64, faults: Faults, udp: UdpConfig) -> (MemoryIo, Server) {
    let io = MemoryIo::new(seed, faults);
    let config = NetConfig {
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let address = Address::Memory(NAME.into());
    let listener = UdpListener::bind(&config, &address, udp).unwrap();
    let server = common::builder(config, true)
        .serve_udp(listener, |_| echo)
        .start()
        .unwrap();
    (io, server)
}

fn client(shard: &Shard) -> UdpClient {
    let config = UdpClientConfig::new(Address::Memory(NAME.into()));
    UdpClient::new(shard, &config, key_of).unwrap()
}

fn call(shard: &Shard, within: Duration, tries: u32) -> UdpCall {
    UdpCall {
        deadline: shard.now() + within,
        tries,
        label: Label::of("echo"),
    }
}

fn check(
    faults: Faults,
    test: impl FnOnce(Shard, UdpClient) -> LocalBoxFuture<'static, ()> + Send + 'static,
) -> Server {
    let (_, server) = memory(7, faults, UdpConfig::default());
    let baseline = common::figures(&server);
    on_shard(&server, 0, move |shard| {
        let client = client(&shard);
        test(shard, client)
    });
    common::back_at(&server, &baseline);
    assert_eq!(server.counters()[0].calls_in_flight.get(), 0);
    server
}

#[test]
fn a_call_gets_the_answer_of_its_key() {
    let server = check(Faults::default(), |shard, client| {
        Box::pin(async move {
            for _ in 0..100 {
                let key = client.next_key();
                let answer = client
                    .call(key, &key.to_le_bytes(), &call(&shard, SECOND, 1))
                    .await;
                assert_eq!(answer.unwrap(), key.to_le_bytes().as_slice());
            }
        })
    });
    assert_eq!(server.counters()[0].calls_failed.get(), 0);
}

/// A lost reply hung the caller for ever: there was no timeout.
#[test]
fn a_lost_answer_ends_at_the_deadline() {
    let lost = Faults {
        loss: 1.0,
        ..Faults::default()
    };
    let server = check(lost, |shard, client| {
        Box::pin(async move {
            let start = shard.now();
            let answer = client.call(1, &[1; 8], &call(&shard, SECOND, 3)).await;
            assert_eq!(answer, Err(UdpError::Timeout));
            assert!(shard.now() >= start + SECOND);
            assert_eq!(client.in_flight(), 0);
        })
    });
    let counters = &server.counters()[0];
    assert_eq!(counters.udp_out.get(), 3, "it was sent as often as asked");
    assert_eq!(counters.calls_failed.get(), 1);
}

/// Under loss, doubles and disorder each call that may be repeated gets its
/// own answer, and what came again or late finds nobody.
#[test]
fn calls_that_are_sent_again_survive_a_bad_network() {
    let bad = Faults {
        loss: 0.3,
        duplicate: 0.3,
        reorder: 0.3,
        ..Faults::default()
    };
    let server = check(bad, |shard, client| {
        Box::pin(async move {
            let calls = (0..200).map(|_| {
                let (shard, client) = (shard.clone(), client.clone());
                async move {
                    let key = client.next_key();
                    let call = call(&shard, 30 * SECOND, 30);
                    let answer = client.call(key, &key.to_le_bytes(), &call).await;
                    assert_eq!(answer.unwrap(), key.to_le_bytes().as_slice());
                }
            });
            futures_util::future::join_all(calls).await;
        })
    });
    assert!(server.counters()[0].late_answers.get() > 0);
}

/// A second try that found the queue full ended the call, though the answer to
/// the first was on its way.
#[test]
fn a_try_that_finds_no_room_leaves_the_one_before_standing() {
    let io = MemoryIo::new(7, Faults::default());
    let config = NetConfig {
        io: Arc::new(io),
        ..NetConfig::default()
    };
    let address = Address::Memory(NAME.into());
    let listener = UdpListener::bind(&config, &address, UdpConfig::default()).unwrap();
    let server = common::builder(config, true)
        .serve_udp(listener, |_| {
            |socket: &Udp, from: &Address, datagram: &[u8]| {
                let (socket, from, answer) = (socket.clone(), from.clone(), datagram.to_vec());
                let shard = socket.shard().clone();
                let later = shard.sleep(3 * SECOND / 2);
                shard.spawn(Label::of("answer"), async move {
                    later.await;
                    socket.send(&from, &answer).unwrap();
                });
            }
        })
        .start()
        .unwrap();
    on_shard(&server, 0, |shard| {
        Box::pin(async move {
            let mut config = UdpClientConfig::new(Address::Memory(NAME.into()));
            config.socket.queue_bytes = 1000;
            let client = UdpClient::new(&shard, &config, key_of).unwrap();
            let (twice, once) = (call(&shard, 2 * SECOND, 2), call(&shard, 2 * SECOND, 1));
            // Both go on when the second try is due, this one first.
            let second_try = shard.sleep(SECOND);
            let fills = async {
                second_try.await;
                client.call(1, &[1; 990], &once).await
            };
            let key = 2_u64.to_le_bytes();
            let tries = client.call(2, &key, &twice);
            let (_, answer) = futures_util::future::join(fills, tries).await;
            assert_eq!(answer.unwrap(), key.as_slice());
        })
    });
    assert_eq!(server.counters()[0].udp_dropped.get(), 1);
}

#[test]
fn what_passes_a_bound_is_refused() {
    let (_, server) = memory(7, Faults::default(), UdpConfig::default());
    on_shard(&server, 0, |shard| {
        Box::pin(async move {
            let mut config = UdpClientConfig::new(Address::Memory(NAME.into()));
            config.in_flight_max = 1;
            config.socket.queue_bytes = 1000;
            let client = UdpClient::new(&shard, &config, key_of).unwrap();
            let late = call(&shard, SECOND, 1);
            let large = client.call(1, &vec![0; 70_000], &late).await;
            assert_eq!(large, Err(UdpError::TooLarge(70_000)));
            let full = client.call(1, &[0; 2000], &late).await;
            assert_eq!(full, Err(UdpError::Full(0)));
            let held = client.clone();
            let running =
                tokio::task::spawn_local(async move { held.call(5, b"mute", &late).await });
            tokio::task::yield_now().await;
            let more = client.call(6, b"mute", &late).await;
            assert_eq!(more, Err(UdpError::Overloaded(1)));
            assert_eq!(running.await.unwrap(), Err(UdpError::Timeout));

            config.in_flight_max = 8;
            let client = UdpClient::new(&shard, &config, key_of).unwrap();
            let held = client.clone();
            let late = call(&shard, SECOND, 1);
            let running =
                tokio::task::spawn_local(async move { held.call(5, b"mute", &late).await });
            tokio::task::yield_now().await;
            let same = client.call(5, b"mute", &late).await;
            assert_eq!(same, Err(UdpError::KeyInUse(5)));
            running.abort();
            let _ = running.await;
            assert_eq!(client.in_flight(), 0, "a call that is dropped leaves");
        })
    });
    assert!(server.counters()[0].udp_dropped.get() >= 2);
}

/// A datagram larger than its place was handled by its first part.
#[test]
fn a_datagram_that_is_too_large_is_dropped_and_a_panic_ends_one_only() {
    let small = UdpConfig {
        datagram_max: 100,
        ..UdpConfig::default()
    };
    let (_, server) = memory(7, Faults::default(), small);
    on_shard(&server, 0, |shard| {
        Box::pin(async move {
            let client = client(&shard);
            let large = client.call(1, &[1; 101], &call(&shard, SECOND, 1)).await;
            assert_eq!(large, Err(UdpError::Timeout));
            let panics = client.call(2, b"panic", &call(&shard, SECOND, 1)).await;
            assert_eq!(panics, Err(UdpError::Timeout));
            let fits = client
                .call(3, &3_u64.to_le_bytes(), &call(&shard, SECOND, 1))
                .await;
            assert_eq!(fits.unwrap(), 3_u64.to_le_bytes().as_slice());
        })
    });
    let counters = &server.counters()[0];
    assert_eq!(counters.udp_too_large.get(), 1);
    assert_eq!(counters.panics.get(), 1);
}

fn loopback(shards: u16, io_shards: u16) -> (Server, std::net::SocketAddr) {
    let config = NetConfig {
        shards,
        io_shards,
        ..NetConfig::default()
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = UdpListener::bind(&config, &address, UdpConfig::default()).unwrap();
    let Address::Tcp(address) = listener.address() else {
        panic!("it has a port")
    };
    let server = Server::builder(config)
        .serve_udp(listener, |_| echo)
        .start()
        .unwrap();
    (server, address)
}

fn peer(to: std::net::SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// A system call for each datagram cost three quarters of the time.
#[test]
fn many_datagrams_share_a_system_call() {
    check_batches(0);
    check_batches(1);
}

fn check_batches(io_shards: u16) {
    let (server, address) = loopback(1, io_shards);
    let socket = peer(address);
    // The shard is busy while they arrive: then all are there at once.
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let busy = move |_: &Shard| {
        let _ = waits.recv_timeout(WAIT);
    };
    let remote = server.remote().clone();
    remote.run_on(waystation_base::ShardId(0), busy).unwrap();
    for number in 0..64_u64 {
        socket.send(&number.to_le_bytes()).unwrap();
    }
    drop(go);
    let mut buffer = [0; 100];
    for number in 0..64_u64 {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], number.to_le_bytes());
    }
    let counters = &server.counters()[0];
    // They are heard before they are counted.
    eventually("all are counted", || counters.udp_out.get() == 64);
    assert_eq!(counters.udp_in.get(), 64);
    assert!(
        counters.udp_reads.get() <= 4,
        "{} reads",
        counters.udp_reads.get()
    );
    assert!(
        counters.udp_writes.get() <= 4,
        "{} writes",
        counters.udp_writes.get()
    );
}

#[test]
fn peers_are_spread_over_shards_and_each_stays_on_one() {
    let (server, address) = loopback(2, 0);
    let mut buffer = [0; 100];
    let peers: Vec<UdpSocket> = (0..64).map(|_| peer(address)).collect();
    for round in 0..3_u64 {
        for socket in &peers {
            socket.send(&round.to_le_bytes()).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], round.to_le_bytes());
        }
    }
    let taken: Vec<u64> = server.counters().iter().map(|c| c.udp_in.get()).collect();
    assert_eq!(taken.iter().sum::<u64>(), 3 * 64);
    // One socket of 64 random ports alone would be 2^-63.
    assert!(
        taken.iter().all(|count| *count > 0 && count % 3 == 0),
        "{taken:?}"
    );
    server.drain();
    assert!(
        UdpSocket::bind(address).is_ok(),
        "a drain closes the sockets"
    );
}

/// Word that nobody listens there came as an error of the socket, and ended
/// the client for good.
#[test]
fn a_server_that_comes_later_is_found() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let server = Server::builder(NetConfig::default()).start().unwrap();
    let answers = server.counters()[0].clone();
    let server = Rc::new(server);
    let start = move |shard: Shard| -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let config = UdpClientConfig::new(address.into());
            let client = UdpClient::new(&shard, &config, key_of).unwrap();
            let call = call(&shard, WAIT, 1000);
            let answer = client.call(9, &9_u64.to_le_bytes(), &call).await;
            assert_eq!(answer.unwrap(), 9_u64.to_le_bytes().as_slice());
        })
    };
    let comes = std::thread::spawn(move || {
        eventually("word came that nobody is there", || {
            answers.udp_errors.get() > 0
        });
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    on_shard(&server, 0, start);
    comes.join().unwrap();
}

/// In split placement the I/O shard received for a worker that computed, and
/// kept all of it.
#[test]
fn a_worker_that_computes_is_sent_no_more_than_fits() {
    const SIZE: usize = 1000;
    /// Datagrams that wait at a socket in memory.
    const MEMORY_INBOX: u64 = 1024;
    let io = MemoryIo::new(9, Faults::default());
    let config = NetConfig {
        io_shards: 1,
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    };
    let bounds = UdpConfig {
        queue_bytes: 64 * SIZE,
        batch: 8,
        ..UdpConfig::default()
    };
    let listener = UdpListener::bind(&config, &Address::Memory(NAME.into()), bounds).unwrap();
    let (heard, hears) = std::sync::mpsc::channel();
    let server = Server::builder(config)
        .serve_udp(listener, move |_| {
            let heard = heard.clone();
            move |_: &Udp, _: &Address, datagram: &[u8]| {
                heard.send(key_of(datagram).unwrap()).unwrap();
            }
        })
        .start()
        .unwrap();
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let busy = move |_: &Shard| {
        let _ = waits.recv_timeout(WAIT);
    };
    let remote = server.remote().clone();
    remote.run_on(waystation_base::ShardId(0), busy).unwrap();
    let sender = io.connect_datagrams(&Address::Memory(NAME.into())).unwrap();
    let mut sender = sender.attach().unwrap();
    let cx = &mut Context::from_waker(Waker::noop());
    let moved = server.counters()[1].clone();
    let sent = Cell::new(0_u64);
    let mut send = || {
        let mut datagram = [0; SIZE];
        datagram[..8].copy_from_slice(&sent.get().to_le_bytes());
        let outgoing = Outgoing {
            to: None,
            bytes: &datagram,
        };
        assert!(sender.poll_send(cx, &[outgoing]).is_ready());
        sent.set(sent.get() + 1);
    };
    let deadline = MonotonicClock.now() + WAIT;
    while moved.split_paused.get() == 0 {
        assert!(MonotonicClock.now() < deadline, "it took {}", sent.get());
        send();
        std::thread::yield_now();
    }
    // From here on the network keeps what it can, and loses the rest.
    let taken_most = sent.get() + MEMORY_INBOX;
    (0..3 * MEMORY_INBOX).for_each(|_| send());
    drop(go);
    for number in 0..64 {
        assert_eq!(hears.recv_timeout(WAIT).unwrap(), number);
    }
    let handled = server.counters()[0].clone();
    server.drain();
    let taken = handled.udp_in.get();
    assert!(taken <= taken_most, "{taken} of {}", sent.get());
}
