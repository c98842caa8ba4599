//! What several tests build.

use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{ConnName, Epoch, Moment, Seq, ShardId, SiteId};

use crate::entry::{Entry, Origin};
use crate::hub::{Batch, Hub, HubConfig, HubOutput, Restored};
use crate::ids::{LifeId, Position, SiteName};
use crate::message::{Hello, Holding, Welcome};
use crate::session::Notice;

pub(crate) const NOW: Moment = Moment::from_millis(10_000);
pub(crate) const EPOCH: Epoch = Epoch(7);

pub(crate) fn at(seq: u64) -> Position {
    Position::new(EPOCH.0, seq)
}

pub(crate) fn entry(seq: u64) -> Arc<Entry> {
    Arc::new(Entry {
        position: at(seq),
        origin: Origin::Client { key: None },
        payload: Bytes::from(format!("write {seq}")),
    })
}

pub(crate) fn entries(range: std::ops::RangeInclusive<u64>) -> Arc<[Arc<Entry>]> {
    range.map(entry).collect()
}

pub(crate) fn name(text: &str) -> SiteName {
    SiteName::new(text).unwrap()
}

pub(crate) fn conn(slot: u32) -> ConnName {
    ConnName {
        shard: ShardId(0),
        slot,
        generation: 1,
    }
}

pub(crate) fn welcome(stream_after: Option<u64>, end: u64) -> Welcome {
    Welcome {
        site: SiteId(1),
        epoch: EPOCH,
        end: Seq(end),
        stream_after: stream_after.map(Seq),
        token: None,
        source: 0,
        is_first: false,
    }
}

pub(crate) fn hello(text: &str, life: u128, holding: Holding) -> Hello {
    Hello {
        name: name(text),
        life: LifeId(life),
        holding,
        zone: "".into(),
        has_rows: true,
        captured: None,
    }
}

pub(crate) fn holding(seq: u64) -> Holding {
    Holding::At {
        position: at(seq),
        ahead: None,
    }
}

/// A hub, with a disk that stores at once what it is told to.
pub(crate) struct TestHub {
    pub(crate) hub: Hub,
    pub(crate) batches: Vec<Batch>,
    /// What else came out.
    pub(crate) outputs: Vec<HubOutput>,
}

impl TestHub {
    pub(crate) fn new(config: HubConfig) -> Self {
        Self::restored(Restored::empty(EPOCH), config)
    }

    pub(crate) fn restored(restored: Restored, config: HubConfig) -> Self {
        Self {
            hub: Hub::new(NOW, restored, config),
            batches: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Performs outputs; batches are durable at once.
    pub(crate) fn settle(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Append(batch) => {
                    self.batches.push(batch);
                    self.hub.handle_durable(NOW);
                }
                other => self.outputs.push(other),
            }
        }
    }

    /// What came out since the last call.
    pub(crate) fn told(&mut self) -> Vec<HubOutput> {
        self.settle();
        std::mem::take(&mut self.outputs)
    }

    /// What the session of a connection was told since the last call.
    pub(crate) fn notices(&mut self, conn: ConnName) -> Vec<Notice> {
        let told = self.told();
        told.into_iter()
            .filter_map(|one| match one {
                HubOutput::Notify { conn: to, notice } if to == conn => Some(notice),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.hub.handle_publish(NOW, 0, crate::Publish::default());
            self.settle();
        }
    }

    /// Brings a site in, and returns how it was answered.
    pub(crate) fn arrive(&mut self, slot: u32, hello: &Hello) -> HubOutput {
        self.told();
        self.hub.handle_hello(NOW, conn(slot), hello);
        let told = self.told();
        let answer = told
            .into_iter()
            .find(|one| matches!(one, HubOutput::Admit { .. } | HubOutput::Refuse { .. }));
        answer.expect("an answer to the hello")
    }

    pub(crate) fn master(&mut self) {
        let answer = self.arrive(1, &hello("master", 1, Holding::Fresh));
        assert!(matches!(answer, HubOutput::Admit { .. }));
    }
}
