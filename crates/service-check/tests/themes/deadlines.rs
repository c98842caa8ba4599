//! Every request has a deadline. It travels, it shrinks, and it is answered.

use std::time::Duration;

use prost::Message;
use waystation_base::CallId;
use waystation_net::Address;
use waystation_service::{Channel, Code, Ctx, Method, Retry, Status};
use waystation_service_check::demo::Act;
use waystation_service_check::demo::shop::ShopClient;
use waystation_service_check::demo::shop::method::Act as Acting;
use waystation_service_check::{
    HttpPeer, NativeListener, NativePeer, Stage, WebSocketPeer, block_on, client, depot, memory,
    run_on, shop, shop_with, with_deadlines,
};
use waystation_wire::{Header, Kind};

use crate::script;

/// In the reference a command that timed out was forgotten without a word.
#[test]
fn a_request_that_misses_its_deadline_is_answered_and_its_handler_is_gone() {
    with_deadlines(|deadline| {
        let (io, stage) = (memory(), Stage::default());
        let app = shop(&io, &stage).start().unwrap();
        let ms = deadline.as_millis();
        let reason = block_on(async {
            let mut peer = NativePeer::dial(&io, "shop");
            let header = Header::request(Acting::ID, CallId(1)).with_deadline_left(Some(deadline));
            peer.send(&header, &script(&[Act::Gate]).encode_to_vec())
                .await;
            let (header, reason) = peer.receive_kind(Kind::Reply).await;
            assert_eq!(header.status, Code::DeadlineExceeded);

            let mut http = HttpPeer::dial(&io, "shop");
            let head = format!("POST /demo.Shop/Act\nwaystation-deadline-ms: {ms}");
            http.request(&head, r#"{"acts":["ACT_FOREVER"]}"#).await;
            assert_eq!(http.answer().await.status, 504);

            let mut web = WebSocketPeer::dial(&io, "shop").await;
            let request = serde_json::json!({
                "call": 1, "method": "demo.Shop/Act", "deadline_ms": u64::try_from(ms).unwrap(),
                "body": { "acts": ["ACT_FOREVER"] },
            });
            let answer = web.ask(&request.to_string()).await;
            let expected = r#"{"call":1,"error":{"code":"deadline_exceeded""#;
            assert!(answer.starts_with(expected), "{answer}");
            String::from_utf8(reason).unwrap()
        });
        // Those that were begun are over.
        assert_eq!(stage.gone.count(), stage.begun.count());
        app.drain();
        let all_begun = stage.begun.count() == 3;
        if all_begun {
            assert_eq!(
                reason,
                "demo.Shop/Act missed its deadline while waiting for gate"
            );
        }
        all_begun
    });
}

#[test]
fn a_request_without_a_deadline_gets_the_default() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, |router| {
        router.limits(10, Duration::from_millis(20));
    });
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &script(&[Act::Forever])).await;
        assert_eq!(
            peer.answer::<Acting>().await,
            (1, Err(Code::DeadlineExceeded))
        );
    });
    app.drain();
}

/// Work whose caller has given up already was begun all the same: under
/// overload a server then does nothing else.
#[test]
fn a_request_whose_deadline_has_passed_is_not_started() {
    for concurrency in [1, 256] {
        let (io, stage) = (memory(), Stage::default());
        let app = shop_with(&io, &stage, move |router| router.concurrency(concurrency));
        let app = app.start().unwrap();
        block_on(async {
            let mut peer = NativePeer::dial(&io, "shop");
            for (call, left) in [(1, Duration::ZERO), (2, Duration::from_micros(1))] {
                let header =
                    Header::request(Acting::ID, CallId(call)).with_deadline_left(Some(left));
                peer.send(&header, &[]).await;
                assert_eq!(
                    peer.answer::<Acting>().await,
                    (call, Err(Code::DeadlineExceeded))
                );
            }
            let mut http = HttpPeer::dial(&io, "shop");
            http.request("POST /demo.Shop/Act\nwaystation-deadline-ms: 0", "{}")
                .await;
            assert_eq!(http.answer().await.status, 504);
            let mut web = WebSocketPeer::dial(&io, "shop").await;
            let answer = web
                .ask(r#"{"call":1,"method":"demo.Shop/Act","deadline_ms":0}"#)
                .await;
            assert!(answer.contains("deadline_exceeded"), "{answer}");
        });
        assert_eq!(stage.begun.count(), 0);
        app.drain();
    }
}

#[test]
fn absurd_deadlines_are_cut_or_refused() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut http = HttpPeer::dial(&io, "shop");
        let most = u64::MAX;
        http.request(
            &format!("POST /demo.Shop/Act\nwaystation-deadline-ms: {most}"),
            "{}",
        )
        .await;
        let answer = http.answer().await;
        let left = answer
            .body
            .split(r#""leftUs":""#)
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let left = Duration::from_micros(left.parse().unwrap());
        assert!(left <= waystation_service::limits::DEADLINE_MAX, "{left:?}");
        for nonsense in ["soon", "-1", "1.5", "99999999999999999999", "é"] {
            http.request(
                &format!("POST /demo.Shop/Act\nwaystation-deadline-ms: {nonsense}"),
                "{}",
            )
            .await;
            let answer = http.answer().await;
            assert_eq!(answer.status, 400, "{nonsense}");
            assert!(
                answer.body.contains("a number of milliseconds"),
                "{answer:?}"
            );
        }
    });
    assert_eq!(stage.begun.count(), 1);
    app.drain();
}

#[test]
fn a_deadline_travels_upstream_and_shrinks() {
    let (io, stage) = (memory(), Stage::default());
    let (depot, shop) = (
        depot(&io, &stage).start().unwrap(),
        shop(&io, &stage).start().unwrap(),
    );
    let client = client(&io);
    let (given, report) = run_on(&client, |shard| async move {
        let channel = Channel::new(&shard, Address::Memory("shop".to_owned()));
        channel.upstream().up().await.unwrap();
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(10));
        let given = ctx.time_left();
        let acts = script(&[Act::Sleep5Ms, Act::Call]);
        (
            given,
            ShopClient::new(channel).act(&ctx, &acts).await.unwrap(),
        )
    });
    let given_us = u64::try_from(given.as_micros()).unwrap();
    let in_shop = report.left_us;
    let in_depot = report.depot.as_ref().unwrap().left_us;
    assert!(
        0 < in_depot && in_depot + 5000 <= in_shop,
        "{in_shop} {in_depot}"
    );
    assert!(in_shop <= given_us, "{given_us} {in_shop}");
    assert_eq!(
        report.depot.unwrap().sid,
        report.sid,
        "the request's id travels, too"
    );
    for app in [client, shop, depot] {
        app.drain();
    }
}

/// A callee that never answers costs its caller the deadline and no more: the
/// caller's own caller is answered, and the callee is told.
#[test]
fn a_silent_callee_is_answered_for_at_the_deadline() {
    with_deadlines(|deadline| {
        let (io, stage) = (memory(), Stage::default());
        let shop = shop(&io, &stage).start().unwrap();
        let mut listener = NativeListener::bind(&io, "depot");
        let was_asked = block_on(async {
            let mut depot = listener.accept().await;
            depot.ping().await;
            let mut peer = NativePeer::dial(&io, "shop");
            let code = call_depot(&mut peer, deadline).await;
            assert_eq!(code, Code::DeadlineExceeded);
            if stage.begun.count() == 0 {
                return false;
            }
            let (request, _) = depot.receive_kind(Kind::Request).await;
            let (cancel, _) = depot.receive_kind(Kind::Cancel).await;
            assert_eq!(cancel.call, request.call);
            true
        });
        drop(listener);
        shop.drain();
        was_asked
    });
}

/// Nobody listens: the request ends with its own deadline or with the news
/// that nothing was sent, whichever the loop sees first.
#[test]
fn a_missing_callee_is_answered_for_at_the_deadline() {
    let (io, stage) = (memory(), Stage::default());
    let shop = shop(&io, &stage).start().unwrap();
    let code = block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        call_depot(&mut peer, Duration::from_millis(25)).await
    });
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Unavailable),
        "{code:?}"
    );
    shop.drain();
}

/// Asks the shop for what it asks the depot for, in vain.
async fn call_depot(peer: &mut NativePeer, deadline: Duration) -> Code {
    let header = Header::request(Acting::ID, CallId(1)).with_deadline_left(Some(deadline));
    peer.send(&header, &script(&[Act::Call]).encode_to_vec())
        .await;
    peer.answer::<Acting>().await.1.unwrap_err()
}

/// In an overload somebody with 60 s left was told after 6.6 s that there was
/// no answer before the deadline: it was that of the tries, of which nobody
/// who asks knows.
#[test]
fn tries_without_an_answer_do_not_blame_a_deadline_that_has_not_passed() {
    let app = client(&memory());
    let (status, alone) = run_on(&app, |shard| async move {
        let ctx = Ctx::background(&shard, "test", Duration::from_mins(1));
        let retry = Retry {
            pause: Duration::ZERO,
            tries: 3,
            ..Retry::idempotent()
        };
        let late = || Err::<(), _>(Status::deadline_exceeded("no answer before the deadline"));
        let status = ctx.retry(&retry, async || late()).await.unwrap_err();
        let alone = ctx.retry(&retry.tries(1), async || late()).await;
        (status, alone.unwrap_err())
    });
    assert_eq!(status, Status::outcome_unknown("no answer within 3 tries"));
    assert!(status.is_retried());
    assert_eq!(alone, Status::outcome_unknown("no answer within a try"));
    app.drain();
}
