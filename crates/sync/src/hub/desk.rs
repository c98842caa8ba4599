//! The core's place: takes letters, performs what the core wants done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use waystation_base::{ConnName, Moment, SiteId};
use waystation_mailbox::Receiver;
use waystation_net::Shard;
use waystation_replica::{Batch, Hub, HubConfig, HubEvent, HubOutput, Publish, Report, ToHub};

use super::DeskStart;
use super::board::{self, Board};
use super::home::Homes;
use super::letters::{Done, Outgoing, Ticket, ToDesk, ToShard};
use super::proofs::Proofs;
use super::vigil::Vigil;

/// Letters that found no room are tried again after this.
const FLUSH_AGAIN: Duration = Duration::from_millis(10);

/// The way to the log's thread and back.
pub(super) struct WriterLane {
    pub(super) jobs: SyncSender<Batch>,
    pub(super) results: Receiver<Done>,
    pub(super) trim: Arc<AtomicU64>,
}

pub(super) struct Desk {
    pub(super) shard: Shard,
    pub(super) hub: Hub,
    config: HubConfig,
    writer: WriterLane,
    shards: Vec<Outgoing>,
    /// Sites by their present connection.
    pub(super) admitted: BTreeMap<ConnName, SiteId>,
    pub(super) proofs: Proofs,
    homes: Arc<Homes>,
    board: Board,
    /// The board is written next at this moment.
    board_at: Moment,
    is_flushed: bool,
    /// For a batch that is on its way to be durable.
    sync: Vigil,
    /// For the next publish.
    next: Vigil,
    /// Entries of the last batch.
    last_entries: usize,
}

impl Desk {
    pub(super) fn new(shard: &Shard, start: DeskStart) -> Self {
        Self {
            shard: shard.clone(),
            hub: Hub::new(shard.now(), start.restored, start.config.clone()),
            config: start.config,
            writer: start.lane,
            shards: start.outgoing,
            admitted: BTreeMap::new(),
            proofs: Proofs::default(),
            homes: start.homes,
            board: start.board,
            board_at: shard.now(),
            is_flushed: true,
            sync: Vigil::new(),
            next: Vigil::new(),
            last_entries: 0,
        }
    }

    /// Runs until the log's thread or all shards are gone.
    pub(super) async fn run(mut self, mut letters: Receiver<ToDesk>) {
        let (mut results, mut batch) = (Vec::new(), Vec::new());
        loop {
            self.turn();
            if !self.look(&mut letters, &mut results, &mut batch).await {
                let sleep = self.shard.sleep_until(self.wake_at());
                let is_open = tokio::select! {
                    biased;
                    count = self.writer.results.recv_batch(&mut results) => count.is_some(),
                    count = letters.recv_batch(&mut batch) => count.is_some(),
                    () = sleep => true,
                };
                if !is_open {
                    return;
                }
            }
            for done in results.drain(..) {
                self.take_done(done);
            }
            self.take_all(&mut batch);
        }
    }

    /// Looks for something to do as long as that is worth it; whether there is.
    async fn look(
        &mut self,
        letters: &mut Receiver<ToDesk>,
        results: &mut Vec<Done>,
        batch: &mut Vec<ToDesk>,
    ) -> bool {
        let shard = self.shard.clone();
        while self.sync.is_on(|| shard.now()) || self.next.is_on(|| shard.now()) {
            // An end is for whoever waits.
            let done = self.writer.results.try_recv_batch(results).unwrap_or(0);
            let came = letters.try_recv_batch(batch).unwrap_or(0);
            if done + came > 0 {
                return true;
            }
            // Others on this processor, then all that is ready on this shard.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        false
    }

    /// Takes letters in their order. Publishes in a row go to the core together.
    fn take_all(&mut self, letters: &mut Vec<ToDesk>) {
        let mut publishes = Vec::with_capacity(letters.len());
        for letter in letters.drain(..) {
            match letter {
                ToDesk::Publish(ticket, publish) => publishes.push((ticket.number(), publish)),
                other => {
                    self.publish(&mut publishes);
                    self.take(other);
                }
            }
        }
        self.publish(&mut publishes);
    }

    fn publish(&mut self, publishes: &mut Vec<(u64, Publish)>) {
        if !publishes.is_empty() {
            let now = self.shard.now();
            self.hub.handle_publishes(now, publishes.drain(..));
        }
    }

    fn wake_at(&self) -> Moment {
        let now = self.shard.now();
        let again = (!self.is_flushed).then_some(now + FLUSH_AGAIN);
        let wakes = [self.hub.poll_timeout(), again, self.proofs.deadline()];
        let next = wakes.into_iter().flatten().min();
        next.unwrap_or(self.board_at).min(self.board_at)
    }

    /// Does what is due, and sends what there is to send.
    fn turn(&mut self) {
        let now = self.shard.now();
        if self.hub.poll_timeout().is_some_and(|at| at <= now) {
            self.hub.handle_timeout(now);
        }
        while let Some(output) = self.hub.poll_output() {
            self.perform(output);
        }
        self.advance_proofs(now);
        if self.board_at <= now {
            self.board_at = now + board::EVERY;
            self.board.write(self.status(now));
        }
        self.is_flushed = true;
        for one in &mut self.shards {
            self.is_flushed &= one.flush();
        }
    }

    fn take_done(&mut self, done: Done) {
        let now = self.shard.now();
        self.sync.end();
        self.next.begin(now, self.last_entries);
        match done {
            Done::Durable => self.hub.handle_durable(now),
            Done::Failed(fault, error) => {
                self.hub.handle_append_failed(now, fault, &error.into());
            }
            Done::Reopened(restored) => {
                // All connections were told to close when the log failed.
                self.admitted.clear();
                self.hub = Hub::new(now, *restored, self.config.clone());
            }
        }
        // The next batch should be on its way before letters are read, and before this
        // one is answered: the disk stands still meanwhile. Any other output may be
        // performed at once, and so as well later.
        let mut others = Vec::new();
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Append(_) => self.perform(output),
                _ => others.push(output),
            }
        }
        for output in others {
            self.perform(output);
        }
    }

    fn take(&mut self, letter: ToDesk) {
        let now = self.shard.now();
        match letter {
            ToDesk::Hello(conn, hello) => self.hub.handle_hello(now, conn, &hello),
            ToDesk::Report(conn, report) => self.take_report(now, conn, report),
            ToDesk::Lost(conn) => {
                self.admitted.remove(&conn);
                self.proofs.lost(conn);
                self.hub.handle_lost(now, conn);
            }
            ToDesk::Publish(ticket, publish) => {
                let publish = [(ticket.number(), publish)];
                self.hub.handle_publishes(now, publish);
            }
            ToDesk::Operate(ticket, operation) => self.operate(ticket, operation),
            ToDesk::Proof(conn, answer) => self.proofs.take(conn, answer),
        }
    }

    fn take_report(&mut self, now: Moment, conn: ConnName, report: Report) {
        if let Report::Said(ToHub::Hello(_)) = report {
            return;
        }
        self.hub.handle_report(now, conn, report);
    }

    fn perform(&mut self, output: HubOutput) {
        match output {
            HubOutput::Append(batch) => {
                self.next.end();
                self.last_entries = batch.entries.len();
                if self.next.is_lucky() {
                    self.sync.begin(self.shard.now(), self.last_entries);
                }
                // One batch at a time, so that there is room; without the log's
                // thread the desk ends.
                let _ = self.writer.jobs.try_send(batch);
            }
            HubOutput::Published { ticket, seq } => {
                let ticket = Ticket::of_number(ticket);
                if let Some(one) = self.shards.get_mut(usize::from(ticket.shard)) {
                    one.push_published(self.hub.epoch(), ticket.wait, seq);
                }
            }
            HubOutput::PublishRefused { ticket, refusal } => {
                let ticket = Ticket::of_number(ticket);
                self.post(ticket.shard, ToShard::PublishRefused(ticket.wait, refusal));
            }
            HubOutput::Changed { ticket } => self.changed(ticket),
            HubOutput::ChangeRefused { ticket, refusal } => {
                self.refuse_change(ticket, &refusal);
            }
            HubOutput::Admit { conn, welcome } => {
                self.admitted.retain(|_, site| *site != welcome.site);
                self.admitted.insert(conn, welcome.site);
                let known = self.hub.status(self.shard.now());
                if let Some(one) = known.iter().find(|one| one.site == welcome.site) {
                    self.homes.note(&one.name, one.site);
                }
                self.post(conn.shard.0, ToShard::Admit(conn, welcome));
            }
            HubOutput::Refuse { conn, refusal } => {
                self.post(conn.shard.0, ToShard::Refuse(conn, refusal));
            }
            HubOutput::Notify { conn, notice } => {
                self.post(conn.shard.0, ToShard::Notify(conn, notice));
            }
            HubOutput::End(end) => {
                for one in &mut self.shards {
                    one.push(ToShard::End(end));
                }
            }
            HubOutput::Trim { through } => {
                self.writer.trim.fetch_max(through.0, Ordering::Relaxed);
            }
            HubOutput::Event(event) => log(&event),
        }
    }

    pub(super) fn post(&mut self, shard: u16, letter: ToShard) {
        if let Some(one) = self.shards.get_mut(usize::from(shard)) {
            one.push(letter);
        }
    }
}

fn log(event: &HubEvent) {
    match event {
        HubEvent::Refused { name, refusal } => {
            tracing::warn!(site = %name, %refusal, "refused a site");
        }
        HubEvent::Evicted { site, at } => {
            tracing::warn!(%site, %at, "a site is too far behind: it must re-seed");
        }
        HubEvent::Rewound { site, acked, at } => {
            tracing::warn!(%site, %acked, %at, "a site came back with less than it had");
        }
        HubEvent::Beyond { site, claimed, end } => {
            tracing::error!(%site, %claimed, %end, "a site is past the end of the log: it must join anew");
        }
        HubEvent::DumpFailed { donor, error } => {
            tracing::error!(%donor, error = &**error, "a dump failed");
        }
        HubEvent::JoinFailed { site, error } => tracing::error!(%site, %error, "a join failed"),
        HubEvent::Fenced { site, source, end } => {
            tracing::info!(%site, source, %end, "a site's right to write is gone");
        }
        HubEvent::AppendFailed { error } => {
            tracing::error!(error = &**error, "the log refused a batch");
        }
    }
}
