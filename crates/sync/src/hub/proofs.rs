//! Proofs of equality: every live site hashes its copy at one sequence, and the
//! hub compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waystation_base::{ConnName, Moment};
use waystation_replica::{Phase, Position};

use super::desk::Desk;
use super::letters::{Ticket, ToShard};
use crate::adapter::RangeHash;
use crate::codec::{Proof, ProofAnswer, ProofSaid};
use crate::limits::{DIFFERENCES_MAX, PROOF_RANGES_MAX, PROOF_WAIT_MAX, PROOFS_MAX};

/// What a proof found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofReport {
    /// The log's history.
    pub epoch: u64,
    /// The sequence at which all copies were hashed.
    pub at: u64,
    /// Whether all sites that have rows took part and have equal copies, two at
    /// least.
    pub is_equal: bool,
    /// The sites that were live.
    pub sites: Vec<SiteProof>,
}

/// What a proof found of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteProof {
    /// Its name.
    pub site: String,
    /// `equal` or `differs`, compared with the first site that has hashes; `ahead`
    /// if it holds captured writes that are not in the log yet; `no rows` for a
    /// handler; `failed`.
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
    at: Position,
    deadline: Moment,
    parts: BTreeMap<ConnName, Part>,
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

    /// A site answers; the reports that are complete with it.
    pub(super) fn take(
        &mut self,
        conn: ConnName,
        answer: ProofAnswer,
    ) -> Vec<(Ticket, ProofReport)> {
        let Some(running) = self.running.get_mut(&answer.proof) else {
            return Vec::new();
        };
        let at = running.at;
        if let Some(part) = running.parts.get_mut(&conn).filter(|one| one.end.is_none()) {
            part.take(at, answer.said);
        }
        self.finish(|_| false)
    }

    /// The reports whose time is over.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<(Ticket, ProofReport)> {
        self.finish(|one| one.deadline <= now)
    }

    fn finish(&mut self, is_over: impl Fn(&Running) -> bool) -> Vec<(Ticket, ProofReport)> {
        let is_done =
            |one: &Running| is_over(one) || one.parts.values().all(|part| part.end.is_some());
        let done = self.running.extract_if(.., |_, one| is_done(one));
        done.map(|(_, one)| (one.ticket, report(one))).collect()
    }
}

impl Part {
    fn take(&mut self, at: Position, said: ProofSaid) {
        match said {
            ProofSaid::Ranges(ranges) => {
                if self.ranges.len() + ranges.len() > PROOF_RANGES_MAX {
                    self.end = Some(End::Failed("it has too many ranges".to_owned()));
                } else {
                    self.ranges.extend(ranges);
                }
            }
            ProofSaid::Done { position, captured } => {
                self.end = Some(if position == at {
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

fn report(running: Running) -> ProofReport {
    let parts: Vec<Part> = running.parts.into_values().collect();
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
        epoch: running.at.epoch.0,
        at: running.at.seq.0,
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
    /// Asks every live site for the hashes of its copy at the log's end.
    pub(super) fn verify(&mut self, ticket: Ticket, wait_ms: u64) {
        if self.proofs.running.len() >= PROOFS_MAX {
            let error = "too many proofs are under way".to_owned();
            return self.post(ticket.shard, ToShard::Operated(ticket.wait, Err(error)));
        }
        let now = self.shard.now();
        let wait = Duration::from_millis(wait_ms).min(PROOF_WAIT_MAX);
        let live: BTreeMap<_, _> = self
            .hub
            .status(now)
            .into_iter()
            .filter(|one| one.phase == Phase::Live && one.is_connected)
            .map(|one| (one.site, one.name.to_string()))
            .collect();
        let mut parts = BTreeMap::new();
        for (conn, site) in &self.admitted {
            if let Some(name) = live.get(site) {
                let name = name.clone();
                let part = Part {
                    name,
                    ranges: Vec::new(),
                    end: None,
                };
                parts.insert(*conn, part);
            }
        }
        self.proofs.last += 1;
        let proof = self.proofs.last;
        let (epoch, seq) = (self.hub.epoch(), self.hub.end());
        let conns: Vec<ConnName> = parts.keys().copied().collect();
        let running = Running {
            ticket,
            at: Position { epoch, seq },
            deadline: now + wait,
            parts,
        };
        self.proofs.running.insert(proof, running);
        for conn in conns {
            let wanted = Proof { proof, at: seq };
            self.post(conn.shard.0, ToShard::Proof(conn, wanted));
        }
        // Without a live site it is over at once.
        for (ticket, report) in self.proofs.finish(|_| false) {
            self.answer(ticket, &report);
        }
    }
}
