//! What a site's core wants done.

use std::rc::Rc;
use std::sync::Arc;

use waystation_net::Label;
use waystation_replica::{
    Ahead, ApplyBatch, Holding, SiteEvent, SiteOutput, SnapshotId, StoreChunk,
};

use super::events::{Event, Ran};
use super::lane::Lane;
use super::link::Link;
use super::still::For;
use super::task::{SiteTask, lane_ended};
use crate::adapter::{AdapterError, Apply, ApplyError, Snapshot};
use crate::codec::FromSite;

/// An adapter's thread that is gone.
pub(super) fn gone() -> AdapterError {
    AdapterError::Unavailable("a thread of the adapter has ended".to_owned())
}

impl SiteTask {
    pub(super) fn perform(&mut self, output: SiteOutput) {
        match output {
            SiteOutput::Connect if self.is_giving_up => self.is_connect_due = true,
            SiteOutput::Connect => self.connect(),
            SiteOutput::Disconnect => {
                self.is_connect_due = false;
                self.drop_link();
            }
            SiteOutput::Send(message) => {
                if let Some(link) = &self.link {
                    link.send(FromSite::Core(message));
                }
            }
            SiteOutput::Apply(batch) => self.wanted = Some(batch),
            SiteOutput::Store(store) => self.store(store),
            SiteOutput::Replay { seq } => {
                self.transact(move |apply| apply.replay(seq), Ran::Replay);
            }
            SiteOutput::PrepareSnapshot { snapshot } => self.want_still(For::Dump(snapshot)),
            SiteOutput::OpenSnapshot { snapshot } => self.open_snapshot(snapshot),
            SiteOutput::ReadChunk {
                snapshot,
                joiner,
                index,
                from,
                bytes_max,
            } => {
                let lane = self.snapshots.get(&snapshot).map(Rc::clone);
                let inbox = self.inbox();
                self.shard.spawn(Label::of("sync chunk"), async move {
                    let read = match lane {
                        Some(lane) => lane.run(move |one| one.read(index, &from, bytes_max)).await,
                        None => None,
                    };
                    let read = read.unwrap_or_else(|| Err(gone()));
                    inbox.push(Event::ChunkRead(snapshot, joiner, read));
                });
            }
            SiteOutput::CloseSnapshot { snapshot } => {
                self.note_begun(For::Dump(snapshot));
                self.snapshots.remove(&snapshot);
            }
            SiteOutput::ReadOutbox { after, changes_max } => self.read_outbox(after, changes_max),
            SiteOutput::EraseOutbox { through } => {
                if let Some(capture) = &self.capture {
                    capture.erase(through);
                }
            }
            SiteOutput::Event(event) => {
                log(&event);
                self.tell(event);
            }
        }
    }

    pub(super) fn connect(&mut self) {
        self.last_link += 1;
        let link = Link::open(&self.shard, &self.hub, self.last_link, &self.inbox);
        self.link = Some(link);
    }

    /// Runs a transaction; its end comes back as an event.
    pub(super) fn transact(
        &self,
        job: impl FnOnce(&mut (dyn Apply + 'static)) -> Result<(), ApplyError> + Send + 'static,
        ran: impl FnOnce(Result<(), ApplyError>) -> Ran + 'static,
    ) {
        let (lane, inbox) = (Rc::clone(&self.apply), self.inbox());
        self.shard.spawn(Label::of("sync apply"), async move {
            let result = lane.run(job).await;
            let result = result.unwrap_or_else(|| Err(lane_ended()));
            inbox.push(Event::Ran(ran(result)));
        });
    }

    fn store(&mut self, store: StoreChunk) {
        let life = self.life;
        let is_first = store.chunk.index == 0;
        self.transact(
            move |apply| apply.store(&store, life),
            move |result| Ran::Chunk(result, is_first),
        );
    }

    fn read_outbox(&self, after: u64, changes_max: usize) {
        let Some(capture) = &self.capture else {
            return self.inbox.push(Event::Outbox(after + 1, Ok(Vec::new())));
        };
        let (waiter, inbox) = (capture.read(after, changes_max), self.inbox());
        self.shard.spawn(Label::of("sync outbox"), async move {
            let read = waiter.await.unwrap_or_else(|_| Err(gone()));
            inbox.push(Event::Outbox(after + 1, read));
        });
    }

    /// A transaction that does nothing but store the position, for a copy of the
    /// base data that has applied nothing yet.
    pub(super) fn placing(&self) -> Option<ApplyBatch> {
        let Holding::At { position, ahead } = self.site.holding() else {
            return None;
        };
        self.is_unplaced.then_some(ApplyBatch {
            entries: Vec::new(),
            below: None,
            position,
            ahead,
            decision: None,
        })
    }

    /// Opens a snapshot of the target, on another thread.
    pub(super) fn open(
        &self,
        then: impl FnOnce(Result<Box<dyn Snapshot>, AdapterError>) -> Event + 'static,
    ) {
        let placing = self.placing();
        let (apply, inbox) = (Rc::clone(&self.apply), self.inbox());
        let (adapter, shard) = (Arc::clone(&self.adapter), self.shard.clone());
        self.shard.spawn(Label::of("sync snapshot"), async move {
            if let Some(batch) = placing {
                let placed = apply.run(move |apply| apply.apply(&batch)).await;
                if let Some(Err(error)) = placed {
                    let error = AdapterError::Unavailable(error.error);
                    return inbox.push(then(Err(error)));
                }
            }
            let open = move || adapter.open_snapshot();
            let opened = shard.offload("open a snapshot", open).await;
            inbox.push(then(opened.unwrap_or_else(|_| Err(gone()))));
        });
    }

    fn open_snapshot(&mut self, snapshot: SnapshotId) {
        self.open_still(move |opened| Event::SnapshotOpened(snapshot, opened));
    }

    pub(super) fn snapshot_opened(
        &mut self,
        snapshot: SnapshotId,
        opened: Result<Box<dyn Snapshot>, AdapterError>,
    ) {
        self.note_begun(For::Dump(snapshot));
        let now = self.shard.now();
        let started = opened.and_then(|opened| {
            let (position, captured) = (opened.position(), opened.captured());
            let size = opened.size();
            let lane = Lane::start("sync snapshot", opened).map_err(|_| gone())?;
            Ok((lane, position, captured, size))
        });
        match started {
            Ok((lane, position, captured, size)) => {
                self.is_unplaced = false;
                self.snapshots.insert(snapshot, Rc::new(lane));
                let site = self.site.view().site;
                let ahead = captured.zip(site).map(|(source, site)| Ahead {
                    site,
                    life: self.life,
                    source,
                });
                self.site
                    .handle_snapshot_opened(now, snapshot, position, ahead, size);
            }
            Err(error) => {
                let error = error.to_string();
                self.site.handle_snapshot_failed(now, snapshot, &error);
            }
        }
    }
}

fn log(event: &SiteEvent) {
    match event {
        SiteEvent::Refused(refusal) => tracing::error!(%refusal, "the hub refuses this site"),
        SiteEvent::Violation(violation) => {
            tracing::warn!(%violation, "connecting again");
        }
        SiteEvent::Joined { position } => tracing::info!(%position, "the copy is complete"),
        SiteEvent::JoinFailed(error) => tracing::warn!(%error, "no copy yet; asking again"),
        SiteEvent::Stopped { error } => {
            tracing::error!(error = &**error, "an entry failed, and the site stands");
        }
        SiteEvent::Unpublished { count } => {
            tracing::warn!(count, "captured writes wait, and fill the database");
        }
        SiteEvent::PublishRefused(refusal) => {
            tracing::warn!(%refusal, "captured writes are refused; they wait");
        }
    }
}
