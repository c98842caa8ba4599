//! What a site knows of its open file: by that it sees that the file was put back from
//! a backup in its place, by a program that writes the old pages over the new ones.
//! Nothing else than this process writes what is looked at here.
//!
//! Entries would be applied over a gap, and captured writes get numbers that the hub
//! has. So once a file was put back nothing is done with it until the site is started
//! again, and then as with any older file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction};

use super::outbox::{self, Numbered};
use super::schema;
use super::state::State;
use crate::adapter::AdapterError;

/// How often the lane of transactions may be faster than a look.
const LOOKS_MAX: u32 = 100;

/// Shared by all lanes of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<Facts>>);

#[derive(Clone, Debug, Default)]
struct Facts {
    /// As it was committed last; none before the file is opened.
    state: Option<State>,
    /// One of whose commit nothing was heard yet.
    tried: Option<State>,
    /// At least so many captured writes have a number.
    number: u64,
    /// How often numbers began anew.
    anew: u64,
    /// Grows with all of this.
    version: u64,
    /// What was found to be wrong.
    put_back: Option<String>,
}

/// What a file says, in one transaction.
#[derive(Debug)]
pub(super) struct Found {
    /// None if the file was never opened as a target.
    pub(super) state: Option<State>,
    /// None if nothing is captured.
    pub(super) numbered: Option<Numbered>,
    anew: u64,
}

impl Found {
    /// # Errors
    /// The file cannot be read.
    pub(super) fn load(connection: &Connection, is_captured: bool) -> Result<Self, AdapterError> {
        let is_there = |table| schema::exists(connection, table);
        let mut found = Self {
            state: None,
            numbered: None,
            anew: 0,
        };
        found.state = match State::load(connection) {
            Err(_) if !is_there("_waystation_state")? => None,
            state => state?,
        };
        if is_captured && found.state.is_some() {
            match Numbered::load(connection) {
                Err(_) if !is_there("_waystation_captured")? => found.state = None,
                numbered => found.numbered = Some(numbered?),
            }
        }
        Ok(found)
    }
}

/// Numbers that are not committed yet.
pub(super) struct Numbering {
    pub(super) number: u64,
    anew: u64,
}

impl Known {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each change of it is one assignment after another, and none panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file is opened.
    pub(super) fn begin(&self, state: &State, number: u64) {
        let mut facts = self.facts();
        *facts = Facts {
            state: Some(state.clone()),
            number,
            anew: facts.anew + 1,
            version: facts.version + 1,
            ..Facts::default()
        };
    }

    /// Refuses a file that was found to be put back.
    ///
    /// # Errors
    /// It was.
    pub(super) fn ensure(&self) -> Result<(), AdapterError> {
        let put_back = self.facts().put_back.clone();
        put_back.map_or(Ok(()), |why| Err(AdapterError::Unavailable(why)))
    }

    /// Looks at the file, again if a transaction was committed meanwhile.
    ///
    /// # Errors
    /// It was put back, or cannot be read.
    pub(super) fn check(
        &self,
        mut look: impl FnMut() -> Result<Found, AdapterError>,
    ) -> Result<Found, AdapterError> {
        for _ in 0..LOOKS_MAX {
            self.ensure()?;
            let before = self.facts().clone();
            let mut found = look()?;
            found.anew = before.anew;
            let Some(why) = before.objection(&found) else {
                return Ok(found);
            };
            let mut now = self.facts();
            if now.version == before.version {
                tracing::error!(why, "the file was put back while the site ran");
                now.put_back = Some(why.clone());
                return Err(AdapterError::Unavailable(why));
            }
        }
        let busy = "its position changes all the time";
        Err(AdapterError::Unavailable(busy.to_owned()))
    }

    /// The lane of transactions found this, which it may have committed unheard.
    pub(super) fn settle(&self, state: &State) {
        let mut facts = self.facts();
        if facts.tried.take().is_some() {
            facts.state = Some(state.clone());
            facts.version += 1;
        }
    }

    /// Before a commit, while the file's write lock is held.
    pub(super) fn trying(&self, state: &State, is_anew: bool) {
        let mut facts = self.facts();
        facts.tried = Some(state.clone());
        facts.version += 1;
        if is_anew {
            facts.number = 0;
            facts.anew += 1;
        }
    }

    /// Numbers what is not numbered, in a transaction that holds the write lock.
    ///
    /// # Errors
    /// The file was put back, or as [`outbox::number`].
    pub(super) fn number(
        &self,
        transaction: &Transaction<'_>,
        skipped: &[String],
    ) -> Result<Numbering, AdapterError> {
        let found = self.check(|| Found::load(transaction, true))?;
        let number = outbox::number(transaction, skipped)?.number;
        let anew = found.anew;
        Ok(Numbering { number, anew })
    }

    /// Its transaction is committed.
    pub(super) fn numbered(&self, numbering: &Numbering) -> u64 {
        self.note(numbering.number, numbering.anew)
    }

    /// All that is there has these numbers.
    pub(super) fn saw(&self, found: &Found) -> u64 {
        let number = found.numbered.map_or(0, |numbered| numbered.number);
        self.note(number, found.anew)
    }

    /// Numbers of a copy that was given up since count for nothing.
    fn note(&self, number: u64, anew: u64) -> u64 {
        let mut facts = self.facts();
        if facts.anew == anew {
            facts.number = facts.number.max(number);
        }
        number
    }
}

impl Facts {
    /// Why the file cannot be what it was.
    fn objection(&self, found: &Found) -> Option<String> {
        let known = self.state.as_ref()?;
        let why = "it was put back while the site ran; start the site again";
        let Some(state) = &found.state else {
            let at = known.seq();
            return Some(format!("the file has no position, and not {at}: {why}"));
        };
        if state != known && Some(state) != self.tried.as_ref() {
            let (is, was) = (state.seq(), known.seq());
            let of = if state.life == known.life {
                ""
            } else {
                " of another copy"
            };
            return Some(format!("the file is at {is}{of}, and not at {was}: {why}"));
        }
        let number = found.numbered.map(|numbered| numbered.number);
        let number = number.filter(|number| *number < self.number)?;
        let was = self.number;
        Some(format!(
            "the file has {number} captured writes, and not {was}: {why}"
        ))
    }
}
