use std::sync::{Arc, Mutex};

use futures_util::future::ready;
use waystation_base::Clock as _;
use waystation_net::MonotonicClock;

use super::*;
use crate::row::Route;

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

/// A store under the test's control.
#[derive(Default)]
struct Played {
    routes: Vec<Route>,
    skipped: Skipped,
    is_down: bool,
    version: u64,
    loads: u64,
    opens: u64,
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Played>>);

struct Seen {
    store: Store,
    version: Option<u64>,
}

impl Store {
    fn play<T>(&self, play: impl FnOnce(&mut Played) -> T) -> T {
        let mut played = self.0.lock().unwrap();
        let result = play(&mut played);
        played.version += 1;
        result
    }
}

fn answer<T: 'static>(result: Result<T, StoreError>) -> Answer<'static, T> {
    Box::pin(ready(result))
}

impl Seen {
    fn with<T>(&self, look: impl FnOnce(&mut Played) -> T) -> Result<T, StoreError> {
        let mut played = self.store.0.lock().unwrap();
        if played.is_down {
            return Err(StoreError::Closed);
        }
        Ok(look(&mut played))
    }
}

impl RouteStore for Seen {
    fn open(&mut self) -> Answer<'_, ()> {
        answer(self.with(|played| played.opens += 1))
    }

    fn load(&mut self) -> Answer<'_, Loaded> {
        let loaded = self.with(|played| {
            played.loads += 1;
            let loaded = Loaded {
                routes: played.routes.clone(),
                skipped: played.skipped.clone(),
            };
            (loaded, played.version)
        });
        answer(loaded.map(|(loaded, version)| {
            self.version = Some(version);
            loaded
        }))
    }

    fn has_news(&mut self) -> Answer<'_, bool> {
        let seen = self.version;
        answer(self.with(|played| seen != Some(played.version)))
    }

    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome> {
        answer(self.with(|played| {
            let (mut put, mut gone) = (Vec::new(), Vec::new());
            match change {
                Change::Add(route) => {
                    played.routes.push(route.clone());
                    put.push(route.clone());
                }
                Change::Remove(key) => {
                    played.routes.retain(|one| one.key() != *key);
                    gone.push(key.clone());
                }
                Change::Edit { key, .. } => {
                    return Outcome::Refused(Refusal::Missing(key.clone()));
                }
            }
            Outcome::Done { put, gone }
        }))
    }
}

fn route(port: u16) -> Route {
    let address = format!("10.0.0.1:{port}").parse().unwrap();
    Route::new("pay".parse().unwrap(), address)
}

/// A keeper, and what it told.
struct World {
    store: Store,
    keeper: Keeper,
    news: mpsc::Receiver<Told>,
    table: Table,
    status: StoreStatus,
    outcomes: Vec<Result<Outcome, ChangeError>>,
    folder: tempfile::TempDir,
}

impl World {
    fn new(store: Store) -> Self {
        Self::on(store, tempfile::tempdir().unwrap(), Duration::from_hours(1))
    }

    fn on(store: Store, folder: tempfile::TempDir, collapse_wait: Duration) -> Self {
        let config = KeeperConfig {
            name: "played".to_owned(),
            poll: Duration::from_millis(2),
            reload: Duration::from_hours(1),
            collapse_wait,
            snapshot: folder.path().join("routes.jsonl"),
            seed: 7,
        };
        let inner = store.clone();
        let make = move || {
            let store: Box<dyn RouteStore> = Box::new(Seen {
                store: inner,
                version: None,
            });
            store
        };
        let (keeper, news) = Keeper::start(config, make).unwrap();
        Self {
            store,
            keeper,
            news,
            table: Table::default(),
            status: StoreStatus::default(),
            outcomes: Vec::new(),
            folder,
        }
    }

    /// Hears what is told until a condition holds.
    fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let end = MonotonicClock.now() + WAIT;
        while !is_so(self) {
            assert!(MonotonicClock.now() < end, "it did not come about");
            match self.news.try_recv() {
                Ok(Told::Routes(difference)) => self.table.apply(&difference),
                Ok(Told::Status(status)) => self.status = status,
                Ok(Told::Outcome(_, outcome)) => self.outcomes.push(outcome),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn ports(&self) -> Vec<String> {
        let ports = self.table.routes();
        ports.map(|one| one.address.to_string()).collect()
    }

    fn ask(&self, change: Change) -> oneshot::Receiver<Result<Outcome, ChangeError>> {
        let (reply, outcome) = oneshot::channel();
        self.keeper.ask(change, reply);
        outcome
    }
}

fn with(ports: std::ops::RangeInclusive<u16>) -> Store {
    let store = Store::default();
    store.play(|played| played.routes = ports.map(route).collect());
    store
}

#[test]
fn what_others_change_is_seen_and_told_once() {
    let mut world = World::new(with(1..=3));
    world.until(|world| world.table.len() == 3);
    world.store.play(|played| played.routes.push(route(4)));
    world.until(|world| world.table.len() == 4);
    let loads = world.status.loads;
    world
        .store
        .play(|played| played.routes.retain(|one| *one != route(2)));
    world.until(|world| world.table.len() == 3);
    assert!(world.status.loads > loads);
    assert_eq!(world.ports(), ["10.0.0.1:1", "10.0.0.1:3", "10.0.0.1:4"]);
}

#[test]
fn a_change_is_told_before_its_outcome() {
    let mut world = World::new(with(1..=1));
    world.until(|world| world.status.is_live);
    let _add = world.ask(Change::Add(route(2)));
    world.until(|world| !world.outcomes.is_empty());
    assert_eq!(world.table.len(), 2);
    assert!(matches!(world.outcomes[0], Ok(Outcome::Done { .. })));
    let _remove = world.ask(Change::Remove(route(1).key()));
    world.until(|world| world.outcomes.len() == 2);
    assert_eq!(world.ports(), ["10.0.0.1:2"]);
}

/// A database that vanished took all routes with it.
#[test]
fn a_store_that_vanishes_changes_nothing_and_is_opened_again() {
    let mut world = World::new(with(1..=3));
    world.until(|world| world.status.is_live);
    world.store.play(|played| played.is_down = true);
    world.until(|world| !world.status.is_live);
    assert_eq!(world.table.len(), 3);
    assert!(world.status.fault.is_some() && world.status.was_read);
    let refused = world.ask(Change::Add(route(9))).blocking_recv().unwrap();
    assert!(matches!(refused, Err(ChangeError::Unavailable(_))));
    let opens = world.store.play(|played| {
        played.is_down = false;
        played.routes.push(route(4));
        played.opens
    });
    world.until(|world| world.status.is_live && world.table.len() == 4);
    assert!(world.store.play(|played| played.opens) > opens);
    assert_eq!(world.status.fault, None);
}

/// A database that was restored halfway, or failed over to an empty copy, says
/// that there are no routes.
#[test]
fn a_store_that_loses_most_routes_at_once_must_insist() {
    let mut world = World::new(with(1..=4));
    world.until(|world| world.table.len() == 4);
    world.store.play(|played| played.routes = vec![route(5)]);
    world.until(|world| world.status.doubted > 0);
    // What is new is believed.
    world.until(|world| world.table.len() == 5 && world.status.doubted == 4);
    world
        .store
        .play(|played| played.routes = (1..=5).map(route).collect());
    world.until(|world| world.status.doubted == 0);
    assert_eq!(world.table.len(), 5);
    // Removals that are asked for here are no loss.
    for port in 1..=5 {
        let _remove = world.ask(Change::Remove(route(port).key()));
    }
    world.until(|world| world.table.len() == 0);
}

#[test]
fn a_store_that_insists_is_believed() {
    let wait = Duration::from_millis(20);
    let mut world = World::on(with(1..=4), tempfile::tempdir().unwrap(), wait);
    world.until(|world| world.table.len() == 4);
    world.store.play(|played| played.routes.clear());
    world.until(|world| world.table.len() == 0 && world.status.doubted == 0);
}

#[test]
fn without_a_store_a_start_goes_by_the_copy_on_disk() {
    let mut world = World::new(with(1..=3));
    let copy = world.folder.path().join("routes.jsonl");
    world.until(|_| snapshot::read_routes(&copy).len() == 3);
    let World { folder, .. } = world;
    let store = with(2..=4);
    store.play(|played| played.is_down = true);
    let mut world = World::on(store, folder, Duration::from_hours(1));
    world.until(|world| world.status.fault.is_some());
    assert_eq!(world.table.len(), 3);
    assert!(!world.status.was_read && !world.status.is_live);
    world.store.play(|played| played.is_down = false);
    world.until(|world| world.status.is_live);
    assert_eq!(world.ports(), ["10.0.0.1:2", "10.0.0.1:3", "10.0.0.1:4"]);
}

#[test]
fn rows_that_are_skipped_are_told() {
    let store = with(1..=1);
    store.play(|played| {
        let skipped = &mut played.skipped;
        (0..100).for_each(|n| skipped.add(format!("row {n}"), "it is none".to_owned()));
    });
    let mut world = World::new(store);
    world.until(|world| world.status.is_live);
    assert_eq!(world.status.skipped.count, 100);
    assert_eq!(
        world.status.skipped.named.len(),
        crate::limits::SKIPPED_NAMED_MAX
    );
}
