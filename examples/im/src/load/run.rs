//! A run from start to end, on the calling thread.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use waystation_base::{Clock as _, Moment, Rng, ShardId};
use waystation_net::{MonotonicClock, NetConfig, RemoteError, Server};

use super::checker::{Evidence, Verdict, check};
use super::limits::{
    ANSWER_WAIT, BATCH_MESSAGES, CHECK_INTERVAL, LOOK_INTERVAL, PROGRESS_WAIT, QUIET_WAIT,
};
use super::plan::{Plan, Planned};
use super::record::{Received, Sent};
use super::station::{self, Figures, Setup, Station};
use super::{Config, Error, Report};

/// Ends a run early: what is under way settles, and the report comes.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// A run with this is to end.
    pub fn request(&self) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.1.notify_all();
    }

    /// Waits so long, or until the run is to end; tells whether it is.
    fn wait(&self, time: Duration) -> bool {
        let requested = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *requested || time.is_zero() {
            return *requested;
        }
        let waited = self.shared.1.wait_timeout(requested, time);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Waits. Early wakes do no harm where it is used.
fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

fn now() -> Moment {
    MonotonicClock.now()
}

/// All shards of a run.
pub(super) struct Crew {
    server: Server,
    setup: Arc<Setup>,
}

impl Crew {
    pub(super) fn start(config: &Config, setup: Arc<Setup>) -> Result<Self, Error> {
        let net = NetConfig {
            shards: config.shards,
            // Slots of each shard follow from this.
            connections_max: config.clients as usize,
            seed: config.seed,
            io: config.io.clone(),
            drain: Duration::from_millis(200),
            ..NetConfig::default()
        };
        let shared = setup.clone();
        let server = Server::builder(net)
            .on_shard(move |shard| {
                shard.set_extension(std::rc::Rc::new(Station::new(shard, shared.clone())));
            })
            .start()?;
        Ok(Self { server, setup })
    }

    fn shards(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.setup.shards
    }

    /// Asks one shard, and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        shard: u16,
        question: impl FnOnce(&std::rc::Rc<Station>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = sync_channel(1);
        let job = move |shard: &waystation_net::Shard| {
            if let Some(station) = shard.extension::<Station>() {
                // Nobody waits any more: the run has failed.
                let _ = answer.send(question(&station));
            }
        };
        let posted = self.server.remote().run_on(ShardId(shard), job);
        posted.map_err(|_| Error::Stalled { shard })?;
        let answered = answered.recv_timeout(ANSWER_WAIT);
        answered.map_err(|_| Error::Stalled { shard })
    }

    fn ask_all<T: Send + 'static>(
        &self,
        question: impl Fn(&std::rc::Rc<Station>) -> T + Send + Clone + 'static,
    ) -> Result<Vec<T>, Error> {
        self.shards()
            .map(|shard| self.ask(shard, question.clone()))
            .collect()
    }

    fn figures(&self) -> Result<Figures, Error> {
        let mut sum = Figures::default();
        for figures in self.ask_all(|station| station.figures())? {
            sum.add(&figures);
        }
        Ok(sum)
    }

    /// Waits until a count has reached its goal, for as long as it moves.
    fn advance(
        &self,
        stop: &Stop,
        first_wait: Duration,
        goal: u32,
        count: impl Fn(&Figures) -> u32,
    ) -> Result<(), Error> {
        let mut last = 0;
        let mut deadline = now() + first_wait;
        // A client that is refused is connected for moments, and then not.
        let mut seen = None;
        loop {
            let refusals = self.ask_all(|station| station.refusal())?;
            if let Some(reason) = refusals.into_iter().flatten().next() {
                return Err(Error::Refused { reason });
            }
            let count = count(&self.figures()?);
            if count >= goal {
                return Ok(());
            }
            if count > last {
                (last, deadline) = (count, now() + PROGRESS_WAIT);
            }
            let faults = self.ask_all(|station| station.fault())?;
            seen = faults.into_iter().flatten().next().or(seen);
            if now() >= deadline {
                return Err(Error::NoProgress {
                    entries: self.setup.entries(),
                    done: count,
                    goal,
                    fault: seen.unwrap_or_else(|| "it does not answer".to_owned()),
                });
            }
            if stop.wait(LOOK_INTERVAL) {
                return Err(Error::Stopped);
            }
        }
    }

    /// Connects everyone and creates the groups.
    pub(super) fn prepare(&self, entry_wait: Duration, stop: &Stop) -> Result<(), Error> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let topology = &self.setup.topology;
        self.ask_all(Station::connect)?;
        let clients = count(topology.uids.len());
        self.advance(stop, entry_wait, clients, |figures| figures.logged_in)?;
        let groups = topology.rooms.iter().filter(|room| room.is_group).count();
        self.ask_all(Station::create_groups)?;
        self.advance(stop, PROGRESS_WAIT, count(groups), |figures| {
            figures.groups_made
        })
    }

    /// Hands every message to its shard when it is due, and never waits for
    /// an answer. Tells how long it took.
    pub(super) fn pace(&self, config: &Config, rng: Rng, stop: &Stop) -> Result<Duration, Error> {
        let mut plan = Plan::new(&self.setup.topology, config.rate, config.seconds, rng);
        let start = now();
        let mut stopped = false;
        while let Some(next_at) = plan.next_at() {
            let now = now();
            stopped = stop.wait((start + next_at).saturating_since(now));
            if stopped || self.is_full() {
                break;
            }
            self.send_due(&mut plan, start)?;
        }
        let end = start + Duration::from_secs(u64::from(config.seconds));
        while !stopped && !self.is_full() && now() < end {
            stopped = stop.wait(end.saturating_since(now()));
        }
        Ok(now().saturating_since(start))
    }

    fn is_full(&self) -> bool {
        self.setup
            .overflow
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    fn send_due(&self, plan: &mut Plan<'_>, start: Moment) -> Result<(), Error> {
        let elapsed = now().saturating_since(start);
        let mut batches = vec![Vec::new(); usize::from(self.setup.shards)];
        for _ in 0..BATCH_MESSAGES {
            if plan.next_at().is_none_or(|at| at > elapsed) {
                break;
            }
            if let Some(planned) = plan.next() {
                batches[usize::from(self.setup.shard_of(planned.sender))].push(planned);
            }
        }
        for (shard, batch) in self.shards().zip(batches) {
            if !batch.is_empty() {
                self.post(shard, &batch.into(), start)?;
            }
        }
        Ok(())
    }

    /// Gives a shard its messages. While its mailbox is full they get late,
    /// and are counted so.
    fn post(&self, shard: u16, batch: &Arc<[Planned]>, start: Moment) -> Result<(), Error> {
        let deadline = now() + ANSWER_WAIT;
        loop {
            let batch = batch.clone();
            let job = move |shard: &waystation_net::Shard| {
                if let Some(station) = shard.extension::<Station>() {
                    station.send(&batch, start);
                }
            };
            match self.server.remote().run_on(ShardId(shard), job) {
                Ok(()) => return Ok(()),
                Err(RemoteError::Full(_)) if now() < deadline => pause(Duration::from_millis(1)),
                Err(_) => return Err(Error::Stalled { shard }),
            }
        }
    }

    /// Waits until everything acknowledged has arrived, or the time is over;
    /// then a little longer for what should not come.
    pub(super) fn settle(&self, time: Duration) -> Result<Outcome, Error> {
        let mut transcripts = vec![Vec::new(); self.setup.topology.uids.len()];
        let deadline = now() + time;
        let mut next_check = now();
        loop {
            let figures = self.figures()?;
            let complete = figures.pending() == 0 && figures.delivered >= figures.expected;
            let overdue = now() >= deadline;
            if overdue || (complete && now() >= next_check) {
                let (verdict, _) = self.judge(&mut transcripts)?;
                // Enough deliveries may still be the wrong ones.
                if overdue || verdict.lost + verdict.unverified == 0 {
                    break;
                }
                next_check = now() + CHECK_INTERVAL;
            }
            pause(LOOK_INTERVAL);
        }
        let quiet = now() + QUIET_WAIT;
        while now() < quiet {
            pause(quiet.saturating_since(now()));
        }
        let (verdict, parts) = self.judge(&mut transcripts)?;
        if self.is_full() {
            return Err(Error::TranscriptsFull);
        }
        Ok(Outcome { verdict, parts })
    }

    /// Brings the transcripts up to date and judges them.
    fn judge(
        &self,
        transcripts: &mut [Vec<Received>],
    ) -> Result<(Verdict, Vec<station::Result>), Error> {
        // Outcomes first: what is acknowledged after this is not missed.
        let parts = self.ask_all(|station| station.result())?;
        for part in self.ask_all(|station| station.harvest())? {
            for (client, more) in part {
                transcripts[client as usize].extend(more);
            }
        }
        let mut sent: Vec<Sent> = parts.iter().flat_map(|part| part.sent.clone()).collect();
        sent.sort_unstable_by_key(|sent| sent.number);
        let mut absent = vec![false; transcripts.len()];
        for client in parts.iter().flat_map(|part| &part.absent) {
            absent[*client as usize] = true;
        }
        let evidence = Evidence {
            topology: &self.setup.topology,
            sent: &sent,
            transcripts,
            absent: &absent,
        };
        Ok((check(&evidence), parts))
    }

    /// Closes every connection and ends the shards.
    pub(super) fn end(self) {
        // A shard that does not answer is drained like the others.
        let _ = self.ask_all(|station| station.close());
        self.server.drain();
    }
}

/// What a run left behind, judged.
pub(super) struct Outcome {
    verdict: Verdict,
    parts: Vec<station::Result>,
}

impl Outcome {
    /// The report; `report` has what the run itself does not know.
    pub(super) fn complete(self, mut report: Report) -> Report {
        let mut parts = self.parts.into_iter();
        let Some(mut sum) = parts.next() else {
            return report;
        };
        for part in parts {
            sum.figures.add(&part.figures);
            sum.reconnects += part.reconnects;
            sum.retries += part.retries;
            sum.failure = sum.failure.or(part.failure);
            // All shards make their histograms alike.
            let _ = sum.delivery.add(&part.delivery);
            let _ = sum.answer.add(&part.answer);
        }
        let figures = sum.figures;
        report.sent = figures.sent;
        report.acknowledged = figures.acknowledged;
        report.errors = figures.failed + figures.pending();
        report.late_sends = figures.late;
        report.reconnects = sum.reconnects;
        report.retries = sum.retries;
        report.set_latencies(&sum.delivery, &sum.answer);
        report.set_verdict(self.verdict);
        report.misdelivered += figures.misanswered;
        report.faults.extend(sum.failure);
        report
    }
}
