//! JSON text over WebSocket, at its edges.

use proptest::prelude::*;
use waystation_net::MemoryIo;
use waystation_service_check::{Stage, WebSocketPeer, block_on, memory, shop};

fn with_shop(test: impl AsyncFnOnce(&MemoryIo, WebSocketPeer, &Stage)) {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let peer = WebSocketPeer::dial(&io, "shop").await;
        test(&io, peer, &stage).await;
    });
    app.drain();
}

const ECHO: &str = r#"{"call":9,"method":"demo.Shop/Echo"}"#;

/// What the server says of a text that is no request.
async fn refusal(peer: &mut WebSocketPeer, text: &str) -> (u64, String) {
    let answer = peer.ask(text).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        answer["error"]["code"], "invalid_request",
        "{text}: {answer}"
    );
    let message = answer["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(
        peer.ask(ECHO).await,
        r#"{"call":9,"body":{}}"#,
        "it goes on after {text}"
    );
    (answer["call"].as_u64().unwrap(), message)
}

#[test]
fn a_text_that_is_no_envelope_is_refused() {
    with_shop(async |_, mut peer, _| {
        for text in [
            "",
            "{",
            "null",
            "[]",
            "17",
            r#""x""#,
            "{}x",
            r#"{"ping":-1}"#,
            r#"{"call":1"#,
        ] {
            let (call, message) = refusal(&mut peer, text).await;
            assert_eq!(call, 0, "{text}");
            assert!(
                message.starts_with("not an envelope: "),
                "{text}: {message}"
            );
        }
    });
}

/// A refusal under call 0 tells the client nothing of the call that it waits
/// for: that one was never answered.
#[test]
fn a_refusal_names_the_call_where_the_text_does() {
    with_shop(async |_, mut peer, _| {
        for text in [
            r#"{"call":5,"method":7}"#,
            r#"{"call":5,"method":"demo.Shop/Echo","deadline_ms":-1}"#,
            r#"{"call":5,"method":"demo.Shop/Echo","deadline_ms":"soon"}"#,
            r#"{"call":5}"#,
            r#"{"call":5,"body":{}}"#,
            r#"{"call":5,"method":"demo.Shop/Echo","body":{"nope":1}}"#,
            r#"{"call":5,"method":"demo.Shop/Echo","body":[]}"#,
        ] {
            assert_eq!(refusal(&mut peer, text).await.0, 5, "{text}");
        }
    });
}

/// A request without a call id ran, and its answer went to call 0.
#[test]
fn a_request_without_a_call_is_refused_and_not_run() {
    with_shop(async |_, mut peer, stage| {
        for text in [
            r#"{"method":"demo.Shop/Act"}"#,
            r#"{"call":null,"method":"demo.Shop/Act"}"#,
        ] {
            let (call, message) = refusal(&mut peer, text).await;
            assert_eq!((call, message.as_str()), (0, "a request needs a `call`"));
        }
        assert_eq!(stage.begun.count(), 0);
    });
}

/// JSON may write any character as an escape; names with one were unknown.
#[test]
fn escapes_in_names_are_read() {
    with_shop(async |_, mut peer, _| {
        let answer = peer
            .ask(r#"{"call":1,"method":"demo.Shop\/\u0045cho"}"#)
            .await;
        assert_eq!(answer, r#"{"call":1,"body":{}}"#);
    });
}

#[test]
fn a_body_may_be_missing_or_null_and_unknown_fields_are_passed_over() {
    with_shop(async |_, mut peer, _| {
        for text in [
            r#"{"call":1,"method":"demo.Shop/Echo"}"#,
            r#"{"call":1,"method":"demo.Shop/Echo","body":null}"#,
            r#" { "method" : "demo.Shop/Echo" , "x":[{}], "call" : 1 , "body" : { } } "#,
        ] {
            assert_eq!(peer.ask(text).await, r#"{"call":1,"body":{}}"#, "{text}");
        }
    });
}

#[test]
fn a_sign_of_life_is_answered_at_once() {
    with_shop(async |_, mut peer, stage| {
        peer.send(r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_GATE"]}}"#)
            .await;
        stage.gated.happened(1).await;
        assert_eq!(peer.ask(r#"{"ping":0}"#).await, r#"{"pong":0}"#);
        assert_eq!(
            peer.ask(r#"{"ping":18446744073709551615}"#).await,
            r#"{"pong":18446744073709551615}"#
        );
        stage.gate.raise();
        assert!(
            peer.receive()
                .await
                .unwrap()
                .starts_with(r#"{"call":1,"body":{"sid":""#)
        );
    });
}

/// Call ids are the client's own: whoever uses one twice gets two answers
/// under it.
#[test]
fn one_call_id_twice_gets_two_answers() {
    with_shop(async |_, mut peer, stage| {
        peer.send(r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_GATE"]}}"#)
            .await;
        stage.gated.happened(1).await;
        let answer = peer.ask(r#"{"call":1,"method":"demo.Shop/Echo"}"#).await;
        assert_eq!(answer, r#"{"call":1,"body":{}}"#);
        stage.gate.raise();
        assert!(
            peer.receive()
                .await
                .unwrap()
                .starts_with(r#"{"call":1,"body":{"sid":""#)
        );
    });
}

#[test]
fn large_messages_pass_up_to_the_bound_and_larger_ones_end_the_connection() {
    with_shop(async |io, mut peer, _| {
        let to = "x".repeat(1_000_000);
        let request = format!(r#"{{"call":1,"method":"demo.Shop/Echo","body":{{"to":"{to}"}}}}"#);
        assert_eq!(
            peer.ask(&request).await,
            format!(r#"{{"call":1,"body":{{"to":"{to}"}}}}"#)
        );
        peer.send(&" ".repeat(1 << 20 | 1)).await;
        assert_eq!(peer.receive().await, None);
        let mut next = WebSocketPeer::dial(io, "shop").await;
        assert_eq!(next.ask(ECHO).await, r#"{"call":9,"body":{}}"#);
    });
}

/// A browser was sent the native frame `GoAway`, as bytes, which no page can
/// read without knowing that format.
#[test]
fn a_peer_that_speaks_text_is_sent_away_in_text() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = WebSocketPeer::dial(&io, "shop").await;
        peer.send(r#"{"call":1,"method":"demo.Shop/Act","body":{"acts":["ACT_GATE"]}}"#)
            .await;
        stage.gated.happened(1).await;
        let drain = std::thread::spawn(move || app.drain());
        assert_eq!(peer.receive().await.unwrap(), r#"{"go_away":true}"#);
        stage.gate.raise();
        let answer = peer.receive().await.unwrap();
        assert!(
            answer.starts_with(r#"{"call":1,"body":{"sid":""#),
            "{answer}"
        );
        assert_eq!(peer.receive().await, None);
        drain.join().unwrap();
    });
}

/// Texts: anything, and envelopes with a piece torn out or put in.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let whole = r#"{"call":7,"method":"demo.Shop/Echo","deadline_ms":9000,"body":{"to":"x"}}"#;
    let torn = (0..whole.len(), 0..6_usize, "\\PC{0,3}").prop_map(move |(at, count, put)| {
        let end = (at + count).min(whole.len());
        format!("{}{put}{}", &whole[..at], &whole[end..])
    });
    let text = prop_oneof![1 => "\\PC{0,40}", 1 => r#"[{}\[\]",:0-9a-z]{0,40}"#, 3 => torn];
    prop::collection::vec(text, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a text says, its sender hears of it once.
    #[test]
    fn every_text_gets_exactly_one_answer(texts in texts()) {
        let mut answers = 0;
        with_shop(async |_, mut peer, _| {
            for text in &texts {
                peer.send(text).await;
            }
            // Answers may come in any order: this one is known by its call.
            peer.send(r#"{"call":123456,"method":"demo.Shop/Echo"}"#).await;
            while answers < texts.len() {
                let answer = peer.receive().await.expect("the connection stays open");
                answers += usize::from(!answer.starts_with(r#"{"call":123456,"#));
            }
            let pong = peer.ask(r#"{"ping":654321}"#).await;
            let last = [r#"{"pong":654321}"#, r#"{"call":123456,"body":{}}"#];
            assert!(last.contains(&pong.as_str()), "one answer too many: {pong}");
        });
        prop_assert_eq!(answers, texts.len());
    }
}
