//! Answers to peers that read more slowly than they ask: they wait for room,
//! and none is lost.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use waystation_base::CallId;
use waystation_net::limits::OUTPUT_BYTES_MAX;
use waystation_net::{Address, Faults, MemoryIo, NetConfig, SlowReader};
use waystation_service::limits::ANSWERS_WAITING_BYTES;
use waystation_service::{Code, Method};
use waystation_service_check::demo::Act;
use waystation_service_check::demo::shop::method::Act as Acting;
use waystation_service_check::{
    NativePeer, Stage, WebSocketPeer, block_on, config, memory, metric, shop, shop_under,
    wait_for_metric, with_deadlines,
};
use waystation_wire::{Header, Kind, encode_into};

use crate::script;

/// Requests of 20 KB answers each: many times what a slow reader may have.
const ASKED: u64 = 30;

/// A large answer that waits for the test: the first of many would put their
/// reader so far behind that the requests after it are not read.
const GATED: [Act; 2] = [Act::Gate, Act::Large];

/// Lets so many handlers answer when all of them have begun.
async fn all_answer_at_once(stage: &Stage, handlers: u64) {
    stage.gated.happened(handlers).await;
    stage.gate.raise();
    stage.gone.happened(handlers).await;
}

/// A network whose pipes hold little.
fn narrow() -> MemoryIo {
    let faults = Faults {
        capacity: 8000,
        ..Faults::default()
    };
    MemoryIo::new(0, faults)
}

/// A process that keeps less than three answers for a slow reader.
fn strict(io: &MemoryIo, policy: SlowReader) -> NetConfig {
    let mut config = config(io);
    config.connection.output_high_water = 20_000;
    config.connection.output_bytes_max = 60_000;
    config.connection.slow_reader = policy;
    config
}

/// A few pages of large messages at once filled the output of the connection
/// that all users of a Logic share with their Das: it was taken for a slow
/// reader and closed, for everyone, again with each retry. Under the other
/// policy what found no room was dropped, and its caller waited in vain.
#[test]
fn large_answers_wait_until_their_reader_has_taken_those_before() {
    for policy in [SlowReader::Close, SlowReader::Refuse] {
        let (io, stage) = (narrow(), Stage::default());
        let app = shop_under(strict(&io, policy), &stage, |_| ());
        let app = app.start().unwrap();
        block_on(async {
            let mut peer = NativePeer::dial(&io, "shop");
            for call in 1..=ASKED {
                peer.request::<Acting>(call, &script(&GATED)).await;
            }
            all_answer_at_once(&stage, ASKED).await;
            // Handlers that run beside each other answer in any order.
            let mut answered = BTreeSet::new();
            for _ in 1..=ASKED {
                let (call, report) = peer.answer::<Acting>().await;
                assert!(answered.insert(call), "{call} was answered twice");
                assert_eq!(report.unwrap().filler.len(), 20_000);
            }
            peer.ping().await;
        });
        app.drain();
    }
}

/// The same for a browser.
#[test]
fn large_answers_in_text_wait_too() {
    let (io, stage) = (narrow(), Stage::default());
    let app = shop_under(strict(&io, SlowReader::Refuse), &stage, |_| ());
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = WebSocketPeer::dial(&io, "shop").await;
        for call in 1..=ASKED {
            let body = r#"{"acts":["ACT_GATE","ACT_LARGE"]}"#;
            let text = format!(r#"{{"call":{call},"method":"demo.Shop/Act","body":{body}}}"#);
            peer.send(&text).await;
        }
        all_answer_at_once(&stage, ASKED).await;
        let mut left: BTreeSet<String> = (1..=ASKED)
            .map(|call| format!(r#"{{"call":{call},"body":"#))
            .collect();
        while !left.is_empty() {
            let answer = peer.receive().await.unwrap();
            let begin = answer.split_inclusive(':').take(2).collect::<String>();
            assert!(left.remove(&begin), "{begin}");
            assert!(answer.len() > 20_000);
        }
    });
    app.drain();
}

/// An answer for which there is no room before its deadline becomes a timeout,
/// which is short and finds room: each request has its one answer when its
/// caller reads again.
#[test]
fn an_answer_that_finds_no_room_in_time_is_a_timeout() {
    with_deadlines(|deadline| {
        let (io, stage) = (narrow(), Stage::default());
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("shop.sock");
        let app = shop_under(strict(&io, SlowReader::Close), &stage, |_| ());
        let app = app.admin(Address::Unix(socket.clone())).start().unwrap();
        let mut peer = NativePeer::dial(&io, "shop");
        block_on(async {
            let body = script(&[Act::Large]).encode_to_vec();
            // In one write: the first answer puts their reader behind.
            let mut frames = Vec::new();
            for call in 1..=ASKED {
                let header =
                    Header::request(Acting::ID, CallId(call)).with_deadline_left(Some(deadline));
                encode_into(&header, &body, &mut frames).unwrap();
            }
            assert!(peer.send_raw(&frames).await);
        });
        wait_for_metric(&socket, "waystation_requests_started_total", ASKED);
        wait_for_metric(&socket, "waystation_requests_in_flight", 0);
        let mut answers: BTreeMap<u64, Code> = BTreeMap::new();
        block_on(async {
            for _ in 1..=ASKED {
                let (header, _) = peer.receive_kind(Kind::Reply).await;
                assert_eq!(answers.insert(header.call.0, header.status), None);
            }
            peer.ping().await;
        });
        assert!(metric(&socket, "waystation_requests_timeouts_total") > 0);
        app.drain();
        let late = answers.values().filter(|code| !code.is_ok()).count();
        assert!(late > 0, "{answers:?}");
        late < answers.len()
    });
}

/// Answers that waited for room lay outside of every bound: 20 connections that
/// asked much and read nothing raised a process to 1.3 GB.
#[test]
fn answers_that_wait_are_bounded() {
    const MANY: u64 = 150;
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    let mut acts = [Act::Large; 11];
    acts[0] = Act::Gate;
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        for call in 1..=MANY {
            peer.request::<Acting>(call, &script(&acts)).await;
        }
        all_answer_at_once(&stage, MANY).await;
        let mut answers = BTreeMap::new();
        for _ in 1..=MANY {
            let (call, report) = peer.answer::<Acting>().await;
            let length = report.map(|report| report.filler.len());
            assert_eq!(answers.insert(call, length), None);
        }
        let refused = answers.values().filter(|a| **a == Err(Code::Overloaded));
        assert!(refused.count() > 0, "{answers:?}");
        let given: usize = answers.values().filter_map(|a| a.as_ref().ok()).sum();
        assert!(
            given <= ANSWERS_WAITING_BYTES + 2 * OUTPUT_BYTES_MAX,
            "{given}"
        );
        peer.ping().await;
    });
    app.drain();
}

/// An answer to a short question stood behind all the pages that others had
/// asked for on the same connection, and missed its deadline.
#[test]
fn a_short_answer_does_not_wait_behind_large_ones() {
    let (io, stage) = (narrow(), Stage::default());
    let app = shop_under(strict(&io, SlowReader::Refuse), &stage, |_| ());
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        for call in 1..=ASKED {
            peer.request::<Acting>(call, &script(&GATED)).await;
        }
        stage.gated.happened(ASKED).await;
        peer.request::<Acting>(0, &script(&[Act::Gate])).await;
        all_answer_at_once(&stage, ASKED + 1).await;
        let mut before = 0;
        while peer.answer::<Acting>().await.0 != 0 {
            before += 1;
        }
        assert!(before < 10, "{before} large answers came first");
        for _ in before..ASKED {
            assert_eq!(
                peer.answer::<Acting>().await.1.unwrap().filler.len(),
                20_000
            );
        }
    });
    app.drain();
}

/// Such answers count in the bound of the shard: who holds most goes, and
/// everyone else stays.
#[test]
fn answers_that_wait_count_in_the_bound_of_the_shard() {
    let (io, stage) = (narrow(), Stage::default());
    let mut config = strict(&io, SlowReader::Refuse);
    config.shard_bytes_max = 300_000;
    let app = shop_under(config, &stage, |_| ()).start().unwrap();
    block_on(async {
        let mut other = NativePeer::dial(&io, "shop");
        other.ping().await;
        let mut peer = NativePeer::dial(&io, "shop");
        for call in 1..=ASKED {
            peer.request::<Acting>(call, &script(&GATED)).await;
        }
        all_answer_at_once(&stage, ASKED).await;
        while peer.receive().await.is_some() {}
        other.ping().await;
    });
    app.drain();
}

/// A login that failed closed its connection before the error left: the client
/// never learnt why.
#[test]
fn a_connection_that_ends_behind_an_answer_ends_behind_it() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native.request::<Acting>(1, &script(&[Act::Leave])).await;
        assert_eq!(native.answer::<Acting>().await, (1, Err(Code::Conflict)));
        assert!(native.receive().await.is_none());
        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let request = r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_LEAVE"]}}"#;
        assert!(web.ask(request).await.contains("conflict"));
        assert!(web.receive().await.is_none());
    });
    app.drain();
}
