//! One client's answers, in the order of its requests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use waystation_net::fifo::{FifoError, FifoSink};
use waystation_net::{Conn, HandlerGuard};
use waystation_wire::resp::put_error;

/// Requests of one client that may wait for answers. Above it the client is
/// not read.
pub(crate) const IN_FLIGHT_MAX: u64 = 1024;

/// A client's connection and what it is owed.
pub(crate) struct Client {
    conn: Conn,
    /// The number of its next request.
    next_request: Cell<u64>,
    /// The number of the request whose answer leaves next.
    next_answer: Cell<u64>,
    /// Answers that came before their turn, by the number of the first: the
    /// gateway's own refusals, which wait for the server's answers before them.
    early: RefCell<BTreeMap<u64, (u64, Vec<u8>)>>,
    /// Held while answers are owed: the connection is not idle then, and a
    /// drain waits.
    owed: RefCell<Option<HandlerGuard>>,
    /// The session, while it waits until only so many answers are owed.
    waiting: RefCell<Option<(u64, Waker)>>,
}

impl Client {
    pub(crate) fn new(conn: Conn) -> Self {
        Self {
            conn,
            next_request: Cell::new(0),
            next_answer: Cell::new(0),
            early: RefCell::default(),
            owed: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// Requests that wait for their answers.
    pub(crate) fn in_flight(&self) -> u64 {
        self.next_request.get() - self.next_answer.get()
    }

    /// Takes the numbers of `count` requests and returns the first.
    pub(crate) fn number(&self, count: u32) -> u64 {
        let first = self.next_request.get();
        self.next_request.set(first + u64::from(count));
        if self.owed.borrow().is_none() {
            self.owed.replace(Some(self.conn.handler_guard()));
        }
        first
    }

    /// Answers `count` requests from `first` on by the same error.
    pub(crate) fn refuse(&self, first: u64, count: u32, text: &str) {
        let mut answers = Vec::new();
        for _ in 0..count {
            put_error(&mut answers, text);
        }
        self.answer(first, count, &answers);
    }

    fn answer(&self, first: u64, count: u32, answers: &[u8]) {
        if first != self.next_answer.get() {
            let early = (u64::from(count), answers.to_vec());
            self.early.borrow_mut().insert(first, early);
            return;
        }
        self.leave(count.into(), answers);
        loop {
            let next = self.next_answer.get();
            let Some((count, answers)) = self.early.borrow_mut().remove(&next) else {
                break;
            };
            self.leave(count, &answers);
        }
        if self.in_flight() == 0 {
            drop(self.owed.take());
        }
        let mut waiting = self.waiting.borrow_mut();
        if let Some((_, waker)) = waiting.take_if(|(most, _)| self.in_flight() <= *most) {
            waker.wake();
        }
    }

    /// Puts answers into the connection's output, which leaves with all others
    /// of this turn in one write. A client that is gone, or that is owed more
    /// than may wait for it, has lost its connection, and the core counts it.
    fn leave(&self, count: u64, answers: &[u8]) {
        let _ = self.conn.send_many(answers.len(), |out| {
            out.extend_from_slice(answers);
            count
        });
        self.next_answer.set(self.next_answer.get() + count);
    }

    /// Waits until at most so many requests wait for their answers. It ends:
    /// the upstream answers everything or fails within its stall timeout.
    pub(crate) async fn at_most(&self, most: u64) {
        poll_fn(|cx| {
            if self.in_flight() <= most {
                return Poll::Ready(());
            }
            self.waiting.replace(Some((most, cx.waker().clone())));
            Poll::Pending
        })
        .await;
    }
}

impl FifoSink for Client {
    fn handle_answers(&self, first: u64, count: u32, answers: Result<&[u8], FifoError>) {
        match answers {
            Ok(answers) => self.answer(first, count, answers),
            Err(error) => self.refuse(first, count, &format!("ERR upstream: {error}")),
        }
    }
}
