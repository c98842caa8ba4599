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
    /// Publishes are durable: who waits for each, and its sequence.
    Published(Epoch, Vec<(u64, Seq)>),
    /// A publish is refused.
    PublishRefused(u64, PublishRefusal),
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

    /// A publish is durable. Those of one batch go in one letter.
    pub(super) fn push_published(&mut self, epoch: Epoch, wait: u64, seq: Seq) {
        match self.waiting.back_mut() {
            Some(ToShard::Published(of, published)) if *of == epoch => {
                published.push((wait, seq));
            }
            _ => self.push(ToShard::Published(epoch, vec![(wait, seq)])),
        }
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
    fn publishes_of_a_batch_go_in_one_letter_and_in_their_order() {
        let (sender, mut receiver) = waystation_mailbox::mailbox(8);
        let mut outgoing = Outgoing::new(sender);
        outgoing.push_published(Epoch(1), 7, Seq(1));
        outgoing.push_published(Epoch(1), 3, Seq(2));
        outgoing.push(ToShard::End(Seq(2)));
        outgoing.push_published(Epoch(1), 4, Seq(3));
        outgoing.push_published(Epoch(2), 5, Seq(1));
        assert!(outgoing.flush());
        let mut found = Vec::new();
        receiver.try_recv_batch(&mut found);
        let found = found.into_iter().map(|one| match one {
            ToShard::Published(epoch, published) => (epoch.0, published),
            _ => (0, Vec::new()),
        });
        let first = (1, vec![(7, Seq(1)), (3, Seq(2))]);
        let others = [
            (0, Vec::new()),
            (1, vec![(4, Seq(3))]),
            (2, vec![(5, Seq(1))]),
        ];
        let expected = [first].into_iter().chain(others);
        assert!(found.eq(expected));
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
