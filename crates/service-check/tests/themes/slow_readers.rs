//! Answers to peers that read more slowly than they ask: they wait for room,
//! and none is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use waystation_base::CallId;
use waystation_net::{Address, Faults, MemoryIo, NetConfig, SlowReader};
use waystation_service::{Code, Method};
use waystation_service_check::demo::Act;
use waystation_service_check::demo::shop::method::Act as Acting;
use waystation_service_check::{
    NativePeer, Stage, WebSocketPeer, block_on, config, memory, metric, shop, shop_under,
    wait_for_metric,
};
use waystation_wire::{Header, Kind};

use crate::script;

/// Requests of 20 KB answers each: many times what a slow reader may have.
const ASKED: u64 = 30;

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
                peer.request::<Acting>(call, &script(&[Act::Large])).await;
            }
            stage.gone.happened(ASKED).await;
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
            let body = r#"{"acts":["ACT_LARGE"]}"#;
            let text = format!(r#"{{"call":{call},"method":"demo.Shop/Act","body":{body}}}"#);
            peer.send(&text).await;
        }
        stage.gone.happened(ASKED).await;
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
    let (io, stage) = (narrow(), Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let app = shop_under(strict(&io, SlowReader::Close), &stage, |_| ());
    let app = app.admin(Address::Unix(socket.clone())).start().unwrap();
    let mut peer = NativePeer::dial(&io, "shop");
    block_on(async {
        let body = script(&[Act::Large]).encode_to_vec();
        for call in 1..=ASKED {
            let header = Header::request(Acting::ID, CallId(call))
                .with_deadline_left(Some(Duration::from_millis(400)));
            assert!(peer.send(&header, &body).await);
        }
    });
    wait_for_metric(&socket, "waystation_requests_started_total", ASKED);
    wait_for_metric(&socket, "waystation_requests_in_flight", 0);
    block_on(async {
        let mut answers: BTreeMap<u64, Code> = BTreeMap::new();
        for _ in 1..=ASKED {
            let (header, _) = peer.receive_kind(Kind::Reply).await;
            assert_eq!(answers.insert(header.call.0, header.status), None);
        }
        let late = answers.values().filter(|code| !code.is_ok()).count();
        assert!(late > 0 && late < answers.len(), "{answers:?}");
        peer.ping().await;
    });
    assert!(metric(&socket, "waystation_requests_timeouts_total") > 0);
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
