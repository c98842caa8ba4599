//! The store of `bench push`, which notes when a change was committed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waystation_route::{Answer, Change, Loaded, Outcome, RouteStore, SqliteStore};

use crate::timing::now;

/// A store of `SQLite` that tells when it committed last.
pub(super) struct Timed {
    store: SqliteStore,
    committed_ns: Arc<AtomicU64>,
}

impl Timed {
    pub(super) fn new(path: PathBuf, committed_ns: Arc<AtomicU64>) -> Self {
        Self {
            store: SqliteStore::new(path),
            committed_ns,
        }
    }
}

impl RouteStore for Timed {
    fn open(&mut self) -> Answer<'_, ()> {
        self.store.open()
    }

    fn load(&mut self) -> Answer<'_, Loaded> {
        self.store.load()
    }

    fn has_news(&mut self) -> Answer<'_, bool> {
        self.store.has_news()
    }

    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome> {
        Box::pin(async move {
            let outcome = self.store.change(change).await;
            self.committed_ns.store(now().as_nanos(), Ordering::Release);
            outcome
        })
    }
}
