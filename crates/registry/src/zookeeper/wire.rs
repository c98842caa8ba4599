//! A session with `ZooKeeper`, attached to over one connection at a time.
//!
//! The client library connects again by itself, with pauses that double until
//! the session is lost. So each connection is given up here as soon as it ends,
//! and the session is attached to anew, with pauses of our own.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::try_join_all;
use waystation_base::Moment;
use waystation_net::{Shard, WaitsFor, until, waiting};
use zookeeper_client as zk;

use crate::limits::{CALL_WAIT, CONNECT_WAIT, ZOOKEEPER_READ_TOGETHER};

/// Where a registry in `ZooKeeper` is, and as whom to speak.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Its servers, each an address, separated by commas.
    pub(crate) servers: String,
    /// How many those are.
    pub(crate) servers_count: u32,
    /// Under which its nodes stand, with a slash before it and none behind.
    pub(crate) root: String,
    /// What proves who we are, if that is asked for.
    pub(crate) digest: Option<Digest>,
}

/// A user and a password, as the file of the URL has them.
#[derive(Clone)]
pub(crate) struct Digest(String);

/// Longest text of a user, a colon and a password.
const DIGEST_BYTES_MAX: u64 = 1024;

impl Digest {
    /// Reads `USER:PASSWORD`. Blocks.
    pub(crate) fn read(path: &PathBuf) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, DIGEST_BYTES_MAX), &mut text)?;
        let text = text.trim_end_matches(['\r', '\n']);
        let is_good = text
            .split_once(':')
            .is_some_and(|(user, password)| !user.is_empty() && !password.is_empty());
        if !is_good {
            return Err(std::io::Error::other("it is not USER:PASSWORD"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// Why a call gave nothing.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// What the server says, or that the connection is lost.
    Server(zk::Error),
    /// There was no answer in time.
    Late,
    /// The session is over.
    Expired,
    /// The connection ended, and why.
    Ended(&'static str),
    /// An answer that makes no sense.
    Nonsense(&'static str),
    /// More nodes than are read.
    TooMany(usize),
}

impl Fault {
    /// Whether the server has understood, and will not.
    pub(super) fn is_refusal(&self) -> bool {
        use zk::Error as E;
        matches!(
            self,
            Self::Server(
                E::NoAuth
                    | E::AuthFailed
                    | E::InvalidAcl
                    | E::QuotaExceeded
                    | E::NotEmpty
                    | E::NoChildrenForEphemerals
                    | E::Unimplemented
            )
        )
    }

    /// Whether the node is not there.
    pub(super) fn is_no_node(&self) -> bool {
        matches!(self, Self::Server(zk::Error::NoNode))
    }

    /// Whether somebody else was faster.
    pub(super) fn is_conflict(&self) -> bool {
        use zk::Error as E;
        matches!(
            self,
            Self::Server(E::NoNode | E::NodeExists | E::BadVersion)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(zk::Error::NoHosts) => f.write_str("no server answers"),
            Self::Server(error) => error.fmt(f),
            Self::Late => f.write_str("no answer in time"),
            Self::Expired => f.write_str("the session is over"),
            Self::Ended(text) => f.write_str(text),
            Self::Nonsense(text) => write!(f, "an answer that makes no sense: {text}"),
            Self::TooMany(count) => write!(f, "{count} nodes are too many"),
        }
    }
}

impl From<zk::Error> for Fault {
    fn from(error: zk::Error) -> Self {
        match error {
            zk::Error::SessionExpired => Self::Expired,
            error => Self::Server(error),
        }
    }
}

/// What a node holds, and what the server knows about it.
pub(super) type Found = (Vec<u8>, zk::Stat);

/// What came of reading one node of many.
#[derive(Debug, Clone)]
pub(super) enum Read {
    Node(Found),
    /// It is not there.
    Nothing,
    /// It is there, and we may not read it.
    Closed,
}

/// Most versions by which a node that is made in place of another is lifted above
/// that.
const REPLACED_WRITES_MAX: i32 = 8;

/// A session that can be used. Clones share it.
#[derive(Clone)]
pub(crate) struct Wire {
    shard: Shard,
    client: zk::Client,
    acls: zk::Acls<'static>,
}

/// A session that was attached to.
pub(super) struct Attached {
    pub(super) wire: Wire,
    /// By which to attach again.
    pub(super) known: zk::SessionInfo,
    running: Pin<Box<dyn Future<Output = ()> + Send>>,
    states: zk::StateWatcher,
}

/// Takes the task that a new client starts.
#[derive(Default)]
struct Catcher(RefCell<Option<spawns_core::Task>>);

impl spawns_core::Spawn for Catcher {
    fn spawn(&self, task: spawns_core::Task) {
        *self.0.borrow_mut() = Some(task);
    }
}

impl Attached {
    /// Attaches to a known session or opens one of this length, at one of the
    /// servers.
    pub(super) async fn new(
        shard: &Shard,
        place: &Place,
        length: Duration,
        known: Option<zk::SessionInfo>,
    ) -> Result<Self, Fault> {
        let mut connector = zk::Client::connector()
            .with_session_timeout(length)
            .with_fail_eagerly();
        if let Some(known) = known {
            connector = connector.with_session(known);
        }
        if let Some(digest) = &place.digest {
            connector = connector.with_auth("digest", digest.0.as_bytes());
        }
        // Its task is run here, so that it ends when nobody wants it any more.
        let catcher = Catcher::default();
        let mut connecting = pin!(connector.connect(&place.servers));
        let connecting = poll_fn(|context| {
            let _scope = spawns_core::enter(&catcher);
            connecting.as_mut().poll(context)
        });
        let deadline = shard.now() + CONNECT_WAIT.max(length / 2) * place.servers_count;
        let connecting = waiting(WaitsFor::plain("zookeeper connect"), connecting);
        let client = until(shard, deadline, connecting).await;
        let client = client.map_err(|_| Fault::Late)??;
        let task = catcher.0.take();
        let task = task.ok_or(Fault::Nonsense("the client has no task"))?;
        let acls = match place.digest {
            Some(_) => zk::Acls::creator_all(),
            None => zk::Acls::anyone_all(),
        };
        Ok(Self {
            known: client.session().clone(),
            states: client.state_watcher(),
            running: Box::into_pin(task.future),
            wire: Wire {
                shard: shard.clone(),
                client,
                acls,
            },
        })
    }

    /// Ready when the connection is over, and why. Carries it on meanwhile, so
    /// that nothing is answered unless this is polled.
    pub(super) async fn over(&mut self) -> Fault {
        tokio::select! {
            biased;
            () = &mut self.running => Fault::Ended("the connection ended"),
            state = self.states.changed() => match state {
                zk::SessionState::Expired => Fault::Expired,
                zk::SessionState::AuthFailed => Fault::Server(zk::Error::AuthFailed),
                _ => Fault::Ended("the connection is lost"),
            },
        }
    }

    /// Ends the session: what is tied to it goes at once.
    pub(super) async fn close(self) {
        let (shard, running) = (self.wire.shard.clone(), self.running);
        drop(self.wire);
        drop(self.states);
        let deadline = shard.now() + CALL_WAIT;
        let running = waiting(WaitsFor::plain("zookeeper goodbye"), running);
        // A server that does not answer finds out by itself.
        let _ = until(&shard, deadline, running).await;
    }
}

/// How often a node is written over that is made in place of one at this version:
/// so that it ends above that, or, where that is far from none, at none.
fn writes_behind(version: i32) -> i32 {
    if version < REPLACED_WRITES_MAX {
        version + 1
    } else {
        0
    }
}

impl Wire {
    /// Which session it is.
    pub(super) fn session(&self) -> i64 {
        self.client.session_id().0
    }

    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        self.shard.now()
    }

    /// How long the session lives without a word.
    pub(super) fn length(&self) -> Duration {
        self.client.session_timeout()
    }

    async fn call<T, E: Into<zk::Error>>(
        &self,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Fault> {
        let deadline = self.shard.now() + CALL_WAIT;
        let asked = waiting(WaitsFor::plain("zookeeper"), asked);
        let answer = until(&self.shard, deadline, asked).await;
        let answer = answer.map_err(|_| Fault::Late)?;
        answer.map_err(|error| Fault::from(error.into()))
    }

    /// Waits until the server knows all that was written anywhere before. A
    /// session that moved to another server may have seen more than that has.
    pub(super) async fn sync(&self) -> Result<(), Fault> {
        self.call(self.client.sync("/")).await
    }

    /// Asks for something that any server answers by itself.
    pub(super) async fn show_life(&self) -> Result<(), Fault> {
        self.call(self.client.check_stat("/")).await.map(drop)
    }

    pub(super) async fn pause(&self, length: Duration) {
        waiting(WaitsFor::plain("zookeeper pause"), self.shard.sleep(length)).await;
    }

    /// Tells of everything at and below a node from here on.
    pub(super) async fn watch(&self, path: &str) -> Result<zk::PersistentWatcher, Fault> {
        let mode = zk::AddWatchMode::PersistentRecursive;
        self.call(self.client.watch(path, mode)).await
    }

    /// What a node holds; `None` when it is not there.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Found>, Fault> {
        match self.call(self.client.get_data(path)).await {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.is_no_node() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The names of a node's children; none when it is not there.
    pub(super) async fn children(&self, path: &str) -> Result<Vec<String>, Fault> {
        match self.call(self.client.list_children(path)).await {
            Ok(names) => Ok(names),
            Err(fault) if fault.is_no_node() => Ok(Vec::new()),
            Err(fault) => Err(fault),
        }
    }

    /// What these nodes hold, a bounded number of them at one moment.
    pub(super) async fn get_all(&self, paths: &[String]) -> Result<Vec<Read>, Fault> {
        if let [path] = paths {
            let read = match self.call(self.client.get_data(path)).await {
                Ok(found) => Read::Node(found),
                Err(Fault::Server(zk::Error::NoNode)) => Read::Nothing,
                Err(Fault::Server(zk::Error::NoAuth)) => Read::Closed,
                Err(fault) => return Err(fault),
            };
            return Ok(vec![read]);
        }
        let mut all = Vec::with_capacity(paths.len());
        for some in paths.chunks(ZOOKEEPER_READ_TOGETHER) {
            let mut reader = self.client.new_multi_reader();
            for path in some {
                reader.add_get_data(path).map_err(Fault::Server)?;
            }
            let read = self.call(reader.commit()).await?;
            if read.len() != some.len() {
                return Err(Fault::Nonsense("not as many nodes as were asked for"));
            }
            for one in read {
                all.push(match one {
                    zk::MultiReadResult::Data { data, stat } => Read::Node((data, stat)),
                    zk::MultiReadResult::Error { err } => match err {
                        zk::Error::NoNode => Read::Nothing,
                        zk::Error::NoAuth => Read::Closed,
                        err => return Err(Fault::Server(err)),
                    },
                    _ => return Err(Fault::Nonsense("not what was asked for")),
                });
            }
        }
        Ok(all)
    }

    /// Makes a node that lives as long as the session.
    pub(super) async fn create(&self, path: &str, data: &[u8]) -> Result<zk::Stat, Fault> {
        let options = self.ephemeral();
        let (stat, _) = self.call(self.client.create(path, data, &options)).await?;
        Ok(stat)
    }

    /// Makes a node that stays.
    pub(super) async fn create_folder(&self, path: &str, data: &[u8]) -> Result<(), Fault> {
        let options = self.persistent();
        let created = self.call(self.client.create(path, data, &options)).await;
        created.map(drop)
    }

    /// Makes a folder and all above it, where they are not there.
    pub(super) async fn make_folders(&self, path: &str) -> Result<(), Fault> {
        let options = self.persistent();
        self.call(self.client.mkdir(path, &options)).await
    }

    /// Writes over a node, if it is as it was at that version.
    pub(super) async fn set(
        &self,
        path: &str,
        data: &[u8],
        version: Option<i32>,
    ) -> Result<zk::Stat, Fault> {
        self.call(self.client.set_data(path, data, version)).await
    }

    /// Puts a node of this session in place of another, in one step. It is written
    /// over until it has another version than the one that it replaces, or any that
    /// this had of late: who takes that for its own still cannot delete this.
    pub(super) async fn replace(
        &self,
        path: &str,
        version: i32,
        data: &[u8],
    ) -> Result<zk::Stat, Fault> {
        use zk::MultiWriteResult as Done;
        let options = self.ephemeral();
        let mut writer = self.client.new_multi_writer();
        let added = writer
            .add_delete(path, Some(version))
            .and_then(|()| writer.add_create(path, data, &options));
        added.map_err(Fault::Server)?;
        for _ in 0..writes_behind(version) {
            let added = writer.add_set_data(path, data, None);
            added.map_err(Fault::Server)?;
        }
        let done = self.call(writer.commit()).await?;
        match done.into_iter().last() {
            Some(Done::Create { stat, .. } | Done::SetData { stat }) if !stat.is_invalid() => {
                Ok(stat)
            }
            // Some servers do not say; it is ours until somebody replaces it.
            _ => match self.get(path).await? {
                Some((_, stat)) if stat.ephemeral_owner == self.session() => Ok(stat),
                _ => Err(Fault::Server(zk::Error::BadVersion)),
            },
        }
    }

    /// Deletes a node, if it is as it was at that version.
    pub(super) async fn delete(&self, path: &str, version: Option<i32>) -> Result<(), Fault> {
        self.call(self.client.delete(path, version)).await
    }

    /// Deletes a node, in one step with the word that this was meant: a node that
    /// comes and goes at once.
    pub(super) async fn delete_with_word(
        &self,
        path: &str,
        version: i32,
        word: &str,
    ) -> Result<(), Fault> {
        let options = self.ephemeral();
        let mut writer = self.client.new_multi_writer();
        // In this order: watchers hear of it in this order, and need not hear of the
        // end of the word.
        let added = writer
            .add_create(word, b"", &options)
            .and_then(|()| writer.add_delete(path, Some(version)))
            .and_then(|()| writer.add_delete(word, None));
        added.map_err(Fault::Server)?;
        self.call(writer.commit()).await.map(drop)
    }

    /// Writes these nodes of this session, and deletes those without a value.
    pub(super) async fn write_all(&self, nodes: &[(String, Option<Vec<u8>>)]) -> Result<(), Fault> {
        let writing = nodes.iter().map(|(path, value)| async move {
            let Some(value) = value else {
                return match self.delete(path, None).await {
                    Err(fault) if fault.is_no_node() => Ok(()),
                    deleted => deleted,
                };
            };
            match self.set(path, value, None).await {
                Err(fault) if fault.is_no_node() => self.create(path, value).await.map(drop),
                set => set.map(drop),
            }
        });
        try_join_all(writing).await.map(drop)
    }

    fn ephemeral(&self) -> zk::CreateOptions<'static> {
        zk::CreateMode::Ephemeral.with_acls(self.acls)
    }

    fn persistent(&self) -> zk::CreateOptions<'static> {
        zk::CreateMode::Persistent.with_acls(self.acls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that was made in place of another had the same version, zero, and went
    /// when the one who had been replaced said goodbye.
    #[test]
    fn who_was_replaced_does_not_take_the_new_one_for_its_own() {
        for version in 0..50 {
            let writes = writes_behind(version);
            assert!((0..=REPLACED_WRITES_MAX).contains(&writes));
            // The one replaced may not have heard of its last changes.
            let missed = version.saturating_sub(REPLACED_WRITES_MAX - 1);
            assert!(!(missed..=version).contains(&writes), "{version}");
        }
    }
}
