//! A load generator that checks every transcript.
//!
//! Many [clients](crate::client) send to each other and to groups at a steady
//! rate, whatever the answers do (an open loop). Latencies count from the
//! moment at which a message was to be sent, so that a server that stalls
//! cannot hide it by slowing the generator down. Every client keeps a
//! transcript of what it got; at the end a checker compares each acknowledged
//! message with the transcripts of all members of its conversation.
//!
//! ```no_run
//! use waystation_im::load::{self, Config, Stop};
//!
//! let config = Config { clients: 50, seconds: 5, ..Config::new("127.0.0.1:7080".parse()?) };
//! let report = load::run(&config, &Stop::default())?;
//! assert!(report.is_clean(), "{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checker;
mod limits;
mod plan;
mod record;
mod report;
mod run;
mod station;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use waystation_base::Rng;
use waystation_net::{Address, Io, StartError, SystemIo, unix_time};

use self::limits::{DELIVERIES_MAX, ENTRY_WAIT, MESSAGES_MAX};
use self::plan::GROUP_PERCENT;
pub use self::report::Report;
use self::run::Crew;
pub use self::run::Stop;
use self::station::Setup;
use self::topology::Topology;
use crate::store::limits::BODY_BYTES_MAX;

/// What a run does.
#[derive(Clone)]
pub struct Config {
    /// The Entries, of one site or several; clients take them in turn.
    pub entries: Vec<Address>,
    /// Users, with a connection each; at least 2.
    pub clients: u32,
    /// How long messages are sent, in seconds.
    pub seconds: u32,
    /// Messages each second, of all clients together.
    pub rate: u32,
    /// Bytes of a message's text, 17 to 32,000.
    pub body_bytes: u32,
    /// How long to wait for the first login; Entry may be about to start.
    pub entry_wait: Duration,
    /// How long to wait for what is under way at the end.
    pub settle: Duration,
    /// Threads; at least 1.
    pub shards: u16,
    /// Who talks to whom, and in which order, follows from it.
    pub seed: u64,
    /// Sockets, or their stand-in of a test.
    pub io: Arc<dyn Io>,
}

impl Config {
    /// The defaults: 100 clients, 2,000 messages/s of 64 bytes for 10 s, one
    /// thread, 5 s for Entry to come, 15 s to settle, a new seed.
    pub fn new(entry: Address) -> Self {
        let nanos = unix_time().as_nanos().to_le_bytes();
        Self {
            entries: vec![entry],
            clients: 100,
            seconds: 10,
            rate: 2_000,
            body_bytes: 64,
            entry_wait: ENTRY_WAIT,
            settle: Duration::from_secs(15),
            shards: 1,
            seed: waystation_base::hash64(&nanos) >> 32,
            io: Arc::new(SystemIo),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let fault = |what: &str| {
            Err(Error::Config {
                what: what.to_owned(),
            })
        };
        if self.entries.is_empty() {
            return fault("an Entry is needed");
        }
        if self.clients < 2 {
            return fault("two clients at least are needed to talk to each other");
        }
        if self.seconds == 0 || self.rate == 0 || self.shards == 0 {
            return fault("seconds, rate and shards are at least 1");
        }
        if u64::from(self.rate) * u64::from(self.seconds) > MESSAGES_MAX {
            return fault("rate and seconds make more than 100 million messages");
        }
        if !(17..=BODY_BYTES_MAX - 4).contains(&(self.body_bytes as usize)) {
            return fault("a text has 17 bytes to 32,000");
        }
        Ok(())
    }
}

/// Why a run has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings make no run.
    #[error("{what}")]
    Config {
        /// What is wrong with them.
        what: String,
    },
    /// The transcripts would not fit: lower the rate, the time or the clients
    /// of a group.
    #[error(
        "about {expected} deliveries are expected, and {DELIVERIES_MAX} can be recorded; lower the rate or the time"
    )]
    TooMuch {
        /// Deliveries that the settings make, about.
        expected: u64,
    },
    /// More came in than was expected; what is not recorded cannot be checked.
    #[error("more than {DELIVERIES_MAX} deliveries came in")]
    TranscriptsFull,
    /// The threads did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Entry is away, or did not let everyone in. Start it, or look there.
    #[error("{entries}: {done} of {goal} are ready, and no more come: {fault}")]
    NoProgress {
        /// The Entries.
        entries: String,
        /// Logins or groups that were made.
        done: u32,
        /// How many were to be made.
        goal: u32,
        /// The last fault.
        fault: String,
    },
    /// A login or a group was refused for good.
    #[error("{reason}")]
    Refused {
        /// Which, and why.
        reason: String,
    },
    /// The run was stopped before its first message.
    #[error("stopped before the first message")]
    Stopped,
    /// A thread of the generator does not answer: the machine is overloaded.
    #[error("shard {shard} of the load generator does not answer")]
    Stalled {
        /// Which.
        shard: u16,
    },
}

/// A word for the names of this run that no other run has.
fn run_word() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let millis = unix_time().as_millis();
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    format!("{millis:x}{:x}{number:x}", std::process::id())
}

/// Performs a run: connects, sends, waits, checks. Blocks the calling thread,
/// which must run no shard, for the run's time and at most the settle time
/// and some seconds.
///
/// Cost: 20 bytes for each delivery, and about 15 µs of processor time for
/// each message with its deliveries.
///
/// # Errors
/// [`Error`]; what the run found wrong is no error but stands in the report.
pub fn run(config: &Config, stop: &Stop) -> Result<Report, Error> {
    config.check()?;
    let mut seeds = Rng::from_seed(config.seed);
    let run = run_word();
    let topology = Topology::new(&run, config.clients, &mut seeds.fork());
    let messages = f64::from(config.rate) * f64::from(config.seconds);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number far below the limit of either type"
    )]
    let expected = (messages * topology.recipients_mean(GROUP_PERCENT)) as u64;
    if expected > DELIVERIES_MAX {
        return Err(Error::TooMuch { expected });
    }
    tracing::info!(
        run,
        seed = config.seed,
        clients = config.clients,
        "a run starts"
    );
    let setup = Arc::new(Setup {
        entries: config.entries.clone(),
        topology,
        body_bytes: config.body_bytes as usize,
        shards: config.shards,
        recorded: AtomicU64::new(0),
        overflow: false.into(),
    });
    let crew = Crew::start(config, setup)?;
    let result = perform(&crew, config, seeds, stop);
    crew.end();
    let mut report = result?;
    report.run = run;
    Ok(report)
}

fn perform(crew: &Crew, config: &Config, seed: Rng, stop: &Stop) -> Result<Report, Error> {
    crew.prepare(config.entry_wait, stop)?;
    let took = crew.pace(config, seed, stop)?;
    let outcome = crew.settle(config.settle)?;
    let mut report = Report::empty(config.clients, config.seed);
    report.seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    Ok(outcome.complete(report))
}
