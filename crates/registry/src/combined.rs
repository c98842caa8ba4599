//! Several registries as one, and the way from one to another.

mod merge;
mod registration;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waystation_base::{Clock, Moment};
use waystation_membership::{Instance, InstanceId, SubscriberId, Watch};
use waystation_net::MonotonicClock;

use crate::backend::Key;
use crate::client::{Client, random_u64};
use crate::error::Error;
use crate::handle::{Draining, Listing, Registered, RegistrationSlot, Watching};
use crate::limits::{COMBINED_SOURCES_MAX, REGISTRATIONS_MAX, WATCHES_MAX};
use crate::observed::Observed;
use crate::registry::{RegistrationOptions, Registry, Session, SessionState, WatchOptions};
use crate::url::RegistryUrl;
pub(crate) use registration::JoinedRegistration;
pub(crate) use watch::JoinedWatch;

/// Several registries as one: what is registered is registered in all of them,
/// and what is watched is what any of them shows, each instance once.
///
/// So nodes and callers move from one registry to another while they run:
///
/// 1. everybody [adds](Combined::add) the second,
/// 2. when all are [settled](Combined::is_settled), and nothing is
///    [only in](Combined::only_in) the first,
/// 3. everybody [removes](Combined::remove) the first.
///
/// No watcher sees an instance go or come meanwhile. A registry that is added is
/// lifted above the tokens of the others, so that tokens of an id rise on the
/// way too; a change of its token is all that is seen of an instance.
///
/// A node may serve as long as any of the registries says so and none says that
/// another has its id. Two nodes that reach one registry each, and not the same,
/// may therefore both serve under one id; their tokens tell who came later. A
/// registry that cannot be reached neither fences nodes nor keeps what another
/// knows to be gone. A drain waits for the subscribers of all registries that
/// can be reached.
///
/// Dropping it deregisters what it registered, everywhere.
pub struct Combined {
    state: Mutex<State>,
    /// Rises when something may have settled.
    turns: Arc<Observed<u64>>,
}

#[derive(Default)]
struct State {
    sources: Vec<Source>,
    added: u64,
    keys: u64,
    registrations: Vec<Arc<JoinedRegistration>>,
    watches: Vec<Arc<JoinedWatch>>,
}

struct Source {
    number: u64,
    url: RegistryUrl,
    client: Client,
}

impl fmt::Debug for Combined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Combined").field(&self.urls()).finish()
    }
}

impl Combined {
    /// A client of each of these, on a thread of its own. None of them need be
    /// there yet. Blocks while names of hosts are looked up.
    ///
    /// # Errors
    /// There is no URL, one stands there twice, or its client cannot be started.
    pub fn open(urls: &[RegistryUrl]) -> Result<Self, Error> {
        if urls.is_empty() {
            return Err(Error::NoSource);
        }
        let combined = Self {
            state: Mutex::default(),
            turns: Arc::default(),
        };
        for url in urls {
            combined.add(url)?;
        }
        Ok(combined)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registries that it stands for.
    pub fn urls(&self) -> Vec<RegistryUrl> {
        let state = self.lock();
        state.sources.iter().map(|one| one.url.clone()).collect()
    }

    /// Adds a registry: what is registered and watched is, from now on, registered
    /// and watched there too. Blocks while names of hosts are looked up.
    ///
    /// # Errors
    /// It is one of them already, or its client cannot be started.
    pub fn add(&self, url: &RegistryUrl) -> Result<(), Error> {
        let check = |state: &State| {
            if state.sources.iter().any(|one| one.url == *url) {
                let url = url.to_string();
                return Err(Error::Twice { url });
            }
            if state.sources.len() >= COMBINED_SOURCES_MAX {
                return Err(Error::SourcesFull);
            }
            Ok(())
        };
        check(&self.lock())?;
        let client = Client::open(url)?;
        let mut state = self.lock();
        check(&state)?;
        state.added += 1;
        let number = state.added;
        state.sweep();
        for one in &state.registrations {
            match one.add(number, &client) {
                // A list takes no registrations; others have them.
                Ok(()) | Err(Error::ReadOnly { .. }) => {}
                Err(error) => return Err(state.give_up(number, error)),
            }
        }
        for one in &state.watches {
            if let Err(error) = one.add(number, &client) {
                return Err(state.give_up(number, error));
            }
        }
        state.sources.push(Source {
            number,
            url: url.clone(),
            client,
        });
        Ok(())
    }

    /// Removes a registry: what was registered there leaves it. What it alone
    /// showed is shown no more, so look at [`Combined::only_in`] first. Blocks
    /// for the goodbye, at most [`CLOSE_WAIT`](crate::limits::CLOSE_WAIT). Not
    /// for shards.
    ///
    /// # Errors
    /// It is none of them, or the last.
    pub fn remove(&self, url: &RegistryUrl) -> Result<(), Error> {
        let mut state = self.lock();
        let is_it = |one: &Source| one.url == *url;
        let Some(at) = state.sources.iter().position(is_it) else {
            let url = url.to_string();
            return Err(Error::Unknown { url });
        };
        if state.sources.len() == 1 {
            return Err(Error::NoSource);
        }
        let source = state.sources.remove(at);
        state.sweep();
        // Watches first: what this registry tells of the end of our own
        // registrations is not to be shown.
        for one in &state.watches {
            one.remove(source.number);
        }
        for one in &state.registrations {
            one.remove(source.number);
        }
        drop(state);
        source.client.close_and_wait();
        Ok(())
    }

    /// Whether every registry has all that is registered here, and shows all that
    /// it has.
    pub fn is_settled(&self) -> bool {
        let state = self.lock();
        let mut registrations = state.registrations.iter().filter(|one| !one.is_over());
        let mut watches = state.watches.iter().filter(|one| !one.is_over());
        registrations.all(|one| one.is_settled()) && watches.all(|one| one.is_settled())
    }

    /// Blocks the thread until it is settled; false when `timeout` passes first.
    /// Not for shards.
    pub fn wait_settled(&self, timeout: Duration) -> bool {
        let deadline = MonotonicClock.now() + timeout;
        loop {
            let turn = self.turns.read(|turn| *turn);
            if self.is_settled() {
                return true;
            }
            let left = deadline.saturating_since(MonotonicClock.now());
            let is_news = |now: &mut u64| (*now != turn).then_some(());
            if left.is_zero() || self.turns.wait(left, is_news).is_none() {
                return false;
            }
        }
    }

    /// Instances that only this registry shows, of all that is watched: they have
    /// not come over yet. Nothing if it is none of the registries.
    pub fn only_in(&self, url: &RegistryUrl) -> Vec<InstanceId> {
        let state = self.lock();
        let Some(source) = state.sources.iter().find(|one| one.url == *url) else {
            return Vec::new();
        };
        let watches = state.watches.iter();
        let mut only: Vec<InstanceId> =
            watches.flat_map(|one| one.only_in(source.number)).collect();
        only.sort();
        only.dedup();
        only
    }

    /// Closes the clients of all registries: deregisters what is registered and
    /// says goodbye. Ready when that is done everywhere, or
    /// [`CLOSE_WAIT`](crate::limits::CLOSE_WAIT) has passed for each.
    pub async fn close(&self) {
        let clients: Vec<Client> = {
            let state = self.lock();
            state.sources.iter().map(|one| one.client.clone()).collect()
        };
        // All begin at once: one that is away does not keep the others.
        for client in &clients {
            client.begin_close();
        }
        for client in &clients {
            client.close().await;
        }
    }

    /// Closes the clients of all registries, as [`Combined::close`] does, and
    /// blocks the thread until that is done. Not for shards.
    pub fn close_and_wait(&self) {
        let clients: Vec<Client> = {
            let state = self.lock();
            state.sources.iter().map(|one| one.client.clone()).collect()
        };
        for client in &clients {
            client.begin_close();
        }
        for client in &clients {
            client.close_and_wait();
        }
    }

    /// How it stands with each registry.
    pub fn sessions(&self) -> Vec<(RegistryUrl, Session)> {
        let state = self.lock();
        let sources = state.sources.iter();
        sources
            .map(|one| (one.url.clone(), one.client.session()))
            .collect()
    }
}

impl State {
    /// Forgets what is over.
    fn sweep(&mut self) {
        self.registrations.retain(|one| !one.is_over());
        self.watches.retain(|one| !one.is_over());
    }

    /// Takes back what was begun with a source.
    fn give_up(&self, number: u64, error: Error) -> Error {
        for one in &self.watches {
            one.remove(number);
        }
        for one in &self.registrations {
            one.remove(number);
        }
        error
    }

    fn key(&mut self) -> Key {
        self.keys += 1;
        Key(self.keys)
    }
}

impl Registry for Combined {
    fn register(
        &self,
        instance: Instance,
        options: RegistrationOptions,
    ) -> Result<Registered, Error> {
        instance.validate()?;
        let mut state = self.lock();
        state.sweep();
        if state.registrations.len() >= REGISTRATIONS_MAX {
            return Err(Error::RegistrationsFull);
        }
        let slot = RegistrationSlot::new(state.key(), instance, options);
        let turns = Arc::clone(&self.turns);
        let joined = JoinedRegistration::new(Arc::new(slot));
        joined
            .slot()
            .status
            .on_change(Box::new(move || turn(&turns)));
        let mut refused = None;
        let mut taken = 0;
        for source in &state.sources {
            match joined.add(source.number, &source.client) {
                Ok(()) => taken += 1,
                Err(error @ Error::ReadOnly { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = refused.filter(|_| taken == 0) {
            return Err(error);
        }
        state.registrations.push(Arc::clone(&joined));
        Ok(Registered::joined(joined))
    }

    fn watch(&self, watch: Watch, options: WatchOptions) -> Result<Watching, Error> {
        let mut state = self.lock();
        state.sweep();
        if state.watches.len() >= WATCHES_MAX {
            return Err(Error::WatchesFull);
        }
        let subscriber = SubscriberId(u128::from(random_u64()) << 64 | u128::from(random_u64()));
        let joined = JoinedWatch::new(watch::slot(subscriber, watch, options));
        let turns = Arc::clone(&self.turns);
        joined
            .slot()
            .shown
            .on_change(Box::new(move || turn(&turns)));
        for source in &state.sources {
            joined.add(source.number, &source.client)?;
        }
        state.watches.push(Arc::clone(&joined));
        Ok(Watching::joined(joined))
    }

    fn list(&self, watch: Watch, with_holders: bool) -> Result<Listing, Error> {
        let state = self.lock();
        let asked = state.sources.iter();
        let asked = asked.map(|one| one.client.list(watch.clone(), with_holders));
        let asked: Result<Vec<Listing>, Error> = asked.collect();
        Ok(Listing::of_all(asked?))
    }

    fn drain(&self, id: InstanceId) -> Result<Draining, Error> {
        let state = self.lock();
        let asked = state.sources.iter();
        let asked: Result<Vec<Draining>, Error> =
            asked.map(|one| one.client.drain(id.clone())).collect();
        Ok(Draining::of_all(asked?))
    }

    /// Connected when any of them is; the faults of all.
    fn session(&self) -> Session {
        let sessions = self.sessions();
        let is_connected = |one: &&(RegistryUrl, Session)| one.1.state == SessionState::Connected;
        let faults = sessions.iter().filter_map(|(url, session)| {
            let fault = session.fault.as_ref()?;
            Some(format!("{url}: {fault}"))
        });
        let faults: Vec<String> = faults.collect();
        let went_back = sessions.iter().filter_map(|(url, session)| {
            let why = session.went_back.as_ref()?;
            Some(format!("{url}: {why}"))
        });
        let went_back: Vec<String> = went_back.collect();
        Session {
            state: if sessions.iter().any(|one| is_connected(&one)) {
                SessionState::Connected
            } else {
                SessionState::Connecting
            },
            since: (sessions.iter().map(|(_, one)| one.since).max()).unwrap_or(Moment::ZERO),
            fault: (!faults.is_empty()).then(|| faults.join("; ")),
            skipped: sessions.iter().map(|(_, one)| one.skipped).sum(),
            skipped_places: (sessions.iter())
                .flat_map(|(_, one)| one.skipped_places.iter().cloned())
                .collect(),
            went_back: (!went_back.is_empty()).then(|| went_back.join("; ")),
            went_back_times: sessions.iter().map(|(_, one)| one.went_back_times).sum(),
        }
    }
}

fn turn(turns: &Observed<u64>) {
    turns.update(|turn| *turn += 1);
}
