//! Shards of one Logic, of which one takes nothing for a while.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use waystation_base::{ConnName, ShardId};
use waystation_net::native::{Router as NativeRouter, Upstream, UpstreamEvents};
use waystation_net::{Address, CloseReason, Faults, Label, MemoryIo, NetConfig, Shard};
use waystation_service::{App, Channel, Code, Ctx, Group, Peer};

use super::counts::Counts;
use super::handlers::Rules;
use super::others::Others;
use crate::im::logic::{self, LogicClient};
use crate::im::{AttachRequest, UserRequest};

/// Far more than anything here takes; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(1)];

fn config(io: &MemoryIo, shards: u16) -> NetConfig {
    NetConfig {
        shards,
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    }
}

/// A Logic with two shards that knows no other node.
fn logic_of(io: &MemoryIo, counts: &Arc<Counts>) -> App {
    let counts = counts.clone();
    App::builder("logic-1", config(io, 2))
        .on_shard(move |shard| {
            let group = |service| Group::following(service, |_| unreachable!("there is none"));
            let others = Others::new("logic-1".to_owned(), group("im.logic"), counts.clone());
            let rules = Rules::new(shard, group("im.das"), others, None, &counts);
            shard.set_extension(Rc::new(rules));
        })
        .listen(Address::Memory("logic".to_owned()), |router| {
            let rules = router.shard().extension::<Rules>().unwrap();
            let closed = rules.clone();
            router.on_close(move |peer: &Peer, _: CloseReason| closed.entry_left(peer));
            logic::register(router, rules)
        })
        .start()
        .unwrap()
}

/// The connections of an Entry, one to each shard.
struct Links {
    channels: Vec<Channel>,
}

/// Counts how often a connection is lost.
struct Losses(Arc<AtomicU64>);

impl UpstreamEvents for Losses {
    fn on_down(&self, _: &Upstream, _: CloseReason) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `work` on a shard and waits for its result.
fn on<T: Send + 'static, F: Future<Output = T> + 'static>(
    app: &App,
    at: ShardId,
    work: impl FnOnce(Shard) -> F + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let job = move |shard: &Shard| {
        let work = work(shard.clone());
        shard.spawn(Label::of("test"), async move {
            // The test may have given up.
            let _ = tell.send(work.await);
        });
    };
    app.server().remote().run_on(at, job).unwrap();
    told.recv_timeout(PATIENCE).expect("it ends in time")
}

/// Has each connection say that a user of its own is there, when it is up.
fn attach(entry: &App) {
    on(entry, SHARDS[0], |shard| async move {
        let links = shard.extension::<Links>().unwrap();
        for (channel, uid) in links.channels.iter().zip(["ada", "bob"]) {
            let uids = vec![uid.to_owned()];
            let client = LogicClient::new(channel.clone());
            loop {
                let ctx = Ctx::background(&shard, "test", PATIENCE);
                let request = AttachRequest { uids: uids.clone() };
                if client.attach(&ctx, &request).await.is_ok() {
                    break;
                }
                shard.sleep(Duration::from_millis(5)).await;
            }
        }
    });
}

/// The connections that a shard knows a user on.
fn known(logic: &App, at: ShardId, uid: &'static str) -> Vec<ConnName> {
    on(logic, at, move |shard| async move {
        let rules = shard.extension::<Rules>().unwrap();
        rules.connections_of(uid)
    })
}

/// Each connection's shard, when both shards know both.
fn homes(logic: &App) -> [ShardId; 2] {
    ["ada", "bob"].map(|uid| {
        let of_first = known(logic, SHARDS[0], uid);
        assert_eq!(of_first.len(), 1, "{uid}");
        assert_eq!(of_first, known(logic, SHARDS[1], uid), "{uid}");
        of_first[0].shard
    })
}

/// What one shard told another was lost when that one's mailbox was full: a user
/// was not told of anything, or stayed online for ever.
#[test]
fn a_shard_that_took_nothing_starts_over_with_the_one_that_told_it() {
    let io = MemoryIo::new(0, Faults::default());
    let counts = Arc::new(Counts::new(2));
    let logic = logic_of(&io, &counts);
    let entry = App::builder("entry-1", config(&io, 1)).start().unwrap();
    let losses: [Arc<AtomicU64>; 2] = Default::default();
    let counted = losses.clone();
    on(&entry, SHARDS[0], move |shard| async move {
        let mut channels = Vec::new();
        for losses in counted {
            let (at, events) = (Address::Memory("logic".to_owned()), Rc::new(Losses(losses)));
            let channel = Channel::with_pushes(&shard, at, NativeRouter::new(), events);
            // One after another, so that each goes to the shard with fewer.
            channel.upstream().up().await.unwrap();
            channels.push(channel);
        }
        shard.set_extension(Rc::new(Links { channels }));
    });
    attach(&entry);
    let homes_before = homes(&logic);
    assert_ne!(homes_before[0], homes_before[1]);

    let stuck = SHARDS[1];
    let (release, gate) = mpsc::channel::<()>();
    let (entered, is_stuck) = mpsc::channel();
    let remote = logic.server().remote();
    let block = move |_: &Shard| {
        let _ = entered.send(());
        // Until the test lets it go.
        let _ = gate.recv_timeout(PATIENCE);
    };
    remote.run_on(stuck, block).unwrap();
    is_stuck.recv_timeout(PATIENCE).unwrap();
    while remote.run_on(stuck, |_| {}).is_ok() {}
    let free = usize::from(homes_before[0] == stuck);
    let refused = on(&entry, SHARDS[0], move |shard| async move {
        let links = shard.extension::<Links>().unwrap();
        let client = LogicClient::new(links.channels[free].clone());
        let ctx = Ctx::background(&shard, "test", PATIENCE);
        let uid = "cyd".to_owned();
        client.online(&ctx, &UserRequest { uid }).await.unwrap_err()
    });
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(counts.started_over.load(Ordering::Relaxed), 1);
    release.send(()).unwrap();

    // Both lose their Entries, who come back and say who is there.
    let (_kept, pause) = mpsc::channel::<()>();
    for losses in &losses {
        for _ in 0..10_000 {
            if losses.load(Ordering::Relaxed) > 0 {
                break;
            }
            let _ = pause.recv_timeout(Duration::from_millis(3));
        }
        assert!(losses.load(Ordering::Relaxed) > 0, "it is made anew");
    }
    attach(&entry);
    homes(&logic);
    for at in SHARDS {
        assert_eq!(known(&logic, at, "cyd"), [], "it went with its connection");
    }
    entry.drain();
    logic.drain();
}
