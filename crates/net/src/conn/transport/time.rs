//! How long a connection may take: for a message, for its output, in silence,
//! and until it has drained.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use waystation_base::Moment;

use super::super::CloseReason;
use super::Transport;

/// After a peer was told that we go away, we keep reading this long for what
/// it had already sent.
const DRAIN_LINGER: Duration = Duration::from_millis(250);

impl Transport {
    /// Ready once, to tell the peer; later with the end of the connection.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let now = self.shard().now();
        let Some(told) = self.drain_told() else {
            self.set_drain_told(now);
            return Poll::Ready(Ok(()));
        };
        let quiet = told.max(self.conn.received()) + DRAIN_LINGER;
        let busy = self.conn.handlers() > 0 || self.conn.output_len() > 0;
        if !busy && now >= quiet {
            return Poll::Ready(Err(CloseReason::Draining));
        }
        if !busy {
            ready!(self.poll_timer(cx, quiet));
            return Poll::Ready(Err(CloseReason::Draining));
        }
        self.poll_limits(cx).map(Err)
    }

    /// Ready with the reason when a limit of time is passed.
    pub(super) fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let limits = &self.shard().config().connection;
        let alive = self.alive();
        let mut first = (alive + limits.idle, CloseReason::Idle);
        // It waits for us, not we for it; or it still takes what we send, and
        // the limit on that holds; or we do not listen; or we connected, and
        // ask for signs of life.
        let silenced = self.blocked().is_some() || self.conn.is_reading_paused();
        if silenced || !self.conn.is_accepted() {
            first.0 = Moment::FAR_FUTURE;
        } else if self.conn.handlers() > 0 {
            // Nobody wakes this task when the last of them ends.
            first.0 = alive.max(self.shard().now()) + limits.idle;
        }
        if let Some(since) = self.partial.get() {
            first = first_of(
                first,
                (since + limits.frame_wait, CloseReason::FrameTimeout),
            );
        }
        if let Some(since) = self.unfinished() {
            let end = since + limits.message_wait;
            first = first_of(first, (end, CloseReason::FrameTimeout));
        }
        if let Some(since) = self.blocked() {
            first = first_of(first, (since + limits.write_stall, CloseReason::SlowReader));
        }
        self.poll_timer(cx, first.0).map(|()| first.1)
    }

    /// Waits for `at` with the connection's one timer. A later moment than
    /// the armed one is looked at when the timer fires, so that traffic does
    /// not move the timer each time.
    pub(in crate::conn) fn poll_timer(&mut self, cx: &mut Context<'_>, at: Moment) -> Poll<()> {
        if at == Moment::FAR_FUTURE {
            return Poll::Pending;
        }
        let now = self.shard().now();
        if now >= at {
            return Poll::Ready(());
        }
        if self.armed > at || self.armed <= now {
            self.disarm();
            self.armed = at;
        }
        if self.armed_key.is_none() {
            let timers = self.conn.shard().timers();
            let key = timers.insert_wake(self.armed, cx.waker().clone());
            self.armed_key = Some(key);
        }
        Poll::Pending
    }

    /// Nobody is woken by the timer.
    pub(super) fn disarm(&mut self) {
        if let Some(key) = self.armed_key.take() {
            self.shard().timers().cancel(key);
        }
    }
}

fn first_of(a: (Moment, CloseReason), b: (Moment, CloseReason)) -> (Moment, CloseReason) {
    if b.0 < a.0 { b } else { a }
}
