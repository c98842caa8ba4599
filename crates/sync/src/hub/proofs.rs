//! Proofs of equality: every live site hashes its copy at one sequence, and the
//! hub compares.
//!
//! A copy whose writes are captured is ahead of the log most of the time while
//! programs write to it. So all sites are first asked to hold still: such a site keeps
//! writers out until the log has what they wrote. The log's end at the moment at which
//! the last site holds still is the sequence. Where a write comes in between all the
//! same, the proof is begun again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waystation_base::{ConnName, Moment, Seq};
use waystation_replica::{Phase, Position};
use waystation_wire::Status;

use super::desk::Desk;
use super::letters::{Ticket, ToShard, Unable};
use crate::adapter::RangeHash;
use crate::codec::{FromHub, Proof, ProofAnswer, ProofSaid};
use crate::limits::{
    DIFFERENCES_MAX, PROOF_RANGES_MAX, PROOF_TRIES_MAX, PROOF_WAIT_MAX, PROOFS_MAX,
};

/// What a proof found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofReport {
    /// The log's history.
    pub epoch: u64,
    /// The sequence at which all copies were hashed.
    pub at: u64,
    /// Whether all live sites that have rows took part and have equal copies, two
    /// at least. One that is not connected did not.
    pub is_equal: bool,
    /// The live sites, connected or not.
    pub sites: Vec<SiteProof>,
}

/// What a proof found of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteProof {
    /// Its name.
    pub site: String,
    /// `equal` or `differs`, compared with the first site that has hashes; `ahead`
    /// if it holds captured writes that are not in the log, since it may not publish
    /// or writers were not to be kept out; `no rows` for a handler; `failed`.
    pub result: String,
    /// Its rows.
    pub rows: u64,
    /// Some ranges that differ: the last key of each, in hexadecimal.
    pub differing: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The result of a site that has none to compare.
const NO_ROWS: &str = "no rows";

/// One site's part.
struct Part {
    name: String,
    /// It holds still; whether it keeps writers out.
    still: Option<bool>,
    ranges: Vec<RangeHash>,
    end: Option<End>,
}

/// How a site's part ended.
enum End {
    /// All ranges are here, and with them captured writes up to this one that are
    /// not in the log.
    Whole(Option<u64>),
    NoRows,
    Failed(String),
}

struct Running {
    ticket: Ticket,
    /// The sequence, once all sites hold still.
    at: Option<Position>,
    deadline: Moment,
    /// How often it was begun.
    tries: u32,
    parts: BTreeMap<ConnName, Part>,
    /// Names of live sites that are not connected.
    absent: Vec<String>,
}

impl Running {
    /// Whether to begin again: a site was ahead although it kept writers out.
    fn is_in_vain(&self) -> bool {
        let is_ahead =
            |part: &Part| matches!(part.end, Some(End::Whole(Some(_)))) && part.still == Some(true);
        self.tries < PROOF_TRIES_MAX && self.parts.values().any(is_ahead)
    }

    fn is_done(&self) -> bool {
        self.parts.values().all(|part| part.end.is_some())
    }

    /// Whether it is time to name the sequence.
    fn is_still(&self) -> bool {
        let is_still = |part: &Part| part.still.is_some() || part.end.is_some();
        self.at.is_none() && self.parts.values().all(is_still)
    }
}

/// Proofs under way.
#[derive(Default)]
pub(super) struct Proofs {
    last: u64,
    running: BTreeMap<u64, Running>,
}

impl Proofs {
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.running.values().map(|one| one.deadline).min()
    }

    /// The connection of a site is gone.
    pub(super) fn lost(&mut self, conn: ConnName) {
        for running in self.running.values_mut() {
            if let Some(part) = running.parts.get_mut(&conn) {
                part.end
                    .get_or_insert_with(|| End::Failed("its connection was lost".to_owned()));
            }
        }
    }

    /// A site answers.
    pub(super) fn take(&mut self, conn: ConnName, answer: ProofAnswer) {
        let Some(running) = self.running.get_mut(&answer.proof) else {
            return;
        };
        let at = running.at;
        if let Some(part) = running.parts.get_mut(&conn).filter(|one| one.end.is_none()) {
            part.take(at, answer.said);
        }
    }

    /// Takes out one that is over: complete, late, or to be begun again.
    fn pop_over(&mut self, now: Moment) -> Option<Running> {
        let is_over = |one: &Running| one.is_done() || one.is_in_vain() || one.deadline <= now;
        let mut all = self.running.iter();
        let proof = *all.find(|(_, one)| is_over(one))?.0;
        self.running.remove(&proof)
    }
}

impl Part {
    fn take(&mut self, at: Option<Position>, said: ProofSaid) {
        match said {
            ProofSaid::Still { is_held } => self.still = Some(is_held),
            ProofSaid::Ranges(ranges) => {
                if self.ranges.len() + ranges.len() > PROOF_RANGES_MAX {
                    self.end = Some(End::Failed("it has too many ranges".to_owned()));
                } else {
                    self.ranges.extend(ranges);
                }
            }
            ProofSaid::Done { position, captured } => {
                self.end = Some(if Some(position) == at {
                    End::Whole(captured)
                } else {
                    End::Failed(format!("it was hashed at {position}"))
                });
            }
            ProofSaid::Failed(error) => self.end = Some(End::Failed(error.to_string())),
            ProofSaid::NoRows => self.end = Some(End::NoRows),
        }
    }
}

fn report(running: Running, end: Position) -> ProofReport {
    // Without one some site did not hold still in time.
    let at = running.at.unwrap_or(end);
    let absent = running.absent.into_iter().map(|name| Part {
        name,
        still: None,
        ranges: Vec::new(),
        end: Some(End::Failed("it is not connected".to_owned())),
    });
    let parts: Vec<Part> = running.parts.into_values().chain(absent).collect();
    let is_whole = |part: &&Part| matches!(part.end, Some(End::Whole(None)));
    let first = parts.iter().find(is_whole).map(|part| part.ranges.clone());
    let first = first.unwrap_or_default();
    let sites: Vec<SiteProof> = parts
        .into_iter()
        .map(|part| compare(part, &first))
        .collect();
    let equal = sites.iter().filter(|one| one.result == "equal").count();
    let without_rows = sites.iter().filter(|one| one.result == NO_ROWS).count();
    let is_equal = equal > 1 && equal + without_rows == sites.len();
    ProofReport {
        epoch: at.epoch.0,
        at: at.seq.0,
        is_equal,
        sites,
    }
}

fn compare(part: Part, first: &[RangeHash]) -> SiteProof {
    let rows = part.ranges.iter().map(|one| one.rows).sum();
    let (result, differing, error) = match part.end {
        Some(End::Whole(None)) if part.ranges == first => ("equal", Vec::new(), None),
        Some(End::Whole(None)) => ("differs", differences(&part.ranges, first), None),
        Some(End::Whole(Some(_))) => ("ahead", Vec::new(), None),
        Some(End::NoRows) => (NO_ROWS, Vec::new(), None),
        Some(End::Failed(error)) => ("failed", Vec::new(), Some(error)),
        None => ("failed", Vec::new(), Some("no answer in time".to_owned())),
    };
    SiteProof {
        site: part.name,
        result: result.to_owned(),
        rows,
        differing,
        error,
    }
}

/// The last keys of ranges that are in one list and not in the other.
fn differences(one: &[RangeHash], other: &[RangeHash]) -> Vec<String> {
    let by_key = |ranges: &[RangeHash]| -> BTreeMap<Vec<u8>, u128> {
        let all = ranges.iter();
        all.map(|range| (range.last.as_bytes().to_vec(), range.hash))
            .collect()
    };
    let (one, other) = (by_key(one), by_key(other));
    let mut keys: Vec<&Vec<u8>> = one
        .iter()
        .filter(|(key, hash)| other.get(*key) != Some(hash))
        .map(|(key, _)| key)
        .collect();
    keys.extend(other.keys().filter(|key| !one.contains_key(*key)));
    keys.sort();
    let keys = keys.into_iter().take(DIFFERENCES_MAX);
    keys.map(|key| hex(key)).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Desk {
    /// Asks every live site for the hashes of its copy at one sequence.
    pub(super) fn verify(&mut self, ticket: Ticket, wait_ms: u64) {
        if self.proofs.running.len() >= PROOFS_MAX {
            let error = "too many proofs are under way";
            return self.refuse(ticket, Unable::new(Status::Overloaded, error));
        }
        let wait = Duration::from_millis(wait_ms).min(PROOF_WAIT_MAX);
        let deadline = self.shard.now() + wait;
        self.begin_proof(ticket, deadline, 1);
    }

    /// Has all live sites hold still.
    fn begin_proof(&mut self, ticket: Ticket, deadline: Moment, tries: u32) {
        let now = self.shard.now();
        let mut live: BTreeMap<_, _> = self
            .hub
            .status(now)
            .into_iter()
            .filter(|one| one.phase == Phase::Live)
            .map(|one| (one.site, one.name.to_string()))
            .collect();
        let mut parts = BTreeMap::new();
        for (conn, site) in &self.admitted {
            if let Some(name) = live.remove(site) {
                let part = Part {
                    name,
                    still: None,
                    ranges: Vec::new(),
                    end: None,
                };
                parts.insert(*conn, part);
            }
        }
        self.proofs.last += 1;
        let proof = self.proofs.last;
        let conns: Vec<ConnName> = parts.keys().copied().collect();
        let running = Running {
            ticket,
            at: None,
            deadline,
            tries,
            parts,
            // A copy that nobody looked at is not known to be equal.
            absent: live.into_values().collect(),
        };
        self.proofs.running.insert(proof, running);
        self.want(proof, None, conns);
    }

    /// Answers what it found, and tells sites that they are equal.
    fn end_proof(&mut self, over: Running, end: Position) {
        let (ticket, at) = (over.ticket, over.at);
        let is_whole = |part: &Part| matches!(part.end, Some(End::Whole(None)));
        let parts = over.parts.iter().filter(|(_, part)| is_whole(part));
        let conns: Vec<ConnName> = parts.map(|(conn, _)| *conn).collect();
        let report = report(over, end);
        if let Some(at) = at.filter(|_| report.is_equal) {
            for conn in conns {
                self.post(conn.shard.0, ToShard::Say(conn, FromHub::Equal(at.seq)));
            }
        }
        self.answer(ticket, &report);
    }

    fn want(&mut self, proof: u64, at: Option<Seq>, conns: Vec<ConnName>) {
        for conn in conns {
            let wanted = FromHub::Proof(Proof { proof, at });
            self.post(conn.shard.0, ToShard::Say(conn, wanted));
        }
    }

    /// Goes on with all proofs, on every turn.
    pub(super) fn advance_proofs(&mut self, now: Moment) {
        let (epoch, seq) = (self.hub.epoch(), self.hub.end());
        let end = Position { epoch, seq };
        while let Some(over) = self.proofs.pop_over(now) {
            if over.is_in_vain() && over.deadline > now {
                self.begin_proof(over.ticket, over.deadline, over.tries + 1);
            } else {
                self.end_proof(over, end);
            }
        }
        let mut ready = Vec::new();
        for (proof, running) in &mut self.proofs.running {
            if running.is_still() {
                running.at = Some(end);
                let parts = running.parts.iter();
                let open = parts.filter(|(_, part)| part.end.is_none());
                ready.push((*proof, open.map(|(conn, _)| *conn).collect()));
            }
        }
        for (proof, conns) in ready {
            self.want(proof, Some(seq), conns);
        }
    }
}
