//! What a connection does beside its handlers, and while it waits for them.

use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;

use super::super::{CloseReason, Session};
use super::Transport;

impl Transport {
    /// Awaits a handler; reads ahead and writes meanwhile. The handler runs
    /// to its end even when the connection ends: then the socket goes at
    /// once, and the slot when the handler has ended.
    pub(super) fn poll_handler(
        &mut self,
        cx: &mut Context<'_>,
        handler: &mut LocalBoxFuture<'static, ()>,
        session: &mut impl Session,
    ) -> Poll<Result<(), CloseReason>> {
        self.register(cx);
        self.conn.shared.driver_runs.set(true);
        let poll = handler.as_mut().poll(cx);
        self.conn.shared.driver_runs.set(false);
        if poll.is_pending() {
            self.poll_beside(cx, session);
            return Poll::Pending;
        }
        Poll::Ready(self.ending_reason().map_or(Ok(()), Err))
    }

    fn poll_beside(&mut self, cx: &mut Context<'_>, session: &mut impl Session) {
        if self.ending_reason().is_none() {
            let result = match self.conn.close_reason() {
                Some(reason) => Err(reason),
                None => self.read_ahead(cx, session),
            };
            if let Err(reason) = result {
                session.handle_end(&self.conn, reason);
                self.begin_ending(reason);
            }
        }
        if self.ending_reason().is_some() {
            // The handler is waited for in any case.
            let _ = self.poll_ending(cx);
        }
    }

    fn read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut impl Session,
    ) -> Result<(), CloseReason> {
        loop {
            if self.input.take_look() {
                self.conn.shared.driver_runs.set(true);
                session.look_ahead(&self.conn, self.input.bytes());
                self.conn.shared.driver_runs.set(false);
            }
            let writes = self.poll_write(cx)?;
            let reads = self.reads_ahead(session)?;
            if writes.is_pending() || !reads || self.ended {
                break;
            }
            match self.poll_read(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
        }
        self.hold();
        let stall = self.shard().config().connection.write_stall;
        if let Some(since) = self.blocked()
            && self.poll_timer(cx, since + stall).is_ready()
        {
            return Err(CloseReason::SlowReader);
        }
        Ok(())
    }

    /// Whether to read what comes behind the message whose handler runs. A
    /// reader that waits overrides what otherwise pauses reading, up to the
    /// bound on what a connection holds.
    fn reads_ahead(&self, session: &impl Session) -> Result<bool, CloseReason> {
        let queue = self.shard().config().connection.input_queue;
        let paused = self.input.len() >= queue || self.conn.is_reading_paused();
        if !paused {
            return Ok(true);
        }
        let waits = self.input.len() < self.input.wanted() || session.has_reader();
        if waits {
            self.check_held()?;
        }
        Ok(waits)
    }

    /// Ready when the peer has taken enough of its answers.
    pub(super) fn poll_below_high_water(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.register(cx);
        if let Some(reason) = self.conn.close_reason() {
            return Poll::Ready(Err(reason));
        }
        let _ = self.poll_write(cx)?;
        if !self.conn.is_behind() {
            return Poll::Ready(Ok(()));
        }
        self.poll_limits(cx).map(Err)
    }

    /// Ready when no handler works for a peer that sends nothing more.
    pub(super) fn poll_handlers_end(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.register(cx);
        if let Some(reason) = self.conn.close_reason() {
            return Poll::Ready(Err(reason));
        }
        let _ = self.poll_write(cx)?;
        if self.conn.handlers() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_limits(cx).map(Err)
    }
}
