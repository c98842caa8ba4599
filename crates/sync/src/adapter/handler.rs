//! Whatever takes entries one by one as a target: registered code, or a URL.
//!
//! Entries are opaque: statements, bodies of requests, anything. There is no
//! transaction around what a handler does and the position, so that each entry is
//! delivered **at least once**: its position is stored after it was taken, in a file
//! of the site's own, and after a crash in between it is delivered again. Its
//! history and sequence are its idempotency key ([`Delivery::key`]): who takes an
//! entry and notes that key with what it does has it exactly once.
//!
//! Plain statements are delivered like anything else, and labelled
//! ([`Delivery::is_statement`]); those that would do something else at each site are
//! refused unless [`HandlerTarget::allow_nondeterministic`] says otherwise.
//!
//! A handler has no rows, so that it takes no part in proofs of equality, and only
//! another handler can take it as its donor, to begin where it is. Where the donor
//! has rows, its chunks are given to the handler ([`Handler::restore`]).

mod http;
mod lane;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use thiserror::Error;
use waystation_base::{Clock, Seq};
use waystation_net::MonotonicClock;
use waystation_replica::{
    Chunk, Cursor, Entry, Holding, LifeId, Origin, Position, SiteRestored, Touches, TouchesOf,
};

use self::lane::HandlerApply;
use super::sqlite::lists;
use super::sqlite::state::{self, State};
use super::{Adapter, AdapterError, Kind, Opened, RangeHash, Snapshot};
use crate::statement;

pub use self::http::{HttpHandler, UrlError};

/// Why a handler did not take an entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandlerError {
    /// It cannot now: it is asked again, until it can.
    #[error("the handler is not available: {0}")]
    Unavailable(String),
    /// It never will: the site's policy decides.
    #[error("the handler refuses: {0}")]
    Refused(String),
}

/// An entry on its way to a handler.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its place.
    pub position: Position,
    /// Where it comes from; none for one that was parked and is replayed.
    pub origin: Option<&'a Origin>,
    /// What it says.
    pub payload: &'a Bytes,
}

impl Delivery<'_> {
    /// The idempotency key: the history and the sequence, `EPOCH-SEQ`. The same
    /// entry has the same key however often it is delivered.
    pub fn key(&self) -> String {
        format!("{}-{}", self.position.epoch, self.position.seq)
    }

    /// Whether it is a plain statement: what it does depends on what it finds.
    /// Cost: O(bytes).
    pub fn is_statement(&self) -> bool {
        statement::is_statement(self.payload)
    }
}

/// Takes entries, in order and one at a time, on a thread of its own.
pub trait Handler: Send + 'static {
    /// Takes an entry. When it answers, what the entry asks for is done and lasts.
    /// The same entry may come again.
    ///
    /// # Errors
    /// [`HandlerError`] says whether to try again.
    fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), HandlerError>;

    /// Takes a piece of the donor's copy: rows as the donor's adapter writes them.
    /// The same piece may come again; the one with index 0 begins anew. Only a copy
    /// that has rows comes; by default they are of no interest.
    ///
    /// # Errors
    /// It cannot now, and is asked again.
    fn restore(&mut self, chunk: &Chunk) -> Result<(), HandlerError> {
        let _ = chunk;
        Ok(())
    }
}

impl<F> Handler for F
where
    F: FnMut(&Delivery<'_>) -> Result<(), HandlerError> + Send + 'static,
{
    fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), HandlerError> {
        self(delivery)
    }
}

/// A handler as a target.
#[derive(Clone)]
pub struct HandlerTarget {
    path: PathBuf,
    handler: Arc<Mutex<dyn Handler>>,
    may_differ: bool,
    clock: Arc<dyn Clock + Send + Sync>,
}

impl HandlerTarget {
    /// A handler, and the file that holds how far it is. The file is made when the
    /// target is opened, and belongs to one site and one handler.
    pub fn new(path: &Path, handler: impl Handler) -> Self {
        Self {
            path: path.to_owned(),
            handler: Arc::new(Mutex::new(handler)),
            may_differ: false,
            clock: Arc::new(MonotonicClock),
        }
    }

    /// Delivers statements that would do something else at each site, too.
    #[must_use]
    pub fn allow_nondeterministic(mut self) -> Self {
        self.may_differ = true;
        self
    }
}

impl Adapter for HandlerTarget {
    fn kind(&self) -> Kind {
        Kind {
            name: "handler",
            is_transactional: false,
            can_filter: false,
            has_rows: false,
            touches: TouchesOf::new(|_: &Entry| Touches::Anything),
        }
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut connection = state::connect(&self.path)?;
        let transaction = connection.transaction()?;
        State::create_tables(&transaction)?;
        let state = if let Some(state) = State::load(&transaction)? {
            state
        } else {
            let state = State::new(life);
            state.store(&transaction)?;
            state
        };
        let parked = lists::parked(&transaction)?;
        transaction.commit()?;
        let parked = parked.into_iter();
        let restored = SiteRestored {
            life: state.life,
            holding: state.holding.clone(),
            parked: parked.map(|(seq, _)| (seq, Touches::Anything)).collect(),
            is_differing: state.is_differing,
            is_captured: false,
            captured: 0,
        };
        Ok(Opened {
            restored,
            apply: Box::new(HandlerApply {
                connection,
                handler: Arc::clone(&self.handler),
                may_differ: self.may_differ,
                clock: Arc::clone(&self.clock),
            }),
            capture: None,
        })
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        let connection = state::connect(&self.path)?;
        let state = State::load(&connection)?.ok_or(AdapterError::NoPosition)?;
        match state.holding {
            Holding::At { position, .. } => Ok(Box::new(NoRows(position))),
            _ => Err(AdapterError::NoPosition),
        }
    }
}

/// The place of a handler, for another one that begins there.
struct NoRows(Position);

impl Snapshot for NoRows {
    fn position(&self) -> Position {
        self.0
    }

    fn captured(&self) -> Option<u64> {
        None
    }

    fn read(&mut self, index: u64, from: &Cursor, _: usize) -> Result<Chunk, AdapterError> {
        Ok(Chunk::new(index, from.clone(), None, 0, Bytes::new()))
    }

    fn hash(&mut self, _: &Cursor) -> Result<Option<RangeHash>, AdapterError> {
        Ok(None)
    }
}

/// What a statement of an entry is refused for, if it is one and is.
fn refusal(payload: &[u8]) -> Option<String> {
    let checked = statement::check_entry(payload);
    checked.err().map(|fault| fault.to_string())
}

/// The place before an entry.
fn before(position: Position) -> Position {
    Position {
        seq: Seq(position.seq.0 - 1),
        ..position
    }
}
