//! Probes, and what they amount to beside leases and callers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use waystation_membership::{State, Verdict};
use waystation_net::{Address, Label, MemoryIo, Shard};
use waystation_service::{App, Channel, Ctx, Group, ProbeConfig, ProbeKind};
use waystation_service_check::demo::shop::ShopClient;
use waystation_service_check::{NativeListener, NativePeer, Stage, client, config, memory, run_on};
use waystation_wire::{Header, Kind};

use crate::groups::{following, key_of, node, shop_at, view};
use crate::script;

/// Listens, accepts, and answers nothing while the cell says so.
fn sleeper(shard: &Shard, io: &MemoryIo, name: &str) -> Rc<Cell<bool>> {
    let hangs = Rc::new(Cell::new(true));
    let (mut listener, own, asleep) =
        (NativeListener::bind(io, name), shard.clone(), hangs.clone());
    shard.spawn(Label::of("test"), async move {
        loop {
            let peer = listener.accept().await;
            own.spawn(Label::of("test"), doze(peer, asleep.clone()));
        }
    });
    hangs
}

async fn doze(mut peer: NativePeer, hangs: Rc<Cell<bool>>) {
    while let Some((header, _)) = peer.receive().await {
        if header.kind == Kind::Ping && !hangs.get() {
            peer.send(&Header::pong(header.call), &[]).await;
        }
    }
}

#[test]
fn each_kind_of_probe_tells_who_answers() {
    let io = memory();
    let app = App::builder("pages", config(&io))
        .listen(Address::Memory("pages".to_owned()), |router| {
            router.page("/ok", "text/plain", "fine");
            Ok(())
        })
        .start()
        .unwrap();
    let (client, network) = (client(&io), io.clone());
    run_on(&client, move |shard| async move {
        sleeper(&shard, &network, "sleeper");
        let probe = async |kind: &str, name: &str, wait_ms: u64| {
            let kind: ProbeKind = kind.parse().unwrap();
            let address = Address::Memory(name.to_owned());
            let wait = Duration::from_millis(wait_ms);
            kind.probe(&shard, &address, wait)
                .await
                .map_err(|error| error.kind())
        };
        for kind in ["tcp", "native", "http:/ok"] {
            assert_eq!(probe(kind, "pages", 20_000).await, Ok(()), "{kind}");
            assert!(probe(kind, "nowhere", 20_000).await.is_err(), "{kind}");
        }
        let refused = probe("http:/nothing", "pages", 20_000).await;
        assert_eq!(refused, Err(std::io::ErrorKind::InvalidData));
        assert_eq!(probe("tcp", "sleeper", 20_000).await, Ok(()));
        let late = probe("native", "sleeper", 20).await;
        assert_eq!(late, Err(std::io::ErrorKind::TimedOut));
    });
    client.drain();
    app.drain();
}

async fn until_verdict(group: &Group, id: &str, wanted: Verdict, shard: &Shard) {
    while group.member(id).unwrap().verdict() != wanted {
        shard.sleep(Duration::from_millis(1)).await;
    }
}

/// A process hung, and something else kept its lease: it was listed as serving,
/// and got its share of the calls until each of them had timed out.
#[test]
fn who_hangs_under_a_lease_that_lives_is_left_out_until_it_answers() {
    let (io, stage) = (memory(), Stage::default());
    let shop = shop_at(&io, "127.0.0.1:7002", &stage);
    let (client, network) = (client(&io), io.clone());
    run_on(&client, move |shard| async move {
        let hangs = sleeper(&shard, &network, "127.0.0.1:7001");
        let group = following(&shard);
        let nodes = [
            node("a", 7001, State::Serving),
            node("b", 7002, State::Serving),
        ];
        group.update(&view(1, &nodes), &[]);
        let [a, b] = ["a", "b"].map(|id| group.member(id).unwrap());
        let channels: [Channel; 2] = [&a, &b].map(|member| group.channel(member));
        for channel in &channels {
            channel.upstream().up().await.unwrap();
        }
        assert_eq!(a.verdict(), Verdict::Use, "nobody has asked it yet");
        group.probe(
            &shard,
            ProbeConfig {
                interval: Duration::from_millis(2),
                // Long enough that a busy machine does not fail who answers, too.
                wait: Duration::from_millis(300),
                failures: 2,
                ..ProbeConfig::new(ProbeKind::Native)
            },
        );
        until_verdict(&group, "a", Verdict::Suspect, &shard).await;
        let key = key_of(&group, "a");
        let pick = group.pick(&key).unwrap();
        assert_eq!((pick.id.as_str(), pick.is_home), ("b", false));

        // Callers who try nevertheless find it dead as well.
        let call = async || {
            let ctx = Ctx::background(&shard, "test", Duration::from_millis(20));
            ShopClient::new(channels[0].clone())
                .act(&ctx, &script(&[]))
                .await
                .is_ok()
        };
        while a.verdict() != Verdict::Gone {
            assert!(!call().await);
        }
        // Alone it is not picked either.
        group.update(&view(2, &nodes[..1]), &[]);
        assert!(group.pick(&key).is_err());

        hangs.set(false);
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(20));
        let pick = group.wait(&ctx, &key).await.unwrap();
        assert_eq!(pick.id, "a", "it answers probes again");
    });
    client.drain();
    shop.drain();
}

/// What the guard on losses keeps is no worse than what is listed.
#[test]
fn who_is_kept_by_the_guard_is_used() {
    let client = client(&memory());
    run_on(&client, |shard| async move {
        let group = following(&shard);
        let kept = node("a", 7001, State::Serving);
        group.update(
            &view(1, std::slice::from_ref(&kept)),
            std::slice::from_ref(&kept.id),
        );
        let member = group.member("a").unwrap();
        assert_eq!(member.verdict(), Verdict::Use);
        assert!(member.is_well());
    });
    client.drain();
}
