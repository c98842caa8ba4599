//! A value that one side changes and others wait for, on a shard or off it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// A value with waiters. The lock is held for the time of a copy.
#[derive(Debug, Default)]
pub(crate) struct Observed<T> {
    value: Mutex<T>,
    changed: Condvar,
    /// Threads that wait for `changed`: waking nobody is a call to the kernel.
    threads: AtomicUsize,
    notify: Notify,
    listener: OnceLock<Listener>,
}

/// Who is called behind each change, by who made it.
struct Listener(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl<T> Observed<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Condvar::new(),
            threads: AtomicUsize::new(0),
            notify: Notify::new(),
            listener: OnceLock::new(),
        }
    }

    /// Calls `listener` behind each change from now on, without the lock. Only
    /// the first that is given counts.
    pub(crate) fn on_change(&self, listener: Box<dyn Fn() + Send + Sync>) {
        let _ = self.listener.set(Listener(listener));
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // What a panic left behind is whole: closures only assign.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the value.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the value and wakes who waits for it.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.lock();
        let result = change(&mut value);
        // Counted under the lock: who is not has not looked yet.
        let has_threads = self.threads.load(Ordering::Relaxed) > 0;
        drop(value);
        if has_threads {
            self.changed.notify_all();
        }
        self.notify.notify_waiters();
        if let Some(Listener(listener)) = self.listener.get() {
            listener();
        }
        result
    }

    /// Takes something out that nobody else waits for.
    pub(crate) fn look<R>(&self, take: impl FnOnce(&mut T) -> R) -> R {
        take(&mut self.lock())
    }

    /// Waits until `take` gives something. The caller puts a deadline on it.
    pub(crate) async fn until<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            // From here on no change is missed.
            notified.as_mut().enable();
            if let Some(result) = take(&mut self.lock()) {
                return result;
            }
            notified.await;
        }
    }

    /// Blocks the thread until `take` gives something; `None` when `timeout`
    /// passes first. Not for threads that are shards.
    pub(crate) fn wait<R>(
        &self,
        timeout: Duration,
        mut take: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let mut result = None;
        let look = |value: &mut T| {
            result = take(value);
            result.is_none()
        };
        let value = self.lock();
        self.threads.fetch_add(1, Ordering::Relaxed);
        drop(self.changed.wait_timeout_while(value, timeout, look));
        self.threads.fetch_sub(1, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_waiting_thread_sees_the_change_it_waits_for() {
        let observed = Arc::new(Observed::new(0));
        let other = Arc::clone(&observed);
        let thread = std::thread::spawn(move || {
            let is_two = |value: &mut i32| (*value == 2).then_some(*value);
            other.wait(Duration::from_secs(30), is_two)
        });
        observed.update(|value| *value = 1);
        observed.update(|value| *value = 2);
        assert_eq!(thread.join().unwrap(), Some(2));
    }

    #[test]
    fn a_wait_ends_without_a_change() {
        let observed = Observed::new(0);
        assert_eq!(observed.wait(Duration::ZERO, |_| None::<()>), None);
    }

    #[test]
    fn a_waiting_task_sees_the_change_it_waits_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let observed = Observed::new(0);
            let waits = observed.until(|value| (*value > 0).then_some(*value));
            let changes = async { observed.update(|value| *value = 5) };
            assert_eq!(futures_util::future::join(waits, changes).await.0, 5);
        });
    }
}
