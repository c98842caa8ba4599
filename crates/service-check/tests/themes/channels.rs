//! Ways to other services: groups, pushes in both directions.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use waystation_base::ShardId;
use waystation_net::native::UpstreamEvents;
use waystation_net::{Address, Label, MemoryIo, Shard};
use waystation_service::{App, Channel, Code, Ctx, Group, Method, PushError, Router};
use waystation_service_check::demo::shop::method::{Act as Acting, Note};
use waystation_service_check::demo::shop::{self, ShopClient};
use waystation_service_check::demo::{Act, Parcel, Report};
use waystation_service_check::{
    Event, NativeListener, NativePeer, ShopService, Stage, block_on, client, config, memory,
    run_on, shop,
};
use waystation_wire::{Header, Kind, Load};

use crate::script;

fn channel(shard: &Shard, name: &str) -> Channel {
    Channel::new(shard, Address::Memory(name.to_owned()))
}

/// A process that serves nothing under a name.
fn member(io: &MemoryIo, name: &str) -> App {
    let app = App::builder(name, config(io));
    app.listen(Address::Memory(name.to_owned()), |_| Ok(()))
        .start()
        .unwrap()
}

/// Which member each of many keys belongs to.
fn homes(group: &Group) -> BTreeMap<u32, String> {
    let home = |key: u32| {
        let channel = group.by_key(&key.to_le_bytes()).unwrap();
        (key, channel.upstream().address().to_string())
    };
    (0..300).map(home).collect()
}

async fn until_it_is(channel: &Channel, up: bool, shard: &Shard) {
    while channel.is_up() != up {
        shard.sleep(Duration::from_millis(1)).await;
    }
}

/// A conversation belongs to one Logic. When that one dies its keys, and no
/// others, go to those that are left; when it is back they come home.
#[test]
fn the_keys_of_a_lost_member_move_and_no_others() {
    let io = memory();
    let [first, second, third] = ["a", "b", "c"].map(|name| member(&io, name));
    let (lost, back, network) = (Event::default(), Event::default(), io.clone());
    let (gone, again) = (lost.clone(), back.clone());
    let restart = std::thread::spawn(move || {
        gone.wait(1);
        first.drain();
        again.wait(1);
        member(&network, "a")
    });
    let client = client(&io);
    run_on(&client, move |shard| async move {
        let channels = ["a", "b", "c"].map(|name| channel(&shard, name));
        let group = Group::new(channels.clone());
        for channel in &channels {
            until_it_is(channel, true, &shard).await;
        }
        let before = homes(&group);
        let shares: Vec<_> = ["memory:a", "memory:b", "memory:c"]
            .map(|name| before.values().filter(|home| *home == name).count())
            .into();
        assert!(shares.iter().all(|share| *share > 50), "{shares:?}");
        lost.raise();
        until_it_is(&channels[0], false, &shard).await;
        for (key, home) in homes(&group) {
            assert_ne!(home, "memory:a");
            assert!(before[&key] == "memory:a" || before[&key] == home, "{key}");
        }
        back.raise();
        until_it_is(&channels[0], true, &shard).await;
        assert_eq!(homes(&group), before);
    });
    client.drain();
    restart.join().unwrap().drain();
    second.drain();
    third.drain();
}

/// A Logic that hung took its connections and answered nothing: its kernel
/// accepts for it. Its conversations failed for as long as it hung.
#[test]
fn a_member_that_gives_no_sign_of_life_is_left_out_until_it_does() {
    let (io, stage) = (memory(), Stage::default());
    let network = io.clone();
    let shop = shop(&io, &stage).start().unwrap();
    let client = client(&io);
    let (tell, told) = (Event::default(), Event::default());
    let (wakes, woke) = (tell.clone(), told.clone());
    let callee = std::thread::spawn(move || {
        block_on(async {
            // The client finds it once it listens.
            let mut hung = NativeListener::bind(&network, "hung");
            let mut peer = hung.accept().await;
            // It answers what it was asked first, then hangs.
            let (request, _) = peer.receive_kind(Kind::Request).await;
            peer.reply(&request, &Report::default()).await;
            wakes.happened(1).await;
            peer.send(&Header::push(Note::ID), &[]).await;
            woke.happened(1).await;
        });
    });
    run_on(&client, move |shard| async move {
        let members = ["hung", "shop"].map(|name| channel(&shard, name));
        let group = Group::new(members.clone());
        until_it_is(&members[1], true, &shard).await;
        members[0].upstream().up().await.unwrap();
        let all = |name: &str| homes(&group).values().all(|home| home == name);
        assert!(all("memory:shop"), "nobody has answered for the other yet");
        let ask = |channel: &Channel, time: u64| {
            let ctx = Ctx::background(&shard, "test", Duration::from_millis(time));
            let shop = ShopClient::new(channel.clone());
            async move {
                shop.act(&ctx, &script(&[]))
                    .await
                    .map_err(|status| status.code())
            }
        };
        assert!(ask(&members[0], 10_000).await.is_ok());
        assert!(!all("memory:shop"), "it has its keys");
        // The moment of its answer has to pass.
        shard.sleep(Duration::from_millis(5)).await;
        let missed = ask(&members[0], 20).await;
        assert_eq!(missed, Err(Code::DeadlineExceeded));
        assert!(all("memory:shop"), "it hangs");
        tell.raise();
        until_it_is(&members[0], true, &shard).await;
        assert!(!all("memory:shop"), "it is back by itself");
        told.raise();
    });
    callee.join().unwrap();
    client.drain();
    shop.drain();
}

#[test]
fn a_group_without_members_is_unavailable_and_one_without_connections_is_not() {
    let client = client(&memory());
    run_on(&client, |shard| async move {
        let nobody = Group::new([]);
        assert_eq!(
            nobody.by_key(b"x").map(|_| ()).unwrap_err().code(),
            Code::Unavailable
        );
        // A call waits for the connection, until its deadline.
        let away = Group::new([channel(&shard, "nowhere")]);
        assert!(away.by_key(b"x").is_ok());
        assert_eq!(away.channels().count(), 1);
    });
    client.drain();
}

#[test]
fn a_push_upstream_arrives_or_is_refused_at_once() {
    let (io, stage) = (memory(), Stage::default());
    let client = client(&io);
    run_on(&client, |shard| async move {
        let away = channel(&shard, "nowhere");
        assert_eq!(
            away.push::<Note>(&Parcel::default()),
            Err(PushError::NotConnected)
        );
    });
    let app = shop(&io, &stage).start().unwrap();
    run_on(&client, |shard| async move {
        let channel = channel(&shard, "shop");
        channel.upstream().up().await.unwrap();
        for _ in 0..3 {
            channel.push::<Note>(&Parcel::default()).unwrap();
        }
        // The connection lives as long as its channel does.
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(10));
        ShopClient::new(channel)
            .act(&ctx, &script(&[]))
            .await
            .unwrap();
    });
    stage.noted.wait(3);
    client.drain();
    app.drain();
}

/// A channel whose callee's pushes are handled by a shop of our own.
fn listening(shard: &Shard, name: &str, stage: &Stage) -> Channel {
    struct Quiet;
    impl UpstreamEvents for Quiet {}
    let mut pushes = Router::new(shard);
    pushes.concurrency(1);
    let nowhere = channel(shard, "nowhere");
    shop::register(
        &mut pushes,
        Rc::new(ShopService::new(stage.clone(), nowhere)),
    )
    .unwrap();
    let address = Address::Memory(name.to_owned());
    Channel::with_pushes(shard, address, pushes.into_native(), Rc::new(Quiet))
}

/// A callee pushes to whoever calls it, and even asks: the caller's handlers
/// see it under the same rules as on a listener, whatever they do.
#[test]
fn what_a_callee_pushes_is_handled_and_never_answered() {
    let (io, stage) = (memory(), Stage::default());
    let client = client(&io);
    let mut listener = NativeListener::bind(&io, "callee");
    let seen = stage.clone();
    run_on(&client, move |shard| async move {
        shard.set_extension(Rc::new(listening(&shard, "callee", &seen)));
    });
    block_on(async {
        let mut callee: NativePeer = listener.accept().await;
        callee.send(&Header::push(Note::ID), &[]).await;
        for acts in [&[Act::Panic][..], &[Act::Fail]] {
            callee
                .send(&Header::push(Acting::ID), &script(acts).encode_to_vec())
                .await;
        }
        callee.send(&Header::push(Note::ID), &[0xFF]).await;
        callee.request::<Acting>(5, &script(&[Act::Yield])).await;
        let (answer, _) = callee.receive_kind(Kind::Reply).await;
        assert_eq!((answer.call.0, answer.status), (5, Code::Ok));
        assert!(!callee.has_more());
    });
    assert_eq!((stage.noted.count(), stage.begun.count()), (1, 3));
    client.drain();
}

/// The load that a callee told with its last answer, refusals included.
#[test]
fn a_channel_knows_the_load_of_its_callee() {
    let io = memory();
    let client = client(&io);
    let mut listener = NativeListener::bind(&io, "callee");
    let seen = run_on(&client, |shard| async move {
        let channel = channel(&shard, "callee");
        shard.set_extension(Rc::new(channel.clone()));
        channel.load()
    });
    assert_eq!(seen, Load::default());
    let load = Load {
        in_flight: 17,
        latency_us: 900,
    };
    let callee = async {
        let mut callee = listener.accept().await;
        let (request, _) = callee.receive_kind(Kind::Request).await;
        let busy = Header::reply(request.call, request.message, Code::Overloaded).with_load(load);
        callee.send(&busy, b"busy").await;
        callee
    };
    let remote = client.server().remote().clone();
    let (told, mut loads) = tokio::sync::mpsc::unbounded_channel();
    let ask = move |shard: &Shard| {
        let channel = shard.extension::<Channel>().unwrap();
        let ctx = Ctx::background(shard, "test", Duration::from_secs(10));
        shard.spawn(Label::of("test"), async move {
            let refused = channel
                .call::<Acting>(&ctx, &script(&[]))
                .await
                .unwrap_err();
            told.send((refused.code(), channel.load())).unwrap();
        });
    };
    remote.run_on(ShardId(0), ask).unwrap();
    let callee = block_on(callee);
    assert_eq!(block_on(loads.recv()), Some((Code::Overloaded, load)));
    callee.hang_up();
    client.drain();
}
