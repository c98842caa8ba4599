//! A site's part in a proof of equality: its copy is hashed as it is at exactly
//! one sequence.
//!
//! A transaction that would pass the sequence is applied in two: up to it, then,
//! once a snapshot is open, as a whole. The target leaves alone what it has
//! already, so that nothing is applied twice.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Moment, Seq};
use waystation_net::Label;
use waystation_replica::{ApplyBatch, Cursor, Holding, Position};

use super::events::{Event, Ran};
use super::lane::Lane;
use super::perform::gone;
use super::still::{For, Still};
use super::task::SiteTask;
use crate::adapter::{AdapterError, Apply, RangeHash, Snapshot};
use crate::codec::{FromSite, Proof, ProofAnswer, ProofSaid};
use crate::limits::PROOFS_MAX;

/// Ranges of one message.
const RANGES_PER_MESSAGE: usize = 512;

/// Messages that wait to be written, from which on hashing waits.
const WAITING_MAX: usize = 4;

/// A snapshot for proofs.
pub(super) struct ProofSnapshot {
    pub(super) at: Seq,
    pub(super) snapshot: Box<dyn Snapshot>,
}

/// A proof at a sequence.
#[derive(Clone, Copy)]
struct Wanted {
    proof: u64,
    at: Seq,
}

/// Proofs that are wanted.
#[derive(Default)]
pub(super) struct Proofs {
    wanted: Vec<Wanted>,
    /// Proofs for which others are kept from writing.
    pub(super) still: Still,
    /// A snapshot is being opened at this sequence.
    opening: Option<Seq>,
    /// A transaction is under way.
    pub(super) is_busy: bool,
    /// Up to where the part of a transaction goes.
    pub(super) prefix: Seq,
}

impl Proofs {
    pub(super) fn clear(&mut self) {
        self.wanted.clear();
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// When others may write again, unless the end of something else comes first.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let at = self.still.poll_timeout();
        at.filter(|_| !self.is_opening())
    }
}

impl SiteTask {
    pub(super) fn want_proof(&mut self, proof: Proof) {
        let Proof { proof, at } = proof;
        if !self.adapter.kind().has_rows {
            return self.say(proof, ProofSaid::NoRows);
        }
        let Some(at) = at else {
            return self.want_still(For::Proof(proof));
        };
        let refusal = if !matches!(self.site.holding(), Holding::At { .. }) {
            Some("the copy is not complete")
        } else if self.committed > at {
            Some("the copy is past the sequence")
        } else if self.proofs.wanted.len() >= PROOFS_MAX {
            Some("too many proofs are under way")
        } else {
            None
        };
        match refusal {
            Some(error) => {
                self.note_begun(For::Proof(proof));
                self.say(proof, ProofSaid::Failed(error.into()));
            }
            None => self.proofs.wanted.push(Wanted { proof, at }),
        }
    }

    /// The copy was equal to all others at a sequence: what was skipped up to there is
    /// repaired. The target knows whether more was skipped since.
    pub(super) fn found_equal(&self, at: Seq) {
        if !self.site.view().is_differing {
            return;
        }
        let (lane, inbox) = (Rc::clone(&self.apply), self.inbox());
        self.shard.spawn(Label::of("sync repair"), async move {
            match lane.run(move |apply| apply.set_repaired(at)).await {
                Some(Ok(true)) => {
                    tracing::info!(%at, "a proof found the copy equal: it differs no more");
                    // In the order of the lane: a later batch is told of later.
                    let note = |task: &mut Self| task.site.handle_repaired();
                    inbox.push(Event::Ask(Box::new(note)));
                }
                Some(Ok(false)) => {}
                Some(Err(error)) => tracing::warn!(%error, "cannot note that the copy is equal"),
                None => tracing::warn!("cannot note that the copy is equal: too much to do"),
            }
        });
    }

    pub(super) fn say(&self, proof: u64, said: ProofSaid) {
        if let Some(link) = &self.link {
            link.send(FromSite::Proof(ProofAnswer { proof, said }));
        }
    }

    /// Begins the transaction that the core wants, unless a proof goes first.
    pub(super) fn begin_apply(&mut self) {
        if self.proofs.is_busy || self.proofs.opening.is_some() {
            return;
        }
        let committed = self.committed;
        let is_due = |proof: &Wanted| proof.at == committed;
        if self.proofs.wanted.iter().any(is_due) {
            self.proofs.opening = Some(committed);
            return self.open_proof(committed);
        }
        let Some(batch) = self.wanted.take() else {
            return;
        };
        self.proofs.is_busy = true;
        let wanted = self.proofs.wanted.iter().map(|one| one.at);
        let within = wanted.filter(|at| *at > committed && *at < batch.position.seq);
        match within.min() {
            Some(at) => {
                let prefix = self.prefix(&batch, at);
                self.wanted = Some(batch);
                self.proofs.prefix = at;
                self.transact(move |apply| apply.apply(&prefix), Ran::Prefix);
            }
            None => self.transact(move |apply| apply.apply(&batch), Ran::Batch),
        }
    }

    fn open_proof(&mut self, at: Seq) {
        let then = move |opened: Result<Box<dyn Snapshot>, AdapterError>| {
            Event::ProofOpened(opened.map(|snapshot| ProofSnapshot { at, snapshot }))
        };
        self.open_still(then);
    }

    /// Opens a snapshot, of what others may not write to meanwhile if that is so.
    pub(super) fn open_still(
        &self,
        then: impl FnOnce(Result<Box<dyn Snapshot>, AdapterError>) -> Event + 'static,
    ) {
        if !self.proofs.still.is_held() {
            return self.open(then);
        }
        // By the lane that keeps others out: nobody else may have the lock.
        let (lane, inbox) = (Rc::clone(&self.apply), self.inbox());
        let adapter = Arc::clone(&self.adapter);
        self.shard.spawn(Label::of("sync snapshot"), async move {
            let open = move |apply: &mut (dyn Apply + 'static)| match apply.open_held() {
                Ok(Some(snapshot)) => Ok(snapshot),
                Ok(None) => adapter.open_snapshot(),
                Err(error) => Err(error),
            };
            let opened = lane.run(open).await;
            inbox.push(then(opened.unwrap_or_else(|| Err(gone()))));
        });
    }

    /// The part of a transaction up to `at`. What the copy contains beyond its
    /// position stays what it was: at the later end it may be passed, here not.
    fn prefix(&self, batch: &ApplyBatch, at: Seq) -> ApplyBatch {
        let before = match self.site.holding() {
            Holding::At { ahead, .. } => ahead,
            _ => None,
        };
        let mut prefix = batch.clone();
        prefix.entries.retain(|(one, _)| one.position.seq <= at);
        prefix.position = Position {
            seq: at,
            ..batch.position
        };
        prefix.ahead = batch.ahead.or(before);
        prefix
    }

    pub(super) fn proof_opened(&mut self, opened: Result<ProofSnapshot, AdapterError>) {
        let at = self.proofs.opening.take();
        let (due, rest) = std::mem::take(&mut self.proofs.wanted)
            .into_iter()
            .partition(|one| Some(one.at) == at);
        self.proofs.wanted = rest;
        let due: Vec<Wanted> = due;
        for proof in &due {
            self.note_begun(For::Proof(proof.proof));
        }
        if due.is_empty() {
            // The connection that wanted them is gone.
            return;
        }
        let lane = opened.and_then(|one| {
            debug_assert_eq!(Some(one.at), at, "one snapshot at a time");
            let (position, captured) = (one.snapshot.position(), one.snapshot.captured());
            let lane = Lane::start("sync proof", one.snapshot).map_err(|_| gone())?;
            Ok((lane, position, captured))
        });
        match lane {
            // Its hashes would tell nothing; the hub may want to begin again.
            Ok((_, position, captured @ Some(_))) => {
                for proof in due {
                    self.say(proof.proof, ProofSaid::Done { position, captured });
                }
            }
            Ok((lane, position, captured)) => self.hash(due, lane, position, captured),
            Err(error) => {
                for proof in due {
                    let error = error.to_string().into();
                    self.say(proof.proof, ProofSaid::Failed(error));
                }
            }
        }
    }

    fn hash(
        &self,
        due: Vec<Wanted>,
        lane: Lane<dyn Snapshot>,
        position: Position,
        captured: Option<u64>,
    ) {
        let Some(link) = &self.link else { return };
        let (sender, shard) = (link.sender(), self.shard.clone());
        let lane = Rc::new(lane);
        self.shard.spawn(Label::of("sync proof"), async move {
            let mut from = Some(Cursor::default());
            while let Some(begin) = from.take() {
                while sender.waiting() > WAITING_MAX {
                    shard.sleep(Duration::from_millis(5)).await;
                }
                let hashed = lane.run(move |one| hash_some(one, begin)).await;
                let said = match hashed.unwrap_or_else(|| Err(gone())) {
                    Ok((ranges, next)) => {
                        from = next;
                        ProofSaid::Ranges(ranges)
                    }
                    Err(error) => ProofSaid::Failed(error.to_string().into()),
                };
                let is_failed = matches!(said, ProofSaid::Failed(_));
                let is_sent = due.iter().all(|proof| {
                    let (proof, said) = (proof.proof, said.clone());
                    sender.send(FromSite::Proof(ProofAnswer { proof, said }))
                });
                if is_failed || !is_sent {
                    return;
                }
            }
            for proof in due {
                let proof = proof.proof;
                let said = ProofSaid::Done { position, captured };
                sender.send(FromSite::Proof(ProofAnswer { proof, said }));
            }
        });
    }
}

/// Some ranges, and where the next one begins if there may be more.
fn hash_some(
    snapshot: &mut dyn Snapshot,
    begin: Cursor,
) -> Result<(Vec<RangeHash>, Option<Cursor>), AdapterError> {
    let (mut ranges, mut from) = (Vec::new(), begin);
    while ranges.len() < RANGES_PER_MESSAGE {
        let Some(range) = snapshot.hash(&from)? else {
            return Ok((ranges, None));
        };
        // The least key above the last one.
        let mut next = range.last.as_bytes().to_vec();
        next.push(0);
        from = Cursor::new(&next);
        ranges.push(range);
    }
    Ok((ranges, Some(from)))
}
