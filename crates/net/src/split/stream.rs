//! The worker's end of a pipe, as a stream.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lanes::{Outbox, TwoEnded as _};
use super::pipe::{End, Pipe, Side};
use crate::io::{Address, DetachedStream, Stream};

/// The worker's end on its way to a worker. Dropping it closes the socket.
pub(super) struct DetachedSplit {
    pipe: Option<Arc<Pipe>>,
    heartbeats: bool,
}

impl DetachedSplit {
    pub(super) fn new(pipe: Arc<Pipe>, heartbeats: bool) -> Self {
        Self {
            pipe: Some(pipe),
            heartbeats,
        }
    }
}

impl Drop for DetachedSplit {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.outbound().dropped = true;
            // It may be dropped on any thread, so not by a lane.
            pipe.bell(Side::Io).answer();
        }
    }
}

impl DetachedStream for DetachedSplit {
    fn attach(mut self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        let outbox = Outbox::current()
            .ok_or_else(|| io::Error::other("this thread is no part of a split server"))?;
        let Some(pipe) = self.pipe.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        pipe.bell(Side::Worker).settle(outbox.home());
        Ok(Box::new(SplitStream {
            pipe: Some(pipe),
            outbox,
            heartbeats: self.heartbeats,
        }))
    }
}

/// A connection's stream on a worker. Its reads and writes move bytes from and
/// to the pipe's queues and make no system call.
pub(super) struct SplitStream {
    /// None once it was detached.
    pipe: Option<Arc<Pipe>>,
    outbox: Rc<Outbox>,
    heartbeats: bool,
}

impl SplitStream {
    fn pipe(&self) -> io::Result<&Arc<Pipe>> {
        self.pipe
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Takes up to `room` bytes. Ready with the end, too.
    fn take(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let pipe = self.pipe()?;
        pipe.bell(Side::Worker).register(cx);
        let mut inbound = pipe.inbound();
        let count = inbound.len().min(buffer.remaining());
        if count == 0 {
            return match inbound.end {
                _ if buffer.remaining() == 0 => Poll::Ready(Ok(())),
                Some(End::Peer) => Poll::Ready(Ok(())),
                Some(End::Broken(kind)) => Poll::Ready(Err(kind.into())),
                None => Poll::Pending,
            };
        }
        let start = inbound.start;
        buffer.put_slice(&inbound.bytes[start..start + count]);
        inbound.start += count;
        inbound.taken += count as u64;
        let resumes = inbound.paused && inbound.len() <= pipe.window / 2;
        if resumes {
            inbound.paused = false;
        }
        let emptied = (inbound.len() == 0).then(|| {
            inbound.start = 0;
            std::mem::take(&mut inbound.bytes)
        });
        drop(inbound);
        if resumes {
            self.outbox.tell(pipe, Side::Io);
        }
        // Freed outside the lock; a quiet connection holds no buffer.
        drop(emptied);
        Poll::Ready(Ok(()))
    }

    fn put(&self, cx: &Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let pipe = self.pipe()?;
        pipe.bell(Side::Worker).register(cx);
        let mut outbound = pipe.outbound();
        if outbound.broken || outbound.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut room = pipe.window.saturating_sub(outbound.bytes.len());
        if room == 0 {
            outbound.full = true;
            return Poll::Pending;
        }
        outbound.whole = false;
        let mut count = 0;
        for part in parts {
            let step = part.len().min(room);
            outbound.bytes.extend_from_slice(&part[..step]);
            count += step;
            room -= step;
        }
        drop(outbound);
        self.outbox.tell(pipe, Side::Io);
        Poll::Ready(Ok(count))
    }
}

impl Drop for SplitStream {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.bell(Side::Worker).unregister();
            pipe.outbound().dropped = true;
            self.outbox.tell(&pipe, Side::Io);
        }
    }
}

impl Stream for SplitStream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pipe = self.pipe()?;
        pipe.bell(Side::Worker).register(cx);
        let inbound = pipe.inbound();
        if inbound.len() > 0 || inbound.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn peer(&self) -> Address {
        self.pipe
            .as_ref()
            .map_or_else(|| Address::Memory(String::new()), |pipe| pipe.peer.clone())
    }

    fn detach(mut self: Box<Self>) -> io::Result<Box<dyn DetachedStream>> {
        let pipe = self.pipe.take().ok_or(io::ErrorKind::NotConnected)?;
        pipe.bell(Side::Worker).unregister();
        Ok(Box::new(DetachedSplit::new(pipe, self.heartbeats)))
    }

    fn mark_whole(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut outbound = pipe.outbound();
        outbound.whole = true;
        let wanted = std::mem::take(&mut outbound.whole_wanted);
        drop(outbound);
        if wanted {
            self.outbox.tell(pipe, Side::Io);
        }
    }

    fn answers_heartbeats(&self) -> bool {
        self.heartbeats
    }

    fn begin_websocket(&mut self) {
        if let Some(pipe) = &self.pipe {
            let mut inbound = pipe.inbound();
            inbound.websocket_from = Some(inbound.taken);
        }
    }

    fn answers_websocket_pings(&self) -> bool {
        self.pipe
            .as_ref()
            .is_some_and(|pipe| pipe.inbound().websocket_answered)
    }
}

impl AsyncRead for SplitStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.take(cx, buffer)
    }
}

impl AsyncWrite for SplitStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.put(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.put(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is on its way; the socket's own buffer is no nearer to
    /// the peer.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ready when everything has been written and the peer was told that it
    /// was all.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pipe = self.pipe()?;
        pipe.bell(Side::Worker).register(cx);
        let mut outbound = pipe.outbound();
        if outbound.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if outbound.shut_done {
            return Poll::Ready(Ok(()));
        }
        if !outbound.shut {
            outbound.shut = true;
            drop(outbound);
            self.outbox.tell(pipe, Side::Io);
        }
        Poll::Pending
    }
}
