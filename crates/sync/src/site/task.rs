//! The task that owns a site's core.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use waystation_base::{Moment, Seq};
use waystation_mailbox::Receiver;
use waystation_net::{Address, Label, Shard};
use waystation_replica::{ApplyBatch, ApplyFault, Holding, LifeId, Site, SiteEvent, SnapshotId};

use super::capture_lane::{CaptureLane, Captured};
use super::events::{Event, Inbox, Ran};
use super::lane::Lane;
use super::link::Link;
use super::load;
use super::proof::Proofs;
use super::{SiteOptions, new_life};
use crate::adapter::{Adapter, Apply, ApplyError, Opened, Snapshot};
use crate::codec::FromHub;
use crate::limits::EVENTS_TOLD_MAX;
use crate::log::random;

/// Pause before a copy that could not be given up, or whose first position could not
/// be stored, is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// An error of the target, as its site sees it: nothing is wrong with an entry.
pub(super) fn lane_ended() -> ApplyError {
    ApplyError::transient("a thread of the adapter has ended, or has too much to do")
}

pub(super) struct SiteTask {
    pub(super) shard: Shard,
    pub(super) site: Site,
    pub(super) hub: Address,
    pub(super) life: LifeId,
    pub(super) adapter: Arc<dyn Adapter>,
    pub(super) inbox: Rc<Inbox>,
    pub(super) apply: Rc<Lane<dyn Apply>>,
    pub(super) capture: Option<CaptureLane>,
    captured: Option<Receiver<Captured>>,
    pub(super) snapshots: BTreeMap<SnapshotId, Rc<Lane<dyn Snapshot>>>,
    pub(super) link: Option<Link>,
    pub(super) last_link: u64,
    /// The last sequence that is committed in the target.
    pub(super) committed: Seq,
    /// The target does not know its position yet.
    pub(super) is_unplaced: bool,
    /// From when on that position may be stored; never while it is.
    place_at: Moment,
    /// A transaction that the core wants and that has not begun.
    pub(super) wanted: Option<ApplyBatch>,
    pub(super) proofs: Proofs,
    pub(super) told: VecDeque<SiteEvent>,
    /// How busy the machine is is looked at next at this moment.
    load_at: Moment,
    load_permille: fn() -> u16,
    /// The copy is being given up; the hub hears of its next life only once that is
    /// durable.
    pub(super) is_giving_up: bool,
    /// Who waits for that.
    waiters: Vec<oneshot::Sender<()>>,
    /// The core wants a connection, and waits for that.
    pub(super) is_connect_due: bool,
}

impl SiteTask {
    pub(super) fn new(
        shard: &Shard,
        options: SiteOptions,
        adapter: Arc<dyn Adapter>,
        opened: Opened,
    ) -> io::Result<Self> {
        let apply = Rc::new(Lane::start("sync apply", opened.apply)?);
        let (capture, captured) = match opened.capture {
            Some(capture) => {
                let (lane, numbers) = CaptureLane::start(capture)?;
                (Some(lane), Some(numbers))
            }
            None => (None, None),
        };
        let inbox = Rc::new(Inbox::new());
        inbox.set_apply_lane(Rc::clone(&apply));
        let restored = opened.restored;
        let (life, holding) = (restored.life, restored.holding.clone());
        let site = Site::new(shard.now(), options.core, restored, random());
        Ok(Self {
            shard: shard.clone(),
            site,
            hub: options.hub,
            life,
            adapter,
            inbox,
            apply,
            capture,
            captured,
            snapshots: BTreeMap::new(),
            link: None,
            last_link: 0,
            committed: place_of(&holding),
            is_unplaced: holding == Holding::Fresh,
            place_at: shard.now(),
            wanted: None,
            proofs: Proofs::default(),
            told: VecDeque::new(),
            load_at: shard.now(),
            load_permille: options.load_permille,
            is_giving_up: false,
            waiters: Vec::new(),
            is_connect_due: false,
        })
    }

    pub(super) fn inbox(&self) -> Rc<Inbox> {
        Rc::clone(&self.inbox)
    }

    /// Runs as long as the shard does.
    pub(super) async fn run(mut self) {
        let mut numbers = Vec::new();
        let mut captured = self.captured.take();
        loop {
            self.pump();
            let now = self.shard.now();
            if self.load_at <= now {
                self.load_at = now + load::EVERY;
                self.site.handle_load((self.load_permille)());
            }
            let wakes = [self.site.poll_timeout(), self.proofs.poll_timeout()];
            let wake = wakes.into_iter().flatten().min();
            let sleep = self
                .shard
                .sleep_until(wake.unwrap_or(now + Duration::from_secs(1)));
            let inbox = Rc::clone(&self.inbox);
            tokio::select! {
                biased;
                () = inbox.woken.notified() => {}
                count = receive(captured.as_mut(), &mut numbers) => {
                    if count.is_none() {
                        // Its thread has ended; a panic of the adapter does that.
                        let error = "the thread of captured writes has ended";
                        tracing::error!(error);
                        self.site.handle_capture_trouble(Some(error));
                        captured = None;
                    }
                }
                () = sleep => {}
            }
            let now = self.shard.now();
            for captured in numbers.drain(..) {
                match captured {
                    Captured::Through(last, generation) => {
                        let lane = self.capture.as_ref();
                        if lane.is_some_and(|lane| lane.generation() == generation) {
                            self.site.handle_captured(now, last);
                        }
                    }
                    Captured::Stands(error) => self.site.handle_capture_trouble(Some(&error)),
                    Captured::GoesOn => self.site.handle_capture_trouble(None),
                }
            }
            while let Some(event) = self.inbox.pop() {
                self.take(event);
                self.pump();
            }
            if self.site.poll_timeout().is_some_and(|at| at <= now) {
                self.site.handle_timeout(now);
            }
        }
    }

    /// Performs what the core wants done.
    fn pump(&mut self) {
        if let Some(capture) = self.capture.as_ref().filter(|_| self.site.was_welcomed()) {
            capture.allow_numbers();
        }
        self.perform_all();
        self.begin_apply();
        self.place();
        self.look_still();
        self.perform_all();
    }

    fn perform_all(&mut self) {
        while let Some(output) = self.site.poll_output() {
            self.perform(output);
        }
    }

    /// Stores the position of a copy of the base data, whether anything is to be
    /// applied or not: its program may wait until the file says that it is whole.
    fn place(&mut self) {
        if self.place_at <= self.shard.now()
            && let Some(batch) = self.placing()
        {
            self.place_at = Moment::FAR_FUTURE;
            self.transact(move |apply| apply.apply(&batch), Ran::Placed);
        }
    }

    fn placed(&mut self, result: Result<(), ApplyError>) {
        let now = self.shard.now();
        if let Err(error) = result {
            tracing::warn!(%error, "the copy's first position is not stored yet");
            self.place_at = now + AGAIN;
        } else {
            self.place_at = now;
            self.is_unplaced = false;
        }
    }

    /// Does something later.
    pub(super) fn after(&self, pause: Duration, then: impl FnOnce(&mut Self) + 'static) {
        let (shard, inbox) = (self.shard.clone(), self.inbox());
        self.shard.spawn(Label::of("sync pause"), async move {
            shard.sleep(pause).await;
            inbox.push(Event::Ask(Box::new(then)));
        });
    }

    fn take(&mut self, event: Event) {
        let now = self.shard.now();
        match event {
            Event::Up(number) if self.is_link(number) => self.site.handle_connected(now),
            Event::Down(number) if self.is_link(number) => {
                self.drop_link();
                self.site.handle_disconnected(now);
            }
            Event::Message(number, message) if self.is_link(number) => match message {
                FromHub::Core(message) => self.site.handle_message(now, message),
                FromHub::Proof(proof) => self.want_proof(proof),
                FromHub::Equal(at) => self.found_equal(at),
            },
            Event::Up(_) | Event::Down(_) | Event::Message(..) => {}
            Event::Ran(ran) => self.ran(ran),
            Event::SnapshotOpened(snapshot, opened) => self.snapshot_opened(snapshot, opened),
            Event::ChunkRead(snapshot, joiner, Ok(chunk)) => {
                self.site.handle_chunk_read(now, snapshot, joiner, chunk);
            }
            Event::ChunkRead(snapshot, _, Err(error)) => {
                let error = error.to_string();
                self.site.handle_snapshot_failed(now, snapshot, &error);
            }
            Event::Held(held) => self.held(held),
            Event::ProofOpened(opened) => self.proof_opened(opened),
            Event::Outbox(first, Ok(payloads)) => self.site.handle_outbox(now, first, payloads),
            Event::Outbox(_, Err(error)) => {
                tracing::error!(%error, "cannot read captured writes");
                self.site.handle_outbox_failed(now, &error.to_string());
            }
            Event::Ask(ask) => ask(self),
        }
    }

    fn is_link(&self, number: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.number == number)
    }

    pub(super) fn drop_link(&mut self) {
        self.link = None;
        self.proofs.clear();
        self.forget_still();
    }

    fn ran(&mut self, ran: Ran) {
        let now = self.shard.now();
        match ran {
            Ran::Batch(Ok(())) => {
                self.site.handle_applied(now);
                self.committed = place_of(&self.site.holding());
                self.is_unplaced = false;
                self.proofs.is_busy = false;
            }
            Ran::Batch(Err(error)) | Ran::Prefix(Err(error)) => {
                self.proofs.is_busy = false;
                self.wanted = None;
                self.failed(&error);
            }
            Ran::Prefix(Ok(())) => {
                self.committed = self.proofs.prefix;
                self.is_unplaced = false;
                self.proofs.is_busy = false;
            }
            Ran::Chunk(Ok(()), is_first) => {
                if is_first && let Some(capture) = &self.capture {
                    capture.reset();
                }
                self.is_unplaced = false;
                self.site.handle_stored(now);
                self.committed = place_of(&self.site.holding());
            }
            Ran::Chunk(Err(error), _) => {
                tracing::warn!(%error, "a chunk was not stored");
                self.site.handle_store_failed(now, &error.error);
            }
            Ran::Replay(result) => {
                if let Err(error) = &result {
                    tracing::warn!(%error, "a parked entry was not applied");
                }
                self.site.handle_replayed(now, result.is_ok());
            }
            Ran::GivenUp(result) => self.given_up(result),
            Ran::Placed(result) => self.placed(result),
        }
    }

    fn failed(&mut self, error: &ApplyError) {
        match error.fault {
            ApplyFault::Transient => tracing::warn!(%error, "a transaction failed"),
            ApplyFault::Poison(seq) => tracing::error!(%seq, %error, "an entry is refused"),
            ApplyFault::Unfilterable => tracing::info!(%error, "the copy begins anew"),
        }
        let now = self.shard.now();
        self.site
            .handle_apply_failed(now, error.fault, &error.error);
    }

    /// Has the site join anew, as another copy. A hub that heard of the next life
    /// before the target did would refuse the old one, should this process be killed
    /// in between.
    pub(super) fn rejoin(&mut self, waiter: Option<oneshot::Sender<()>>) {
        self.waiters.extend(waiter);
        self.life = new_life();
        let now = self.shard.now();
        self.site.handle_rejoin(now, self.life);
        if let Some(capture) = &self.capture {
            // Nothing that was to be erased of the old copy's is erased of the new one's.
            capture.reset();
        }
        if self.wanted.take().is_some() {
            let error = "the copy is given up";
            self.site
                .handle_apply_failed(now, ApplyFault::Transient, error);
        }
        self.give_up();
    }

    /// After whatever is under way in the target.
    fn give_up(&mut self) {
        self.is_giving_up = true;
        let life = self.life;
        self.transact(move |apply| apply.give_up(life), Ran::GivenUp);
    }

    fn given_up(&mut self, result: Result<(), ApplyError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "the copy is not given up yet");
            return self.after(AGAIN, Self::give_up);
        }
        self.is_giving_up = false;
        for waiter in self.waiters.drain(..) {
            // Whoever waited may have given up.
            let _ = waiter.send(());
        }
        self.committed = Seq(0);
        self.is_unplaced = true;
        if let Some(capture) = &self.capture {
            capture.reset();
        }
        self.site.handle_given_up();
        if std::mem::take(&mut self.is_connect_due) {
            self.connect();
        }
    }

    pub(super) fn tell(&mut self, event: SiteEvent) {
        if self.told.len() >= EVENTS_TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(event);
    }
}

/// The place of a copy.
pub(super) fn place_of(holding: &Holding) -> Seq {
    match holding {
        Holding::Fresh => Seq(0),
        Holding::Restoring(part) => part.position.seq,
        Holding::At { position, .. } => position.seq,
    }
}

async fn receive(
    numbers: Option<&mut Receiver<Captured>>,
    into: &mut Vec<Captured>,
) -> Option<usize> {
    match numbers {
        Some(numbers) => numbers.recv_batch(into).await,
        None => std::future::pending().await,
    }
}
