//! Compares what was acknowledged with what every member got.
//!
//! Everything here is a function of the records; nothing is assumed of how
//! they came about.

use std::collections::HashMap;
use std::fmt;

use super::limits::EXAMPLES_MAX;
use super::record::{Received, Sent};
use super::topology::Topology;

/// What a run left behind.
pub(super) struct Evidence<'a> {
    /// Who is in which conversation.
    pub(super) topology: &'a Topology,
    /// Every message, at the index of its number.
    pub(super) sent: &'a [Sent],
    /// What each client got, in order of arrival.
    pub(super) transcripts: &'a [Vec<Received>],
    /// Whether each client had no login at the end: what it lacks it could not
    /// fetch. Who is not in the list had one.
    pub(super) absent: &'a [bool],
}

/// What is wrong with a run; all zero when nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Pairs of message and member that arrived, each counted once.
    pub(super) delivered: u64,
    /// Pairs of acknowledged message and member that never arrived.
    pub(super) lost: u64,
    /// Pairs of stored message and member that had not arrived when the member
    /// could fetch nothing any more: nobody knows whether it would have.
    pub(super) unverified: u64,
    /// Deliveries of a message to a member beyond the first; and messages
    /// that have two numbers.
    pub(super) duplicated: u64,
    /// Deliveries that came after a higher number of their conversation, or
    /// after a message that their sender sent later.
    pub(super) out_of_order: u64,
    /// Deliveries that are not what was sent.
    pub(super) corrupted: u64,
    /// Deliveries to someone who is no member, or of no message of this run.
    pub(super) misdelivered: u64,
    /// Members that lack a stored message which others have; numbers that
    /// two messages have; numbers that no message has.
    pub(super) disagreeing: u64,
    /// Descriptions of the first faults.
    pub(super) examples: Vec<String>,
}

impl Verdict {
    fn describe(&mut self, what: fmt::Arguments<'_>) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what.to_string());
        }
    }
}

/// Judges a run. Cost: linear in deliveries, with a hash for each.
pub(super) fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let stored = Stored::gather(evidence, &mut verdict);
    let mut reader = Reader::new(evidence, &stored);
    for client in 0..evidence.transcripts.len() {
        reader.read(client, &mut verdict);
        reader.look_for_missing(client, &mut verdict);
    }
    verdict
}

impl Evidence<'_> {
    /// The message that a record is of, if the member may have it.
    fn message_of(&self, client: usize, received: &Received) -> Option<&Sent> {
        let sent = self.sent.get(received.number as usize)?;
        let room = self.topology.rooms.get(received.room as usize)?;
        let is_member = room.members.iter().any(|member| *member as usize == client);
        (sent.room == received.room && is_member).then_some(sent)
    }

    fn is_absent(&self, client: usize) -> bool {
        self.absent.get(client).is_some_and(|absent| *absent)
    }

    fn name(&self, room: u32) -> &str {
        &self.topology.rooms[room as usize].name
    }
}

/// What was stored, as far as acknowledgements and deliveries tell.
struct Stored {
    /// For each conversation, the messages that each member must have.
    wanted: Vec<Vec<u32>>,
}

impl Stored {
    fn gather(evidence: &Evidence<'_>, verdict: &mut Verdict) -> Self {
        let mut places = Places {
            seq_of: evidence.sent.iter().map(|sent| sent.seq).collect(),
            has_two: vec![false; evidence.sent.len()],
            shares: vec![false; evidence.sent.len()],
            holder: HashMap::new(),
        };
        let rooms = evidence.topology.rooms.len();
        let mut acknowledged_max = vec![0; rooms];
        for sent in evidence.sent {
            if let Some(seq) = sent.seq {
                places.note(evidence, sent, seq, verdict);
                let highest = &mut acknowledged_max[sent.room as usize];
                *highest = seq.max(*highest);
            }
        }
        for (client, transcript) in evidence.transcripts.iter().enumerate() {
            for received in transcript {
                if let Some(sent) = evidence.message_of(client, received) {
                    places.note(evidence, sent, received.seq, verdict);
                }
            }
        }
        // What was stored without an answer must be there, too, unless it may
        // still be on its way: behind the last acknowledged message.
        let mut wanted = vec![Vec::new(); rooms];
        for sent in evidence.sent {
            let room = sent.room as usize;
            if let Some(seq) = places.seq_of[sent.number as usize]
                && seq <= acknowledged_max[room]
            {
                wanted[room].push(sent.number);
            }
        }
        places.look_for_gaps(evidence, &acknowledged_max, verdict);
        Self { wanted }
    }
}

/// Which message has which number.
struct Places {
    seq_of: Vec<Option<u32>>,
    /// Messages with a second number.
    has_two: Vec<bool>,
    /// Messages whose number another one has.
    shares: Vec<bool>,
    holder: HashMap<(u32, u32), u32>,
}

impl Places {
    fn note(&mut self, evidence: &Evidence<'_>, sent: &Sent, seq: u32, verdict: &mut Verdict) {
        let index = sent.number as usize;
        let known = *self.seq_of[index].get_or_insert(seq);
        if known != seq && !self.has_two[index] {
            self.has_two[index] = true;
            verdict.duplicated += 1;
            verdict.describe(format_args!(
                "message {} of {} has the numbers {known} and {seq}",
                sent.number,
                evidence.name(sent.room)
            ));
        }
        let holder = *self.holder.entry((sent.room, seq)).or_insert(sent.number);
        if holder != sent.number && !self.shares[index] {
            self.shares[index] = true;
            verdict.disagreeing += 1;
            verdict.describe(format_args!(
                "messages {holder} and {} of {} both have the number {seq}",
                sent.number,
                evidence.name(sent.room)
            ));
        }
    }

    /// Numbers up to the last acknowledged one that nobody has seen.
    fn look_for_gaps(
        &self,
        evidence: &Evidence<'_>,
        acknowledged_max: &[u32],
        verdict: &mut Verdict,
    ) {
        let mut seen = vec![0_u32; acknowledged_max.len()];
        for (room, seq) in self.holder.keys() {
            let room = *room as usize;
            seen[room] += u32::from((1..=acknowledged_max[room]).contains(seq));
        }
        for (room, (seen, max)) in seen.iter().zip(acknowledged_max).enumerate() {
            if seen < max {
                let members = &evidence.topology.rooms[room].members;
                if members
                    .iter()
                    .any(|member| evidence.is_absent(*member as usize))
                {
                    verdict.unverified += u64::from(max - seen);
                    continue;
                }
                verdict.disagreeing += u64::from(max - seen);
                let name = &evidence.topology.rooms[room].name;
                let missing = max - seen;
                verdict.describe(format_args!(
                    "{name} has {missing} numbers below {max} without a message"
                ));
            }
        }
    }
}

/// Reads one transcript after another with the same tables.
struct Reader<'a> {
    evidence: &'a Evidence<'a>,
    stored: &'a Stored,
    /// For each message, which client's transcript had it last (from 1), and
    /// by which session.
    seen_by: Vec<(u32, u32)>,
    /// For each conversation, the highest number so far.
    highest: HashMap<u32, u32>,
    /// For each conversation and sender, the last message so far.
    latest: HashMap<(u32, u32), u32>,
}

impl<'a> Reader<'a> {
    fn new(evidence: &'a Evidence<'a>, stored: &'a Stored) -> Self {
        Self {
            evidence,
            stored,
            seen_by: vec![(0, 0); evidence.sent.len()],
            highest: HashMap::new(),
            latest: HashMap::new(),
        }
    }

    fn mark(client: usize) -> u32 {
        u32::try_from(client).map_or(u32::MAX, |client| client + 1)
    }

    fn read(&mut self, client: usize, verdict: &mut Verdict) {
        self.highest.clear();
        self.latest.clear();
        let uid = &self.evidence.topology.uids[client];
        for received in &self.evidence.transcripts[client] {
            let Some(sent) = self.evidence.message_of(client, received) else {
                verdict.misdelivered += 1;
                verdict.describe(format_args!("{uid} got what is not for it: {received:?}"));
                continue;
            };
            if sent.digest != received.digest {
                verdict.corrupted += 1;
                verdict.describe(format_args!("{uid} got another text: {received:?}"));
            }
            let (by, session) = self.seen_by[sent.number as usize];
            if by == Self::mark(client) {
                verdict.duplicated += 1;
                verdict.describe(format_args!(
                    "{uid} got it again, first by session {session}: {received:?}"
                ));
                continue;
            }
            self.seen_by[sent.number as usize] = (Self::mark(client), received.session);
            verdict.delivered += 1;
            self.check_order(client, received, sent, verdict);
        }
    }

    fn check_order(
        &mut self,
        client: usize,
        received: &Received,
        sent: &Sent,
        verdict: &mut Verdict,
    ) {
        let uid = &self.evidence.topology.uids[client];
        let highest = self.highest.entry(sent.room).or_insert(0);
        if received.seq <= *highest {
            verdict.out_of_order += 1;
            verdict.describe(format_args!("{uid} got it after {highest}: {received:?}"));
            return;
        }
        *highest = received.seq;
        // A message that was given up may be stored at any later time.
        if sent.seq.is_none() {
            return;
        }
        let latest = self.latest.entry((sent.room, sent.sender)).or_insert(0);
        if sent.number < *latest {
            verdict.out_of_order += 1;
            verdict.describe(format_args!(
                "{uid} got it after its sender's later message {latest}: {received:?}"
            ));
        }
        *latest = sent.number.max(*latest);
    }

    fn look_for_missing(&self, client: usize, verdict: &mut Verdict) {
        let uid = &self.evidence.topology.uids[client];
        let places = &self.evidence.topology.places[client];
        for room in places.direct.iter().chain(&places.groups) {
            for number in &self.stored.wanted[*room as usize] {
                if self.seen_by[*number as usize].0 == Self::mark(client) {
                    continue;
                }
                if self.evidence.is_absent(client) {
                    verdict.unverified += 1;
                    continue;
                }
                let sent = &self.evidence.sent[*number as usize];
                let what = if sent.seq.is_some() {
                    verdict.lost += 1;
                    "lost"
                } else {
                    verdict.disagreeing += 1;
                    "not brought, though others have it"
                };
                verdict.describe(format_args!("to {uid} was {what}: {sent:?}"));
            }
        }
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
