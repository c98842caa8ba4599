//! How a connection ends: what is left is written, the peer hears of the end,
//! then the socket goes. The slot stays until its last owner lets go.

use std::pin::Pin;
use std::task::{Context, Poll};

use waystation_base::Moment;

use super::{CloseReason, Transport};
use crate::limits::CLOSE_FLUSH;

/// Reads that an ending connection throws away before others get their turn.
const READS_PER_TURN: u32 = 16;

/// An end that is under way.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    pub(super) reason: CloseReason,
    /// The socket goes then at the latest.
    deadline: Moment,
    /// The peer was told that nothing more comes.
    shut: bool,
}

impl CloseReason {
    /// Nothing can be written any more, or nobody reads it.
    fn is_abrupt(self) -> bool {
        matches!(
            self,
            Self::Reset | Self::SlowReader | Self::Keepalive | Self::Memory
        )
    }

    /// The peer may be sending. Closing a TCP socket with bytes unread resets
    /// it, and a reset overtakes the last words on it: the peer would never
    /// learn why it was refused.
    fn lingers(self) -> bool {
        matches!(
            self,
            Self::Local
                | Self::Protocol(_)
                | Self::UnknownProtocol
                | Self::Refused
                | Self::Http
                | Self::WebSocket
        )
    }
}

impl Transport {
    /// Begins the end; the first reason counts.
    pub(super) fn begin_ending(&mut self, reason: CloseReason) {
        self.conn.close(reason);
        self.input.take_off(usize::MAX);
        if self.ending().is_some() {
            return;
        }
        let now = self.shard().now();
        let deadline = if reason.is_abrupt() {
            now
        } else {
            now + CLOSE_FLUSH
        };
        self.set_ending(Ending {
            reason,
            deadline,
            shut: false,
        });
    }

    /// Ready when all but the slot is free.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_there = self.conn.shared.stream.borrow().is_some();
        let (Some(ending), true) = (self.ending(), is_there) else {
            return Poll::Ready(());
        };
        let now = self.shard().now();
        if now < ending.deadline
            && self.poll_last_words(cx, ending).is_pending()
            && self.poll_timer(cx, ending.deadline).is_pending()
        {
            return Poll::Pending;
        }
        let stream = self.conn.shared.stream.take();
        drop(stream);
        self.input.take_off(usize::MAX);
        self.input.rest(self.conn.shard());
        self.conn.hold_received(0);
        self.conn.finish(ending.reason);
        Poll::Ready(())
    }

    /// Writes what is left, says that it was all, and reads what the peer
    /// still sends until it has heard.
    fn poll_last_words(&mut self, cx: &mut Context<'_>, ending: Ending) -> Poll<()> {
        if self.poll_write(cx).is_err() {
            return Poll::Ready(());
        }
        if self.conn.output_len() > 0 {
            return Poll::Pending;
        }
        if !ending.shut {
            let mut stream = self.conn.shared.stream.borrow_mut();
            let Some(there) = &mut *stream else {
                return Poll::Ready(());
            };
            let shut = Pin::new(&mut **there).poll_shutdown(cx);
            drop(stream);
            match shut {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    let shut = true;
                    self.set_ending(Ending { shut, ..ending });
                }
            }
        }
        if !ending.reason.lingers() {
            return Poll::Ready(());
        }
        for _ in 0..READS_PER_TURN {
            if self.ended {
                return Poll::Ready(());
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => self.input.take_off(usize::MAX),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends the connection: writes what is left, ends the stream, and frees
    /// all but the slot.
    pub(crate) async fn close(mut self, reason: CloseReason) {
        self.begin_ending(reason);
        std::future::poll_fn(|cx| {
            self.register(cx);
            self.poll_ending(cx)
        })
        .await;
    }
}
