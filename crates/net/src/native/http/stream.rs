//! A connection's stream and timers as hyper wants them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{ReadBufCursor, Sleep, Timer};
use tokio::io::ReadBuf;

use super::limit::State;
use crate::conn::Conn;
use crate::io::Stream;

/// A stream as hyper wants it, with the bytes that were read before.
pub(super) struct HttpStream {
    pub(super) stream: Box<dyn Stream>,
    pub(super) head: Vec<u8>,
    pub(super) start: usize,
    pub(super) conn: Conn,
    pub(super) state: Rc<State>,
}

impl hyper::rt::Read for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start < this.head.len() {
            let rest = &this.head[this.start..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            this.start += count;
            return Poll::Ready(Ok(()));
        }
        if this.head.capacity() > 0 {
            let head = std::mem::take(&mut this.head);
            this.conn.shard().buffers().give(head);
        }
        this.start = 0;
        let mut bytes = [0_u8; 4096];
        let room = buffer.remaining().min(bytes.len());
        let mut read = ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut *this.stream).poll_read(cx, &mut read))?;
        let filled = read.filled();
        if !filled.is_empty() {
            let shard = this.conn.shard();
            let counters = shard.counters();
            counters.reads.add(1);
            counters.bytes_in.add(filled.len() as u64);
            this.conn.set_received(shard.now());
            this.state.progress.set(shard.now());
        }
        buffer.put_slice(filled);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.unsent.set(true);
        if self.state.upgraded.get() {
            // Before the peer can know.
            self.stream.begin_websocket();
        }
        let count = std::task::ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes))?;
        self.state.silent.set(false);
        let shard = self.conn.shard();
        let counters = shard.counters();
        counters.writes.add(1);
        counters.bytes_out.add(count as u64);
        self.state.progress.set(shard.now());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
        self.state.unsent.set(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// hyper's timer on this event loop. Its futures must be `Send`, so they use
/// the loop's own timer and not the shard's wheel.
#[derive(Clone, Debug)]
pub(super) struct LoopTimer;

struct LoopSleep(Pin<Box<tokio::time::Sleep>>);

impl Future for LoopSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for LoopSleep {}

impl Timer for LoopTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(LoopSleep(Box::pin(tokio::time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let deadline = tokio::time::Instant::from_std(deadline);
        Box::pin(LoopSleep(Box::pin(tokio::time::sleep_until(deadline))))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
