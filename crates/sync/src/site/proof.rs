//! A site's part in a proof of equality: its copy is hashed as it is at exactly
//! one sequence.
//!
//! A transaction that would pass the sequence is applied in two: up to it, then,
//! once a snapshot is open, as a whole. The target leaves alone what it has
//! already, so that nothing is applied twice.

use std::rc::Rc;
use std::time::Duration;

use waystation_base::Seq;
use waystation_net::Label;
use waystation_replica::{ApplyBatch, Cursor, Holding, Position};

use super::events::{Event, Ran};
use super::lane::Lane;
use super::perform::gone;
use super::task::SiteTask;
use crate::adapter::{AdapterError, RangeHash, Snapshot};
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

/// Proofs that are wanted.
#[derive(Default)]
pub(super) struct Proofs {
    wanted: Vec<Proof>,
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
}

impl SiteTask {
    pub(super) fn want_proof(&mut self, proof: Proof) {
        if !self.adapter.kind().has_rows {
            return self.say(proof.proof, ProofSaid::NoRows);
        }
        let refusal = if !matches!(self.site.holding(), Holding::At { .. }) {
            Some("the copy is not complete")
        } else if self.committed > proof.at {
            Some("the copy is past the sequence")
        } else if self.proofs.wanted.len() >= PROOFS_MAX {
            Some("too many proofs are under way")
        } else {
            None
        };
        match refusal {
            Some(error) => self.say(proof.proof, ProofSaid::Failed(error.into())),
            None => self.proofs.wanted.push(proof),
        }
    }

    fn say(&self, proof: u64, said: ProofSaid) {
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
        let is_due = |proof: &Proof| proof.at == committed;
        if self.proofs.wanted.iter().any(is_due) {
            self.proofs.opening = Some(committed);
            return self.open(move |opened| {
                let at = committed;
                Event::ProofOpened(opened.map(|snapshot| ProofSnapshot { at, snapshot }))
            });
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
        let due: Vec<Proof> = due;
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
        due: Vec<Proof>,
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
