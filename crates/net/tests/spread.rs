//! Where connections go: evenly over all shards, to the shard of their key,
//! or away when there are too many.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    Memory, NAME, Notes, Peer, Setup, closed, eventually, figures, on_shard, request, run,
    start_tcp,
};
use waystation_base::ShardId;
use waystation_net::native::Control;
use waystation_net::{Conn, Home, NetConfig, Server};
use waystation_wire::{Decoded, Kind, Status, decode};

fn open_on_each(server: &Server) -> Vec<u64> {
    let workers = server.counters().iter().take(server.remote().shards());
    workers.map(|c| c.connections_open.get()).collect()
}

fn wait_for_open(server: &Server, count: u64) {
    eventually("all are open", || {
        open_on_each(server).iter().sum::<u64>() == count
    });
}

fn assert_even(server: &Server) {
    let open = open_on_each(server);
    let (least, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
    assert!(most - least <= 1, "{open:?}");
}

fn four_shards() -> NetConfig {
    NetConfig {
        shards: 4,
        ..NetConfig::default()
    }
}

/// Connections that all went to one thread left three of four idle.
#[test]
fn connections_spread_evenly_as_they_come_and_go() {
    let setup = Setup {
        config: four_shards(),
        ..Setup::default()
    };
    let memory = setup.start(|_| common::echo_router());
    let mut peers = Vec::new();
    for count in 1..=41 {
        peers.push(memory.dial());
        wait_for_open(&memory.server, count);
        assert_even(&memory.server);
    }
    // Every fourth leaves, all of one shard: newcomers fill the hole.
    for shard in 0..4 {
        let mut index = 0;
        peers.retain(|_| {
            index += 1;
            index % 4 != shard
        });
        wait_for_open(&memory.server, peers.len() as u64);
        while peers.len() < 41 {
            peers.push(memory.dial());
            wait_for_open(&memory.server, peers.len() as u64);
        }
        assert_even(&memory.server);
    }
    drop(peers);
    wait_for_open(&memory.server, 0);
}

#[test]
fn connections_spread_evenly_over_tcp() {
    let (server, address) = start_tcp(four_shards(), |_| common::echo_router());
    run(async {
        let mut peers = Vec::new();
        for _ in 0..22 {
            peers.push(common::connect(address).await);
        }
        wait_for_open(&server, 22);
        assert_even(&server);
        for peer in &mut peers {
            peer.check_echo().await;
        }
    });
    wait_for_open(&server, 0);
}

/// Notes on which shard connections open.
struct Opens(Notes);

impl Control for Opens {
    fn on_open(&self, conn: &Conn) {
        self.0.add(format!("opened on {}", conn.shard().id().0));
    }
}

/// The call id of the first frame is the key.
fn by_first_call(head: &[u8]) -> Home {
    match decode(head) {
        Ok(Decoded::Frame(header)) => Home::Key(header.call.0),
        Ok(Decoded::Need(_)) => Home::NeedMore,
        Err(_) => Home::Here,
    }
}

#[test]
fn a_connection_opens_on_the_shard_of_its_key() {
    let notes = Notes::default();
    let noted = notes.clone();
    let setup = Setup {
        config: four_shards(),
        ..Setup::default()
    };
    let memory = setup.start(move |_| {
        let mut router = common::echo_router();
        router.set_control(Rc::new(Opens(noted.clone())));
        router.set_home(by_first_call);
        router
    });
    run(async {
        let mut peers = Vec::new();
        let mut moved = 0;
        for key in 0..24 {
            let before = notes.list().len();
            let mut peer = memory.dial();
            // In two pieces: the rule has to ask for more.
            let frame = request(key, "test/Echo", b"first");
            peer.write(&frame[..30]).await;
            peer.write(&frame[30..]).await;
            assert_eq!(peer.answer().await, Some((key, b"first".to_vec())));
            let home = memory.server.remote().shard_of(key);
            let opened = notes.list();
            assert_eq!(opened[before..], [format!("opened on {}", home.0)]);
            moved += 1;
            peers.push(peer);
        }
        let counters = memory.server.counters();
        let rehomed: u64 = counters.iter().map(|c| c.rehomed.get()).sum();
        assert!(
            (1..=moved).contains(&rehomed),
            "{rehomed} of {moved} were moved"
        );
        assert!(open_on_each(&memory.server).iter().all(|&open| open > 0));
    });
    wait_for_open(&memory.server, 0);
}

/// A connection that never says enough is closed in time, and a head that
/// grows without end is not kept.
#[test]
fn a_connection_without_a_home_is_closed() {
    let Memory { io, server } = Setup::paused().start(|_| {
        let mut router = common::echo_router();
        router.set_home(|head| {
            if head == b"stay" {
                Home::Here
            } else {
                Home::NeedMore
            }
        });
        router
    });
    let baseline = figures(&server);
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut silent = Peer::new(io.dial(NAME).unwrap());
            let mut endless = Peer::new(io.dial(NAME).unwrap());
            let started = shard.now();
            endless.write(&vec![b'x'; 40_000]).await;
            endless.rest().await;
            assert_eq!(shard.now(), started, "closed for its length");
            silent.write(b"st").await;
            silent.rest().await;
            assert!(shard.now() >= started + waystation_net::limits::HOME_WAIT);
        })
    });
    assert_eq!(closed(&server, "home"), 2);
    common::back_at(&server, &baseline);
    server.drain();
}

/// A rule on outside bytes that panicked took a place of the connection limit
/// each time, until nobody was let in.
#[test]
fn a_panic_in_a_home_rule_takes_no_place() {
    let setup = Setup {
        config: NetConfig {
            connections_max: 3,
            ..NetConfig::default()
        },
        ..Setup::default()
    };
    let memory = setup.start(|_| {
        let mut router = common::echo_router();
        router.set_home(|head| {
            assert!(head.first() != Some(&b'!'), "a rule with a fault");
            if head.is_empty() {
                Home::NeedMore
            } else {
                Home::Here
            }
        });
        router
    });
    run(async {
        for _ in 0..10 {
            let mut peer = memory.dial();
            peer.write(b"!").await;
            assert_eq!(peer.rest().await, b"");
        }
        memory.dial().check_echo().await;
    });
    assert_eq!(memory.counters().panics.get(), 10);
    assert_eq!(memory.counters().refused.get(), 0);
}

/// Who comes when all places are taken is told so in its own protocol.
#[test]
fn above_the_limit_a_connection_is_refused_clearly() {
    let config = NetConfig {
        connections_max: 2,
        ..NetConfig::default()
    };
    let (server, address) = start_tcp(config, |_| common::echo_router());
    run(async {
        let mut first = common::connect(address).await;
        let mut second = common::connect(address).await;
        first.check_echo().await;
        second.check_echo().await;

        let mut native = common::connect(address).await;
        native.request(1, "test/Echo", b"").await;
        let (header, reason) = native.frame().await.unwrap();
        assert_eq!(
            (header.kind, header.status),
            (Kind::GoAway, Status::Overloaded)
        );
        assert_eq!(reason, b"too many connections");
        assert_eq!(native.rest().await, b"");

        let mut http = common::connect(address).await;
        http.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let answer = String::from_utf8(http.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("too many connections"), "{answer}");

        first.check_echo().await;
        second.check_echo().await;
        assert_eq!(server.counters()[0].refused.get(), 2);
        drop(first);
        wait_for_open(&server, 1);
        common::connect(address).await.check_echo().await;
    });
    eventually("they are counted", || closed(&server, "refused") == 2);
}

/// Connections that were being refused counted against the limit, so that a
/// flood kept everyone out of places that were free.
#[test]
fn refusals_under_way_keep_nobody_out() {
    let setup = Setup {
        config: NetConfig {
            connections_max: 2,
            ..NetConfig::default()
        },
        ..Setup::paused()
    };
    let Memory { io, server } = setup.start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let dial = || Peer::new(io.dial(NAME).unwrap());
            let (mut first, mut second) = (dial(), dial());
            first.check_echo().await;
            second.check_echo().await;
            // They say nothing, so it takes a second to refuse them.
            let flood: Vec<_> = (0..300).map(|_| dial()).collect();
            while shard.counters().connections_open.get() < 2 + 256 {
                tokio::task::yield_now().await;
            }
            drop(first);
            while shard.counters().connections_open.get() > 1 + 256 {
                tokio::task::yield_now().await;
            }
            let started = shard.now();
            dial().check_echo().await;
            assert_eq!(shard.now(), started, "it waited for refusals to end");
            // Above the bound on refusals there is not even a word.
            let refused = flood.len() as u64;
            assert_eq!(shard.counters().refused.get(), refused);
        })
    });
    eventually("all refusals ended", || closed(&server, "refused") == 256);
    server.drain();
}

/// A burst of connects is taken in, and those who are there do not notice.
#[test]
fn a_flood_of_connects_is_survived() {
    let setup = Setup {
        config: NetConfig {
            shards: 2,
            connections_max: 50,
            ..NetConfig::default()
        },
        ..Setup::default()
    };
    let memory = setup.start(|_| common::echo_router());
    let baseline = figures(&memory.server);
    let refused = Arc::new(AtomicUsize::new(0));
    run(async {
        let mut resident = memory.dial();
        resident.check_echo().await;
        for _ in 0..20 {
            let flood: Vec<_> = (0..100)
                .filter_map(|_| match memory.io.dial(NAME) {
                    Ok(stream) => Some(stream),
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                        refused.fetch_add(1, Ordering::Relaxed);
                        None
                    }
                })
                .collect();
            resident.check_echo().await;
            drop(flood);
        }
        resident.check_echo().await;
    });
    let accepted = 1 + 2000 - refused.load(Ordering::Relaxed) as u64;
    eventually("all were seen", || {
        common::accepting(&memory.server).accepted.get() == accepted
    });
    common::back_at(&memory.server, &baseline);
    let ends: u64 = memory
        .server
        .counters()
        .iter()
        .map(|c| c.closed.list().iter().map(|(_, n)| n).sum::<u64>())
        .sum();
    let refused: u64 = memory
        .server
        .counters()
        .iter()
        .map(|c| c.refused.get())
        .sum();
    assert!(
        ends + refused >= accepted,
        "{ends} ended, {refused} refused of {accepted}"
    );
}

/// The shard of a key never changes while the number of shards does not.
#[test]
fn keys_spread_over_all_shards() {
    let server = Server::builder(four_shards()).start().unwrap();
    let mut counts = [0_u32; 4];
    for key in 0..4000 {
        let shard = server.remote().shard_of(key);
        assert_eq!(shard, server.remote().shard_of(key));
        counts[usize::from(shard.0)] += 1;
    }
    assert!(
        counts.iter().all(|count| (800..1200).contains(count)),
        "{counts:?}"
    );
    assert!(server.remote().run_on(ShardId(4), |_| ()).is_err());
}
