//! Handlers, clients and pushes.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use protox::prost::Message as _;

use crate::im::common::{Cursor, Kind, Page};
use crate::im::logic::{self, Logic, LogicClient, method};
use crate::im::{Delivered, Delivery, SendReply, SendRequest, send_reply};
use crate::{
    Channel, Ctx, Encoding, MessageId, Method, Peer, PushError, RegisterError, Router, Status,
};

/// Handlers as a user writes them.
struct Rules {
    first_seq: u64,
}

impl Logic for Rules {
    async fn send(&self, ctx: &Ctx, request: SendRequest) -> Result<SendReply, Status> {
        ctx.trace.borrow_mut().push(request.client_id);
        if request.text.is_empty() {
            return Err(Status("nothing to send".to_owned()));
        }
        std::future::ready(()).await;
        Ok(SendReply {
            seq: self.first_seq + u64::from(request.kind == Kind::Text as i32),
        })
    }

    async fn read(&self, _ctx: &Ctx, request: Cursor) -> Result<Page, Status> {
        let texts = (0..request.limit).map(|line| format!("line {line}"));
        Ok(Page {
            texts: texts.collect(),
        })
    }

    async fn deliver(&self, _ctx: &Ctx, _request: Delivery) -> Result<Delivered, Status> {
        Ok(Delivered {})
    }

    async fn r#type(&self, _ctx: &Ctx, _request: Delivery) -> Result<send_reply::Ack, Status> {
        Ok(send_reply::Ack {})
    }
}

/// The result of a future that never has to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the stand-in never waits"),
    }
}

fn channel() -> Channel {
    let mut router = Router::default();
    logic::register(&mut router, Rc::new(Rules { first_seq: 41 })).expect("a new router");
    Channel {
        router: Rc::new(router),
    }
}

fn hello() -> SendRequest {
    SendRequest {
        client_id: "c-1".to_owned(),
        text: "hello".to_owned(),
        kind: Kind::Text as i32,
    }
}

#[test]
fn a_call_reaches_its_handler_and_returns_its_reply() {
    let client = LogicClient::new(channel()).clone();
    let ctx = Ctx::default();
    assert_eq!(now(client.send(&ctx, &hello())), Ok(SendReply { seq: 42 }));
    let page = now(client.read(&ctx, &Cursor { after: 0, limit: 2 })).unwrap();
    assert_eq!(page.texts, ["line 0", "line 1"]);
    assert_eq!(
        now(client.deliver(&ctx, &Delivery::default())),
        Ok(Delivered {})
    );
    assert_eq!(
        now(client.r#type(&ctx, &Delivery::default())),
        Ok(send_reply::Ack {})
    );
    assert_eq!(*ctx.trace.borrow(), ["c-1"]);
}

#[test]
fn an_error_of_the_handler_comes_back() {
    let client = LogicClient::new(channel());
    let refused = now(client.send(&Ctx::default(), &SendRequest::default()));
    assert_eq!(refused, Err(Status("nothing to send".to_owned())));
}

#[test]
fn the_same_handlers_answer_json() {
    let router = channel().router;
    let request = br#"{"clientId":"c-2","text":"hi","kind":"KIND_TEXT"}"#.to_vec();
    let id = MessageId::of("im.Logic/Send");
    let reply = now(router.dispatch(Ctx::default(), id, Encoding::Json, request));
    assert_eq!(reply, Ok(br#"{"seq":"42"}"#.to_vec()));
}

#[test]
fn registering_a_service_twice_is_refused() {
    let mut router = Router::default();
    let rules = Rc::new(Rules { first_seq: 0 });
    logic::register(&mut router, Rc::clone(&rules)).unwrap();
    let refused = logic::register(&mut router, rules);
    assert_eq!(refused, Err(RegisterError(MessageId::of("im.Logic/Send"))));
}

#[test]
fn methods_carry_name_id_and_idempotency() {
    assert_eq!(logic::SERVICE, "im.Logic");
    assert_eq!(method::Send::NAME, "im.Logic/Send");
    assert_eq!(method::Send::ID, MessageId::of("im.Logic/Send"));
    let idempotent = [
        method::Send::IDEMPOTENT,
        method::Read::IDEMPOTENT,
        method::Deliver::IDEMPOTENT,
    ];
    assert_eq!(idempotent, [true, true, false]);
}

#[test]
fn an_rpc_with_an_empty_reply_is_pushed_until_the_peer_has_no_room() {
    let peer = Peer::default();
    let delivery = Delivery {
        seq: 7,
        message: Some(hello()),
    };
    logic::push_deliver(&peer, &delivery).unwrap();
    assert_eq!(logic::push_type(&peer, &delivery), Err(PushError));
    let pushed = peer.pushed.borrow();
    let (id, bytes) = &pushed[0];
    assert_eq!(*id, method::Deliver::ID);
    assert_eq!(Delivery::decode(bytes.as_slice()).unwrap(), delivery);
}

#[test]
fn a_service_without_methods_registers() {
    struct Nothing;
    impl crate::im::reserved::Reserved for Nothing {}
    let mut router = Router::default();
    crate::im::reserved::register(&mut router, Rc::new(Nothing)).unwrap();
}
