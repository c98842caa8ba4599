//! The loop that moves a connection's bytes.
//!
//! One task owns the socket. It reads while a handler is suspended, up to a
//! bound; it writes once per turn everything that any task of the shard has
//! put into the output since.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::io::ReadBuf;
use waystation_base::Moment;

use super::{CloseReason, Conn, Input, Session, Turn};
use crate::io::Stream;
use crate::limits::CLOSE_FLUSH;
use crate::shard::{Shard, Sleep, WaitsFor, until, waiting};

/// After a peer was told that we go away, we keep reading this long for what
/// it had already sent.
const DRAIN_LINGER: Duration = Duration::from_millis(250);

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

/// A connection's stream with what was received from it.
pub struct Transport {
    conn: Conn,
    stream: Box<dyn Stream>,
    input: Input,
    ended: bool,
    drain_told: Option<Moment>,
    /// When the incomplete message at hand began.
    partial: Option<Moment>,
    timer: Sleep,
    /// When output last made progress, while some is waiting.
    blocked: Option<Moment>,
}

impl Transport {
    pub(crate) fn new(conn: Conn, stream: Box<dyn Stream>, head: Vec<u8>) -> Self {
        let timer = Sleep::new(conn.shard(), Moment::FAR_FUTURE);
        Self {
            conn,
            stream,
            input: Input::with(head),
            ended: false,
            drain_told: None,
            partial: None,
            timer,
            blocked: None,
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

    fn shard(&self) -> &Shard {
        self.conn.shard()
    }

    /// Runs a session to the connection's end and says why it ended.
    pub async fn run(&mut self, session: &mut impl Session) -> CloseReason {
        loop {
            if self.conn.output_len() >= self.shard().config().connection.output_high_water
                && let Err(reason) = self.below_high_water().await
            {
                return reason;
            }
            self.conn.shared.driver_runs.set(true);
            let turn = session.handle_input(&self.conn, &mut self.input);
            self.conn.shared.driver_runs.set(false);
            let next = match turn {
                Err(reason) => Err(reason),
                Ok(Turn::Suspended(handler)) => self.beside(handler).await,
                Ok(Turn::Yield) => {
                    tokio::task::yield_now().await;
                    self.flush_some().await
                }
                Ok(Turn::NeedMore) => self.more(session).await,
            };
            if let Err(reason) = next {
                return reason;
            }
        }
    }

    async fn more(&mut self, session: &mut impl Session) -> Result<(), CloseReason> {
        let partial = !self.input.is_empty() || session.is_mid_message();
        self.partial = match (partial, self.partial) {
            (false, _) => None,
            (true, None) => Some(self.shard().now()),
            (true, since) => since,
        };
        match self.fill().await? {
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

    /// Waits for more input. Output that arrives meanwhile is written.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub async fn fill(&mut self) -> Result<Filled, CloseReason> {
        waiting(WaitsFor::plain("input"), poll_fn(|cx| self.poll_fill(cx))).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, CloseReason>> {
        self.conn.register_driver(cx);
        if let Some(reason) = self.conn.shared.closing.get() {
            return Poll::Ready(Err(reason));
        }
        if self.poll_write(cx)?.is_ready() && self.poll_read(cx)?.is_ready() {
            let filled = if self.ended {
                Filled::End
            } else {
                Filled::Bytes
            };
            return Poll::Ready(Ok(filled));
        }
        if self.conn.shared.draining.get() {
            ready!(self.poll_drain(cx))?;
            return Poll::Ready(Ok(Filled::Drain));
        }
        self.poll_limits(cx).map(Err)
    }

    /// Ready once, to tell the peer; later with the end of the connection.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let now = self.shard().now();
        let Some(told) = self.drain_told else {
            self.drain_told = Some(now);
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
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let limits = &self.shard().config().connection;
        let mut first = (self.conn.received() + limits.idle, CloseReason::Idle);
        if self.conn.handlers() > 0 {
            // It waits for us, not we for it.
            first.0 = Moment::FAR_FUTURE;
        }
        if let Some(since) = self.partial {
            first = first_of(
                first,
                (since + limits.frame_wait, CloseReason::FrameTimeout),
            );
        }
        if let Some(since) = self.blocked {
            first = first_of(first, (since + limits.write_stall, CloseReason::SlowReader));
        }
        self.poll_timer(cx, first.0).map(|()| first.1)
    }

    /// Waits for `at` with the connection's one timer. A later moment than
    /// the armed one is looked at when the timer fires, so that traffic does
    /// not move the timer each time.
    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Moment) -> Poll<()> {
        if at == Moment::FAR_FUTURE {
            return Poll::Pending;
        }
        loop {
            if self.shard().now() >= at {
                return Poll::Ready(());
            }
            if self.timer.deadline() > at {
                self.timer.reset(at);
            }
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.timer.reset(at);
        }
    }

    /// Reads once. Ready when something was received or the peer has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.input.is_empty() {
            match self.stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(CloseReason::Reset)),
                Poll::Pending => {
                    self.input.rest(self.conn.shard());
                    return Poll::Pending;
                }
            }
        }
        let buffer = self.input.room(self.conn.shard());
        let filled = buffer.len();
        let mut read = ReadBuf::uninit(buffer.spare_capacity_mut());
        let result = ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut read));
        let count = read.filled().len();
        if result.is_err() {
            return Poll::Ready(Err(CloseReason::Reset));
        }
        #[allow(unsafe_code, reason = "the bytes were written by the read")]
        // SAFETY: `ReadBuf` over the spare capacity has `count` bytes filled,
        // which are initialised and directly behind the `filled` first ones.
        unsafe {
            buffer.set_len(filled + count);
        }
        self.conn.shared.received.set(self.conn.shard().now());
        self.ended = count == 0;
        let counters = self.conn.shard().counters();
        if count > 0 {
            counters.reads.add(1);
            counters.bytes_in.add(count as u64);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until everything has left or the peer takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, CloseReason> {
        loop {
            let mut output = self.conn.shared.output.borrow_mut();
            if output.len() == 0 {
                output.rest(self.conn.shard());
                self.blocked = None;
                return Ok(Poll::Ready(()));
            }
            match output.poll_write(&mut *self.stream, cx) {
                Poll::Ready(Ok(count)) => {
                    let left = output.len();
                    drop(output);
                    let counters = self.conn.shard().counters();
                    counters.writes.add(1);
                    counters.bytes_out.add(count as u64);
                    self.blocked = None;
                    if left < self.conn.shard().config().connection.output_high_water {
                        self.conn.wake_waiters();
                    }
                }
                Poll::Ready(Err(_)) => return Err(CloseReason::Reset),
                Poll::Pending => {
                    drop(output);
                    let now = self.conn.shard().now();
                    self.blocked.get_or_insert(now);
                    // Replies wait, but requests may be read until the output
                    // reaches its high-water mark.
                    let high_water = self.conn.shard().config().connection.output_high_water;
                    let below = self.conn.output_len() < high_water;
                    return Ok(if below {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    });
                }
            }
        }
    }

    /// Awaits a handler; reads ahead and writes meanwhile. The handler runs
    /// to its end even when the peer goes away.
    async fn beside(&mut self, handler: LocalBoxFuture<'static, ()>) -> Result<(), CloseReason> {
        let mut handler = handler;
        let mut lost = None;
        poll_fn(|cx| {
            self.conn.register_driver(cx);
            self.conn.shared.driver_runs.set(true);
            let poll = handler.as_mut().poll(cx);
            self.conn.shared.driver_runs.set(false);
            if poll.is_pending() && lost.is_none() {
                lost = self.poll_beside(cx).err();
            }
            poll
        })
        .await;
        lost.map_or(Ok(()), Err)
    }

    fn poll_beside(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            let writes = self.poll_write(cx)?;
            let queue = self
                .shard()
                .config()
                .connection
                .input_queue
                .max(self.input.wanted());
            let full = self.input.len() >= queue;
            if writes.is_pending() || full || self.ended {
                break;
            }
            match self.poll_read(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
        }
        let limits = &self.shard().config().connection;
        if let Some(since) = self.blocked
            && self.poll_timer(cx, since + limits.write_stall).is_ready()
        {
            return Err(CloseReason::SlowReader);
        }
        Ok(())
    }

    /// Writes what can be written now.
    async fn flush_some(&mut self) -> Result<(), CloseReason> {
        poll_fn(|cx| {
            self.conn.register_driver(cx);
            Poll::Ready(self.poll_write(cx).map(|_| ()))
        })
        .await?;
        self.conn.shared.closing.get().map_or(Ok(()), Err)
    }

    async fn below_high_water(&mut self) -> Result<(), CloseReason> {
        let high_water = self.shard().config().connection.output_high_water;
        let ready = poll_fn(|cx| {
            self.conn.register_driver(cx);
            if let Some(reason) = self.conn.shared.closing.get() {
                return Poll::Ready(Err(reason));
            }
            let _ = self.poll_write(cx)?;
            if self.conn.output_len() < high_water {
                return Poll::Ready(Ok(()));
            }
            self.poll_limits(cx).map(Err)
        });
        waiting(WaitsFor::plain("slow reader"), ready).await
    }

    /// The peer sends nothing more, but handlers still work for it.
    async fn handlers_end(&mut self) -> Result<(), CloseReason> {
        let ended = poll_fn(|cx| {
            self.conn.register_driver(cx);
            if let Some(reason) = self.conn.shared.closing.get() {
                return Poll::Ready(Err(reason));
            }
            let _ = self.poll_write(cx)?;
            if self.conn.handlers() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.poll_limits(cx).map(Err)
        });
        waiting(WaitsFor::plain("its handlers"), ended).await
    }

    /// Writes what is left, ends the stream, and frees all but the slot.
    pub(crate) async fn close(mut self, reason: CloseReason) {
        let shard = self.shard().clone();
        self.conn.close(reason);
        if !matches!(reason, CloseReason::Reset | CloseReason::SlowReader) {
            let flush = poll_fn(|cx| {
                if self.poll_write(cx).is_err() {
                    return Poll::Ready(());
                }
                if self.conn.output_len() > 0 {
                    return Poll::Pending;
                }
                Pin::new(&mut *self.stream).poll_shutdown(cx).map(|_| ())
            });
            let _ = until(&shard, shard.now() + CLOSE_FLUSH, flush).await;
        }
        drop(self.stream);
        self.input.consume(usize::MAX);
        self.input.rest(&shard);
        self.conn.finish(reason);
    }

    /// The stream itself, for a protocol with its own loop, such as HTTP.
    pub(crate) fn into_parts(self) -> (Conn, Box<dyn Stream>, Input) {
        (self.conn, self.stream, self.input)
    }
}

fn first_of(a: (Moment, CloseReason), b: (Moment, CloseReason)) -> (Moment, CloseReason) {
    if b.0 < a.0 { b } else { a }
}
