//! How far a connection has come that hyper drives, and how long it may take.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use waystation_base::Moment;

use crate::conn::{CloseReason, Conn};
use crate::io::Stream;
use crate::shard::{WaitsFor, waiting};

/// How far hyper has come with the requests of a connection.
pub(super) struct State {
    /// When bytes last moved.
    pub(super) progress: Cell<Moment>,
    pub(super) upgraded: Cell<bool>,
    /// Requests whose handling has begun, and has ended.
    pub(super) begun: Cell<u64>,
    pub(super) ended: Cell<u64>,
    /// Nothing was written since the last answer was given.
    pub(super) silent: Cell<bool>,
    /// Something was written that may not have left.
    pub(super) unsent: Cell<bool>,
    /// A body was not read to its end: where the next request begins, only
    /// hyper knows.
    pub(super) astray: Cell<bool>,
}

impl State {
    pub(super) fn begin_burst(&self) {
        self.begun.set(0);
        self.ended.set(0);
        self.silent.set(true);
        self.unsent.set(false);
        self.astray.set(false);
    }

    pub(super) fn answered(&self) {
        self.ended.set(self.ended.get() + 1);
        self.silent.set(true);
    }

    /// All that was asked is answered, and every byte of it has left. hyper
    /// gives an answer to the stream in the same turn, head and body at once,
    /// and flushes behind it.
    pub(super) fn is_idle(&self) -> bool {
        self.begun.get() > 0
            && self.begun.get() == self.ended.get()
            && !self.silent.get()
            && !self.unsent.get()
            && !self.astray.get()
            && !self.upgraded.get()
    }
}

/// The limits of a connection that hyper drives.
pub(super) struct Limit<'a> {
    pub(super) conn: &'a Conn,
    pub(super) state: Rc<State>,
    idle: Duration,
    write_stall: Duration,
    /// Until when.
    sleep: Option<(Moment, crate::shard::Sleep)>,
    told: bool,
}

impl<'a> Limit<'a> {
    pub(super) fn new(conn: &'a Conn) -> Self {
        let shard = conn.shard();
        Self {
            conn,
            state: Rc::new(State {
                progress: Cell::new(shard.now()),
                upgraded: Cell::new(false),
                begun: Cell::new(0),
                ended: Cell::new(0),
                silent: Cell::new(true),
                unsent: Cell::new(false),
                astray: Cell::new(false),
            }),
            idle: shard.config().connection.idle,
            write_stall: shard.config().connection.write_stall,
            sleep: None,
            told: false,
        }
    }

    /// Waits without a buffer for the next request; false when none comes,
    /// since the process goes away.
    pub(super) async fn request_begins(
        &mut self,
        stream: &mut dyn Stream,
    ) -> Result<bool, CloseReason> {
        let begins = poll_fn(|cx| {
            if self.drain_begins(cx) || self.told {
                return Poll::Ready(Ok(false));
            }
            match stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(CloseReason::Reset)),
                Poll::Pending => self.poll(cx).map(Err),
            }
        });
        waiting(WaitsFor::plain("HTTP"), begins).await
    }

    /// True once, when the process begins to go away.
    pub(super) fn drain_begins(&mut self, cx: &Context<'_>) -> bool {
        self.conn.register_driver(cx);
        !self.told && self.conn.is_draining() && {
            self.told = true;
            true
        }
    }

    /// Ready when the connection was closed, or no byte moved for too long: less
    /// long where the peer does not take what we have for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some(reason) = self.conn.close_reason() {
            return Poll::Ready(reason);
        }
        loop {
            let shard = self.conn.shard();
            if self.conn.handlers() > 0 {
                // It waits for us, not we for it.
                self.state.progress.set(shard.now());
            }
            let (patience, reason) = if self.state.unsent.get() && self.write_stall < self.idle {
                (self.write_stall, CloseReason::SlowReader)
            } else {
                (self.idle, CloseReason::Idle)
            };
            let at = self.state.progress.get() + patience;
            if shard.now() >= at {
                return Poll::Ready(reason);
            }
            // One that ends earlier than need be looks again.
            if self.sleep.as_ref().is_some_and(|(until, _)| *until > at) {
                self.sleep = None;
            }
            let (_, sleep) = self
                .sleep
                .get_or_insert_with(|| (at, shard.sleep_until(at)));
            if Pin::new(sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }
}
