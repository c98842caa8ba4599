//! Exactly one answer for each request, in order where order is asked for,
//! and none for pushes.

use std::collections::HashSet;
use std::time::Duration;

use prost::Message;
use waystation_base::CallId;
use waystation_service::{Code, ContextInfo, MessageId, Method};
use waystation_service_check::demo::shop::method::{Act as Acting, Echo, Note};
use waystation_service_check::demo::{Act, Parcel};
use waystation_service_check::{
    Event, HttpPeer, NativePeer, Stage, WebSocketPeer, block_on, client, config, memory, run_on,
    shop, shop_under, shop_with,
};
use waystation_wire::{Flags, Header, Kind, Load};

use crate::script;

/// A push is a message without an answer: whatever becomes of it, a reply
/// would be taken for that of another call.
#[test]
fn a_push_is_never_answered_whatever_becomes_of_it() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        let bodies = [
            (Note::ID, Parcel::default().encode_to_vec()),
            (Note::ID, vec![0xFF]),
            (Acting::ID, script(&[Act::Fail]).encode_to_vec()),
            (Acting::ID, script(&[Act::Panic]).encode_to_vec()),
            (MessageId(1), Vec::new()),
        ];
        for (id, body) in bodies {
            peer.send(&Header::push(id), &body).await;
        }
        stage.begun.happened(2).await;
        stage.noted.happened(1).await;
        peer.request::<Echo>(1, &Parcel::default()).await;
        let (header, _) = peer.receive().await.unwrap();
        assert_eq!((header.kind, header.call), (Kind::Reply, CallId(1)));
        assert!(!peer.has_more());
    });
    app.drain();
}

/// A handler above the bound used to wait in a queue until its caller had
/// given up. It is refused at once, while those admitted still run.
#[test]
fn overload_is_refused_at_once_and_nothing_is_queued() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, |router| {
        router.limits(2, Duration::from_secs(20));
    });
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        for call in [1, 2] {
            peer.request::<Acting>(call, &script(&[Act::Gate])).await;
        }
        stage.gated.happened(2).await;
        peer.request::<Acting>(3, &script(&[])).await;
        let (header, _) = peer.receive().await.unwrap();
        assert_eq!((header.call, header.status), (CallId(3), Code::Overloaded));
        assert_eq!(
            header.load.in_flight, 2,
            "a refusal tells of the load, above all"
        );
        let mut http = HttpPeer::dial(&io, "shop");
        assert_eq!(http.post("/demo.Shop/Echo", "{}").await.status, 503);
        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let refused = web.ask(r#"{"call":1,"method":"demo.Shop/Echo"}"#).await;
        assert!(refused.contains(r#""code":"overloaded""#), "{refused}");
        // A refused push is dropped without a word.
        peer.send(&Header::push(Note::ID), &[]).await;

        stage.gate.raise();
        let mut ended = [peer.answer::<Acting>().await, peer.answer::<Acting>().await];
        ended.sort_by_key(|(call, _)| *call);
        assert!(matches!(ended, [(1, Ok(_)), (2, Ok(_))]), "{ended:?}");
        peer.request::<Acting>(4, &script(&[])).await;
        assert!(matches!(peer.answer::<Acting>().await, (4, Ok(_))));
    });
    assert_eq!((stage.begun.count(), stage.noted.count()), (3, 0));
    app.drain();
}

#[test]
fn with_one_handler_at_a_time_answers_keep_the_order_of_requests() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, |router| router.concurrency(1))
        .start()
        .unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &script(&[Act::Gate])).await;
        peer.request::<Echo>(2, &Parcel::default()).await;
        peer.request::<Acting>(3, &script(&[])).await;
        peer.send(&Header::ping(CallId(77)), &[]).await;
        stage.gated.happened(1).await;
        // The I/O side answers a heartbeat while a handler runs.
        let (pong, _) = peer.receive().await.unwrap();
        assert_eq!((pong.kind, pong.call), (Kind::Pong, CallId(77)));
        assert_eq!(stage.begun.count(), 1, "the third waits for the first");
        stage.gate.raise();
        for call in 1..=3 {
            let (header, _) = peer.receive_kind(Kind::Reply).await;
            assert_eq!(header.call, CallId(call));
        }
    });
    app.drain();
}

#[test]
fn with_many_handlers_at_a_time_a_slow_one_holds_up_nobody() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &script(&[Act::Gate])).await;
        peer.request::<Echo>(2, &Parcel::default()).await;
        assert_eq!(peer.answer::<Echo>().await.0, 2);
        stage.gate.raise();
        assert_eq!(peer.answer::<Acting>().await.0, 1);
    });
    app.drain();
}

#[test]
fn answers_and_probes_tell_the_load() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        // Quick failures say nothing of how long requests take.
        for call in 0..40 {
            peer.request::<Acting>(call, &script(&[Act::Fail])).await;
            assert_eq!(peer.answer::<Acting>().await.1, Err(Code::Conflict));
        }
        let (header, _) = probe(&mut peer, Acting::ID).await;
        assert_eq!(header.load, Load::default());
        for call in 0..32 {
            peer.request::<Acting>(call, &script(&[Act::Sleep5Ms]))
                .await;
            assert!(peer.answer::<Acting>().await.1.is_ok());
        }
        for call in [1, 2, 3] {
            peer.request::<Acting>(call, &script(&[Act::Gate])).await;
        }
        stage.gated.happened(3).await;
        peer.request::<Echo>(9, &Parcel::default()).await;
        let (header, _) = peer.receive_kind(Kind::Reply).await;
        assert_eq!(
            header.load.in_flight, 3,
            "the one answered is no longer one"
        );
        assert!(header.load.latency_us >= 5000, "{:?}", header.load);
        let begun = stage.begun.count();
        for id in [Acting::ID, MessageId(0)] {
            let (header, body) = probe(&mut peer, id).await;
            assert_eq!(
                (header.status, header.load.in_flight, body.len()),
                (Code::Ok, 3, 0)
            );
        }
        assert_eq!(stage.begun.count(), begun, "a probe reaches no handler");
    });
    stage.gate.raise();
    app.drain();
}

/// Pushes counted as requests that took no time: where many come, as in Entry,
/// the median told that it was the fastest host of all.
#[test]
fn pushes_tell_nothing_of_how_long_requests_take() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &script(&[Act::Sleep5Ms])).await;
        assert!(peer.answer::<Acting>().await.1.is_ok());
        for _ in 0..200 {
            peer.send(&Header::push(Note::ID), &[]).await;
        }
        stage.noted.happened(200).await;
        let (header, _) = probe(&mut peer, Acting::ID).await;
        assert!(header.load.latency_us >= 5000, "{:?}", header.load);
    });
    app.drain();
}

async fn probe(peer: &mut NativePeer, id: MessageId) -> (Header, Vec<u8>) {
    let header = Header::request(id, CallId(500)).with_flags(Flags::PROBE);
    peer.send(&header, &[]).await;
    let (header, body) = peer.receive_kind(Kind::Reply).await;
    assert_eq!(header.call, CallId(500));
    (header, body)
}

/// SIGTERM used to end requests in progress. A drain takes no new connection,
/// lets what was begun end, answers it, and only then closes.
#[test]
fn a_drain_answers_the_requests_in_progress() {
    let (io, stage) = (memory(), Stage::default());
    let draining = Event::default();
    let begun = draining.clone();
    let app = shop(&io, &stage).on_shard(move |shard| {
        let begun = begun.clone();
        shard.on_drain(move |_| {
            begun.raise();
            Box::pin(std::future::ready(()))
        });
    });
    let app = app.start().unwrap();
    let mut peer = NativePeer::dial(&io, "shop");
    let mut http = HttpPeer::dial(&io, "shop");
    block_on(async {
        peer.request::<Acting>(1, &script(&[Act::Gate])).await;
        http.request("POST /demo.Shop/Act", r#"{"acts":["ACT_GATE"]}"#)
            .await;
        stage.gated.happened(2).await;
    });
    let drain = std::thread::spawn(move || app.drain());
    draining.wait(1);
    stage.gate.raise();
    block_on(async {
        assert!(matches!(peer.answer::<Acting>().await, (1, Ok(_))));
        assert_eq!(http.answer().await.status, 200);
        while peer.receive().await.is_some() {}
    });
    drain.join().unwrap();
    assert!(io.dial("shop").is_err(), "nobody listens any more");
}

/// A reply of a handler whose connection is gone goes nowhere, and the
/// request is over.
#[test]
fn a_lost_connection_ends_its_requests_without_a_trace() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native.request::<Acting>(1, &script(&[Act::Gate])).await;
        let mut http = HttpPeer::dial(&io, "shop");
        http.request("POST /demo.Shop/Act", r#"{"acts":["ACT_GATE"]}"#)
            .await;
        let mut web = WebSocketPeer::dial(&io, "shop").await;
        web.send(r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_GATE"]}}"#)
            .await;
        stage.gated.happened(3).await;
        native.hang_up();
        http.cut();
        drop(web);
        stage.gate.raise();
        stage.gone.happened(3).await;
        let mut next = NativePeer::dial(&io, "shop");
        next.request::<Echo>(1, &Parcel::default()).await;
        assert!(next.answer::<Echo>().await.1.is_ok());
    });
    let listed = run_on(&app, |shard| async move { ContextInfo::list(&shard) });
    assert!(listed.is_empty(), "{listed:?}");
    app.drain();
}

/// The process ends with a handler that would run for ever: its HTTP caller
/// is cut off, and the handler goes with the connection.
#[test]
fn a_drain_that_takes_too_long_ends_what_is_left() {
    let (io, stage) = (memory(), Stage::default());
    let mut config = config(&io);
    config.drain = Duration::from_millis(20);
    let app = shop_under(config, &stage, |_| ()).start().unwrap();
    let mut http = HttpPeer::dial(&io, "shop");
    let mut native = NativePeer::dial(&io, "shop");
    block_on(async {
        http.request("POST /demo.Shop/Act", r#"{"acts":["ACT_FOREVER"]}"#)
            .await;
        native.request::<Acting>(1, &script(&[Act::Forever])).await;
        stage.begun.happened(2).await;
    });
    app.drain();
    assert_eq!(stage.gone.count(), 2);
    block_on(async {
        assert!(!http.fill().await, "the connection is closed");
        while native.receive().await.is_some() {}
    });
}

/// A user has several requests in flight: what tells them apart is an id of
/// each request, not of the user or the connection.
#[test]
fn each_request_has_an_id_of_its_own() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    let mut sids = HashSet::new();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        for call in 1..=20 {
            peer.request::<Acting>(call, &script(&[Act::Yield])).await;
        }
        for _ in 1..=20 {
            let (_, answer) = peer.answer::<Acting>().await;
            assert!(sids.insert(answer.unwrap().sid));
        }
        let mut http = HttpPeer::dial(&io, "shop");
        let answer = http.post("/demo.Shop/Act", "{}").await;
        let sid = answer.header("waystation-sid").unwrap();
        assert!(answer.body.contains(sid), "{answer:?}");
        assert!(sids.insert(sid.to_owned()));
    });
    app.drain();
}

/// A peer that used one call id for two requests at once made the end of the
/// first hide the second, which could not be cancelled any more.
#[test]
fn the_end_of_a_call_does_not_hide_another_under_the_same_id() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(7, &script(&[Act::Gate])).await;
        stage.gated.happened(1).await;
        peer.request::<Acting>(7, &script(&[Act::Forever])).await;
        stage.begun.happened(2).await;
        stage.gate.raise();
        assert!(matches!(peer.answer::<Acting>().await, (7, Ok(_))));
        peer.cancel(7).await;
        stage.gone.happened(2).await;
        peer.request::<Echo>(8, &Parcel::default()).await;
        assert_eq!(
            peer.answer::<Echo>().await.0,
            8,
            "a cancelled call has no answer"
        );
    });
    app.drain();
}

/// A push to a peer that speaks HTTP used to put a native frame behind the
/// answer in its stream.
#[test]
fn a_push_goes_to_those_who_can_take_it_and_the_sender_is_told() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    let client = client(&io);
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native.request::<Acting>(1, &script(&[Act::Push])).await;
        assert_eq!(native.receive_kind(Kind::Push).await.0.message, Note::ID);
        assert_eq!(native.answer::<Acting>().await.1.unwrap().push_error, "");

        let mut http = HttpPeer::dial(&io, "shop");
        let answer = http
            .post("/demo.Shop/Act", r#"{"acts":["ACT_PUSH"]}"#)
            .await;
        assert!(answer.body.contains("takes no pushes"), "{answer:?}");
        assert_eq!(http.post("/demo.Shop/Echo", "{}").await.body, "{}");
        assert!(http.rest().is_empty());

        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let request = r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_PUSH"]}}"#;
        let pushed = web.ask(request).await;
        assert_eq!(pushed, r#"{"push":"demo.Shop/Note","body":{}}"#);
        assert!(
            web.receive()
                .await
                .unwrap()
                .starts_with(r#"{"call":1,"body":"#)
        );
    });
    client.drain();
    app.drain();
}
