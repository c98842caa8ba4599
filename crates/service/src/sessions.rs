//! Keyed sessions with timers, and locks by key.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use waystation_base::{DeadlineKey, Moment, Wheel, line_passes};
use waystation_net::{Label, Shard, WaitsFor, waiting};

use crate::limits::{LOCK_WAITERS, SESSION_IDLE_MIN};
use crate::status::Status;

struct Session<V> {
    value: Rc<V>,
    used: Cell<Moment>,
    timer: DeadlineKey,
}

type Expired<K, V> = Box<dyn Fn(&K, Rc<V>)>;

struct Table<K, V> {
    shard: Shard,
    capacity: usize,
    idle: Duration,
    sessions: RefCell<HashMap<K, Session<V>>>,
    wheel: RefCell<Wheel<K>>,
    driver: RefCell<Option<Waker>>,
    on_expire: Expired<K, V>,
}

/// Values by key that end when they are not used for a while.
///
/// Clones share the table. When the last is dropped, its timer task ends.
pub struct Sessions<K, V> {
    table: Rc<Table<K, V>>,
}

impl<K, V> Clone for Sessions<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
        }
    }
}

/// The table has no room for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} sessions are open already")]
pub struct SessionsFull(pub usize);

impl<K: Eq + Hash + Clone + 'static, V: 'static> Sessions<K, V> {
    /// A table for at most `capacity` sessions, each of which ends when it
    /// was not used for `idle` (at least
    /// [`SESSION_IDLE_MIN`]); `on_expire` is
    /// told then, and may use the table.
    pub fn new(
        shard: &Shard,
        capacity: usize,
        idle: Duration,
        on_expire: impl Fn(&K, Rc<V>) + 'static,
    ) -> Self {
        let table = Rc::new(Table {
            shard: shard.clone(),
            capacity,
            idle: idle.max(SESSION_IDLE_MIN),
            sessions: RefCell::default(),
            wheel: RefCell::new(Wheel::new(shard.now())),
            driver: RefCell::new(None),
            on_expire: Box::new(on_expire),
        });
        shard.spawn(
            Label::of("session timers"),
            expire(Rc::downgrade(&table), shard.clone()),
        );
        Self { table }
    }

    /// Opens a session, replacing one of the same key, which is returned.
    ///
    /// # Errors
    /// [`SessionsFull`].
    pub fn open(&self, key: K, value: V) -> Result<(Rc<V>, Option<Rc<V>>), SessionsFull> {
        let old = self.close(&key);
        let open = self.len();
        if open >= self.table.capacity {
            return Err(SessionsFull(open));
        }
        let now = self.table.shard.now();
        let mut wheel = self.table.wheel.borrow_mut();
        let timer = wheel.insert(now + self.table.idle, key.clone());
        drop(wheel);
        let value = Rc::new(value);
        let session = Session {
            value: value.clone(),
            used: Cell::new(now),
            timer,
        };
        self.table.sessions.borrow_mut().insert(key, session);
        self.table.wake();
        Ok((value, old))
    }

    /// The session of a key, which counts as using it.
    pub fn get(&self, key: &K) -> Option<Rc<V>> {
        let sessions = self.table.sessions.borrow();
        let session = sessions.get(key)?;
        session.used.set(self.table.shard.now());
        Some(session.value.clone())
    }

    /// Ends a session, without `on_expire`.
    pub fn close(&self, key: &K) -> Option<Rc<V>> {
        let session = self.table.sessions.borrow_mut().remove(key)?;
        let timer = self.table.wheel.borrow_mut().cancel(session.timer);
        drop(timer);
        Some(session.value)
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.table.sessions.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash + Clone, V> Table<K, V> {
    fn wake(&self) {
        let driver = self.driver.borrow_mut().take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Tells of a session that has ended. A panic there must not end the
    /// task, without which no session would end any more.
    fn tell(&self, key: &K, value: Rc<V>) {
        let told = AssertUnwindSafe(|| (self.on_expire)(key, value));
        if catch_unwind(told).is_err() {
            self.shard.counters().panics.add(1);
            if let Some(unsaid) = line_passes!(self.shard.now()) {
                tracing::error!(unsaid, "the handler of expired sessions panicked");
            }
        }
    }

    /// Ends what was idle too long; a session used meanwhile gets a new timer.
    fn expire(&self, now: Moment) {
        loop {
            let due = self.wheel.borrow_mut().poll_expired(now);
            let Some(key) = due else { return };
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get_mut(&key) else {
                continue;
            };
            let end = session.used.get() + self.idle;
            if end > now {
                session.timer = self.wheel.borrow_mut().insert(end, key);
                continue;
            }
            let session = sessions.remove(&key);
            drop(sessions);
            if let Some(session) = session {
                self.tell(&key, session.value);
            }
        }
    }
}

async fn expire<K: Eq + Hash + Clone, V>(table: Weak<Table<K, V>>, shard: Shard) {
    loop {
        let next = match table.upgrade() {
            Some(table) => {
                table.expire(shard.now());
                table.wheel.borrow().poll_timeout()
            }
            None => return,
        };
        let mut sleep = pin!(shard.sleep_until(next.unwrap_or(Moment::FAR_FUTURE)));
        let woken = std::future::poll_fn(|cx| {
            let Some(table) = table.upgrade() else {
                return Poll::Ready(());
            };
            if table.wheel.borrow().poll_timeout() != next {
                return Poll::Ready(());
            }
            *table.driver.borrow_mut() = Some(cx.waker().clone());
            sleep.as_mut().poll(cx)
        });
        waiting(WaitsFor::plain("timer"), woken).await;
    }
}

impl<K, V> Drop for Table<K, V> {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get_mut().take() {
            driver.wake();
        }
    }
}

/// Locks by key: work on one key goes one after another, in the order in
/// which it asked, and work on other keys goes on beside it.
pub struct Locks<K> {
    table: Rc<RefCell<HashMap<K, Lock>>>,
}

struct Lock {
    mutex: std::sync::Arc<Mutex<()>>,
    users: usize,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self {
            table: Rc::default(),
        }
    }
}

impl<K> Clone for Locks<K> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
        }
    }
}

/// Holds the lock of a key until it is dropped.
pub struct LockGuard<K: Eq + Hash> {
    guard: Option<OwnedMutexGuard<()>>,
    _user: User<K>,
}

struct User<K: Eq + Hash> {
    table: Rc<RefCell<HashMap<K, Lock>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for User<K> {
    fn drop(&mut self) {
        let mut table = self.table.borrow_mut();
        let last = table.get_mut(&self.key).is_some_and(|lock| {
            lock.users -= 1;
            lock.users == 0
        });
        if last {
            table.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash> Drop for LockGuard<K> {
    fn drop(&mut self) {
        // The lock opens before its user is counted off.
        self.guard.take();
    }
}

impl<K: Eq + Hash + Clone> Locks<K> {
    /// Waits for the lock of `key`. A handler waits until its request's
    /// deadline at most; what is no handler needs a deadline of its own
    /// ([`until`](waystation_net::until)). Dropping the future leaves the
    /// queue.
    ///
    /// # Errors
    /// [`Status`] `overloaded` when
    /// [`LOCK_WAITERS`] wait already.
    pub async fn lock(&self, key: &K) -> Result<LockGuard<K>, Status> {
        let mutex = {
            let mut table = self.table.borrow_mut();
            let lock = table.entry(key.clone()).or_insert_with(|| Lock {
                mutex: std::sync::Arc::default(),
                users: 0,
            });
            // One of the users holds it.
            if lock.users > LOCK_WAITERS {
                return Err(Status::overloaded(format!(
                    "{LOCK_WAITERS} requests wait for one key"
                )));
            }
            lock.users += 1;
            lock.mutex.clone()
        };
        let user = User {
            table: self.table.clone(),
            key: key.clone(),
        };
        let guard = waiting(WaitsFor::plain("lock"), mutex.lock_owned()).await;
        Ok(LockGuard {
            guard: Some(guard),
            _user: user,
        })
    }

    /// Keys that are locked or waited for.
    pub fn len(&self) -> usize {
        self.table.borrow().len()
    }

    /// Whether no key is locked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
