//! A caller that many threads use at once.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use waystation_membership::Address;

use crate::attachment::KnownHost;
use crate::caller::Caller;
use crate::config::CallerConfig;
use crate::error::Error;
use crate::guard::CallGuard;

/// Most places that threads pick in. More threads share them.
const PLACES_MAX: usize = 16;

/// Numbers threads in the order of their first pick.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

fn thread_number() -> usize {
    THREAD.get().unwrap_or_else(|| {
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        THREAD.set(Some(number));
        number
    })
}

/// A [`Caller`] for as many threads as there are: `Clone`, `Send` and `Sync`.
///
/// Each thread has a place of its own to pick in, as far as there are cores; the
/// lock of a place is nearly always free. Cost of a pick: that of a [`Caller`],
/// an uncontended lock, and a count of references for the guard.
#[derive(Clone, Debug)]
pub struct SharedCaller {
    places: Arc<[Mutex<Caller>]>,
    /// To be cloned while others wait in all places. Nobody waits in it.
    spare: Arc<Mutex<Caller>>,
}

impl SharedCaller {
    /// For the service that `config` says. The agent need not be there yet.
    pub fn new(config: CallerConfig) -> Self {
        let first = Caller::new(config);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let more = (1..cores.min(PLACES_MAX)).map(|_| first.clone());
        let spare = Arc::new(Mutex::new(first.clone()));
        let places: Vec<_> = more.map(Mutex::new).collect();
        let places = std::iter::once(Mutex::new(first)).chain(places);
        Self {
            places: places.collect(),
            spare,
        }
    }

    /// The service's name.
    pub fn service(&self) -> String {
        self.place().service().to_owned()
    }

    /// As [`Caller::begin`]. It may wait for the agent.
    ///
    /// # Errors
    /// As [`Caller::pick`].
    pub fn begin(&self) -> Result<CallGuard, Error> {
        match self.free_place() {
            Some(mut place) => place.begin(),
            // Who has a place may wait for the agent, and others need not.
            None => self.spare().begin(),
        }
    }

    /// As [`Caller::try_begin`]: it never waits for the agent. While other
    /// threads wait in all places, it finds nothing.
    pub fn try_begin(&self) -> Option<CallGuard> {
        self.free_place()?.try_begin()
    }

    /// As [`Caller::begin_at`].
    pub fn begin_at(&self, address: &Address) -> Option<CallGuard> {
        self.free_place()?.begin_at(address)
    }

    /// As [`Caller::attach`]: it may wait for the agent.
    ///
    /// # Errors
    /// [`Error`] of the agent's socket.
    pub fn attach(&self) -> Result<(), Error> {
        self.place().attach()
    }

    /// As [`Caller::hosts`].
    pub fn hosts(&self) -> Option<Arc<[KnownHost]>> {
        self.free_place()?.hosts()
    }

    /// As [`Caller::reg_init`]: it waits for the agent.
    ///
    /// # Errors
    /// As [`Caller::get_route`].
    pub fn reg_init(&self) -> Result<Vec<Address>, Error> {
        self.place().reg_init()
    }

    /// As [`Caller::get_route`]: it may wait for the agent.
    ///
    /// # Errors
    /// [`Error`] of the last way that was tried.
    pub fn get_route(&self) -> Result<Vec<Address>, Error> {
        self.place().get_route()
    }

    /// A caller of one's own over the same memory. It never waits for the agent.
    pub fn caller(&self) -> Caller {
        self.spare()
    }

    fn spare(&self) -> Caller {
        let spare = self.spare.lock();
        spare.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A place that nobody is in, the thread's own first.
    fn free_place(&self) -> Option<MutexGuard<'_, Caller>> {
        let own = thread_number();
        (0..self.places.len()).find_map(|step| {
            match self.places[(own + step) % self.places.len()].try_lock() {
                Ok(place) => Some(place),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        })
    }

    fn place(&self) -> MutexGuard<'_, Caller> {
        self.free_place().unwrap_or_else(|| {
            let own = thread_number() % self.places.len();
            let place = self.places[own].lock();
            place.unwrap_or_else(PoisonError::into_inner)
        })
    }
}
