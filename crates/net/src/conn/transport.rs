//! The loop that moves a connection's bytes.
//!
//! One task owns the connection. It reads while a handler is suspended, up to
//! a bound; it writes once per turn everything that its handlers have put into
//! the output since. What other tasks put there the shard writes, see
//! [`super::flush`].

mod beside;
mod rare;
mod run;
mod time;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use waystation_base::{DeadlineKey, Moment};

use self::rare::Rare;
use super::{CloseReason, Conn, Input};
use crate::io::Stream;
use crate::limits::READ_CHUNK_BYTES;
use crate::shard::{Shard, WaitsFor, waiting};

/// What [`Transport::fill`] waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Bytes were received.
    Bytes,
    /// The peer will send nothing more.
    End,
    /// The process goes away and the peer is to be told. Answered once.
    Drain,
}

/// Since when something is so, if it is. An `Option` would take twice the
/// place, in every connection.
#[derive(Clone, Copy)]
struct Since(Moment);

impl Since {
    const NEVER: Self = Self(Moment::FAR_FUTURE);

    fn get(self) -> Option<Moment> {
        (self.0 != Moment::FAR_FUTURE).then_some(self.0)
    }
}

/// A connection's driver, with what was received from its stream. Every
/// connection has one, so that what few need, and those not for long, is
/// boxed.
pub struct Transport {
    pub(super) conn: Conn,
    pub(super) input: Input,
    rare: Option<Box<Rare>>,
    /// When the incomplete message at hand began; anew with each that is
    /// received to its end, since a stream that is always in the middle of
    /// some message is fine.
    partial: Since,
    /// What the connection's one timer is armed for; far away when it is not.
    armed: Moment,
    /// Its entry among the shard's deadlines, which wakes the task that was
    /// registered last.
    armed_key: Option<DeadlineKey>,
    /// The peer sends nothing more.
    pub(super) ended: bool,
    /// The last read took all that there was.
    drained: bool,
}

impl Transport {
    pub(crate) fn new(conn: Conn, stream: Box<dyn Stream>, head: Vec<u8>) -> Self {
        conn.shared.stream.replace(Some(stream));
        Self {
            conn,
            input: Input::with(head),
            rare: None,
            partial: Since::NEVER,
            armed: Moment::FAR_FUTURE,
            armed_key: None,
            ended: false,
            drained: false,
        }
    }

    /// The connection.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// What was received and not consumed.
    pub fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    /// Whether heartbeats of the peer are answered before they come here.
    pub(crate) fn answers_heartbeats(&self) -> bool {
        let stream = self.conn.shared.stream.borrow();
        stream
            .as_ref()
            .is_some_and(|stream| stream.answers_heartbeats())
    }

    pub(super) fn shard(&self) -> &Shard {
        self.conn.shard()
    }

    /// Waits for more input, though reading be paused. Output that arrives
    /// meanwhile is written.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub fn fill(&mut self) -> impl Future<Output = Result<Filled, CloseReason>> + '_ {
        let filled = poll_fn(|cx| self.poll_fill(cx, true));
        waiting(WaitsFor::plain("input"), filled)
    }

    /// The task that polls now is the one to wake.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if self.conn.register_driver(cx) {
            // The timer would wake another.
            self.disarm();
        }
    }

    /// Tells the shard what this connection holds, before it waits. A pooled
    /// buffer that is only held within a turn is not told.
    fn hold(&self) {
        self.conn
            .hold_received(self.input.capacity() + self.held_len());
        self.conn.hold_queued();
    }

    /// Whether it may hold more, for one message or while someone waits.
    fn check_held(&self) -> Result<(), CloseReason> {
        let most = self.shard().config().connection.received_max;
        if self.input.len() + self.held_len() > most {
            return Err(CloseReason::Memory);
        }
        self.conn.close_reason().map_or(Ok(()), Err)
    }

    /// Reads more when it `needs` to, or may; writes what waits.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        needs: bool,
    ) -> Poll<Result<Filled, CloseReason>> {
        self.register(cx);
        if let Some(reason) = self.conn.close_reason() {
            return Poll::Ready(Err(reason));
        }
        let reads = needs || !self.conn.is_reading_paused();
        if self.poll_write(cx)?.is_ready() && reads && self.poll_read(cx)?.is_ready() {
            let filled = if self.ended {
                Filled::End
            } else {
                Filled::Bytes
            };
            return Poll::Ready(Ok(filled));
        }
        self.hold();
        if self.conn.shared.draining.get() {
            ready!(self.poll_drain(cx))?;
            return Poll::Ready(Ok(Filled::Drain));
        }
        self.poll_limits(cx).map(Err)
    }

    /// Reads once. Ready when something was received or the peer has ended.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let mut stream = self.conn.shared.stream.borrow_mut();
        let Some(stream) = &mut *stream else {
            return Poll::Ready(Err(CloseReason::Reset));
        };
        let shard = self.conn.shard();
        // Behind a read that left nothing, only to be woken by what comes: the
        // read itself is tried first otherwise, and answers that as well.
        if std::mem::take(&mut self.drained) && self.input.is_empty() {
            match stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(CloseReason::Reset)),
                Poll::Pending => {
                    self.input.rest(shard);
                    return Poll::Pending;
                }
            }
        }
        let buffer = self.input.room(shard);
        let filled = buffer.len();
        let mut read = ReadBuf::uninit(buffer.spare_capacity_mut());
        let Poll::Ready(result) = Pin::new(&mut **stream).poll_read(cx, &mut read) else {
            self.input.rest(shard);
            return Poll::Pending;
        };
        self.drained = read.remaining() > 0;
        let count = read.filled().len();
        if result.is_err() {
            return Poll::Ready(Err(CloseReason::Reset));
        }
        if self.conn.is_websocket() && !self.conn.are_pings_answered() {
            let answered = stream.answers_websocket_pings();
            self.conn.shared.pings_answered.set(answered);
        }
        #[allow(unsafe_code, reason = "the bytes were written by the read")]
        // SAFETY: `ReadBuf` over the spare capacity has `count` bytes filled,
        // which are initialised and directly behind the `filled` first ones.
        unsafe {
            buffer.set_len(filled + count);
        }
        self.conn.set_received(shard.now());
        let held = self.input.capacity() + self.held_len();
        if held > READ_CHUNK_BYTES {
            self.conn.hold_received(held);
        }
        self.ended = count == 0;
        let counters = shard.counters();
        if count > 0 {
            counters.reads.add(1);
            counters.bytes_in.add(count as u64);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until everything has left or the peer takes no more.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, CloseReason> {
        if self.conn.shared.output.borrow().is_resting() {
            self.set_unblocked();
            return Ok(Poll::Ready(()));
        }
        let written = self.conn.write_output(cx);
        if written.some {
            self.set_taken();
        }
        match written.all {
            Poll::Ready(result) => {
                self.set_unblocked();
                result.map(Poll::Ready)
            }
            Poll::Pending => {
                self.set_blocked();
                // Replies wait, but requests may be read until the output
                // reaches its high-water mark.
                Ok(if self.conn.holds_back() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                })
            }
        }
    }

    /// The stream itself, for a protocol with its own loop, such as HTTP;
    /// nothing when the connection has ended.
    pub(crate) fn into_parts(mut self) -> Option<(Conn, Box<dyn Stream>, Input)> {
        let stream = self.conn.shared.stream.take()?;
        Some((self.conn.clone(), stream, std::mem::take(&mut self.input)))
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.disarm();
        // Handles of the connection may live on; its socket does not.
        let stream = self.conn.shared.stream.take();
        drop(stream);
    }
}
