//! The thread that asks the store.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use waystation_base::{Backoff, BackoffConfig};

use crate::limits::{CHANGES_MAX, ROUTES_PER_TURN, STORE_PAUSE_MAX, STORE_WAIT, TOLD_MAX};
use crate::snapshot;
use crate::store::{Answer, Change, Loaded, Outcome, Refusal, RouteStore, Skipped, StoreError};
use crate::table::{Difference, Table};

/// How a store is asked.
#[derive(Clone, Debug)]
pub(crate) struct KeeperConfig {
    /// The store's name, for people.
    pub(crate) name: String,
    /// How often it is asked whether it changed.
    pub(crate) poll: Duration,
    /// How often all of it is read, whatever it says.
    pub(crate) reload: Duration,
    /// How long it must insist on a loss of more than half.
    pub(crate) collapse_wait: Duration,
    /// Where a copy of what it had is kept.
    pub(crate) snapshot: PathBuf,
    /// Where randomness starts.
    pub(crate) seed: u64,
}

/// A change that somebody waits for.
pub(crate) struct Ask {
    pub(crate) change: Change,
    pub(crate) reply: Reply,
}

/// Where the outcome of a change goes.
pub(crate) type Reply = oneshot::Sender<Result<Outcome, ChangeError>>;

/// Why a change has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The store cannot be asked at present; nothing was changed. Try again.
    #[error("the store cannot be asked: {0}")]
    Unavailable(String),
    /// The store was lost while it was asked: look whether the change is made.
    #[error("the store was lost before it answered: {0}")]
    Unknown(String),
    /// Too many changes wait; nothing was changed. Try again.
    #[error("too many changes wait for the store")]
    Overloaded,
}

/// What a keeper tells the server, in order.
pub(crate) enum Told {
    /// Routes that are new, different or gone.
    Routes(Difference),
    /// How the store fares.
    Status(StoreStatus),
    /// A change has an outcome; what it changed was told before.
    Outcome(Reply, Result<Outcome, ChangeError>),
}

/// How a store fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Its URL, without a password.
    pub url: String,
    /// Whether it answers. While it does not, routes are those it had last.
    pub is_live: bool,
    /// Whether anything of it was read since the start; before that routes are
    /// those of the copy on disk.
    pub was_read: bool,
    /// Why it did not answer last.
    pub fault: Option<String>,
    /// Routes that are served.
    pub routes: usize,
    /// Rows that are no routes.
    pub skipped: Skipped,
    /// Routes that are kept although the store has them no longer: it lost more
    /// than half at once, and has not insisted on that yet.
    pub doubted: usize,
    /// How often all of it was read.
    pub loads: u64,
}

/// The server's end of a keeper.
pub(crate) struct Keeper {
    asks: mpsc::Sender<Ask>,
}

impl Keeper {
    /// Starts the thread. It ends when this is dropped. `make` is called on it.
    pub(crate) fn start(
        config: KeeperConfig,
        make: impl FnOnce() -> Box<dyn RouteStore> + Send + 'static,
    ) -> std::io::Result<(Self, mpsc::Receiver<Told>)> {
        let (asks, its_asks) = mpsc::channel(CHANGES_MAX);
        let (told, news) = mpsc::channel(TOLD_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("route store".to_owned());
        thread.spawn(move || {
            let mut keeping = Keeping {
                status: StoreStatus {
                    url: config.name.clone(),
                    ..StoreStatus::default()
                },
                config,
                store: make(),
                asks: its_asks,
                told,
                table: Table::default(),
                doubted_since: None,
                is_unsaved: false,
            };
            runtime.block_on(async {
                let Ended = keeping.run().await;
            });
        })?;
        Ok((Self { asks }, news))
    }

    /// Has a change made. Its outcome comes by [`Told::Outcome`].
    pub(crate) fn ask(&self, change: Change, reply: Reply) {
        let ask = Ask { change, reply };
        match self.asks.try_send(ask) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(ask)) => {
                // Who asked may have left.
                let _ = ask.reply.send(Err(ChangeError::Overloaded));
            }
            Err(mpsc::error::TrySendError::Closed(ask)) => {
                let ended = ChangeError::Unavailable("it has ended".to_owned());
                let _ = ask.reply.send(Err(ended));
            }
        }
    }
}

/// The server is gone.
struct Ended;

/// Why a connection to a store is over.
enum Over {
    Ended,
    Fault(StoreError),
}

impl From<StoreError> for Over {
    fn from(error: StoreError) -> Self {
        Self::Fault(error)
    }
}

impl From<Ended> for Over {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

struct Keeping {
    config: KeeperConfig,
    store: Box<dyn RouteStore>,
    asks: mpsc::Receiver<Ask>,
    told: mpsc::Sender<Told>,
    table: Table,
    status: StoreStatus,
    doubted_since: Option<Instant>,
    /// Whether the copy on disk is of another state.
    is_unsaved: bool,
}

/// An answer, within its time.
async fn within<T>(answer: Answer<'_, T>) -> Result<T, StoreError> {
    let answer = timeout(STORE_WAIT, answer).await;
    answer.unwrap_or(Err(StoreError::TimedOut))
}

impl Keeping {
    async fn run(&mut self) -> Ended {
        if self.restore().await.is_err() {
            return Ended;
        }
        let config = BackoffConfig {
            max: STORE_PAUSE_MAX,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::new(config, self.config.seed);
        loop {
            let loads = self.status.loads;
            let fault = match self.serve().await {
                Over::Ended => return Ended,
                Over::Fault(error) => error.to_string(),
            };
            if self.status.loads > loads {
                // It was there: a new loss begins.
                backoff.reset();
            }
            tracing::warn!(store = %self.config.name, %fault, "the store is lost; routes stay");
            self.status.is_live = false;
            self.status.fault = Some(fault.clone());
            if self.tell_status().await.is_err()
                || self.wait(backoff.next_delay(), &fault).await.is_err()
            {
                return Ended;
            }
        }
    }

    /// What was there at the last start, until the store says what there is.
    async fn restore(&mut self) -> Result<(), Ended> {
        let routes = snapshot::read_routes(&self.config.snapshot);
        if !routes.is_empty() {
            let difference = self.table.difference(routes);
            tracing::info!(
                routes = difference.put.len(),
                "routes from the copy on disk"
            );
            self.show(difference).await?;
        }
        self.tell_status().await
    }

    /// Waits without a store: changes are refused.
    async fn wait(&mut self, pause: Duration, fault: &str) -> Result<(), Ended> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                ask = self.asks.recv() => {
                    let ask = ask.ok_or(Ended)?;
                    let refused = ChangeError::Unavailable(fault.to_owned());
                    let _ = ask.reply.send(Err(refused));
                }
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Opens the store and serves by it until it is lost.
    async fn serve(&mut self) -> Over {
        let Err(over) = self.try_serve().await;
        over
    }

    async fn try_serve(&mut self) -> Result<std::convert::Infallible, Over> {
        within(self.store.open()).await?;
        self.load().await?;
        let mut whole_at = Instant::now() + self.config.reload;
        let mut poll_at = Instant::now() + self.config.poll;
        loop {
            let what = tokio::select! {
                ask = self.asks.recv() => Some(ask.ok_or(Ended)?),
                () = self.store.notified() => {
                    self.load().await?;
                    None
                }
                () = sleep_until(poll_at) => {
                    poll_at = Instant::now() + self.config.poll;
                    let is_doubted = self.doubted_since.is_some();
                    if within(self.store.has_news()).await? || is_doubted {
                        self.load().await?;
                    }
                    None
                }
                () = sleep_until(whole_at) => {
                    self.load().await?;
                    whole_at = Instant::now() + self.config.reload;
                    None
                }
            };
            match what {
                Some(ask) => self.make(ask).await?,
                None => self.save(),
            }
        }
    }

    /// Makes one change. What it changed is told before its outcome.
    async fn make(&mut self, ask: Ask) -> Result<(), Over> {
        let Ask { change, reply } = ask;
        if let Change::Add(route) = &change
            && self.table.len() >= crate::limits::ROUTES_MAX
        {
            let why = format!("there is no room for {}", route.address);
            let outcome = Ok(Outcome::Refused(Refusal::Unable(why)));
            return Ok(self.tell(Told::Outcome(reply, outcome)).await?);
        }
        match within(self.store.change(&change)).await {
            Ok(outcome) => {
                if let Outcome::Done { put, gone } = &outcome {
                    let difference = Difference {
                        put: put.clone(),
                        gone: gone.clone(),
                    };
                    self.show(difference).await?;
                    self.tell_status().await?;
                }
                Ok(self.tell(Told::Outcome(reply, Ok(outcome))).await?)
            }
            Err(error) => {
                let unknown = ChangeError::Unknown(error.to_string());
                self.tell(Told::Outcome(reply, Err(unknown))).await?;
                Err(error.into())
            }
        }
    }

    /// Reads all that there is, and tells what is different.
    async fn load(&mut self) -> Result<(), Over> {
        let loaded = within(self.store.load()).await?;
        self.status.loads += 1;
        let Loaded { routes, skipped } = loaded;
        if skipped != self.status.skipped {
            for (row, why) in &skipped.named {
                tracing::warn!(store = %self.config.name, row, why, "a row is no route");
            }
            tracing::warn!(store = %self.config.name, rows = skipped.count, "rows were skipped");
        }
        self.status.skipped = skipped;
        self.status.is_live = true;
        self.status.was_read = true;
        self.status.fault = None;
        let difference = self.table.difference(routes);
        let difference = self.believed(difference);
        self.show(difference).await?;
        self.tell_status().await?;
        Ok(())
    }

    /// What is believed of a difference: not, for a while, that more than half is
    /// gone.
    fn believed(&mut self, difference: Difference) -> Difference {
        if !self.table.is_collapse(&difference) {
            self.doubted_since = None;
            self.status.doubted = 0;
            return difference;
        }
        let now = Instant::now();
        let since = *self.doubted_since.get_or_insert(now);
        let lost = difference.gone.len();
        if now.duration_since(since) >= self.config.collapse_wait {
            tracing::warn!(lost, "the store insists: most routes are gone");
            self.doubted_since = None;
            self.status.doubted = 0;
            return difference;
        }
        if self.status.doubted == 0 {
            tracing::warn!(
                lost,
                of = self.table.len(),
                "the store has lost most of its routes at once; they are kept until it insists"
            );
        }
        self.status.doubted = lost;
        Difference {
            put: difference.put,
            gone: Vec::new(),
        }
    }

    /// Tells a difference, in pieces.
    async fn show(&mut self, difference: Difference) -> Result<(), Ended> {
        if difference.is_empty() {
            return Ok(());
        }
        self.table.apply(&difference);
        self.status.routes = self.table.len();
        self.is_unsaved = true;
        let Difference { put, mut gone } = difference;
        let mut put = put.into_iter();
        loop {
            let piece = Difference {
                put: put.by_ref().take(ROUTES_PER_TURN).collect(),
                gone: gone.split_off(gone.len().saturating_sub(ROUTES_PER_TURN)),
            };
            if piece.is_empty() {
                return Ok(());
            }
            self.tell(Told::Routes(piece)).await?;
        }
    }

    async fn tell_status(&mut self) -> Result<(), Ended> {
        self.tell(Told::Status(self.status.clone())).await
    }

    async fn tell(&mut self, told: Told) -> Result<(), Ended> {
        self.told.send(told).await.map_err(|_| Ended)
    }

    /// Keeps a copy on disk of what the store has. Not while it is in doubt.
    fn save(&mut self) {
        if self.is_unsaved && self.doubted_since.is_none() {
            self.is_unsaved = false;
            let written = snapshot::write_routes(&self.config.snapshot, self.table.routes());
            if let Err(error) = written {
                tracing::warn!(%error, "cannot keep a copy of the routes");
            }
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
