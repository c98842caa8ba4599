//! A text over WebSocket to a service: the JSON envelope of requests.
//!
//! Whatever the text is, it gets exactly one answer, which is an envelope
//! itself, under its own call where it says one.
#![no_main]

mod support;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use support::Host;
use support::websocket::{HANDSHAKE, frames, text_frame};
use waystation_service::{Ctx, MessageId, Method, Router, Status};

#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

struct Shout;

impl Method for Shout {
    type Request = Text;
    type Reply = Text;
    const NAME: &'static str = "demo.Echo/Shout";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

async fn shout(_ctx: Ctx, request: Text) -> Result<Text, Status> {
    if request.text.is_empty() {
        return Err(Status::invalid_request("nothing to shout"));
    }
    Ok(Text {
        text: request.text.to_uppercase(),
    })
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    Host::start(|shard| {
        let mut router = Router::new(shard);
        router.method::<Shout, _>(shout).expect("there is one");
        router.websocket("/ws");
        router.into_protocol()
    })
});

fuzz_target!(|text: &str| {
    let bytes = [HANDSHAKE, &text_frame(text)].concat();
    let mut answers = frames(&HOST.exchange(&bytes, bytes.len()));
    answers.retain(|(first, _)| *first != 0x88);
    let [(0x81, answer)] = &answers[..] else {
        panic!("{} answers, or none in text", answers.len());
    };
    let answer: Value = serde_json::from_slice(answer).expect("the answer is JSON");
    let answer = answer.as_object().expect("the answer is an envelope");
    let Some(call) = answer.get("call") else {
        assert!(answer.len() == 1 && answer["pong"].is_u64());
        return;
    };
    assert_eq!(answer.len(), 2);
    if let Some(error) = answer.get("error") {
        assert!(error["code"].is_string() && error["message"].is_string());
    } else {
        assert!(answer["body"].is_object());
    }
    // A name that stands twice makes it unreadable.
    if let Ok(Value::Object(asked)) = serde_json::from_str(text)
        && let Some(asked) = asked.get("call").filter(|call| call.is_u64())
        && text.matches("call").count() == 1
    {
        assert_eq!(asked, call);
    }
});
