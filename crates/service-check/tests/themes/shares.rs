//! One caller floods; those who ask little are served as if it did not.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join, join_all};
use prost::Message;
use waystation_net::{Address, MemoryIo};
use waystation_service::Code;
use waystation_service::limits::{CALLS_AT_ONCE, REQUESTS_PER_CALLER};
use waystation_service_check::demo::shop::method::{Act as Acting, Echo};
use waystation_service_check::demo::{Act, Parcel, Report, Script};
use waystation_service_check::{
    NativeListener, NativePeer, Stage, block_on, depot, memory, metric, shop, shop_with,
    wait_for_metric,
};
use waystation_wire::{Header, Kind};

use crate::script;

/// A connection whose requests are those of `name`.
async fn dial_as(io: &MemoryIo, name: &str) -> NativePeer {
    let mut peer = NativePeer::dial(io, "shop");
    let script = Script {
        name: name.to_owned(),
        ..script(&[Act::Name])
    };
    peer.request::<Acting>(0, &script).await;
    assert!(peer.answer::<Acting>().await.1.is_ok());
    peer
}

/// A user with 60 connections had as many requests in progress as fit a
/// process, and everyone else was refused.
#[test]
fn a_caller_with_many_connections_has_one_share() {
    const EACH: u64 = 8;
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, |router| {
        router.limits(40, Duration::from_secs(20));
        router.share(10);
    });
    let app = app.start().unwrap();
    block_on(async {
        let mut flood = Vec::new();
        for _ in 0..5 {
            let mut peer = dial_as(&io, "mallory").await;
            for call in 1..=EACH {
                peer.request::<Acting>(call, &script(&[Act::Gate])).await;
            }
            // All are read when this is answered.
            peer.ping().await;
            flood.push(peer);
        }
        stage.gated.happened(10).await;
        let mut users = Vec::new();
        for _ in 0..10 {
            let mut user = NativePeer::dial(&io, "shop");
            user.request::<Acting>(1, &script(&[Act::Gate])).await;
            users.push(user);
        }
        stage.gated.happened(20).await;
        stage.gate.raise();
        for user in &mut users {
            assert!(user.answer::<Acting>().await.1.is_ok());
        }
        // The first had eight of the ten places, the second two. When it has
        // its answers the flooder may ask again.
        for (peer, answers) in flood.iter_mut().zip([EACH, 10 - EACH]) {
            for _ in 0..answers {
                assert_eq!(peer.answer_to().await.1, Code::Ok);
            }
        }
        for peer in &mut flood {
            peer.request::<Echo>(100, &Parcel::default()).await;
            assert_eq!(peer.answer_to().await, (100, Code::Ok));
        }
    });
    assert_eq!(stage.gated.count(), 20);
    app.drain();
}

/// A refusal says whose fault it is.
#[test]
fn who_has_its_share_is_told_so() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, |router| router.share(1))
        .start()
        .unwrap();
    block_on(async {
        let mut first = dial_as(&io, "mallory").await;
        first.request::<Acting>(1, &script(&[Act::Gate])).await;
        stage.gated.happened(1).await;
        let mut second = dial_as(&io, "mallory").await;
        second.request::<Echo>(2, &Parcel::default()).await;
        let (header, reason) = second.receive_kind(Kind::Reply).await;
        assert_eq!(header.status, Code::Overloaded);
        let reason = String::from_utf8(reason).unwrap();
        assert_eq!(
            reason,
            "1 requests of this caller are in progress, which is its share"
        );
        stage.gate.raise();
        first.receive_kind(Kind::Reply).await;
    });
    app.drain();
}

/// Calls to the next layer stood in one queue: behind 15,000 of one user those
/// of others were not even sent before their deadlines, and failed as "not
/// connected". Now callers have their turns in rotation.
#[test]
fn calls_of_others_do_not_stand_behind_a_flood() {
    const EACH: usize = 200;
    const FLOOD: usize = 3 * EACH;
    const USERS: usize = 20;
    let (io, stage) = (memory(), Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let app = shop_with(&io, &stage, |router| router.share(10_000));
    let app = app.admin(Address::Unix(socket.clone())).start().unwrap();
    let in_flight = |count: usize| {
        wait_for_metric(&socket, "waystation_requests_in_flight", count as u64);
    };
    let call = |name: &str| Script {
        name: name.to_owned(),
        ..script(&[Act::Call])
    };
    let (mut depot, flood, mut users) = block_on(async {
        // The shop finds it once it listens.
        let depot = NativeListener::bind(&io, "depot").accept().await;
        let mut flood = Vec::new();
        for _ in 0..3 {
            let mut peer = dial_as(&io, "mallory").await;
            for n in 1..=EACH as u64 {
                peer.request::<Acting>(n, &call("mallory")).await;
            }
            flood.push(peer);
        }
        (depot, flood, Vec::new())
    });
    in_flight(FLOOD);
    block_on(async {
        for n in 0..USERS {
            let mut user = dial_as(&io, &format!("user {n}")).await;
            user.request::<Acting>(1, &call(&format!("user {n}"))).await;
            users.push(user);
        }
    });
    in_flight(FLOOD + USERS);
    let waited = metric(&socket, "waystation_calls_waited_total");
    assert!(waited >= (FLOOD - CALLS_AT_ONCE) as u64, "{waited}");
    block_on(async {
        let mut asked = Vec::new();
        while asked.len() < CALLS_AT_ONCE {
            asked.push(next_call(&mut depot).await);
        }
        assert!(asked.iter().all(|(_, name)| name == "mallory"));
        // Each answer makes room for one call: of each caller in turn.
        let mut served = BTreeSet::new();
        for place in 0..=USERS {
            depot.reply(&asked[place].0, &Report::default()).await;
            let next = next_call(&mut depot).await;
            served.insert(next.1.clone());
            asked.push(next);
        }
        assert_eq!(served.len(), USERS + 1, "{served:?}");
        for place in USERS + 1..FLOOD + USERS {
            depot.reply(&asked[place].0, &Report::default()).await;
            if asked.len() < FLOOD + USERS {
                asked.push(next_call(&mut depot).await);
            }
        }
        for user in &mut users {
            assert!(user.answer::<Acting>().await.1.is_ok());
        }
    });
    drop(flood);
    app.drain();
}

/// The next call that the shop makes, and for whom.
async fn next_call(depot: &mut NativePeer) -> (Header, String) {
    loop {
        let (header, body) = depot.receive().await.unwrap();
        match header.kind {
            Kind::Request => return (header, Script::decode(&*body).unwrap().name),
            Kind::Ping => {
                depot.send(&Header::pong(header.call), &[]).await;
            }
            _ => {}
        }
    }
}

/// The whole: a user with as many requests in progress on each of its
/// connections as a connection may have, and others who ask now and then.
#[test]
fn nobody_fails_because_another_floods() {
    const CONNECTIONS: u64 = 4;
    const USERS: u64 = 20;
    const ASKS: u64 = 15;
    let (io, stage) = (memory(), Stage::default());
    let depot = depot(&io, &stage).start().unwrap();
    let app = shop(&io, &stage).start().unwrap();
    let call = script(&[Act::Call, Act::Large]);
    let refused = block_on(async {
        let flood = (0..CONNECTIONS).map(|_| async {
            let mut peer = dial_as(&io, "mallory").await;
            let most = REQUESTS_PER_CALLER as u64;
            for n in 0..most {
                peer.request::<Acting>(n, &call).await;
            }
            let mut refused = 0;
            loop {
                let (n, code) = peer.answer_to().await;
                refused += u64::from(code != Code::Ok);
                assert!(matches!(code, Code::Ok | Code::Overloaded), "{code}");
                if stage.noted.count() == USERS {
                    return refused;
                }
                peer.request::<Acting>(n, &call).await;
            }
        });
        let users = (0..USERS).map(|n| {
            let (io, stage) = (&io, &stage);
            async move {
                let mut user = dial_as(io, &format!("user {n}")).await;
                for ask in 0..ASKS {
                    user.request::<Acting>(ask, &script(&[Act::Call])).await;
                    assert_eq!(user.answer_to().await, (ask, Code::Ok));
                }
                stage.noted.raise();
            }
        });
        let (refused, _) = join(join_all(flood), join_all(users)).await;
        refused.into_iter().sum::<u64>()
    });
    assert!(refused > 0, "the flood was none");
    app.drain();
    depot.drain();
}
