//! What desk, shards and the log's thread tell each other.

use std::collections::VecDeque;

use bytes::Bytes;
use waystation_base::{ConnName, Epoch, Seq};
use waystation_mailbox::Sender;
use waystation_replica::{
    AppendFault, Hello, HubRestored, Notice, Publish, PublishRefusal, Refusal, Report, Welcome,
};
use waystation_wire::Status;

use super::operate::Operation;
use crate::codec::{FromHub, ProofAnswer};

/// Who waits for an answer of the desk: a shard, and its own number of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) shard: u16,
    pub(super) wait: u64,
}

impl Ticket {
    /// One number, as the core carries it.
    pub(super) fn number(self) -> u64 {
        (u64::from(self.shard) << 48) | (self.wait & ((1 << 48) - 1))
    }

    pub(super) fn of_number(number: u64) -> Self {
        Self {
            shard: u16::try_from(number >> 48).unwrap_or(u16::MAX),
            wait: number & ((1 << 48) - 1),
        }
    }
}

/// To the desk.
pub(super) enum ToDesk {
    Hello(ConnName, Hello),
    Report(ConnName, Report),
    Lost(ConnName),
    Publish(Ticket, Publish),
    Operate(Ticket, Operation),
    Proof(ConnName, ProofAnswer),
}

/// To a shard.
pub(super) enum ToShard {
    Admit(ConnName, Welcome),
    Refuse(ConnName, Refusal),
    Notify(ConnName, Notice),
    End(Seq),
    /// Part of a proof, for the site of this connection.
    Say(ConnName, FromHub),
    /// A publish is durable, or refused.
    Published(u64, Result<(Epoch, Seq), PublishRefusal>),
    /// An operation was done: its answer in JSON, or why not.
    Operated(u64, Result<Bytes, Unable>),
}

/// Why an operation was not done, or nobody knows.
#[derive(Debug)]
pub(super) struct Unable {
    pub(super) status: Status,
    pub(super) error: String,
}

impl Unable {
    pub(super) fn new(status: Status, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { status, error }
    }
}

/// From the log's thread.
pub(super) enum Done {
    Durable,
    Failed(AppendFault, String),
    /// The log was opened anew after it had failed.
    Reopened(Box<HubRestored>),
}

/// Letters on their way to a shard. What finds its mailbox full waits here: it is
/// bounded by what sites may have on their way and by publishes that wait.
pub(super) struct Outgoing {
    sender: Sender<ToShard>,
    waiting: VecDeque<ToShard>,
}

impl Outgoing {
    pub(super) fn new(sender: Sender<ToShard>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, letter: ToShard) {
        self.waiting.push_back(letter);
    }

    /// Sends what there is room for, under one lock. True when all of it went.
    pub(super) fn flush(&mut self) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        let mut batch = Vec::from(std::mem::take(&mut self.waiting));
        self.sender.try_send_batch(&mut batch);
        if self.sender.is_closed() {
            // The shard has ended, and its connections with it.
            batch.clear();
        }
        self.waiting = batch.into();
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_being_a_number() {
        let ticket = Ticket {
            shard: 7,
            wait: 1 << 40,
        };
        assert_eq!(Ticket::of_number(ticket.number()), ticket);
    }

    #[test]
    fn letters_that_find_no_room_wait_in_their_order() {
        let (sender, mut receiver) = waystation_mailbox::mailbox(2);
        let mut outgoing = Outgoing::new(sender);
        for end in 1..=5 {
            outgoing.push(ToShard::End(Seq(end)));
        }
        let mut found = Vec::new();
        for _ in 0..3 {
            let all = outgoing.flush();
            receiver.try_recv_batch(&mut found);
            if all {
                break;
            }
        }
        let seqs = found.iter().map(|one| match one {
            ToShard::End(seq) => seq.0,
            _ => 0,
        });
        assert_eq!(seqs.collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }
}
