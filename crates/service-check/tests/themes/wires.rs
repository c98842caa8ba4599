//! The same handlers, typed, over native frames, HTTP and WebSocket.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use waystation_base::CallId;
use waystation_net::Address;
use waystation_service::{Channel, Code, Ctx, Method};
use waystation_service_check::demo::depot::{DepotClient, method::Reserve};
use waystation_service_check::demo::shop::{ShopClient, method};
use waystation_service_check::demo::shop_by_states::ShopByStatesClient;
use waystation_service_check::demo::{Act, Item, OrderReply, OrderRequest, Parcel};
use waystation_service_check::{
    HttpPeer, NativePeer, Stage, WebSocketPeer, block_on, client, depot, memory, run_on, shop,
};
use waystation_wire::{Header, Kind, encode_into};

use crate::script;

/// A parcel with everything in it, and its one JSON form.
fn parcel() -> (Parcel, &'static str) {
    let parcel = Parcel {
        weight_grams: -9_007_199_254_740_993,
        content: vec![0xFB, 0xFF, 0],
        act: Act::Gate.into(),
        stamps: BTreeMap::from([("b".to_owned(), u64::MAX), ("a".to_owned(), 1)]),
        items: vec![
            Item {
                name: "tea \"green\"".to_owned(),
            },
            Item::default(),
        ],
        floor: Some(0),
        to: "驿站".to_owned(),
    };
    let json = concat!(
        r#"{"weightGrams":"-9007199254740993","content":"+/8A","act":"ACT_GATE","#,
        r#""stamps":{"a":"1","b":"18446744073709551615"},"#,
        r#""items":[{"name":"tea \"green\""},{}],"floor":0,"to":"驿站"}"#
    );
    (parcel, json)
}

#[test]
fn typed_stubs_call_typed_handlers_through_three_processes() {
    let (io, stage) = (memory(), Stage::default());
    let (depot, shop) = (
        depot(&io, &stage).start().unwrap(),
        shop(&io, &stage).start().unwrap(),
    );
    let client = client(&io);
    let (orders, echoed) = run_on(&client, |shard| async move {
        let channel = Channel::new(&shard, Address::Memory("shop".to_owned()));
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(10));
        let request = OrderRequest {
            item: Some(Item {
                name: "tea".to_owned(),
            }),
            reserve_ms: 0,
        };
        let shop = ShopClient::new(channel.clone());
        let orders = [
            shop.order(&ctx, &request).await,
            ShopByStatesClient::new(channel).order(&ctx, &request).await,
        ];
        (orders, shop.echo(&ctx, &parcel().0).await)
    });
    let expected = OrderReply {
        reservation: 3,
        receipt: 1003,
    };
    assert_eq!(orders, [Ok(expected), Ok(expected)]);
    assert_eq!(echoed, Ok(parcel().0));
    assert_eq!(stage.ends(), [None]);
    for app in [client, shop, depot] {
        app.drain();
    }
}

#[test]
fn the_same_method_answers_native_frames_http_and_both_kinds_of_websocket_messages() {
    let io = memory();
    let app = shop(&io, &Stage::default()).start().unwrap();
    let (parcel, json) = parcel();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native.request::<method::Echo>(7, &parcel).await;
        assert_eq!(
            native.answer::<method::Echo>().await,
            (7, Ok(parcel.clone()))
        );

        let mut http = HttpPeer::dial(&io, "shop");
        let answer = http.post("/demo.Shop/Echo", json).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, json));
        assert_eq!(answer.header("content-type"), Some("application/json"));

        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let request = format!(r#"{{"call":3,"method":"demo.Shop/Echo","body":{json}}}"#);
        assert_eq!(
            web.ask(&request).await,
            format!(r#"{{"call":3,"body":{json}}}"#)
        );

        let mut frame = Vec::new();
        let header = Header::request(method::Echo::ID, CallId(9));
        encode_into(&header, &parcel.encode_to_vec(), &mut frame).unwrap();
        web.send_binary(&frame).await;
        let answer = web.receive_binary().await;
        assert!(answer.ends_with(&parcel.encode_to_vec()));
    });
    app.drain();
}

#[test]
fn errors_keep_their_code_over_every_wire() {
    let io = memory();
    let app = shop(&io, &Stage::default()).start().unwrap();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native
            .request::<method::Act>(1, &script(&[Act::Fail]))
            .await;
        assert_eq!(
            native.answer::<method::Act>().await,
            (1, Err(Code::Conflict))
        );

        let mut http = HttpPeer::dial(&io, "shop");
        let answer = http
            .post("/demo.Shop/Act", r#"{"acts":["ACT_FAIL"]}"#)
            .await;
        let expected = "{\"code\":\"conflict\",\"message\":\"as it was told\"}\n";
        assert_eq!((answer.status, answer.body.as_str()), (409, expected));

        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let answer = web
            .ask(r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_FAIL"]}}"#)
            .await;
        let expected = r#"{"call":1,"error":{"code":"conflict","message":"as it was told"}}"#;
        assert_eq!(answer, expected);
    });
    app.drain();
}

/// A body that is not the method's message is the caller's fault, said to it
/// in its own terms, and the connection goes on.
#[test]
fn a_body_that_cannot_be_decoded_is_answered_and_ends_nothing() {
    let io = memory();
    let app = shop(&io, &Stage::default()).start().unwrap();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        native
            .send(&Header::request(method::Echo::ID, CallId(1)), &[0xFF])
            .await;
        assert_eq!(
            native.answer::<method::Echo>().await,
            (1, Err(Code::InvalidRequest))
        );
        native.request::<method::Echo>(2, &Parcel::default()).await;
        assert_eq!(
            native.answer::<method::Echo>().await,
            (2, Ok(Parcel::default()))
        );

        let mut http = HttpPeer::dial(&io, "shop");
        for body in [
            "{",
            "[]",
            r#"{"nope":1}"#,
            r#"{"weightGrams":"x"}"#,
            "\u{1}",
        ] {
            let answer = http.post("/demo.Shop/Echo", body).await;
            assert_eq!(answer.status, 400, "{body}: {answer:?}");
            assert!(
                answer.body.starts_with(r#"{"code":"invalid_request","#),
                "{answer:?}"
            );
        }
        assert_eq!(http.post("/demo.Shop/Echo", "").await.body, "{}");
    });
    app.drain();
}

#[test]
fn unknown_methods_are_refused_by_every_wire() {
    let io = memory();
    let app = shop(&io, &Stage::default()).start().unwrap();
    block_on(async {
        let mut native = NativePeer::dial(&io, "shop");
        // The client of a depot, connected to a shop.
        native.request::<Reserve>(1, &Item::default()).await;
        let (header, body) = native.receive_kind(Kind::Reply).await;
        assert_eq!(
            (header.call, header.status),
            (CallId(1), Code::Unimplemented)
        );
        let id = Reserve::ID;
        assert_eq!(
            String::from_utf8(body).unwrap(),
            format!("no handler has the message id {id}")
        );
        native.request::<method::Echo>(2, &Parcel::default()).await;
        assert_eq!(
            native.answer::<method::Echo>().await,
            (2, Ok(Parcel::default()))
        );

        let mut http = HttpPeer::dial(&io, "shop");
        let answer = http.post("/demo.Shop/Nope", "{}").await;
        let expected =
            "{\"code\":\"not_found\",\"message\":\"nothing is served at /demo.Shop/Nope\"}\n";
        assert_eq!((answer.status, answer.body.as_str()), (404, expected));
        assert_eq!(http.post("//demo.Shop/Echo", "{}").await.status, 404);

        let mut web = WebSocketPeer::dial(&io, "shop").await;
        let answer = web.ask(r#"{"call":4,"method":"demo.Shop/Nope"}"#).await;
        assert!(
            answer.starts_with(r#"{"call":4,"error":{"code":"unimplemented","#),
            "{answer}"
        );
    });
    assert_eq!(app.server().counters()[0].unrouted.get(), 4);
    app.drain();
}

#[test]
fn a_stub_of_a_method_that_the_callee_lacks_is_told_so() {
    let io = memory();
    let app = shop(&io, &Stage::default()).start().unwrap();
    let client = client(&io);
    let answer = run_on(&client, |shard| async move {
        let channel = Channel::new(&shard, Address::Memory("shop".to_owned()));
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(10));
        DepotClient::new(channel)
            .reserve(&ctx, &Item::default())
            .await
    });
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    client.drain();
    app.drain();
}
