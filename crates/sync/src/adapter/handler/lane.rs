//! Delivers entries, then stores how far it is.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, TransactionBehavior};
use waystation_base::{Clock, Seq};
use waystation_replica::{
    Ahead, ApplyBatch, ApplyFault, Decision, Entry, Holding, LifeId, Origin, Position, StoreChunk,
    Verdict,
};

use super::{Delivery, Handler, HandlerError, before, refusal};
use crate::adapter::sqlite::lists;
use crate::adapter::sqlite::state::State;
use crate::adapter::{AdapterError, Apply, ApplyError, Audited};
use crate::limits::HANDLER_BATCH_WAIT;

pub(super) struct HandlerApply {
    pub(super) connection: Connection,
    pub(super) handler: Arc<Mutex<dyn Handler>>,
    pub(super) may_differ: bool,
    pub(super) clock: Arc<dyn Clock + Send + Sync>,
}

/// What a batch leaves to be stored.
struct Outcome {
    position: Position,
    ahead: Option<Ahead>,
    /// Entries that were not delivered, and whether they are parked.
    noted: Vec<(Arc<Entry>, bool)>,
    error: Option<ApplyError>,
}

fn transient(error: impl std::fmt::Display) -> ApplyError {
    ApplyError::transient(error.to_string())
}

impl HandlerApply {
    fn state(&self) -> Result<State, ApplyError> {
        let state = State::load(&self.connection).map_err(transient)?;
        state.ok_or_else(|| ApplyError::transient("the handler's file has lost its state"))
    }

    fn deliver(
        &self,
        position: Position,
        origin: Option<&Origin>,
        payload: &Bytes,
    ) -> Result<(), ApplyError> {
        if !self.may_differ
            && let Some(refusal) = refusal(payload)
        {
            return Err(ApplyError::poison(position.seq, refusal));
        }
        let delivery = Delivery {
            position,
            origin,
            payload,
        };
        let mut handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner);
        handler.deliver(&delivery).map_err(|error| {
            let text = error.to_string();
            match error {
                HandlerError::Unavailable(_) => ApplyError::transient(text),
                HandlerError::Refused(_) => ApplyError::poison(position.seq, text),
            }
        })
    }

    /// Delivers what is due, up to the first that is not taken, and for
    /// [`HANDLER_BATCH_WAIT`]: the next one may take as long as a handler may.
    fn run(&self, batch: &ApplyBatch, state: &State) -> Outcome {
        let done = state.seq();
        let until = self.clock.now() + HANDLER_BATCH_WAIT;
        let due = |entry: &Entry| entry.position.seq > done;
        let mut noted = Vec::new();
        for (entry, verdict) in batch.entries.iter().filter(|(one, _)| due(one)) {
            let taken = match verdict {
                Verdict::Apply if self.clock.now() > until => {
                    let error = "the handler takes long; what it took is stored, and the rest next";
                    Err(ApplyError::transient(error))
                }
                Verdict::Apply => self.deliver(entry.position, Some(&entry.origin), &entry.payload),
                Verdict::Park | Verdict::Skip => {
                    noted.push((Arc::clone(entry), *verdict == Verdict::Park));
                    Ok(())
                }
                Verdict::Contained => Ok(()),
            };
            if let Err(error) = taken {
                let held = match &state.holding {
                    Holding::At { ahead, .. } => *ahead,
                    _ => None,
                };
                return Outcome {
                    position: before(entry.position),
                    // Whether the part passes what it is ahead by, nobody knows yet.
                    ahead: batch.ahead.or(held),
                    noted,
                    error: Some(error),
                };
            }
        }
        Outcome {
            position: batch.position,
            ahead: batch.ahead,
            noted,
            error: None,
        }
    }

    fn keep(
        &mut self,
        mut state: State,
        outcome: &Outcome,
        decision: Option<&Decision>,
    ) -> Result<(), ApplyError> {
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior);
        let transaction = transaction.map_err(transient)?;
        for (entry, is_parked) in &outcome.noted {
            if *is_parked {
                lists::note_parked(&transaction, entry, decision).map_err(transient)?;
            } else {
                state.is_differing = true;
                lists::note_skipped(&transaction, entry, decision).map_err(transient)?;
            }
        }
        if outcome.position.seq >= state.seq() {
            let (position, ahead) = (outcome.position, outcome.ahead);
            match &mut state.holding {
                Holding::Restoring(part) => part.position = position,
                holding => *holding = Holding::At { position, ahead },
            }
        }
        state.store(&transaction).map_err(transient)?;
        transaction.commit().map_err(transient)
    }
}

impl Apply for HandlerApply {
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        if batch.below.is_some() {
            return Err(ApplyError {
                fault: ApplyFault::Unfilterable,
                error: "a handler has no rows, and takes no part of a copy".to_owned(),
            });
        }
        let state = self.state()?;
        let outcome = self.run(batch, &state);
        self.keep(state, &outcome, batch.decision.as_ref())?;
        outcome.error.map_or(Ok(()), Err)
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        if store.chunk.rows > 0 {
            let mut handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner);
            handler.restore(&store.chunk).map_err(transient)?;
        }
        let mut state = self.state()?;
        let transaction = self.connection.transaction().map_err(transient)?;
        if store.chunk.index == 0 {
            lists::clear(&transaction).map_err(transient)?;
            state = State::new(life);
        }
        state.holding = store.holding.clone();
        state.store(&transaction).map_err(transient)?;
        transaction.commit().map_err(transient)
    }

    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError> {
        let transaction = self.connection.transaction().map_err(transient)?;
        lists::clear(&transaction).map_err(transient)?;
        State::new(life).store(&transaction).map_err(transient)?;
        transaction.commit().map_err(transient)
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        let payload = lists::parked_payload(&self.connection, seq).map_err(transient)?;
        let Some(payload) = payload else {
            return Ok(());
        };
        let epoch = match self.state()?.holding {
            Holding::At { position, .. } => position.epoch,
            _ => return Err(ApplyError::transient("the handler has no position")),
        };
        self.deliver(Position { epoch, seq }, None, &payload.into())?;
        let transaction = self.connection.transaction().map_err(transient)?;
        lists::note_replayed(&transaction, seq).map_err(transient)?;
        transaction.commit().map_err(transient)
    }

    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError> {
        lists::audit(&self.connection)
    }

    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError> {
        let state = State::load(&self.connection)?;
        let mut state = state.ok_or(AdapterError::NoPosition)?;
        state.is_differing &= lists::is_skipped_after(&self.connection, through)?;
        state.store(&self.connection)?;
        Ok(!state.is_differing)
    }
}
