//! The lane of transactions.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Transaction, TransactionBehavior, params_from_iter};
use waystation_base::Seq;
use waystation_replica::{
    ApplyBatch, ApplyFault, Cursor, Holding, LifeId, Origin, StoreChunk, Verdict,
};

use super::changes::{Change, Changes, Shape};
use super::known::Found;
use super::outbox::{self, SchemaChange};
use super::place::Place;
use super::plans::{Deed, Head, Heads, Statements};
use super::schema::{self, quoted};
use super::state::State;
use super::statement::{Guard, RunError};
use super::{OwnedRef, SqliteDatabase, catalog, hold, is_transient, keys, lists, skips};
use crate::adapter::{AdapterError, Apply, ApplyError, Audited, Snapshot};

pub(super) struct SqliteApply {
    pub(super) target: SqliteDatabase,
    pub(super) connection: Connection,
    pub(super) guard: Guard,
    pub(super) place: Place,
    pub(super) heads: Heads,
    /// A transaction is open that does nothing but keep other writers out.
    pub(super) is_held: bool,
}

/// Why a change was not made: the entry is at fault, the file, or nothing is known of it.
enum Fault {
    Database(rusqlite::Error),
    File(String),
    Entry(String),
    Unfilterable,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Database(error) => Self::Database(error),
            RunError::Differs(why) => Self::Entry(why),
        }
    }
}

impl From<AdapterError> for Fault {
    fn from(error: AdapterError) -> Self {
        match error {
            AdapterError::Unavailable(_) | AdapterError::Damaged(_) => {
                Self::File(error.to_string())
            }
            _ => Self::Entry(error.to_string()),
        }
    }
}

impl Fault {
    fn of_entry(self, seq: Seq) -> ApplyError {
        match self {
            Self::Database(error) if is_transient(&error) => {
                ApplyError::transient(error.to_string())
            }
            Self::Database(error) => ApplyError::poison(seq, error.to_string()),
            Self::File(error) => ApplyError::transient(error),
            Self::Entry(error) => ApplyError::poison(seq, error),
            Self::Unfilterable => ApplyError {
                fault: ApplyFault::Unfilterable,
                error: format!("entry {seq} cannot be applied to part of a copy"),
            },
        }
    }
}

fn transient(error: impl std::fmt::Display) -> ApplyError {
    ApplyError::transient(error.to_string())
}

/// What a transaction works with.
struct Work<'a> {
    transaction: &'a Transaction<'a>,
    guard: &'a Guard,
    heads: &'a mut Heads,
    statements: Statements<'a>,
    skipped: &'a [String],
    is_captured: bool,
    /// Whether a part of the copy is missing.
    is_partial: bool,
    below: Option<&'a Cursor>,
    /// Tables by whether a row of them can take the place of one with another key.
    uniques: HashMap<String, bool>,
    /// Captured writes go, and their numbers begin anew.
    is_anew: bool,
}

impl Work<'_> {
    fn payload(&mut self, payload: &[u8]) -> Result<(), Fault> {
        if let Some((head, changes)) = self.heads.read(payload) {
            return self.changes(&head, changes);
        }
        let sql = std::str::from_utf8(payload).map_err(|_| {
            Fault::Entry("the entry is neither changes of rows nor text".to_owned())
        })?;
        if self.below.is_some() {
            return Err(Fault::Unfilterable);
        }
        self.with_schema(|work| Ok(work.guard.run(work.transaction, sql)?))
    }

    /// Does something that may change the schema. What was made here before and was
    /// not captured yet is captured first, unless it was made in a part of a copy; what
    /// this makes is not.
    fn with_schema(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.is_captured && !self.is_partial {
            catalog::install(self.transaction, self.skipped, SchemaChange::Capture)?;
        }
        run(self)?;
        self.uniques.clear();
        if self.is_captured {
            catalog::install(self.transaction, self.skipped, SchemaChange::Adopt)?;
        }
        Ok(())
    }

    fn changes(&mut self, head: &Arc<Head>, mut changes: Changes<'_>) -> Result<(), Fault> {
        let mut left_out = None;
        while let Some(change) = changes
            .next()
            .map_err(|error| Fault::Entry(error.to_string()))?
        {
            match change {
                Change::Put { table, .. } | Change::Delete { table, .. }
                    if schema::is_skipped(self.skipped, &head.shapes[table].name) =>
                {
                    if left_out.replace(table) != Some(table) {
                        skips::note_left_out(self.transaction, &head.shapes[table].name)?;
                    }
                }
                Change::Put { table, row } => self.put(head, table, row)?,
                Change::Delete { table, key } => {
                    let shape = &head.shapes[table];
                    if self.is_below(shape, key.iter().copied()) {
                        self.run(head, table, Deed::Delete, key)?;
                    }
                }
                Change::Make { name, sql } => {
                    if let Some(skipped) = schema::made_for_skipped(self.skipped, name, sql) {
                        skips::note_left_out(self.transaction, &skipped)?;
                    } else if !schema::exists(self.transaction, name)? {
                        self.with_schema(|work| Ok(work.guard.run(work.transaction, sql)?))?;
                    }
                }
                Change::Drop { name, sql } => {
                    if self.is_cut(name) {
                        return Err(Fault::Unfilterable);
                    }
                    let here = self.transaction;
                    let skipped = schema::there_for_skipped(here, self.skipped, name)?;
                    if let Some(skipped) = skipped {
                        skips::note_left_out(here, &skipped)?;
                    } else if schema::exists(here, name)? {
                        self.with_schema(|work| Ok(work.guard.run(work.transaction, sql)?))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a row. Of one that belongs into a part of the copy that has not come, what
    /// its writer's REPLACE took away is taken away here, which no other change says.
    fn put(&mut self, head: &Arc<Head>, table: usize, row: Vec<ValueRef<'_>>) -> Result<(), Fault> {
        if self.below.is_none() {
            return self.run(head, table, Deed::Put, row);
        }
        let shape = &head.shapes[table];
        let key: Vec<_> = shape.key.iter().map(|index| row[*index]).collect();
        let is_below = self.is_below(shape, key.iter().copied());
        if !is_below && !self.has_unique(&shape.name)? {
            return Ok(());
        }
        self.run(head, table, Deed::Put, row)?;
        if !is_below {
            self.run(head, table, Deed::Delete, key)?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        head: &Arc<Head>,
        table: usize,
        deed: Deed,
        values: Vec<ValueRef<'_>>,
    ) -> Result<(), Fault> {
        let statement = self.statements.get(head, table, deed)?;
        statement.execute(params_from_iter(values.into_iter().map(OwnedRef)))?;
        Ok(())
    }

    /// [`schema::has_unique`], looked up once while the schema stays what it is.
    fn has_unique(&mut self, table: &str) -> Result<bool, Fault> {
        if let Some(known) = self.uniques.get(table) {
            return Ok(*known);
        }
        let found = schema::has_unique(self.transaction, table)?;
        self.uniques.insert(table.to_owned(), found);
        Ok(found)
    }

    /// Whether a part of this table's rows is here: the next chunk begins among them,
    /// at a key that another table of this name may not have.
    fn is_cut(&self, table: &str) -> bool {
        let below = self.below.and_then(keys::decode);
        below.is_some_and(|below| below.table.eq_ignore_ascii_case(table))
    }

    fn is_below<'v>(&self, shape: &Shape, key: impl Iterator<Item = ValueRef<'v>>) -> bool {
        let Some(below) = self.below else { return true };
        keys::encode(&shape.name, key).as_slice() < below.as_bytes()
    }
}

impl SqliteApply {
    /// Runs a transaction. What it leaves in the state is kept only if it commits.
    fn transact(
        &mut self,
        below: Option<&Cursor>,
        run: impl FnOnce(&mut Work<'_>, &mut State) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        if !self.is_held {
            return self.transact_free(below, run);
        }
        // Others find the file free for microseconds, and look for that every
        // millisecond at most.
        self.release();
        let result = self.transact_free(below, run);
        if let Err(error) = self.hold() {
            tracing::debug!(%error, "others may write again before a proof is begun");
        }
        result
    }

    fn transact_free(
        &mut self,
        below: Option<&Cursor>,
        run: impl FnOnce(&mut Work<'_>, &mut State) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        self.place.check().map_err(transient)?;
        let behavior = TransactionBehavior::Immediate;
        let transaction = (self.connection)
            .transaction_with_behavior(behavior)
            .map_err(transient)?;
        // Nobody else writes the state, but a commit of which nothing was heard
        // may have changed it.
        let known = &self.target.known;
        let is_captured = self.target.is_captured;
        let found = known.check(|| Found::load(&transaction, is_captured));
        let state = found.map_err(transient)?.state;
        let mut state = state.ok_or_else(|| transient(AdapterError::NoPosition))?;
        known.settle(&state);
        let mut work = Work {
            transaction: &transaction,
            guard: &self.guard,
            heads: &mut self.heads,
            statements: Statements::new(&transaction),
            skipped: &self.target.skipped,
            is_captured,
            is_partial: state.is_partial(),
            below,
            uniques: HashMap::new(),
            is_anew: false,
        };
        run(&mut work, &mut state)?;
        let is_anew = work.is_anew;
        drop(work);
        state.store(&transaction).map_err(transient)?;
        // Before the commit: what it says holds for what was parked in it.
        self.target
            .uniques
            .refresh(&transaction)
            .map_err(transient)?;
        known.trying(&state, is_anew);
        transaction.commit().map_err(transient)?;
        known.settle(&state);
        Ok(())
    }
}

impl Apply for SqliteApply {
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        self.transact(batch.below.as_ref(), |work, state| {
            let done = state.seq();
            for (entry, verdict) in &batch.entries {
                let seq = entry.position.seq;
                if seq <= done {
                    continue;
                }
                if let Origin::Site { life, source, .. } = entry.origin
                    && life == state.life
                {
                    state.returned = source;
                }
                match verdict {
                    Verdict::Apply => {
                        work.payload(&entry.payload)
                            .map_err(|fault| fault.of_entry(seq))?;
                    }
                    Verdict::Park => {
                        let decision = batch.decision.as_ref();
                        lists::note_parked(work.transaction, entry, decision).map_err(transient)?;
                    }
                    Verdict::Skip => {
                        state.is_differing = true;
                        let decision = batch.decision.as_ref();
                        lists::note_skipped(work.transaction, entry, decision)
                            .map_err(transient)?;
                    }
                    Verdict::Contained => {}
                }
            }
            if batch.position.seq >= done {
                let (position, ahead) = (batch.position, batch.ahead);
                if let Holding::Restoring(part) = &mut state.holding {
                    part.position = position;
                } else {
                    state.holding = Holding::At { position, ahead };
                    state.is_given_up = false;
                }
            }
            Ok(())
        })
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        let chunk = &store.chunk;
        self.transact(None, |work, state| {
            let read = work.heads.read(&chunk.data);
            let (head, changes) = read.ok_or_else(|| transient("no rows"))?;
            work.is_partial = true;
            let result = (|| {
                if chunk.index == 0 {
                    work.is_anew = true;
                    begin_copy(work)?;
                    *state = State::new(life);
                } else {
                    if work.is_captured && catalog::is_changed(work.transaction, work.skipped)? {
                        tracing::warn!(
                            "a program changed tables while a copy of the file is being taken"
                        );
                        state.is_differing = true;
                    }
                    remove_range(work, &chunk.from, chunk.to.as_ref())?;
                }
                work.changes(&head, changes)
            })();
            result.map_err(|fault: Fault| transient(fault.of_entry(Seq(0)).error))?;
            state.holding = store.holding.clone();
            Ok(())
        })
    }

    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError> {
        self.transact(None, |work, state| {
            work.is_anew = true;
            lists::clear(work.transaction).map_err(transient)?;
            if work.is_captured {
                outbox::clear(work.transaction).map_err(transient)?;
            }
            *state = State::given_up(life);
            Ok(())
        })
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        self.transact(None, |work, _| {
            let payload = lists::parked_payload(work.transaction, seq).map_err(transient)?;
            let Some(payload) = payload else {
                return Ok(());
            };
            work.payload(&payload)
                .map_err(|fault| fault.of_entry(seq))?;
            lists::note_replayed(work.transaction, seq).map_err(transient)
        })
    }

    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError> {
        lists::audit(&self.connection)
    }

    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError> {
        let mut is_differing = true;
        let repaired = self.transact(None, |work, state| {
            let is_later = lists::is_skipped_after(work.transaction, through);
            state.is_differing &= is_later.map_err(transient)?;
            is_differing = state.is_differing;
            Ok(())
        });
        repaired.map_err(|error| AdapterError::Unavailable(error.error))?;
        Ok(!is_differing)
    }

    fn hold(&mut self) -> Result<Option<u64>, AdapterError> {
        if !self.target.is_captured {
            return Ok(None);
        }
        self.release();
        self.place.check()?;
        let number = hold::begin(
            &mut self.connection,
            &self.target.skipped,
            &self.target.known,
        )?;
        self.is_held = true;
        Ok(Some(number))
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.is_held)
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction that wrote nothing was not ended");
        }
    }

    fn open_held(&mut self) -> Result<Option<Box<dyn Snapshot>>, AdapterError> {
        if !self.is_held {
            return Ok(None);
        }
        self.place.check()?;
        let reader = self.target.connect()?;
        let snapshot = hold::snapshot(
            &self.connection,
            reader,
            &self.target.skipped,
            &self.target.known,
        )?;
        Ok(Some(Box::new(snapshot)))
    }
}

/// All tables go that are not skipped, with all else that statements made, and what
/// was captured, parked and noted. A table that stayed might be defined otherwise than
/// the donor's, take less rows than it, or none.
fn begin_copy(work: &Work<'_>) -> Result<(), Fault> {
    // What stands on a table before the table.
    for object in schema::objects(work.transaction, work.skipped)?
        .iter()
        .rev()
    {
        work.transaction.execute_batch(&object.drop_sql())?;
    }
    if work.is_captured {
        catalog::install(work.transaction, work.skipped, SchemaChange::Adopt)?;
        outbox::clear(work.transaction)?;
    }
    Ok(lists::clear(work.transaction)?)
}

/// Removes the rows with keys in `[from, to)`.
fn remove_range(work: &Work<'_>, from: &Cursor, to: Option<&Cursor>) -> Result<(), Fault> {
    let nonsense = || Fault::Entry("a chunk's bounds make no sense".to_owned());
    let from = keys::decode(from).ok_or_else(nonsense)?;
    let to = to
        .map(|to| keys::decode(to).ok_or_else(nonsense))
        .transpose()?;
    for table in schema::tables(work.transaction, work.skipped)? {
        let shape = &table.shape;
        let (mut bounds, mut values) = (Vec::new(), Vec::new());
        for (place, signs) in [(Some(&from), [">=", ">"]), (to.as_ref(), ["<", "<="])] {
            let Some(place) = place else { continue };
            let is_from = signs[0] == ">=";
            match shape.name.cmp(&place.table) {
                Ordering::Equal if place.key.is_empty() && !is_from => bounds.push("0".to_owned()),
                Ordering::Equal if place.key.is_empty() => {}
                Ordering::Equal => {
                    let sign = signs[usize::from(place.is_after)];
                    bounds.push(super::key_bound(shape, sign, values.len()));
                    values.extend(place.key.iter().cloned());
                }
                Ordering::Less if is_from => bounds.push("0".to_owned()),
                Ordering::Greater if !is_from => bounds.push("0".to_owned()),
                _ => {}
            }
        }
        bounds.push("1".to_owned());
        let condition = bounds.join(" AND ");
        let sql = format!("DELETE FROM {} WHERE {condition}", quoted(&shape.name));
        work.transaction.execute(&sql, params_from_iter(values))?;
    }
    Ok(())
}
