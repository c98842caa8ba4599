//! What a protocol does with received bytes.

use futures_util::future::LocalBoxFuture;
use waystation_base::Moment;

use super::{CloseReason, Conn, Input};

/// What a session wants next.
pub enum Turn {
    /// More bytes.
    NeedMore,
    /// Nothing further of this connection is handled until the future ends:
    /// this is the ordering rule.
    Suspended(LocalBoxFuture<'static, ()>),
    /// There is more to do here, but others come first.
    Yield,
}

/// A protocol's state for one connection.
///
/// [`Transport::run`](super::Transport::run) calls `handle_input` whenever
/// bytes have arrived, and again after each future that it returned.
pub trait Session {
    /// Handles whole messages at the front of `input` and consumes them.
    /// Answers go to `conn`.
    ///
    /// # Errors
    /// The reason to close the connection.
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason>;

    /// Called while a handler runs, with all that was received behind it and
    /// has not been consumed. For what must not wait for the handler, such as
    /// heartbeats, cancellations, and answers that it may be waiting for.
    /// `handle_input` sees the same bytes later.
    fn look_ahead(&mut self, conn: &Conn, received: &[u8]) {
        let _ = (conn, received);
    }

    /// The process goes away: tells the peer, once. The connection closes
    /// when its handlers have ended.
    fn handle_drain(&mut self, conn: &Conn) {
        let _ = conn;
    }

    /// The connection ends for this reason, which no message can follow: says
    /// so to the peer where its protocol has a word for it.
    fn handle_end(&mut self, conn: &Conn, reason: CloseReason) {
        let _ = (conn, reason);
    }

    /// Whether someone waits for more of what this peer sends, though it be
    /// paused or its handler busy, such as for the answer to a call on it.
    /// It overrides the bound on input that waits and a pause of reading:
    /// otherwise both would wait for ever.
    fn has_reader(&self) -> bool {
        false
    }

    /// Bytes that are held outside `input`, such as of messages in part.
    fn held_len(&self) -> usize {
        0
    }

    /// When the oldest message began that comes in several frames and is not
    /// complete. Other frames between its own do not give it more time.
    fn unfinished_since(&self) -> Option<Moment> {
        None
    }

    /// Whether a message has begun and is incomplete outside `input`.
    fn is_mid_message(&self) -> bool {
        false
    }

    /// Whether it sees itself to how long a message takes that has begun:
    /// [`frame_wait`](crate::ConnectionLimits::frame_wait) does not hold then.
    fn times_messages(&self) -> bool {
        false
    }
}

impl<S: Session + ?Sized> Session for Box<S> {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        (**self).handle_input(conn, input)
    }

    fn look_ahead(&mut self, conn: &Conn, received: &[u8]) {
        (**self).look_ahead(conn, received);
    }

    fn handle_drain(&mut self, conn: &Conn) {
        (**self).handle_drain(conn);
    }

    fn handle_end(&mut self, conn: &Conn, reason: CloseReason) {
        (**self).handle_end(conn, reason);
    }

    fn has_reader(&self) -> bool {
        (**self).has_reader()
    }

    fn held_len(&self) -> usize {
        (**self).held_len()
    }

    fn unfinished_since(&self) -> Option<Moment> {
        (**self).unfinished_since()
    }

    fn is_mid_message(&self) -> bool {
        (**self).is_mid_message()
    }

    fn times_messages(&self) -> bool {
        (**self).times_messages()
    }
}
