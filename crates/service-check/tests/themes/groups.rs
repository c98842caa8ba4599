//! Groups that follow the views of a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Epoch, ServiceName};
use waystation_membership::{Instance, InstanceId, Owner, State, Verdict, View, ViewVersion};
use waystation_net::native::UpstreamState;
use waystation_net::{Address, Label, Shard};
use waystation_service::{App, Channel, Code, Ctx, Group};
use waystation_service_check::demo::Act;
use waystation_service_check::demo::shop::{self, ShopClient};
use waystation_service_check::{ShopService, Stage, block_on, client, config, memory, run_on};

use crate::script;

/// A node whose address tells its memory name by the port.
pub(super) fn node(id: &str, port: u16, state: State) -> Instance {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port)).into();
    let service = ServiceName::new("shop").unwrap();
    let id = InstanceId::new(id).unwrap();
    let mut instance = Instance::new(id, service, address, Owner::default());
    instance.state = state;
    instance
}

pub(super) fn view(number: u64, nodes: &[Instance]) -> View {
    let at = ViewVersion {
        epoch: Epoch(1),
        number,
    };
    let mut view = View::empty(ServiceName::new("shop").unwrap(), at);
    for node in nodes {
        view.instances
            .insert(node.id.clone(), Arc::new(node.clone()));
    }
    view
}

/// A group whose members are found in memory, by their addresses.
pub(super) fn following(shard: &Shard) -> Group {
    let shard = shard.clone();
    Group::following("shop", move |instance| {
        Channel::new(&shard, Address::Memory(instance.address.to_string()))
    })
}

fn homes(group: &Group) -> BTreeMap<u32, String> {
    let home = |key: u32| (key, group.home(&key.to_le_bytes()).unwrap());
    (0..100).map(home).collect()
}

/// A node that was lost, or drained, moved the ids of others too; one that came
/// back at another address was another node.
#[test]
fn of_a_hundred_keys_only_those_of_a_lost_node_move() {
    let client = client(&memory());
    run_on(&client, |shard| async move {
        let group = following(&shard);
        let node = |n: u16, state| node(&format!("shop-{n}"), 7000 + n, state);
        let all: Vec<_> = (1..=5).map(|n| node(n, State::Serving)).collect();
        assert_eq!(group.update(&view(1, &all), &[]).came.len(), 5);
        let before = homes(&group);
        for id in 1..=5 {
            let name = format!("shop-{id}");
            let share = before.values().filter(|home| **home == name).count();
            assert!(share > 5, "{name} has {share} of 100");
        }
        let moved = |group: &Group, what: &str| {
            for (key, home) in homes(group) {
                assert_ne!(home, "shop-2", "{what}");
                assert!(
                    before[&key] == "shop-2" || before[&key] == home,
                    "{what}: {key}"
                );
            }
        };
        let mut draining = all.clone();
        draining[1].state = State::Draining;
        assert!(group.update(&view(2, &draining), &[]).went.is_empty());
        moved(&group, "it drains");
        let left: Vec<_> = [0, 2, 3, 4].map(|n: usize| all[n].clone()).into();
        assert_eq!(group.update(&view(3, &left), &[]).went.len(), 1);
        moved(&group, "it is gone");
        let mut starting = all.clone();
        starting[1].state = State::Starting;
        group.update(&view(4, &starting), &[]);
        moved(&group, "it is starting");
        let mut elsewhere = all.clone();
        elsewhere[1] = self::node("shop-2", 7999, State::Serving);
        group.update(&view(5, &elsewhere), &[]);
        assert_eq!(homes(&group), before, "it is back, elsewhere");
        assert_eq!(group.channels().count(), 0, "nobody was called");
    });
    client.drain();
}

pub(super) fn shop_at(io: &waystation_net::MemoryIo, name: &str, stage: &Stage) -> App {
    let stage = stage.clone();
    App::builder(name, config(io))
        .listen(Address::Memory(name.to_owned()), move |router| {
            let nowhere = Channel::new(router.shard(), Address::Memory("nowhere".to_owned()));
            let shop = ShopService::new(stage.clone(), nowhere);
            shop::register(router, std::rc::Rc::new(shop))
        })
        .start()
        .unwrap()
}

/// A key whose home is `id`.
pub(super) fn key_of(group: &Group, id: &str) -> Vec<u8> {
    let keys = (0..1000_u32).map(|key| key.to_le_bytes().to_vec());
    let mut own = keys.filter(|key| group.home(key).as_deref() == Some(id));
    own.next().unwrap()
}

/// A node that drained got new requests for as long as its callers had them,
/// and answers that were under way were lost when it went.
#[test]
fn who_drains_gets_nothing_new_and_what_was_sent_ends() {
    let (io, first, second) = (memory(), Stage::default(), Stage::default());
    let shops = [
        shop_at(&io, "127.0.0.1:7001", &first),
        shop_at(&io, "127.0.0.1:7002", &second),
    ];
    let client = client(&io);
    let (one, two) = (first.clone(), second.clone());
    run_on(&client, move |shard| async move {
        let group = following(&shard);
        let [a, b] =
            ["a", "b"].map(|id| node(id, if id == "a" { 7001 } else { 7002 }, State::Serving));
        group.update(&view(1, &[a.clone(), b.clone()]), &[]);
        let key = key_of(&group, "a");
        let ask = |acts: &[Act]| {
            let (script, pick) = (script(acts), group.pick(&key).unwrap());
            let shard = shard.clone();
            async move {
                let ctx = Ctx::background(&shard, "test", Duration::from_secs(20));
                ShopClient::new(pick.channel)
                    .act(&ctx, &script)
                    .await
                    .is_ok()
            }
        };
        let (done, is_done) = tokio::sync::oneshot::channel();
        let slow = ask(&[Act::Gate]);
        shard.spawn(Label::of("test"), async move {
            let _ = done.send(slow.await);
        });
        one.gated.happened(1).await;

        let mut draining = a.clone();
        draining.state = State::Draining;
        group.update(&view(2, &[draining, b.clone()]), &[]);
        assert!(ask(&[]).await);
        assert_eq!((one.begun.count(), two.begun.count()), (1, 1));
        assert!(!group.pick(&key).unwrap().id.is_empty());

        let gone = group
            .update(&view(3, std::slice::from_ref(&b)), &[])
            .went
            .remove(0);
        let upstream = gone.opened().unwrap().upstream().clone();
        assert_eq!(upstream.in_flight(), 1);
        one.gate.raise();
        assert_eq!(is_done.await, Ok(true), "what was sent is answered");
        while upstream.state() != UpstreamState::Closed {
            shard.sleep(Duration::from_millis(1)).await;
        }
        assert!(ask(&[]).await);
        assert_eq!((one.begun.count(), two.begun.count()), (1, 2));
    });
    client.drain();
    shops.into_iter().for_each(App::drain);
}

/// The lease of the only node ran out, since it alone was cut off from the
/// registry, and its callers, who reached it, had nobody left to call.
#[test]
fn who_lapsed_and_still_answers_is_the_last_resort() {
    let (io, stages) = (memory(), [Stage::default(), Stage::default()]);
    let shops = [
        shop_at(&io, "127.0.0.1:7001", &stages[0]),
        shop_at(&io, "127.0.0.1:7002", &stages[1]),
    ];
    let client = client(&io);
    run_on(&client, move |shard| async move {
        let group = following(&shard);
        let [a, b] = [("a", 7001), ("b", 7002)].map(|(id, port)| node(id, port, State::Serving));
        let [id_a, id_b] = [&a, &b].map(|one| one.id.clone());
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(20));
        let call = async |group: &Group| {
            let pick = group.pick(b"x").unwrap();
            let answer = ShopClient::new(pick.channel).act(&ctx, &script(&[])).await;
            assert!(answer.is_ok());
            pick.id
        };
        let both = view(1, &[a.clone(), b.clone()]);
        group.update(&both, &[]);
        for member in group.members() {
            let channel = group.channel(&member);
            let answer = ShopClient::new(channel).act(&ctx, &script(&[])).await;
            assert!(answer.is_ok());
        }
        let one = view(2, std::slice::from_ref(&b));
        let went = group.update_lapsed(&one, &[], &[id_a.clone()].into()).went;
        assert_eq!(went[0].verdict(), Verdict::Suspect);
        assert_eq!(call(&group).await, "b", "while another is there");
        let nobody = view(3, &[]);
        let lapsed = [id_a.clone(), id_b.clone()].into();
        let went = group.update_lapsed(&nobody, &[], &lapsed).went;
        assert_eq!(went.len(), 1, "the first has been told");
        assert_eq!(group.home(b"x"), None);
        // Whoever has to know something of which it is told once still hears it.
        assert_eq!((group.members().len(), group.callees().len()), (0, 2));
        assert_eq!(group.channels().count(), 2);
        assert!(group.member("a").is_none() && group.callee("a").is_some());
        let last = call(&group).await;
        assert!(["a", "b"].contains(&&*last));
        // Who said so itself is gone for good, and that is told.
        let went = group.update_lapsed(&nobody, &[], &[id_b].into()).went;
        let went: Vec<_> = went.iter().map(|one| one.id()).collect();
        assert_eq!(went, ["a"]);
        assert_eq!(call(&group).await, "b");
        let back = group.update_lapsed(&both, &[], &BTreeSet::new());
        assert_eq!(back.came.len(), 2, "both are back");
        assert_eq!((group.members().len(), group.callees().len()), (2, 2));
        group.update(&nobody, &[]);
        assert_eq!(group.callees().len(), 0);
        assert_eq!(
            group.pick(b"x").map(|_| ()).unwrap_err().code(),
            Code::Unavailable
        );
    });
    client.drain();
    shops.into_iter().for_each(App::drain);
}

/// Whoever called a service before its first node was listed failed at once.
#[test]
fn a_call_waits_for_the_first_node_until_its_deadline() {
    let (io, stage) = (memory(), Stage::default());
    let shop = shop_at(&io, "127.0.0.1:7001", &stage);
    let client = client(&io);
    run_on(&client, move |shard| async move {
        let group = following(&shard);
        let ctx = Ctx::background(&shard, "test", Duration::from_millis(5));
        let none = group.wait(&ctx, b"x").await.map(|_| ()).unwrap_err();
        assert_eq!(none.code(), Code::Unavailable);
        let (later, own) = (group.clone(), shard.clone());
        shard.spawn(Label::of("test"), async move {
            own.sleep(Duration::from_millis(5)).await;
            later.update(&view(1, &[node("a", 7001, State::Serving)]), &[]);
        });
        let ctx = Ctx::background(&shard, "test", Duration::from_secs(20));
        let pick = group.wait(&ctx, b"x").await.unwrap();
        assert!(pick.is_home);
        let answer = ShopClient::new(pick.channel).act(&ctx, &script(&[])).await;
        assert!(answer.is_ok());
    });
    client.drain();
    shop.drain();
    assert_eq!(stage.begun.count(), 1);
    block_on(stage.gone.happened(1));
}
