//! A client and a registry that refuses or stores nothing for a while.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use waystation_base::{Clock, MessageId, ServiceName, ShardId};
use waystation_membership::{
    Directory, DirectoryConfig, DrainStep, State as NodeState, Update, View, Watch,
};
use waystation_net::native::{NativeProtocol, Router, reply_error};
use waystation_net::{Label, MonotonicClock, NetConfig, Server, Shard};
use waystation_wire::Status;

use super::calls::FnHandler;
use super::disk::Folder;
use super::journal::Journal;
use super::proto::id;
use super::server::{LEASE_ROUTES, VIEW_ROUTES, put_routes, serve};
use super::state::Registry as State;
use crate::limits::UNTOLD_BYTES_MAX;
use crate::test_support::instance;
use crate::{
    Acks, Client, DrainWaits, Place, RegistrationOptions, Registries, Registry, RegistryUrl,
    WatchOptions,
};

const WAIT: Duration = Duration::from_secs(30);

/// How often each request is refused before it is carried out.
type Refusals = &'static [(MessageId, u32)];

/// A registry of which the test decides what it refuses.
struct Moody {
    server: Server,
    /// Who holds it keeps the registry from storing.
    store: Arc<Mutex<()>>,
    _dir: tempfile::TempDir,
}

impl Moody {
    fn start(refusals: Refusals) -> Self {
        Self::start_with(refusals, DirectoryConfig::default())
    }

    fn start_with(refusals: Refusals, config: DirectoryConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let parts = Mutex::new(Some(Self::open(dir.path(), config)));
        let store = Arc::new(Mutex::new(()));
        let door = Arc::clone(&store);
        let server = Server::builder(NetConfig::default())
            .on_shard(move |shard| {
                let (folder, mut journal, directory) = parts.lock().unwrap().take().unwrap();
                let state = State::new(shard, directory, folder);
                let door = Arc::clone(&door);
                let storing = Rc::clone(&state).keep_journal(move |records| {
                    let _open = door.lock().unwrap();
                    journal.append(records)
                });
                shard.spawn(Label::of("journal"), storing);
                shard.spawn(Label::of("time"), Rc::clone(&state).keep_time());
                shard.set_extension(state);
            })
            .listen("127.0.0.1:0".parse().unwrap(), move |shard| {
                NativeProtocol::new(Rc::new(router(shard, refusals)))
            })
            .start()
            .unwrap();
        Self {
            server,
            store,
            _dir: dir,
        }
    }

    fn open(dir: &Path, config: DirectoryConfig) -> (Arc<Folder>, Journal, Directory) {
        let folder = Arc::new(Folder::open(dir).unwrap());
        let epoch = folder.next_epoch().unwrap();
        let journal = Journal::open(folder.journal()).unwrap().journal;
        let now = MonotonicClock.now();
        let directory = Directory::new(now, epoch, config);
        (folder, journal, directory)
    }

    /// Asks the registry itself.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&State) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move |shard: &Shard| {
            let state = shard.extension::<State>().unwrap();
            tell.send(ask(&state)).unwrap();
        };
        self.server.remote().run_on(ShardId(0), job).unwrap();
        told.recv_timeout(WAIT).unwrap()
    }

    fn client(&self) -> Client {
        let url = format!("embedded://{}", self.server.addresses()[0]);
        let url: RegistryUrl = url.parse().unwrap();
        Client::open(&url).unwrap()
    }
}

fn router(shard: &Shard, refusals: Refusals) -> Router {
    let state = shard.extension::<State>().unwrap();
    let mut router = Router::new();
    put_routes(&state, &mut router, VIEW_ROUTES);
    let left: BTreeMap<MessageId, u32> = refusals.iter().copied().collect();
    let left = Rc::new(RefCell::new(left));
    for &(name, message, run) in LEASE_ROUTES {
        let (state, left) = (Rc::clone(&state), Rc::clone(&left));
        let handler = FnHandler::new(name, move |conn, inbound| {
            if let Some(left) = left.borrow_mut().get_mut(&message)
                && *left > 0
            {
                *left -= 1;
                let _ = reply_error(conn, inbound.header, Status::Overloaded, "later");
                return;
            }
            serve(&state, conn, inbound, run);
        });
        router.route(message, handler).unwrap();
    }
    router
}

/// An update, a drain or the end of one that the registry refused for now, on a
/// connection that stayed, was lost: the weight stayed wrong, a role stayed
/// listed as starting, and who drained waited for ever.
#[test]
fn what_a_registry_refuses_for_now_is_asked_for_again() {
    let registry = Moody::start(&[(id::UPDATE, 2), (id::DRAIN, 2), (id::IDLE, 2)]);
    let (client, other) = (registry.client(), registry.client());
    let watching = other
        .watch(Watch::Prefix("".into()), WatchOptions::default())
        .unwrap();
    let one = instance("a", "a-1");
    let id = one.id.clone();
    let one = client
        .register(one, RegistrationOptions::default())
        .unwrap();
    one.wait_until(WAIT, |status| status.is_registered).unwrap();
    let update = Update {
        weight: Some(7),
        ..Update::default()
    };
    one.update(update).unwrap();
    let weight = || {
        let views = watching.views();
        let mut views = views.iter();
        views.find_map(|shown| Some(shown.view.instances.get(&id)?.weight))
    };
    while weight() != Some(7) {
        assert!(!watching.wait_changes(WAIT).is_empty(), "{:?}", weight());
    }
    one.drain();
    let acknowledged = |step| step >= Some(DrainStep::Acknowledged);
    one.wait_until(WAIT, |status| acknowledged(status.drain))
        .unwrap();
    one.idle();
    let ended = |step| step == Some(DrainStep::Ended);
    one.wait_until(WAIT, |status| ended(status.drain)).unwrap();
    drop((one, watching));
    client.close_and_wait();
    other.close_and_wait();
    registry.server.drain();
}

/// Who drained was told so before that was stored. A registry that was killed in
/// between had it serving again, or listed one that had been told that it was out
/// and was no more.
#[test]
fn a_node_hears_of_its_drain_when_that_is_stored() {
    let registry = Moody::start(&[]);
    let (client, other) = (registry.client(), registry.client());
    let watch = |client: &Client, service: &str| {
        let watch = Watch::Service(service.parse().unwrap());
        client.watch(watch, WatchOptions::default()).unwrap()
    };
    let (news, _watching) = (watch(&client, "b"), watch(&other, "a"));
    let one = instance("a", "a-1");
    let id = one.id.clone();
    let one = client
        .register(one, RegistrationOptions::default())
        .unwrap();
    let status = one.wait_until(WAIT, |status| status.is_registered).unwrap();
    let token = status.instance.token;

    let held = registry.store.lock().unwrap();
    one.drain();
    let step = move |state: &State| {
        let mut directory = state.directory.borrow_mut();
        let renewed = directory.handle_renew(state.shard.now(), &id, token);
        renewed.unwrap().drain
    };
    let deadline = MonotonicClock.now() + WAIT;
    while registry.ask(step.clone()) != Some(DrainStep::Acknowledged) {
        assert!(MonotonicClock.now() < deadline, "nobody acknowledges");
        std::thread::yield_now();
    }
    // What the node's connection carries next is behind what it carried before.
    registry.ask(|state| {
        let now = state.shard.now();
        let placed = instance("b", "b-1");
        (state.directory.borrow_mut().handle_place(now, placed)).unwrap();
        state.flush();
    });
    while news.views().iter().all(|one| one.view.instances.is_empty()) {
        assert!(!news.wait_changes(WAIT).is_empty(), "nothing comes");
    }
    assert_eq!(one.status().drain, Some(DrainStep::Waiting));

    drop(held);
    let acknowledged = Some(DrainStep::Acknowledged);
    one.wait_until(WAIT, |status| status.drain == acknowledged)
        .unwrap();
    drop((one, news));
    client.close_and_wait();
    other.close_and_wait();
    registry.server.drain();
}

/// What a registry had to say behind a disk that stood still had no bound.
#[test]
fn answers_behind_a_disk_that_stands_still_are_bounded() {
    let registry = Moody::start(&[]);
    let (client, other) = (registry.client(), registry.client());
    let register = |client: &Client, name: &str| {
        let options = RegistrationOptions::default();
        client.register(instance("a", name), options).unwrap()
    };
    let before = register(&client, "a-1");
    before
        .wait_until(WAIT, |status| status.is_registered)
        .unwrap();

    let held = registry.store.lock().unwrap();
    let waits = register(&client, "a-2");
    let deadline = MonotonicClock.now() + WAIT;
    let instances = |state: &State| {
        state.flush();
        let view = state.directory.borrow().view("a");
        view.map_or(0, |view| view.instances.len())
    };
    while registry.ask(instances) != 2 {
        assert!(MonotonicClock.now() < deadline, "nobody comes");
        std::thread::yield_now();
    }
    registry.ask(State::fill_untold);
    let full = registry.ask(State::untold);
    let refused = register(&other, "a-3");
    while registry.ask(instances) != 3 {
        assert!(MonotonicClock.now() < deadline, "nobody comes");
        std::thread::yield_now();
    }
    assert_eq!(registry.ask(State::untold), full);
    assert!(full <= UNTOLD_BYTES_MAX && full > UNTOLD_BYTES_MAX / 2);

    drop(held);
    for one in [&waits, &refused] {
        one.wait_until(WAIT, |status| status.is_registered).unwrap();
    }
    drop((before, waits, refused));
    client.close_and_wait();
    other.close_and_wait();
    assert_eq!(registry.ask(State::untold), 0);
    registry.server.drain();
}

/// A role left two seconds after its drain had begun, however long a drain was
/// set to wait for subscribers: what the setting said held for nobody's roles.
#[test]
fn a_place_waits_for_a_subscriber_that_hangs_as_long_as_is_set() {
    let config = DirectoryConfig {
        drain_ack_max: Duration::from_mins(10),
        ..DirectoryConfig::default()
    };
    let registry = Moody::start_with(&[], config);
    let (client, other) = (registry.client(), registry.client());
    let service: ServiceName = "a".parse().unwrap();
    let options = WatchOptions {
        acks: Acks::ByCaller,
        ..WatchOptions::default()
    };
    let hangs = other
        .watch(Watch::Service(service.clone()), options)
        .unwrap();
    let waits = DrainWaits {
        acknowledged: config.drain_ack_max,
        ..DrainWaits::default()
    };
    let (tell, told) = mpsc::channel();
    let leaving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let place = Place::take(&Registries::from(client), instance("a", "a-1"), waits);
            let place = place.unwrap();
            place.serve().await;
            place.announce_end().await;
            tell.send(()).unwrap();
            place.leave().await;
        });
    });
    let is_draining = |view: &View| {
        let mut all = view.instances.values();
        all.any(|one| one.state == NodeState::Draining)
    };
    let view = hangs.wait_view("a", WAIT, is_draining).unwrap();
    // Longer than it waited before.
    let early = told.recv_timeout(Duration::from_secs(4));
    assert!(early.is_err(), "it leaves without the subscriber's word");
    hangs.acknowledge(&service, view.at);
    told.recv_timeout(WAIT).unwrap();
    leaving.join().unwrap();
    other.close_and_wait();
    registry.server.drain();
}
