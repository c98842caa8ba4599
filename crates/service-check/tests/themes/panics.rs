//! A panic in a handler answers an error and keeps the process.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use waystation_base::CallId;
use waystation_service::{Code, Ctx, MessageId, Method, Status};
use waystation_service_check::demo::shop::method::{Act as Acting, Echo};
use waystation_service_check::demo::{Act, Parcel};
use waystation_service_check::{
    Event, HttpPeer, NativePeer, Stage, WebSocketPeer, block_on, memory, shop, shop_with,
    with_deadlines,
};
use waystation_wire::{Header, Kind};

use crate::script;

/// A message whose JSON panics in both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Explosive {
    #[prost(string, tag = "1")]
    text: String,
}

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("as it must, when it is written")
    }
}

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("as it must, when it is read")
    }
}

/// Reads an explosive.
struct Take;

impl Method for Take {
    type Request = Explosive;
    type Reply = Parcel;
    const NAME: &'static str = "demo.Explosives/Take";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

/// Writes an explosive.
struct Give;

impl Method for Give {
    type Request = Parcel;
    type Reply = Explosive;
    const NAME: &'static str = "demo.Explosives/Give";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

async fn give(_: Ctx, _: Parcel) -> Result<Explosive, Status> {
    Ok(Explosive::default())
}

async fn take(_: Ctx, _: Explosive) -> Result<Parcel, Status> {
    Ok(Parcel::default())
}

/// A panic while a body was decoded took the connection with it, with all its
/// other requests; one while an answer was encoded left a WebSocket call
/// without an answer and cut an HTTP connection.
#[test]
fn a_panic_while_decoding_or_encoding_is_answered() {
    let io = memory();
    let app = shop_with(&io, &Stage::default(), |router| {
        router.method::<Take, _>(take).unwrap();
        router.method::<Give, _>(give).unwrap();
    });
    let app = app.start().unwrap();
    block_on(async {
        for method in [Take::NAME, Give::NAME] {
            let mut http = HttpPeer::dial(&io, "shop");
            let answer = http.post(&format!("/{method}"), "{}").await;
            assert_eq!(answer.status, 500);
            assert!(answer.body.contains("panicked"), "{answer:?}");
            assert_eq!(http.post("/demo.Shop/Echo", "{}").await.status, 200);

            let mut web = WebSocketPeer::dial(&io, "shop").await;
            let answer = web
                .ask(&format!(r#"{{"call":5,"method":"{method}"}}"#))
                .await;
            assert!(
                answer.starts_with(r#"{"call":5,"error":{"code":"internal""#),
                "{answer}"
            );
            let answer = web.ask(r#"{"call":6,"method":"demo.Shop/Echo"}"#).await;
            assert_eq!(answer, r#"{"call":6,"body":{}}"#);
        }
    });
    assert_eq!(app.server().counters()[0].panics.get(), 4);
    app.drain();
}

#[test]
fn a_panic_in_a_handler_is_answered_and_others_go_on() {
    for concurrency in [1, 256] {
        let (io, stage) = (memory(), Stage::default());
        let app = shop_with(&io, &stage, move |router| router.concurrency(concurrency));
        let app = app.start().unwrap();
        block_on(async {
            let mut peer = NativePeer::dial(&io, "shop");
            for (call, acts) in [(1, &[Act::Panic][..]), (2, &[Act::Yield, Act::Panic])] {
                peer.request::<Acting>(call, &script(acts)).await;
                assert_eq!(peer.answer::<Acting>().await, (call, Err(Code::Internal)));
            }
            peer.request::<Echo>(3, &Parcel::default()).await;
            assert_eq!(peer.answer::<Echo>().await.0, 3);
        });
        app.drain();
    }
}

/// A handler that missed its deadline was dropped after its answer was made,
/// and a panic in that drop ended the connection instead of the request.
#[test]
fn a_panic_in_a_drop_takes_neither_the_answer_nor_the_connection() {
    for concurrency in [1, 256] {
        with_deadlines(|deadline| panic_in_drops(concurrency, deadline));
    }
}

fn panic_in_drops(concurrency: u32, deadline: Duration) -> bool {
    let (io, stage) = (memory(), Stage::default());
    let app = shop_with(&io, &stage, move |router| router.concurrency(concurrency));
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        let trap = script(&[Act::PanicInDrop, Act::Forever]);
        let header = Header::request(Acting::ID, CallId(1)).with_deadline_left(Some(deadline));
        peer.send(&header, &prost::Message::encode_to_vec(&trap))
            .await;
        assert_eq!(
            peer.answer::<Acting>().await,
            (1, Err(Code::DeadlineExceeded))
        );
        if stage.begun.count() == 0 {
            return;
        }
        peer.request::<Acting>(2, &script(&[Act::PanicInDrop]))
            .await;
        assert_eq!(peer.answer::<Acting>().await, (2, Err(Code::Internal)));
        peer.request::<Acting>(3, &trap).await;
        stage.begun.happened(3).await;
        peer.cancel(3).await;
        stage.gone.happened(3).await;
        peer.request::<Echo>(4, &Parcel::default()).await;
        assert_eq!(peer.answer::<Echo>().await.0, 4);
        peer.hang_up();
    });
    app.drain();
    stage.begun.count() == 3
}

/// The close hook runs while the task of a connection unwinds from a panic in
/// its open hook. A second panic there ended the process.
#[test]
fn panics_in_both_hooks_end_one_connection() {
    let io = memory();
    let (opened, closed) = (Event::default(), Event::default());
    let (opening, closing) = (opened.clone(), closed.clone());
    let app = shop_with(&io, &Stage::default(), move |router| {
        let (opening, closing) = (opening.clone(), closing.clone());
        router.on_open(move |_| {
            opening.raise();
            assert!(opening.count() > 1, "as it must, for the first");
        });
        router.on_close(move |_, _| {
            closing.raise();
            assert!(closing.count() > 1, "as it must, for the first");
        });
    });
    let app = app.start().unwrap();
    block_on(async {
        let mut first = NativePeer::dial(&io, "shop");
        assert!(first.receive().await.is_none(), "it is closed");
        closed.happened(1).await;
        let mut second = NativePeer::dial(&io, "shop");
        second.request::<Echo>(1, &Parcel::default()).await;
        assert_eq!(second.receive_kind(Kind::Reply).await.0.status, Code::Ok);
        second.hang_up();
        closed.happened(2).await;
    });
    app.drain();
    assert_eq!((opened.count(), closed.count()), (2, 2));
}

#[test]
fn a_panic_of_a_request_without_a_caller_harms_nobody() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        let panics = prost::Message::encode_to_vec(&script(&[Act::Panic]));
        peer.send(&Header::push(Acting::ID), &panics).await;
        stage.gone.happened(1).await;
        peer.request::<Echo>(1, &Parcel::default()).await;
        assert_eq!(peer.answer::<Echo>().await.0, 1);
    });
    app.drain();
}
