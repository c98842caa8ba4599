//! The registry's disk: what is written is there later, in order, and what is not
//! there yet is lost with the process.

use std::collections::BTreeMap;
use std::time::Duration;

use waystation_base::{Moment, Rng};
use waystation_membership::{Instance, InstanceId, Owner};

use super::message::Message;

/// One change to what is kept.
pub(super) enum Record {
    Save(Box<Instance>, Duration),
    Erase(InstanceId),
}

/// Something that leaves when what came before it is stored, and by which of its
/// peer's connections.
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) connection: u64,
    /// Whose it is, when this grants an id.
    pub(super) owner: Option<Owner>,
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    answers: Vec<Answer>,
}

/// What is kept, and what waits for it.
#[derive(Default)]
pub(super) struct Store {
    /// What a restart finds.
    disk: BTreeMap<InstanceId, (Instance, Duration)>,
    /// What is being written, and when that is done.
    writing: Option<(Moment, Batch)>,
    next: Batch,
    /// What came in this turn.
    turn: Batch,
}

impl Store {
    pub(super) fn record(&mut self, record: Record) {
        self.turn.records.push(record);
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        self.turn.answers.push(answer);
    }

    /// Ends a turn; returns what may leave at once.
    pub(super) fn flush(&mut self, now: Moment, rng: &mut Rng) -> Vec<Answer> {
        let turn = std::mem::take(&mut self.turn);
        let is_idle = self.writing.is_none() && self.next.records.is_empty();
        if turn.records.is_empty() && is_idle {
            return turn.answers;
        }
        self.next.records.extend(turn.records);
        self.next.answers.extend(turn.answers);
        self.begin(now, rng);
        Vec::new()
    }

    fn begin(&mut self, now: Moment, rng: &mut Rng) {
        if self.writing.is_none() {
            let longest = if rng.chance(0.05) { 3000 } else { 200 };
            let until = now + Duration::from_millis(rng.below(longest));
            self.writing = Some((until, std::mem::take(&mut self.next)));
        }
    }

    /// Ends a write that is done, and begins the next; returns what leaves.
    pub(super) fn advance(&mut self, now: Moment, rng: &mut Rng) -> Vec<Answer> {
        let Some((_, batch)) = self.writing.take_if(|(until, _)| *until <= now) else {
            return Vec::new();
        };
        let mut answers = batch.answers;
        batch.records.into_iter().for_each(|one| self.apply(one));
        if self.next.records.is_empty() {
            answers.append(&mut self.next.answers);
        } else {
            self.begin(now, rng);
        }
        answers
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Save(instance, ttl) => {
                self.disk.insert(instance.id.clone(), (*instance, ttl));
            }
            Record::Erase(id) => drop(self.disk.remove(&id)),
        }
    }

    /// The process is killed. Of what it was writing the first part is there.
    pub(super) fn lose_unwritten(&mut self, rng: &mut Rng) {
        if let Some((_, batch)) = self.writing.take() {
            let written = rng.below(batch.records.len() as u64 + 1);
            let written = usize::try_from(written).expect("small");
            let records = batch.records.into_iter().take(written);
            records.for_each(|one| self.apply(one));
        }
        self.next = Batch::default();
        self.turn = Batch::default();
    }

    /// Somebody empties it.
    pub(super) fn wipe(&mut self) {
        self.disk.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.disk.is_empty()
    }

    /// What a restart finds.
    pub(super) fn kept(&self) -> impl Iterator<Item = &(Instance, Duration)> {
        self.disk.values()
    }
}
