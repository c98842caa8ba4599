//! The loop that moves a connection's bytes.
//!
//! One task owns the connection. It reads while a handler is suspended, up to
//! a bound; it writes once per turn everything that its handlers have put into
//! the output since. What other tasks put there the shard writes, see
//! [`super::flush`].

mod beside;
mod time;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use waystation_base::Moment;

use super::ending::Ending;
use super::{CloseReason, Conn, Input, Session, Turn};
use crate::io::Stream;
use crate::limits::READ_CHUNK_BYTES;
use crate::shard::{Shard, Sleep, WaitsFor, waiting};

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

    fn take(&mut self) -> Option<Moment> {
        std::mem::replace(self, Self::NEVER).get()
    }
}

impl From<Option<Moment>> for Since {
    fn from(since: Option<Moment>) -> Self {
        since.map_or(Self::NEVER, Self)
    }
}

/// A connection's driver, with what was received from its stream.
pub struct Transport {
    pub(super) conn: Conn,
    pub(super) input: Input,
    /// The peer sends nothing more.
    pub(super) ended: bool,
    /// Boxed, as it is there at the end only.
    pub(super) ending: Option<Box<Ending>>,
    /// Bytes that the session holds outside the input.
    held: usize,
    drain_told: Since,
    /// When the incomplete message at hand began, and the input's progress
    /// then: a stream that is always in the middle of some message is fine.
    partial: (Since, u64),
    /// When the oldest message began that comes in several frames and is not
    /// complete.
    unfinished: Since,
    /// The last read took all that there was.
    drained: bool,
    timer: Sleep,
    /// When output last made progress, while some is waiting.
    blocked: Since,
    /// When output that had been waiting last made progress: the peer took
    /// something, which is a sign of life.
    taken: Moment,
}

impl Transport {
    pub(crate) fn new(conn: Conn, stream: Box<dyn Stream>, head: Vec<u8>) -> Self {
        let timer = Sleep::new(conn.shard(), Moment::FAR_FUTURE);
        conn.shared.stream.replace(Some(stream));
        Self {
            taken: conn.opened(),
            conn,
            input: Input::with(head),
            ended: false,
            ending: None,
            held: 0,
            drain_told: Since::NEVER,
            partial: (Since::NEVER, 0),
            unfinished: Since::NEVER,
            drained: false,
            timer,
            blocked: Since::NEVER,
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

    /// Runs a session to the connection's end and says why it ended.
    pub async fn run(&mut self, session: &mut impl Session) -> CloseReason {
        let Err(reason) = self.turns(session).await;
        if self.ending.is_none() {
            session.handle_end(&self.conn, reason);
        }
        reason
    }

    async fn turns(&mut self, session: &mut impl Session) -> Result<Infallible, CloseReason> {
        loop {
            if let Some(reason) = self.conn.close_reason() {
                return Err(reason);
            }
            if self.conn.holds_back() {
                self.below_high_water().await?;
            }
            self.conn.shared.driver_runs.set(true);
            let turn = session.handle_input(&self.conn, &mut self.input);
            self.conn.shared.driver_runs.set(false);
            self.held = session.held_len();
            match turn? {
                Turn::Suspended(handler) => {
                    self.hold();
                    self.beside(handler, session).await?;
                }
                Turn::Yield => {
                    self.hold();
                    tokio::task::yield_now().await;
                    self.flush_some().await?;
                }
                Turn::NeedMore => self.more(session).await?,
            }
        }
    }

    async fn more(&mut self, session: &mut impl Session) -> Result<(), CloseReason> {
        let partial = !self.input.is_empty() || session.is_mid_message();
        self.unfinished = session.unfinished_since().into();
        let progress = self.input.progress();
        match self.partial {
            _ if !partial => self.partial.0 = Since::NEVER,
            (since, at) if since.get().is_some() && at == progress => {}
            _ => self.partial = (Since(self.shard().now()), progress),
        }
        if partial {
            self.check_held()?;
        }
        match self.wait(partial).await? {
            Filled::Bytes => Ok(()),
            Filled::Drain => {
                session.handle_drain(&self.conn);
                Ok(())
            }
            Filled::End => {
                self.handlers_end().await?;
                let reason = if partial {
                    CloseReason::Protocol("truncated")
                } else {
                    CloseReason::Peer
                };
                Err(reason)
            }
        }
    }

    /// The next session is to be told of a drain, though one was before.
    pub(crate) fn forget_drain(&mut self) {
        self.drain_told = Since::NEVER;
    }

    /// Waits for more input, though reading be paused. Output that arrives
    /// meanwhile is written.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub fn fill(&mut self) -> impl Future<Output = Result<Filled, CloseReason>> + '_ {
        self.wait(true)
    }

    /// Waits for more input; `needs` it, or only takes it.
    fn wait(&mut self, needs: bool) -> impl Future<Output = Result<Filled, CloseReason>> + '_ {
        let filled = poll_fn(move |cx| self.poll_fill(cx, needs));
        waiting(WaitsFor::plain("input"), filled)
    }

    /// Tells the shard what this connection holds, before it waits. A pooled
    /// buffer that is only held within a turn is not told.
    fn hold(&self) {
        self.conn.hold_received(self.input.capacity() + self.held);
        self.conn.hold_queued();
    }

    /// Whether it may hold more, for one message or while someone waits.
    fn check_held(&self) -> Result<(), CloseReason> {
        let most = self.shard().config().connection.received_max;
        if self.input.len() + self.held > most {
            return Err(CloseReason::Memory);
        }
        self.conn.close_reason().map_or(Ok(()), Err)
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        needs: bool,
    ) -> Poll<Result<Filled, CloseReason>> {
        self.conn.register_driver(cx);
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
        let held = self.input.capacity() + self.held;
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
            self.blocked = Since::NEVER;
            return Ok(Poll::Ready(()));
        }
        let written = self.conn.write_output(cx);
        if written.some && self.blocked.take().is_some() {
            self.taken = self.shard().now();
        }
        match written.all {
            Poll::Ready(result) => {
                self.blocked = Since::NEVER;
                result.map(Poll::Ready)
            }
            Poll::Pending => {
                let now = self.shard().now();
                if self.blocked.get().is_none() {
                    self.blocked = Since(now);
                }
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

    /// Writes what can be written now.
    async fn flush_some(&mut self) -> Result<(), CloseReason> {
        poll_fn(|cx| {
            self.conn.register_driver(cx);
            Poll::Ready(self.poll_write(cx).map(|_| ()))
        })
        .await?;
        self.conn.close_reason().map_or(Ok(()), Err)
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
        // Handles of the connection may live on; its socket does not.
        let stream = self.conn.shared.stream.take();
        drop(stream);
    }
}
