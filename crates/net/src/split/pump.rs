//! The I/O side of one connection: moves bytes between its socket and its
//! pipe, and answers heartbeats.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use waystation_wire::Load;

use super::lanes::{Outbox, TwoEnded as _};
use super::pipe::{End, Pipe, Side};
use crate::io::Stream;
use crate::limits::{HEARTBEAT_ANSWER_BYTES, READ_CHUNK_BYTES};
use crate::shard::{Shard, WaitsFor, waiting};

/// Socket operations of one connection before others get their turn.
const STEPS_PER_TURN: u32 = 16;

/// Received bytes up to this number are copied, so that the large buffer that
/// they were read into stays here.
const COPY_BYTES_MAX: usize = 2048;

/// Answers a protocol's heartbeats, and what else asks for no handler, where the
/// socket is, while the connection's
/// handler computes. One instance looks at one connection's bytes, from the
/// first.
///
/// The worker receives the same bytes, heartbeats included, and must leave
/// those unanswered that this answers: see
/// [`Stream::answers_heartbeats`].
pub trait Heartbeat {
    /// Looks at the next received bytes, and appends to `answers` whole
    /// messages that answer the heartbeats in them; `load` says what the server
    /// has to do. They go out between two messages of the worker. Answers how
    /// many heartbeats were answered.
    fn look(&mut self, received: &[u8], load: &dyn Fn() -> Load, answers: &mut Vec<u8>) -> u64;

    /// The connection has become a WebSocket behind everything that was looked
    /// at. True when its pings (RFC 6455, 5.5.2) are answered from here on; by
    /// default they are not.
    fn begin_websocket(&mut self) -> bool {
        false
    }
}

/// The socket's end of a pipe.
pub(super) struct Pump {
    shard: Shard,
    pipe: Arc<Pipe>,
    outbox: Rc<Outbox>,
    stream: Box<dyn Stream>,
    heartbeat: Option<Box<dyn Heartbeat>>,
    answers: Vec<u8>,
    /// Bytes received so far.
    received: u64,
    /// What is being written, and how much of it has been.
    writing: Vec<u8>,
    written: usize,
    read_ended: bool,
    shut: bool,
}

impl Drop for Pump {
    fn drop(&mut self) {
        // Also when its task was lost: the worker must not wait for ever.
        self.pipe.bell(Side::Io).unregister();
        self.end_reading(End::Broken(io::ErrorKind::ConnectionReset));
        self.pipe.outbound().broken = true;
        self.outbox.tell(&self.pipe, Side::Worker);
        self.shard.counters().split_pumps.sub(1);
        self.shard.count_handler(-1);
    }
}

impl Pump {
    pub(super) fn new(
        shard: &Shard,
        outbox: Rc<Outbox>,
        pipe: Arc<Pipe>,
        mut stream: Box<dyn Stream>,
        heartbeat: Option<Box<dyn Heartbeat>>,
    ) -> Self {
        shard.tune(&mut *stream);
        shard.counters().split_pumps.add(1);
        // The drain of an I/O shard waits for its pumps.
        shard.count_handler(1);
        pipe.bell(Side::Io).settle(outbox.home());
        Self {
            shard: shard.clone(),
            pipe,
            outbox,
            stream,
            heartbeat,
            answers: Vec::new(),
            received: 0,
            writing: Vec::new(),
            written: 0,
            read_ended: false,
            shut: false,
        }
    }

    /// Runs until the worker's end is gone.
    pub(super) async fn run(mut self) {
        let run = std::future::poll_fn(|cx| self.poll(cx));
        waiting(WaitsFor::plain("its socket or worker"), run).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pipe.bell(Side::Io).register(cx);
        for _ in 0..STEPS_PER_TURN {
            if self.pipe.outbound().dropped {
                return Poll::Ready(());
            }
            let wrote = self.poll_write(cx);
            let read = self.poll_read(cx);
            if wrote.is_pending() && read.is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when something was written or came to its end.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.written == self.writing.len() {
            self.take_output();
        }
        if self.written == self.writing.len() {
            return self.poll_shut(cx);
        }
        let rest = &self.writing[self.written..];
        match Pin::new(&mut *self.stream).poll_write(cx, rest) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => self.written += count,
            Poll::Ready(Ok(0) | Err(_)) => {
                self.break_off();
                return Poll::Ready(());
            }
        }
        if self.written == self.writing.len() {
            self.writing = Vec::new();
            self.written = 0;
        }
        Poll::Ready(())
    }

    /// Takes what the worker has put in, and between two of its messages the
    /// answers to heartbeats.
    fn take_output(&mut self) {
        let mut outbound = self.pipe.outbound();
        if outbound.broken {
            return;
        }
        self.writing = std::mem::take(&mut outbound.bytes);
        self.written = 0;
        let whole = outbound.whole;
        outbound.whole_wanted = !whole && !self.answers.is_empty();
        let waits = std::mem::take(&mut outbound.full);
        let shut = outbound.shut;
        drop(outbound);
        if waits {
            self.outbox.tell(&self.pipe, Side::Worker);
        }
        if shut {
            // Nothing follows the worker's last word.
            self.answers.clear();
        } else if whole {
            self.writing.append(&mut self.answers);
        }
    }

    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shut || !self.pipe.outbound().shut {
            return Poll::Pending;
        }
        match Pin::new(&mut *self.stream).poll_shutdown(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => self.pipe.outbound().shut_done = true,
            Poll::Ready(Err(_)) => self.break_off(),
        }
        self.shut = true;
        self.outbox.tell(&self.pipe, Side::Worker);
        Poll::Ready(())
    }

    /// The socket takes nothing more.
    fn break_off(&mut self) {
        self.writing = Vec::new();
        self.written = 0;
        self.shut = true;
        let mut outbound = self.pipe.outbound();
        outbound.broken = true;
        outbound.bytes = Vec::new();
        drop(outbound);
        self.end_reading(End::Broken(io::ErrorKind::ConnectionReset));
    }

    fn end_reading(&mut self, end: End) {
        self.read_ended = true;
        self.pipe.inbound().end.get_or_insert(end);
        self.outbox.tell(&self.pipe, Side::Worker);
    }

    /// Ready when something was received or the peer has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read_ended || self.answers.len() >= HEARTBEAT_ANSWER_BYTES || self.pause() {
            return Poll::Pending;
        }
        match self.stream.poll_read_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.end_reading(End::Broken(io::ErrorKind::ConnectionReset));
                return Poll::Ready(());
            }
        }
        let mut buffer = self.shard.buffers().take();
        let mut read = ReadBuf::uninit(buffer.spare_capacity_mut());
        let polled = Pin::new(&mut *self.stream).poll_read(cx, &mut read);
        let count = read.filled().len();
        let end = match polled {
            Poll::Pending => None,
            Poll::Ready(Ok(())) if count > 0 => None,
            Poll::Ready(Ok(())) => Some(End::Peer),
            Poll::Ready(Err(error)) => Some(End::Broken(error.kind())),
        };
        #[allow(unsafe_code, reason = "the bytes were written by the read")]
        // SAFETY: `ReadBuf` over the spare capacity of an empty buffer has
        // `count` bytes filled, which are initialised and at its front.
        unsafe {
            buffer.set_len(count);
        }
        if let Some(end) = end {
            self.shard.buffers().give(buffer);
            self.end_reading(end);
            return Poll::Ready(());
        }
        if count == 0 {
            // The readiness was spurious.
            self.shard.buffers().give(buffer);
            return Poll::Pending;
        }
        self.received(buffer);
        Poll::Ready(())
    }

    /// Whether the receive queue has no room: its worker says when it has.
    fn pause(&self) -> bool {
        let mut inbound = self.pipe.inbound();
        if inbound.len() >= self.pipe.window && !inbound.paused {
            inbound.paused = true;
            self.shard.counters().split_paused.add(1);
        }
        inbound.paused
    }

    fn received(&mut self, buffer: Vec<u8>) {
        if let Some(heartbeat) = &mut self.heartbeat {
            if self.pipe.inbound().websocket_from.take() == Some(self.received) {
                let answers = heartbeat.begin_websocket();
                self.pipe.inbound().websocket_answered = answers;
            }
            self.received += buffer.len() as u64;
            let load = || self.shard.server_load();
            let answered = heartbeat.look(&buffer, &load, &mut self.answers);
            self.shard.counters().split_heartbeats.add(answered);
        }
        let mut inbound = self.pipe.inbound();
        let spare = if inbound.bytes.is_empty() && buffer.len() > COPY_BYTES_MAX {
            Some(std::mem::replace(&mut inbound.bytes, buffer))
        } else {
            inbound.bytes.extend_from_slice(&buffer);
            Some(buffer)
        };
        drop(inbound);
        self.outbox.tell(&self.pipe, Side::Worker);
        if let Some(spare) = spare.filter(|spare| spare.capacity() >= READ_CHUNK_BYTES) {
            self.shard.buffers().give(spare);
        }
    }
}
