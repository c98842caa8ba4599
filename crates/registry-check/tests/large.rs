//! Ten thousand instances in one registry.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::task::Poll;
use std::time::Duration;

use waystation_base::{FencingToken, ShardId};
use waystation_membership::{Instance, InstanceId, RegistrationConfig, Update, Watch};
use waystation_net::{Label, NetConfig, Server, Shard};
use waystation_registry::limits::ENTRIES_PER_TURN;
use waystation_registry::{
    Acks, Client, ListedService, Registered, RegistrationOptions, Registry, Watching,
    entries_taken, instance_to_json, instances_read,
};
use waystation_registry_check::{
    Embedded, Etcd, Fixture, StaticList, WAIT, World, ZooKeeper, etcd_program, has_zookeeper,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

const SERVICES: usize = 100;
const OF_EACH: usize = 100;

/// Long enough that their renewals leave a debug build its time.
const LEASE: Duration = Duration::from_mins(4);

/// All of them, a hundred in each service.
fn all<F: Fixture>() -> impl Iterator<Item = Instance> {
    (0..SERVICES).flat_map(|service| {
        let service = format!("s-{service}");
        (0..OF_EACH)
            .map(move |number| World::<F>::instance(&service, &format!("{service}.{number}")))
    })
}

fn watch_all<F: Fixture>(client: &Client) -> Watching {
    World::<F>::watch_with(client, Watch::Prefix("".into()), Acks::Shown)
}

/// How many instances a watch shows, and how many of them weigh 7.
fn counts(watching: &Watching) -> (usize, usize) {
    let views = watching.views();
    let all = views.iter().flat_map(|one| one.view.instances.values());
    all.fold((0, 0), |(all, heavy), one| {
        (all + 1, heavy + usize::from(one.weight == 7))
    })
}

fn until(watching: &Watching, wanted: (usize, usize)) {
    while counts(watching) != wanted {
        let news = watching.wait_changes(WAIT);
        assert!(
            !news.is_empty(),
            "{:?} and not {wanted:?}",
            counts(watching)
        );
    }
}

/// What the registry answers to who asks for everything. In a debug build it may
/// be busy with all who come back for longer than a question waits.
fn list(client: &Client) -> Vec<ListedService> {
    let ask = |_| {
        let listing = client.list(Watch::Prefix("".into()), false).expect("room");
        listing.wait().ok()
    };
    (0..10).find_map(ask).expect("an answer")
}

/// Ten thousand nodes come, change, leave and outlive their registry, and who
/// watches all of them sees the same as who asks.
#[test]
fn ten_thousand_instances_are_seen_by_who_watches_and_by_who_asks() {
    let mut world = World::<Embedded>::new(Path::new(PROGRAM), true);
    world.fixture.start();
    // A client has a bound on its registrations.
    let clients: Vec<Client> = (0..10).map(|_| world.client()).collect();
    let other = world.client();
    let watching = watch_all::<Embedded>(&other);
    let mut nodes: Vec<Registered> = Vec::new();
    let config = RegistrationConfig {
        ttl: LEASE,
        ..RegistrationConfig::default()
    };
    for instance in all::<Embedded>() {
        let number = nodes.len();
        let options = RegistrationOptions {
            config,
            ..RegistrationOptions::default()
        };
        let client = &clients[number % clients.len()];
        nodes.push(client.register(instance, options).expect("room"));
        // Answers to all at once would be late in a debug build, and count as lost.
        if nodes.len().is_multiple_of(OF_EACH) {
            for node in &nodes[nodes.len() - OF_EACH..] {
                World::<Embedded>::is_registered(node);
            }
        }
    }
    until(&watching, (SERVICES * OF_EACH, 0));
    // One in a hundred changes, and another leaves.
    for node in nodes.iter().step_by(OF_EACH) {
        let update = Update {
            weight: Some(7),
            ..Update::default()
        };
        World::<Embedded>::update(node, update);
    }
    let mut number = 0;
    nodes.retain(|_| {
        number += 1;
        number % OF_EACH != 2
    });
    let left = (SERVICES * OF_EACH - SERVICES, SERVICES);
    until(&watching, left);
    let token = |node: &Registered| {
        let instance = World::<Embedded>::is_registered(node).instance;
        (instance.id, instance.token)
    };
    let tokens: BTreeMap<InstanceId, FencingToken> = nodes.iter().map(token).collect();

    world.fixture.kill();
    world.fixture.start();
    let fresh = world.client();
    let again = watch_all::<Embedded>(&fresh);
    until(&again, left);
    let listed = list(&fresh);
    assert_eq!(listed.len(), SERVICES);
    let instances = listed.iter().flat_map(|one| one.view.instances.values());
    let listed: BTreeMap<_, _> = instances.map(|one| (one.id.clone(), one.token)).collect();
    // One that had been lost, and registered anew, would have a higher one.
    assert_eq!(listed, tokens, "each has what it had");
}

/// The same in a list that people keep.
#[test]
fn ten_thousand_lines_of_a_list_are_read() {
    let mut world = World::<StaticList>::new(Path::new(PROGRAM), true);
    for instance in all::<StaticList>() {
        world.fixture.put(&instance);
    }
    // Written once, with all of them.
    world.fixture.start();
    let client = world.client();
    until(&watch_all::<StaticList>(&client), (SERVICES * OF_EACH, 0));
}

/// Ready when everybody else who can go on has had a turn. Tokio's own waits for
/// the network, too.
async fn turn() {
    let mut is_over = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Another task on the shard of a client.
struct Beside {
    is_over: Arc<AtomicBool>,
    most: Receiver<[u64; 2]>,
}

impl Beside {
    fn start(shards: &Server) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (tell, most) = mpsc::channel();
        let inner = Arc::clone(&is_over);
        let job = move |shard: &Shard| {
            shard.spawn(Label::of("other"), async move {
                let steps = || [instances_read(), entries_taken()];
                let (mut most, mut before) = ([0; 2], steps());
                while !inner.load(Ordering::Relaxed) {
                    turn().await;
                    let now = steps();
                    for (most, (now, before)) in most.iter_mut().zip(now.iter().zip(before)) {
                        *most = (now - before).max(*most);
                    }
                    before = now;
                }
                // The test may have given up.
                let _ = tell.send(most);
            });
        };
        shards.remote().run_on(ShardId(0), job).expect("it runs");
        Self { is_over, most }
    }

    /// How many instances were read at most between two of its turns, and how many
    /// steps entries that changed took.
    fn end(self) -> [u64; 2] {
        self.is_over.store(true, Ordering::Relaxed);
        self.most.recv_timeout(WAIT).expect("it has turns")
    }
}

/// Ten thousand entries that stand in a store, and then change, are seen and
/// listed. A client that had so many to read handled all of them in one turn of
/// its shard, and whatever else that served waited; later it read a few at a time,
/// and still took over in one turn what had changed between two reads.
fn many_stand_in_a_store<F: Fixture>(write_all: impl Fn(&F, &[(String, String)])) {
    let mut world = World::<F>::new(Path::new(PROGRAM), true);
    world.fixture.start();
    let write = |weight: u32| {
        let entry = |mut one: Instance| {
            one.weight = weight;
            (one.id.to_string(), instance_to_json(&one))
        };
        let entries: Vec<(String, String)> = all::<F>().map(entry).collect();
        write_all(&world.fixture, &entries);
    };
    write(100);
    let config = NetConfig {
        shards: 1,
        ..NetConfig::default()
    };
    let shards = Server::builder(config).start().expect("a shard");
    let beside = Beside::start(&shards);
    let url = world.fixture.url();
    let client = Client::open_on(shards.remote(), ShardId(0), &url).expect("a client starts");
    let watching = watch_all::<F>(&client);
    let all = SERVICES * OF_EACH;
    until(&watching, (all, 0));
    let listed = list(&client);
    let sum: usize = listed.iter().map(|one| one.view.instances.len()).sum();
    assert_eq!((listed.len(), sum), (SERVICES, all));
    write(7);
    until(&watching, (all, all));
    client.close_and_wait();
    let [read, steps] = beside.end();
    let bound = u64::try_from(ENTRIES_PER_TURN).expect("a small number");
    // A list and a watch may both have had a turn.
    assert!((1..=2 * bound).contains(&read), "{read} in one turn");
    // An entry is compared and known, and goes and comes; a revision is not split.
    assert!(
        (1..=6 * bound).contains(&steps),
        "{steps} steps in one turn"
    );
    shards.drain();
}

#[test]
fn needs_etcd_ten_thousand_keys_are_read_a_few_at_a_time() {
    if etcd_program().is_some() {
        many_stand_in_a_store(Etcd::write_all);
    }
}

#[test]
fn needs_zookeeper_ten_thousand_nodes_are_read_a_few_at_a_time() {
    if has_zookeeper() {
        many_stand_in_a_store(ZooKeeper::write_all);
    }
}
