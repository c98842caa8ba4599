//! A site as a running thing: the core, its connection to the hub, and the lanes
//! of its adapter.
//!
//! One task owns the core; everything else tells it events. Transactions, each
//! snapshot and the capture have a thread of their own, so that a dump stalls no
//! increments and a slow commit no heartbeat.

mod capture_lane;
mod events;
mod lane;
mod link;
mod load;
mod perform;
mod proof;
mod still;
mod task;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use waystation_base::Seq;
use waystation_net::{Address, BlockingError, Label, NetConfig, Server, Shard, StartError};
use waystation_replica::{LifeId, ReplayRefusal, SiteConfig, SiteEvent, SiteView, Verdict};

use crate::adapter::{Adapter, AdapterError, Apply, Audited, Opened};
use crate::limits::{ADAPTER_WAIT_MAX, HANDLER_BATCH_ENTRIES_MAX};
use crate::log::random;
use events::{Event, Inbox};
use task::SiteTask;

/// Settings of a site.
#[derive(Clone)]
pub struct SiteOptions {
    /// Where the hub listens.
    pub hub: Address,
    /// Name, zone, how it applies and joins. What entries touch, and whether they
    /// can be applied to a part of a copy, the adapter says.
    pub core: SiteConfig,
    /// How busy its machine is, in thousandths, for the choice of donors. Default
    /// what the system says of the last minute, 1000 where each processor has one
    /// process that wants to run.
    pub load_permille: fn() -> u16,
    /// How long a stop may take. Default 5 s.
    pub drain: Duration,
}

impl SiteOptions {
    /// The defaults for a hub and a name.
    pub fn new(hub: Address, core: SiteConfig) -> Self {
        Self {
            hub,
            core,
            load_permille: load::machine_permille,
            drain: Duration::from_secs(5),
        }
    }
}

/// Why a site does not start, or does not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SiteError {
    /// The target cannot be opened, or not be read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Its thread cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It did not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// The site's copy cannot be taken anew: it is the first of all, and the hub takes
    /// no other copy under its name. Have the hub forget it first, once another site
    /// has all that it has.
    #[error(
        "this is the first site, and the hub takes no other copy under its name: have it \
         forget the site first (`sync forget`), once another site has all that this one has"
    )]
    First,
    /// A thread of the adapter cannot be started, or has ended.
    #[error("a thread of the adapter has ended")]
    Lane,
}

/// A random life for a copy.
fn new_life() -> LifeId {
    LifeId((u128::from(random()) << 64) | u128::from(random()))
}

/// A running site. It stops when it is dropped.
pub struct SiteServer {
    server: Option<Server>,
}

impl SiteServer {
    /// Opens the target and begins to sync. Blocks while the target opens.
    ///
    /// # Errors
    /// The target cannot be opened or synced.
    pub fn start(options: SiteOptions, adapter: Arc<dyn Adapter>) -> Result<Self, SiteError> {
        let opened = adapter.open(new_life())?;
        let kind = adapter.kind();
        let net = NetConfig {
            drain: options.drain,
            seed: random(),
            ..NetConfig::default()
        };
        let mut options = options;
        options.core.touches = kind.touches;
        options.core.joiner.can_filter = kind.can_filter;
        options.core.has_rows = kind.has_rows;
        if !kind.is_transactional {
            let batch = &mut options.core.applier.batch_entries_max;
            *batch = (*batch).min(HANDLER_BATCH_ENTRIES_MAX);
        }
        let parts = Mutex::new(Some((options, adapter, opened)));
        let begin = move |shard: &Shard| {
            let parts = parts.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((options, adapter, opened)) = parts {
                begin(shard, options, adapter, opened);
            }
        };
        let server = Server::builder(net).on_shard(begin).start()?;
        Ok(Self {
            server: Some(server),
        })
    }

    /// How it fares.
    ///
    /// # Errors
    /// It did not answer in time.
    pub fn view(&self) -> Result<SiteView, SiteError> {
        self.ask(|task| task.site.view())
    }

    /// What happened last that operators want to know, the oldest first; each is
    /// told once, and of many the oldest are left out.
    ///
    /// # Errors
    /// It did not answer in time.
    pub fn events(&self) -> Result<Vec<SiteEvent>, SiteError> {
        self.ask(|task| task.told.drain(..).collect())
    }

    /// Has the entry that failed tried again.
    ///
    /// # Errors
    /// It did not answer in time.
    pub fn resume(&self) -> Result<(), SiteError> {
        self.ask(|task| {
            let now = task.shard.now();
            task.site.handle_resume(now);
        })
    }

    /// Decides about the entry that failed; false if it is another.
    ///
    /// # Errors
    /// It did not answer in time.
    pub fn decide(&self, seq: Seq, verdict: Verdict) -> Result<bool, SiteError> {
        self.ask(move |task| {
            let now = task.shard.now();
            task.site.handle_decision(now, seq, verdict)
        })
    }

    /// Has a parked entry applied.
    ///
    /// # Errors
    /// It did not answer in time; the inner error when it is not parked, or must
    /// wait for another.
    pub fn replay(&self, seq: Seq) -> Result<Result<(), ReplayRefusal>, SiteError> {
        self.ask(move |task| task.site.handle_replay(seq))
    }

    /// Has the site join anew; what it has counts for nothing. Blocks until the target
    /// knows that: what is written to it from then on does not get lost unseen.
    ///
    /// # Errors
    /// It did not answer in time, and goes on trying; or it is the first site.
    pub fn rejoin(&self) -> Result<(), SiteError> {
        self.refuse_first()?;
        self.ask_later(|task, answer| task.rejoin(Some(answer)))
    }

    /// As [`SiteServer::rejoin`], without waiting for the target.
    ///
    /// # Errors
    /// It did not answer in time, or is the first site.
    pub fn begin_rejoin(&self) -> Result<(), SiteError> {
        self.refuse_first()?;
        self.ask(|task| task.rejoin(None))
    }

    /// A copy is given up before the hub hears of the next one, which it would refuse.
    fn refuse_first(&self) -> Result<(), SiteError> {
        if self.view()?.is_first {
            return Err(SiteError::First);
        }
        Ok(())
    }

    /// The audited list of skipped and parked entries.
    ///
    /// # Errors
    /// It did not answer in time, or cannot be read.
    pub fn audit(&self) -> Result<Vec<Audited>, SiteError> {
        self.ask_target(Apply::audit)
    }

    /// Somebody put the copy right: it differs no more, and may be a donor again.
    /// Whether that is true a proof of equality says.
    ///
    /// # Errors
    /// It did not answer in time, or cannot be stored.
    pub fn set_repaired(&self) -> Result<(), SiteError> {
        self.ask_target(|apply| apply.set_repaired(Seq(u64::MAX)))?;
        self.ask(|task| task.site.handle_repaired())
    }

    /// Asks the lane of transactions.
    fn ask_target<T: Send + 'static>(
        &self,
        question: fn(&mut (dyn Apply + 'static)) -> Result<T, AdapterError>,
    ) -> Result<T, SiteError> {
        let server = self.server.as_ref().ok_or(SiteError::Lane)?;
        let answer = server.remote().ask(
            waystation_base::ShardId(0),
            ADAPTER_WAIT_MAX,
            move |shard| {
                let inbox = shard.extension::<Inbox>();
                Box::pin(async move { inbox?.apply_lane()?.run(question).await })
            },
        )?;
        Ok(answer.ok_or(SiteError::Lane)??)
    }

    /// Stops: what is under way in the target ends there.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
        }
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut SiteTask) -> T + Send + 'static,
    ) -> Result<T, SiteError> {
        self.ask_later(move |task, answer| {
            // Whoever asked may have given up.
            let _ = answer.send(question(task));
        })
    }

    /// As [`SiteServer::ask`], when the answer may come after the question.
    fn ask_later<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut SiteTask, oneshot::Sender<T>) + Send + 'static,
    ) -> Result<T, SiteError> {
        let server = self.server.as_ref().ok_or(SiteError::Lane)?;
        let answer =
            server
                .remote()
                .ask(waystation_base::ShardId(0), ADAPTER_WAIT_MAX, |shard| {
                    let inbox = shard.extension::<Inbox>();
                    Box::pin(async move {
                        let (answer, waiter) = oneshot::channel();
                        let ask = move |task: &mut SiteTask| question(task, answer);
                        inbox?.push(Event::Ask(Box::new(ask)));
                        waiter.await.ok()
                    })
                })?;
        answer.ok_or(SiteError::Lane)
    }
}

impl Drop for SiteServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn begin(shard: &Shard, options: SiteOptions, adapter: Arc<dyn Adapter>, opened: Opened) {
    match SiteTask::new(shard, options, adapter, opened) {
        Ok(task) => {
            shard.set_extension(task.inbox());
            shard.spawn(Label::of("sync site"), task.run());
        }
        Err(error) => tracing::error!(%error, "cannot start the threads of a site"),
    }
}
