//! Messages out of a connection, within the bounds of its output.

use std::task::Poll;

use bytes::Bytes;
use waystation_base::ConnName;

use super::{CloseReason, Conn, Framing};
use crate::limits::SHORT_ANSWER_BYTES;
use crate::native::websocket;
use crate::shard::{WaitsFor, waiting};

/// Why a message was not taken by a connection. The message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed or closing.
    #[error("connection {0} is closed")]
    Closed(ConnName),
    /// Its output is full: the peer does not read fast enough.
    #[error("the output of connection {0} is full")]
    Full(ConnName),
    /// The peer speaks HTTP, or has not said anything yet on a port of
    /// several protocols: a message would break its stream. Send when its
    /// first message has come.
    #[error("connection {0} has no messages (yet)")]
    Mute(ConnName),
}

/// What happens to a connection whose output is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowReader {
    /// It is closed, with [`CloseReason::SlowReader`].
    #[default]
    Close,
    /// It stays; the sender gets [`SendError::Full`] and decides. A peer that
    /// takes nothing at all is closed nevertheless, after
    /// [`write_stall`](crate::ConnectionLimits::write_stall).
    Refuse,
}

/// Whether a message may pass the bound on the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Kept,
    Passed,
}

impl Conn {
    /// Says what happens when the peer does not read fast enough.
    pub fn set_slow_reader(&self, policy: SlowReader) {
        self.shared.slow_reader.set(policy);
    }

    /// Sends one message of the connection's protocol. It leaves with all
    /// others of this turn, in one write.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send(&self, message: &[u8]) -> Result<(), SendError> {
        self.send_with(message.len(), |out| out.extend_from_slice(message))
    }

    /// Like [`Conn::send`], for a message shared by many connections: it is
    /// not copied when it is large.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send_bytes(&self, message: &Bytes) -> Result<(), SendError> {
        self.admit(message.len(), Bound::Kept)?;
        let mut output = self.shared.output.borrow_mut();
        if self.is_websocket() {
            websocket::put_head(output.tail(self.shard()), websocket::BINARY, message.len());
        }
        output.push_bytes(self.shard(), message);
        drop(output);
        self.sent();
        Ok(())
    }

    /// Like [`Conn::send`], for a message that is written in place. `length`
    /// is what `write` will append, in bytes, as close as the caller knows.
    /// What `write` appends before it panics does not leave.
    ///
    /// # Errors
    /// [`SendError`]; `write` is not called then.
    ///
    /// # Panics
    /// When `write` uses this connection.
    pub fn send_with(
        &self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.admit(length, Bound::Kept)?;
        self.put_with(length, write);
        Ok(())
    }

    /// Like [`Conn::send_with`], for a short answer to a request of this peer:
    /// a refusal, a timeout, a sign of life. It finds room in any case, so
    /// that no request stays without an answer on a connection that lives. A
    /// peer that is behind is not read, so that at most as many such answers
    /// pass the bound as requests of it are in progress
    /// ([`HANDLERS_PER_CONNECTION`](crate::limits::HANDLERS_PER_CONNECTION)).
    /// On a connection that this side made, which is always read, and above
    /// [`SHORT_ANSWER_BYTES`] the bound holds.
    ///
    /// # Errors
    /// [`SendError`]; `write` is not called then.
    ///
    /// # Panics
    /// When `write` uses this connection.
    pub fn send_short_with(
        &self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.admit(length, self.bound_of_answer(length))?;
        self.put_with(length, write);
        Ok(())
    }

    fn put_with(&self, length: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut output = self.shared.output.borrow_mut();
        if self.is_websocket() {
            let mut message = Vec::with_capacity(length);
            write(&mut message);
            let tail = output.tail(self.shard());
            websocket::put_head(tail, websocket::BINARY, message.len());
            tail.extend_from_slice(&message);
        } else {
            Torn::whole(output.tail(self.shard()), write);
        }
        drop(output);
        self.sent();
    }

    /// Like [`Conn::send_with`], for many messages at once: `write` appends
    /// them and answers how many they are. It is for a peer whose protocol
    /// marks their ends itself, which a WebSocket peer's does not.
    ///
    /// Cost: that of one message.
    ///
    /// # Errors
    /// [`SendError`]; `write` is not called then.
    ///
    /// # Panics
    /// When `write` uses this connection, and on a WebSocket peer.
    pub fn send_many(
        &self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>) -> u64,
    ) -> Result<(), SendError> {
        assert!(!self.is_websocket(), "a WebSocket message is one message");
        self.admit(length, Bound::Kept)?;
        let mut output = self.shared.output.borrow_mut();
        let count = Torn::whole(output.tail(self.shard()), write);
        drop(output);
        if count > 0 {
            self.shard().counters().messages_out.add(count);
            self.flush_soon();
            self.output_grew();
        }
        Ok(())
    }

    /// Sends one text message to a WebSocket peer; to any other peer the
    /// bytes as they are.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send_text(&self, text: &str) -> Result<(), SendError> {
        self.admit(text.len(), Bound::Kept)?;
        self.put_text(text);
        Ok(())
    }

    /// Like [`Conn::send_text`], for a short answer to a request of this peer,
    /// as [`Conn::send_short_with`] has it.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send_short_text(&self, text: &str) -> Result<(), SendError> {
        self.admit(text.len(), self.bound_of_answer(text.len()))?;
        self.put_text(text);
        Ok(())
    }

    fn put_text(&self, text: &str) {
        let mut output = self.shared.output.borrow_mut();
        let tail = output.tail(self.shard());
        if self.is_websocket() {
            websocket::put_head(tail, websocket::TEXT, text.len());
        }
        tail.extend_from_slice(text.as_bytes());
        drop(output);
        self.sent();
    }

    /// Puts raw bytes of the transport itself on the stream, such as a
    /// WebSocket pong. They pass no limit but their own smallness.
    pub(crate) fn send_control(&self, bytes: &[u8]) {
        if !self.shared.closed.get() {
            let mut output = self.shared.output.borrow_mut();
            output.tail(self.shard()).extend_from_slice(bytes);
            drop(output);
            self.flush_soon();
            self.hold_queued();
        }
    }

    fn bound_of_answer(&self, length: usize) -> Bound {
        if self.is_accepted() && length <= SHORT_ANSWER_BYTES {
            Bound::Passed
        } else {
            Bound::Kept
        }
    }

    fn admit(&self, length: usize, bound: Bound) -> Result<(), SendError> {
        let counters = self.shard().counters();
        if !self.is_open() {
            counters.stale_sends.add(1);
            return Err(SendError::Closed(self.name()));
        }
        if self.shared.framing.get() == Framing::Mute {
            counters.stale_sends.add(1);
            return Err(SendError::Mute(self.name()));
        }
        self.shard().make_room(length);
        if !self.is_open() {
            // It held most of what the shard holds.
            return Err(SendError::Closed(self.name()));
        }
        let limits = &self.shard().config().connection;
        let queued = self.output_len();
        // A peer that keeps up gets a message of any size: a large answer
        // behind a small one makes it no slow reader.
        let behind = queued >= limits.output_high_water && bound == Bound::Kept;
        if behind && queued.saturating_add(length) > limits.output_bytes_max {
            counters.output_refused.add(1);
            if self.shared.slow_reader.get() == SlowReader::Close {
                self.close(CloseReason::SlowReader);
            }
            return Err(SendError::Full(self.name()));
        }
        Ok(())
    }

    fn sent(&self) {
        self.shard().counters().messages_out.add(1);
        self.flush_soon();
        self.output_grew();
    }

    /// Whether the output has reached its high-water mark. Whoever has much to
    /// send waits for [`Conn::writable`] then.
    pub fn is_behind(&self) -> bool {
        self.output_len() >= self.shard().config().connection.output_high_water
    }

    /// Whether its requests are not read until the peer has taken more of the
    /// answers. Answers are always read: two peers that waited for one another
    /// to read would wait for ever.
    pub(crate) fn holds_back(&self) -> bool {
        self.is_accepted() && self.is_behind()
    }

    /// Waits until the output is below its high-water mark, so that a writer
    /// of much goes as fast as the peer reads.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection ends first.
    pub async fn writable(&self) -> Result<(), SendError> {
        let ready = self.shared.waiters.until(|| {
            if !self.is_open() {
                return Poll::Ready(Err(SendError::Closed(self.name())));
            }
            if self.is_behind() {
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        });
        waiting(WaitsFor::plain("slow reader"), ready).await
    }
}

impl Conn {
    /// Waits until the output is below its high-water mark, then sends one
    /// message: a writer of much that goes as fast as its peer reads.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub async fn write(&self, message: &[u8]) -> Result<(), SendError> {
        self.writable().await?;
        self.send(message)
    }
}

/// Takes a message back that was not written to its end.
struct Torn<'a> {
    tail: &'a mut Vec<u8>,
    start: usize,
    whole: bool,
}

impl<'a> Torn<'a> {
    /// Appends what `write` writes, or nothing when it panics.
    fn whole<T>(tail: &'a mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut torn = Torn {
            start: tail.len(),
            tail,
            whole: false,
        };
        let result = write(torn.tail);
        torn.whole = true;
        result
    }
}

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.tail.truncate(self.start);
        }
    }
}
