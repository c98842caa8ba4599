//! What a connection holds, what its output tells, and when it is not read.

use std::cell::Cell;
use std::rc::Rc;

use super::Conn;
use crate::limits::READ_CHUNK_BYTES;
use crate::shard::Held;

/// What the output of a connection has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputLevel {
    /// It has reached its high-water mark: whoever writes should wait.
    High,
    /// It was at its high-water mark and has drained: writers may go on.
    Drained,
}

/// An answer that waits for room. See [`Conn::hold_answer`].
pub struct HeldAnswer {
    conn: Conn,
    bytes: usize,
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        let left = self.conn.waiting_bytes().saturating_sub(self.bytes);
        self.conn.hold_waiting(left);
    }
}

type OnOutput = Box<dyn Fn(&Conn, OutputLevel)>;

struct Hook(OnOutput);

impl Conn {
    /// Calls `hook` each time that the output reaches its high-water mark and
    /// each time that it has drained after that, in turn; replaces the hook
    /// before. It is called within the send or the write that did it, may send
    /// itself, and goes with the connection; after the connection's end it is
    /// not called.
    ///
    /// Writers that await [`Conn::write`] or [`Conn::writable`], and the
    /// connection's own handlers, are suspended meanwhile without it.
    pub fn on_output(&self, hook: impl Fn(&Self, OutputLevel) + 'static) {
        self.set_property(Rc::new(Hook(Box::new(hook))));
    }

    fn tell(&self, level: OutputLevel) {
        if let Some(hook) = self.property::<Hook>() {
            (hook.0)(self, level);
        }
    }

    /// Something was put into the output.
    pub(super) fn output_grew(&self) {
        // The driver writes before it waits, and tells what is left then.
        if !self.shared.driver_runs.get() || self.output_len() > READ_CHUNK_BYTES {
            self.hold_queued();
        }
        if !self.shared.output_high.get() && self.is_behind() {
            self.shared.output_high.set(true);
            self.shard().counters().output_high.add(1);
            self.tell(OutputLevel::High);
        }
    }

    /// Something left the output.
    pub(super) fn output_shrank(&self) {
        self.hold_queued();
        if !self.shared.output_high.get() {
            return;
        }
        let limits = &self.shard().config().connection;
        let low = limits.output_low_water.min(limits.output_high_water / 2);
        if self.output_len() <= low {
            self.shared.output_high.set(false);
            self.tell(OutputLevel::Drained);
        }
    }

    /// Stops reading from the peer, for as long as nobody waits for more of
    /// what it sends: a message that has begun is read to its end, whoever
    /// awaits an answer on this very connection gets it, and so does a
    /// protocol that calls [`Transport::fill`](super::Transport::fill). The
    /// idle limit and an upstream's signs of life do not count meanwhile. The
    /// end of the peer is seen only when reading goes on. While a connection
    /// speaks HTTP it is read in any case.
    pub fn pause_reading(&self) {
        self.shared.reading_paused.set(true);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        if self.shared.reading_paused.replace(false) {
            // Its silence counts from here on: before, we did not listen.
            self.set_received(self.shard().now());
            self.wake_driver();
        }
    }

    /// Whether [`Conn::pause_reading`] was called last.
    pub fn is_reading_paused(&self) -> bool {
        self.shared.reading_paused.get()
    }

    /// Bytes that it holds: received and not handled, to be written, and of
    /// answers that wait for room in the output.
    pub fn held_bytes(&self) -> usize {
        self.shared.held.iter().map(Cell::get).sum()
    }

    /// Bytes of answers that wait for room in the output.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.held[2].get()
    }

    /// Counts an answer of so many bytes, which waits for room in the output,
    /// among what the connection and its shard hold, until the guard is
    /// dropped.
    pub fn hold_answer(&self, bytes: usize) -> HeldAnswer {
        self.hold_waiting(self.waiting_bytes().saturating_add(bytes));
        HeldAnswer {
            conn: self.clone(),
            bytes,
        }
    }

    fn hold_waiting(&self, bytes: usize) {
        let before = self.shared.held[2].replace(bytes);
        self.shard().held_changes(Held::Queued, before, bytes);
    }

    /// It holds so many bytes of what it received.
    pub(crate) fn hold_received(&self, bytes: usize) {
        let before = self.shared.held[0].replace(bytes);
        self.shard().held_changes(Held::Received, before, bytes);
    }

    pub(super) fn hold_queued(&self) {
        let bytes = self.output_len();
        let before = self.shared.held[1].replace(bytes);
        self.shard().held_changes(Held::Queued, before, bytes);
    }
}
