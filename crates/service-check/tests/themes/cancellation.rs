//! Who gives up says so, and nobody works on in vain.

use std::time::Duration;

use waystation_base::CallId;
use waystation_net::Address;
use waystation_service::{Channel, ContextInfo, Ctx, Method};
use waystation_service_check::demo::shop::ShopClient;
use waystation_service_check::demo::shop::method::{Act as Acting, Echo};
use waystation_service_check::demo::{Act, Parcel};
use waystation_service_check::{
    NativePeer, Stage, block_on, client, depot, memory, run_on, shop, shop_with,
};
use waystation_wire::{Header, encode_into};

use crate::script;

/// The caller of the caller gives up: the handler two hops away ends, and no
/// context of it is left anywhere.
#[test]
fn a_cancellation_travels_two_hops() {
    let io = memory();
    let (in_shop, in_depot) = (Stage::default(), Stage::default());
    let depot = depot(&io, &in_depot).start().unwrap();
    let shop = shop(&io, &in_shop).start().unwrap();
    let client = client(&io);
    let begun = in_depot.begun.clone();
    run_on(&client, move |shard| async move {
        let channel = Channel::new(&shard, Address::Memory("shop".to_owned()));
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(15));
        let client = ShopClient::new(channel);
        let acts = script(&[Act::Call, Act::Forever]);
        tokio::select! {
            answer = client.act(&ctx, &acts) => panic!("{answer:?}"),
            () = begun.happened(1) => {}
        }
    });
    in_depot.gone.wait(1);
    in_shop.gone.wait(1);
    for app in [&depot, &shop, &client] {
        let left = run_on(app, |shard| async move { ContextInfo::list(&shard) });
        assert!(left.is_empty(), "{left:?}");
    }
    let late: u64 = shop
        .server()
        .counters()
        .iter()
        .map(|c| c.late_answers.get())
        .sum();
    assert_eq!(late, 0, "a cancelled request has no answer");
    for app in [client, shop, depot] {
        app.drain();
    }
}

/// A cancellation waited behind the handler that it was meant for, where the
/// connection handles one request at a time.
#[test]
fn a_cancelled_request_ends_and_has_no_answer() {
    for concurrency in [1, 256] {
        let (io, stage) = (memory(), Stage::default());
        let app = shop_with(&io, &stage, move |router| router.concurrency(concurrency));
        let app = app.start().unwrap();
        block_on(async {
            let mut peer = NativePeer::dial(&io, "shop");
            peer.request::<Acting>(1, &script(&[Act::Forever])).await;
            stage.begun.happened(1).await;
            peer.cancel(1).await;
            stage.gone.happened(1).await;
            peer.request::<Echo>(2, &Parcel::default()).await;
            assert_eq!(peer.answer::<Echo>().await.0, 2);
            assert!(!peer.has_more());
        });
        app.drain();
    }
}

/// Cancellations cross answers on the way, name calls that never were, and
/// come twice.
#[test]
fn a_cancellation_of_nothing_does_nothing() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.cancel(1).await;
        peer.request::<Echo>(1, &Parcel::default()).await;
        assert_eq!(peer.answer::<Echo>().await.0, 1);
        peer.cancel(1).await;
        peer.cancel(u64::MAX).await;
        // The id may be used again.
        peer.request::<Acting>(1, &script(&[Act::Yield])).await;
        assert_eq!(peer.answer::<Acting>().await.0, 1);
    });
    app.drain();
}

/// A request that is cancelled before its handler had its first turn is not
/// begun at all.
#[test]
fn a_request_cancelled_at_once_is_not_begun() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        let mut both = Vec::new();
        for header in [
            Header::request(Acting::ID, CallId(1)),
            Header::cancel(CallId(1)),
        ] {
            encode_into(&header, &[], &mut both).unwrap();
        }
        peer.send_raw(&both).await;
        peer.request::<Echo>(2, &Parcel::default()).await;
        assert_eq!(peer.answer::<Echo>().await.0, 2);
    });
    assert_eq!(stage.begun.count(), 0);
    app.drain();
}
