//! What a client knows of the store, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_base::{Epoch, FencingToken};
use waystation_membership::limits::EPOCH_JUMP_MAX;
use waystation_membership::{Instance, InstanceId, ViewVersion};
use zookeeper_client::{EventType, Stat, WatchedEvent};

use super::entry::{Marks, Paths, Touched, instance_of};
use super::wire::{Found, Read};
use crate::mirror::Changes;
use crate::store::{self, Entries, Known, Listed, Skipped};

/// How far above all that was seen a store is lifted. Others may have seen a
/// little more, and need not lift it once more then.
pub(super) const HEADROOM: u64 = 1 << 32;

/// Highest number of a version, and highest token, that a store is lifted above.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2 - 2 * HEADROOM;

/// When an instance's node was written, and the session that it lives with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The transaction that made it, and the one that wrote to it last.
    pub(super) czxid: i64,
    pub(super) mzxid: i64,
    /// How often it was written to.
    pub(super) version: i32,
    /// The session that it lives with; zero if it stays.
    pub(super) session: i64,
}

impl Mark {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            version: stat.version,
            session: stat.ephemeral_owner,
        }
    }
}

pub(super) type Entry = store::Entry<Mark>;

/// What was read and is not taken in yet, by name.
pub(super) type Staged = BTreeMap<String, Read>;

/// What has to be read again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Everything.
    pub(super) is_all: bool,
    pub(super) names: BTreeSet<String>,
    /// What is known to be there no longer: only of when that is has to be read.
    pub(super) gone: BTreeSet<String>,
    /// Who left by its own will.
    pub(super) left: BTreeSet<InstanceId>,
}

impl Dirty {
    pub(super) fn note(&mut self, paths: &Paths, event: &WatchedEvent) {
        self.note_at(paths.touched(&event.path), event.event_type);
    }

    fn note_at(&mut self, touched: Touched, what: EventType) {
        match touched {
            Touched::Folder => self.is_all = true,
            Touched::Name(name) if what == EventType::NodeDeleted => {
                self.names.remove(&name);
                self.gone.insert(name);
            }
            Touched::Name(name) => {
                self.gone.remove(&name);
                self.names.insert(name);
            }
            // It goes as it comes, behind what it is about.
            Touched::Left(id) if what == EventType::NodeCreated => {
                self.left.insert(id);
            }
            Touched::Left(_) | Touched::Elsewhere => {}
        }
    }

    /// Whether nothing is to be read.
    pub(super) fn is_clean(&self) -> bool {
        !self.is_all && self.names.is_empty() && self.gone.is_empty()
    }
}

/// Of when it is what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) marks: Marks,
    /// The latest transaction in it.
    zxid: i64,
}

impl Fit {
    pub(super) fn at(&self) -> ViewVersion {
        self.marks.version(self.zxid)
    }
}

/// What was read, made into entries one after another.
#[derive(Debug, Default)]
pub(super) struct Made {
    listed: Listed<String, Mark>,
    gone: Vec<String>,
}

impl Made {
    /// Makes an entry of what was read.
    pub(super) fn note(&mut self, name: String, read: &Read, marks: &Marks) {
        let (entry, reason) = match read {
            Read::Node(found) => entry_of(&name, found, marks),
            Read::Closed => closed(),
            Read::Nothing => return self.gone.push(name),
        };
        if let Some(reason) = reason {
            let zxid = entry.mark.mzxid;
            self.listed.skip(name.as_bytes(), zxid, reason);
        }
        self.listed.put(name, entry);
    }

    /// What was read of each node, none of what is gone.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&str, Option<&Entry>)> {
        let read = self.listed.entries();
        let read = read.map(|(name, entry)| (name.as_str(), Some(entry)));
        read.chain(self.gone.iter().map(|name| (name.as_str(), None)))
    }

    /// All instances.
    pub(super) fn instances(&self) -> impl Iterator<Item = Arc<Instance>> {
        self.listed.instances()
    }
}

/// What there is to do about what changed: found out node by node, before
/// anything is taken in.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) changes: Changes,
    /// Whose nodes were touched.
    pub(super) touched: BTreeSet<InstanceId>,
    /// How many nodes are new, and how many went.
    came: usize,
    went: usize,
}

/// Why what was read cannot be taken in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The store went back, or its marks are lost: these are to be written over
    /// the version of the folder that was read.
    Marks(Marks),
    /// Something was missed: everything is to be read.
    Missed,
}

/// What a client has seen of a store.
#[derive(Debug, Default)]
pub(super) struct Replica {
    marks: Marks,
    /// The latest transaction that is known of; it is complete up to that.
    zxid: i64,
    /// Whether anything was read.
    is_filled: bool,
    /// The highest epoch and the highest number that anybody here has seen.
    floor: ViewVersion,
    known: Known<String, Mark>,
}

impl Replica {
    /// Up to which change it is complete; zero before anything was read.
    pub(super) fn at(&self) -> ViewVersion {
        if !self.is_filled {
            return ViewVersion::default();
        }
        self.marks.version(self.zxid)
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    pub(super) fn entry(&self, id: &InstanceId) -> Option<&Entry> {
        self.known.entry(id.as_str())
    }

    /// Whether nothing was read yet.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_filled
    }

    /// Somebody has seen this version. True when it is above all that was seen
    /// here: then the store may have gone back. One whose epoch is absurd is not
    /// believed.
    pub(super) fn see(&mut self, version: ViewVersion) -> bool {
        let jump = version.epoch.0.saturating_sub(self.floor.epoch.0);
        let is_news = version.epoch > self.floor.epoch || version.number > self.floor.number;
        if !is_news || jump > EPOCH_JUMP_MAX || version.number > NUMBER_MAX {
            return false;
        }
        self.floor.epoch = self.floor.epoch.max(version.epoch);
        self.floor.number = self.floor.number.max(version.number);
        true
    }

    /// Somebody was granted this token.
    pub(super) fn see_token(&mut self, token: FencingToken) -> bool {
        self.see(ViewVersion {
            epoch: Epoch(0),
            number: token.0,
        })
    }

    /// The highest numbers that anybody here has seen. Looked at before a store
    /// is read: what is read may be overtaken by later changes.
    pub(super) fn floor(&self) -> ViewVersion {
        self.floor
    }

    /// Looks whether what was read since `floor` was the highest that anybody had
    /// seen can be taken in: everything, or what changed. It must be as it was at
    /// one moment, at which the folder was so.
    pub(super) fn fit(
        &self,
        folder: &Found,
        staged: &Staged,
        is_whole: bool,
        floor: ViewVersion,
    ) -> Result<Fit, Unfit> {
        let marks = Marks::read(&folder.0);
        if !is_whole && marks != self.marks {
            return Err(Unfit::Missed);
        }
        let zxid = latest(&folder.1, staged);
        if is_whole {
            let is_back = marks.epoch() < floor.epoch || marks.number(zxid) < floor.number;
            if is_back || marks.epoch().0 == 0 {
                return Err(Unfit::Marks(marks_above(marks, floor)));
            }
        }
        Ok(Fit { marks, zxid })
    }

    /// Takes in everything. Gives what is to be told, and what was known before.
    pub(super) fn fill(&mut self, fit: Fit, made: Made) -> (Vec<Skipped>, Entries<String, Mark>) {
        self.marks = fit.marks;
        self.zxid = fit.zxid;
        self.is_filled = true;
        self.see(fit.at());
        for name in &made.gone {
            self.known.skips.forget(name.as_bytes());
        }
        self.known.fill(made.listed)
    }

    /// Looks at what changed of one node, and has `news` say what there is to do.
    /// `folder` is as it was then, and these left by their own will.
    pub(super) fn look(
        &self,
        (name, entry): (&str, Option<&Entry>),
        folder: &Stat,
        left: &BTreeSet<InstanceId>,
        news: &mut News,
    ) {
        let old = self.known.entry(name);
        match (old.is_some(), entry.is_some()) {
            (false, true) => news.came += 1,
            (true, false) => news.went += 1,
            _ => {}
        }
        news.touched.extend(InstanceId::new(name).ok());
        let zxid = entry.map_or(folder.pzxid, |entry| entry.mark.mzxid);
        let instance = entry.and_then(|entry| entry.instance.as_ref());
        let old = old.and_then(|old| old.instance.as_deref());
        let is_meant = old.is_some_and(|old| left.contains(&old.id));
        let at = self.marks.version(zxid);
        news.changes.note(old, instance, is_meant, at);
    }

    /// Whether nothing was missed: with all of `news` there are as many nodes as
    /// the folder has.
    pub(super) fn is_all(&self, folder: &Stat, news: &News) -> bool {
        let count = (self.known.len() + news.came).saturating_sub(news.went);
        usize::try_from(folder.num_children) == Ok(count)
    }

    /// Begins to take in what changed. Gives it node by node, each to be put.
    pub(super) fn begin(
        &mut self,
        made: Made,
    ) -> impl Iterator<Item = (String, Option<Entry>)> + use<> {
        let read = self.known.skip_of(made.listed).into_iter();
        let read = read.map(|(name, entry)| (name, Some(entry)));
        read.chain(made.gone.into_iter().map(|name| (name, None)))
    }

    /// Knows from now on what stands at one node.
    pub(super) fn put(&mut self, name: String, entry: Option<Entry>) {
        if entry.is_none() {
            self.known.skips.forget(name.as_bytes());
        }
        self.known.put(name, entry);
    }

    /// All that changed was put: it is complete up to there. Gives what is to be
    /// told. Who gives it up before reads everything next, so that nothing is
    /// missed.
    pub(super) fn end(&mut self, fit: Fit) -> Vec<Skipped> {
        self.zxid = self.zxid.max(fit.zxid);
        self.see(self.marks.version(self.zxid));
        self.known.skips.take()
    }
}

/// The marks for a store that has none, or has gone back.
pub(super) fn marks_above(found: Marks, floor: ViewVersion) -> Marks {
    let epoch = found.epoch().max(floor.epoch);
    let seen = floor.number.max(found.number(0));
    let above = if seen == 0 { 0 } else { seen + HEADROOM };
    Marks::new(Epoch(epoch.0 + 1), above)
}

/// The marks that have all tokens from here on above this one of another registry,
/// unless those that were found have: of a folder that had changed last by `zxid`.
pub(super) fn marks_over(found: Marks, zxid: i64, token: FencingToken) -> Option<Marks> {
    // What is found to be nonsense is set right by who watches.
    if found.epoch().0 == 0 || found.number(zxid) >= token.0 {
        return None;
    }
    let (epoch, number) = (found.epoch(), token.0);
    Some(marks_above(found, ViewVersion { epoch, number }))
}

/// The latest transaction that had to do with any of this.
fn latest(folder: &Stat, staged: &Staged) -> i64 {
    let nodes = staged.values().map(|read| match read {
        Read::Node((_, stat)) => stat.mzxid,
        Read::Nothing | Read::Closed => 0,
    });
    nodes.fold(folder.pzxid.max(folder.mzxid), i64::max)
}

/// An instance's node as it was read.
pub(super) fn entry_of(name: &str, (data, stat): &Found, marks: &Marks) -> (Entry, Option<String>) {
    let (instance, reason) = match instance_of(name, data, stat, marks) {
        Ok(instance) => (Some(Arc::new(instance)), None),
        Err(reason) => (None, Some(reason)),
    };
    let entry = Entry {
        instance,
        closed: None,
        mark: Mark::of(stat),
    };
    (entry, reason)
}

/// A node that may not be read.
fn closed() -> (Entry, Option<String>) {
    let reason = zookeeper_client::Error::NoAuth.to_string();
    let entry = Entry {
        instance: None,
        closed: Some(reason.as_str().into()),
        mark: Mark::default(),
    };
    (entry, Some(reason))
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
