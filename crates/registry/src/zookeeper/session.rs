//! The session that watches: opened, attached to again, caught up with,
//! followed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::rc::Rc;

use futures_util::FutureExt;
use waystation_base::Backoff;
use waystation_membership::{InstanceId, ViewVersion};
use waystation_net::{WaitsFor, waiting};
use zookeeper_client as zk;

use super::entry::Marks;
use super::replica::{Dirty, Fit, Made, News, Staged, Unfit, marks_above};
use super::store::Shared;
use super::wire::{Attached, Fault, Found, Read, Wire};
use crate::limits::{
    STORE_TEND_INTERVAL, STORE_TRIES, ZOOKEEPER_NODES_MAX, ZOOKEEPER_READ_TOGETHER,
    ZOOKEEPER_SESSION,
};
use crate::store::{Skipped, Turns, backoff};

/// What goes on until something is wrong.
type Outcome = Result<Infallible, Fault>;

/// Connects again and again, for as long as the backend is used.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut backoff = backoff(&shared.shard);
    let mut known = None;
    loop {
        let attaching = Attached::new(
            &shared.shard,
            &shared.store.place,
            ZOOKEEPER_SESSION,
            known.clone(),
        );
        let fault = tokio::select! {
            biased;
            () = shared.closed() => return,
            attached = attaching => match attached {
                Ok(mut attached) => {
                    if known.as_ref().map(zk::SessionInfo::id) != Some(attached.known.id()) {
                        // What stood in the session before is gone with it.
                        shared.subscribers.borrow_mut().lose();
                    }
                    known = Some(attached.known.clone());
                    let session = Session { shared: &shared, wire: attached.wire.clone() };
                    let end = tokio::select! {
                        biased;
                        fault = attached.over() => Some(fault),
                        () = shared.closed() => None,
                        Err(fault) = session.run(&mut backoff) => Some(fault),
                    };
                    drop(session);
                    match end {
                        Some(fault) => fault,
                        // The session ends by itself.
                        None if shared.subscribers.borrow().lingers() => return,
                        None => return attached.close().await,
                    }
                }
                Err(fault) => fault,
            },
        };
        if matches!(fault, Fault::Expired) {
            known = None;
        }
        shared.lost(fault.to_string());
        let pause = shared.shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = shared.closed() => return,
            () = waiting(WaitsFor::plain("zookeeper pause"), pause) => {}
        }
    }
}

/// A session with a connection.
struct Session<'a> {
    shared: &'a Rc<Shared>,
    wire: Wire,
}

impl Session<'_> {
    async fn run(&self, backoff: &mut Backoff) -> Outcome {
        let folder = self.shared.store.paths.instances();
        // The watch first: what changes while all is read is told behind it.
        let mut watcher = self.wire.watch(&folder).await?;
        let mut dirty = Dirty::default();
        self.read_all(&mut watcher, &mut dirty).await?;
        backoff.reset();
        self.shared.connected(&self.wire);
        tokio::select! {
            outcome = self.follow(&mut watcher, &mut dirty) => outcome,
            outcome = self.tend() => outcome,
        }
    }

    async fn follow(&self, watcher: &mut zk::PersistentWatcher, dirty: &mut Dirty) -> Outcome {
        loop {
            let changed = waiting(WaitsFor::plain("zookeeper watch"), watcher.changed());
            tokio::select! {
                biased;
                event = changed => {
                    dirty.note(&self.shared.store.paths, &event);
                    self.catch_up(watcher, dirty).await?;
                }
                () = self.shared.doubted() => self.read_all(watcher, dirty).await?,
            }
        }
    }

    async fn read_all(
        &self,
        watcher: &mut zk::PersistentWatcher,
        dirty: &mut Dirty,
    ) -> Result<(), Fault> {
        self.wire.sync().await?;
        dirty.is_all = true;
        self.catch_up(watcher, dirty).await
    }

    /// Reads what is dirty until nothing changes meanwhile: then all of it is as
    /// it was at one moment, and what was not read did not change. So whoever
    /// tells a version of a service has seen all that led to it.
    async fn catch_up(
        &self,
        watcher: &mut zk::PersistentWatcher,
        dirty: &mut Dirty,
    ) -> Result<(), Fault> {
        let mut tries = 0;
        let store = &self.shared.store;
        let mut staged = Staged::new();
        let mut is_whole = store.replica.borrow().is_empty();
        let mut floor = store.replica.borrow().floor();
        loop {
            self.note(watcher, dirty);
            if std::mem::take(&mut dirty.is_all) {
                staged.clear();
                is_whole = true;
                floor = store.replica.borrow().floor();
                dirty.gone.clear();
                dirty.names = self.names().await?;
            } else if dirty.is_clean() && !is_whole && staged.is_empty() {
                return Ok(());
            }
            if let Some(folder) = self.read(dirty, &mut staged).await? {
                self.note(watcher, dirty);
                if !dirty.is_clean() {
                    continue;
                }
                let fit = (store.replica.borrow()).fit(&folder, &staged, is_whole, floor);
                match fit {
                    Ok(fit) => {
                        let made = make(std::mem::take(&mut staged), fit).await;
                        let left = std::mem::take(&mut dirty.left);
                        if is_whole {
                            return self.show_all(fit, made).await;
                        }
                        if let Some(shown) = self.show(&folder.1, fit, made, &left).await {
                            return shown;
                        }
                    }
                    Err(Unfit::Missed) => {}
                    Err(Unfit::Marks(marks)) => self.write_marks(&folder, floor, marks).await?,
                }
            } else {
                self.make_folder(floor).await?;
            }
            dirty.is_all = true;
            tries += 1;
            if tries > STORE_TRIES {
                return Err(Fault::Nonsense("the store does not settle"));
            }
        }
    }

    /// Takes what has been told so far.
    fn note(&self, watcher: &mut zk::PersistentWatcher, dirty: &mut Dirty) {
        while let Some(event) = watcher.changed().now_or_never() {
            dirty.note(&self.shared.store.paths, &event);
        }
    }

    async fn names(&self) -> Result<BTreeSet<String>, Fault> {
        let names = self
            .wire
            .children(&self.shared.store.paths.instances())
            .await?;
        if names.len() > ZOOKEEPER_NODES_MAX {
            return Err(Fault::TooMany(names.len()));
        }
        Ok(names.into_iter().collect())
    }

    /// Reads what is dirty, and the folder at the same time; none when it is not
    /// there. What is gone is not looked for: if it came back that is told before
    /// the folder is, and read behind this.
    async fn read(&self, dirty: &mut Dirty, staged: &mut Staged) -> Result<Option<Found>, Fault> {
        let mut names = std::mem::take(&mut dirty.names);
        let gone = std::mem::take(&mut dirty.gone).into_iter();
        staged.extend(gone.map(|name| (name, Read::Nothing)));
        let paths = &self.shared.store.paths;
        loop {
            let some = std::iter::from_fn(|| names.pop_first());
            let some: Vec<String> = some.take(ZOOKEEPER_READ_TOGETHER - 1).collect();
            let mut all: Vec<String> = some.iter().map(|name| paths.name(name)).collect();
            all.push(paths.instances());
            let mut found = self.wire.get_all(&all).await?;
            let folder = found.pop();
            staged.extend(some.into_iter().zip(found));
            if names.is_empty() {
                return match folder {
                    Some(Read::Node(folder)) => Ok(Some(folder)),
                    Some(Read::Closed) => Err(zk::Error::NoAuth.into()),
                    Some(Read::Nothing) | None => Ok(None),
                };
            }
        }
    }

    async fn make_folder(&self, floor: ViewVersion) -> Result<(), Fault> {
        let marks = marks_above(Marks::default(), floor);
        let path = self.shared.store.paths.instances();
        let made = self
            .wire
            .create_folder(&path, marks.text().as_bytes())
            .await;
        match made {
            Err(fault) if fault.is_no_node() => {
                self.wire.make_folders(&self.shared.store.place.root).await
            }
            // Somebody else was faster.
            Err(fault) if fault.is_conflict() => Ok(()),
            made => made,
        }
    }

    /// Writes marks above all that was seen, unless somebody else was faster.
    async fn write_marks(
        &self,
        folder: &Found,
        floor: ViewVersion,
        marks: Marks,
    ) -> Result<(), Fault> {
        if Marks::read(&folder.0).epoch().0 > 0 {
            self.shared.went_back(floor);
        }
        let path = self.shared.store.paths.instances();
        let version = Some(folder.1.version);
        let written = self.wire.set(&path, marks.text().as_bytes(), version).await;
        match written {
            Err(fault) if fault.is_conflict() => Ok(()),
            written => written.map(drop),
        }
    }

    async fn show_all(&self, fit: Fit, made: Made) -> Result<(), Fault> {
        let replica = &self.shared.store.replica;
        let instances = made.instances().collect();
        let take_in = || {
            let (skipped, before) = replica.borrow_mut().fill(fit, made);
            (self.named(skipped), before)
        };
        let shown = self.shared.show_all(fit.at(), instances, take_in);
        keeps_up(shown.await)
    }

    /// Shows what changed: all of it at once, found out and taken in bit by bit.
    /// None when something was missed.
    async fn show(
        &self,
        folder: &zk::Stat,
        fit: Fit,
        made: Made,
        left: &BTreeSet<InstanceId>,
    ) -> Option<Result<(), Fault>> {
        let replica = &self.shared.store.replica;
        let (mut news, mut turns) = (News::default(), Turns::new());
        for part in made.parts() {
            replica.borrow().look(part, folder, left, &mut news);
            turns.took(1).await;
        }
        if !replica.borrow().is_all(folder, &news) {
            return None;
        }
        let planned = self.shared.plan(news.changes, &mut turns).await;
        let parts = replica.borrow_mut().begin(made);
        for (name, entry) in parts {
            replica.borrow_mut().put(name, entry);
            turns.took(1).await;
        }
        let skipped = self.named(replica.borrow_mut().end(fit));
        let at = replica.borrow().at();
        let fits = (self.shared).show_planned(at, planned, &news.touched, skipped);
        Some(keeps_up(fits))
    }

    fn named(&self, skipped: Vec<Skipped>) -> Vec<Skipped> {
        let paths = &self.shared.store.paths;
        let skipped = skipped.into_iter();
        let named = skipped.map(|(name, reason)| (paths.name(&name), reason));
        named.collect()
    }

    /// Writes down what subscribers hold: at once if somebody waits for it.
    async fn tend(&self) -> Outcome {
        loop {
            self.shared.write_subscribers(&self.wire).await?;
            let pause = self.shared.shard.sleep(STORE_TEND_INTERVAL);
            tokio::select! {
                () = waiting(WaitsFor::plain("zookeeper pause"), pause) => {}
                () = self.shared.urgent.notified() => {}
            }
        }
    }
}

/// Makes entries of what was read, a few at a time.
async fn make(staged: Staged, fit: Fit) -> Made {
    let (mut made, mut turns) = (Made::default(), Turns::new());
    for (name, read) in staged {
        made.note(name, &read, &fit.marks);
        turns.took(1).await;
    }
    made
}

/// Who cannot keep up starts over, so that nothing is missed in silence.
fn keeps_up(fits: bool) -> Result<(), Fault> {
    fits.then_some(())
        .ok_or(Fault::Ended("the client cannot keep up"))
}
