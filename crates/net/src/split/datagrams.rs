//! A datagram socket on an I/O shard, and its worker's end.
//!
//! Each direction has a bounded queue. Where that to the worker is full the
//! socket is not read, and the kernel drops what it cannot keep, as it does
//! where a socket is on the shard of its handler.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use waystation_mailbox::Doorbell;

use super::lanes::{Outbox, TwoEnded};
use super::pipe::Side;
use crate::io::{Batch, DatagramBounds, Datagrams, DetachedDatagrams, Outgoing};
use crate::limits::CLOSE_FLUSH;
use crate::shard::{Label, Shard, WaitsFor, describe_task, until, waiting};
use crate::udp::queue::Queue;

/// System calls of one socket before others get their turn.
const STEPS_PER_TURN: u32 = 8;

/// From the socket to the worker. A batch may pass the bound.
struct Inbound {
    queue: Queue,
    /// The socket is not read until there is room.
    paused: bool,
}

/// From the worker to the socket.
struct Outbound {
    queue: Queue,
    /// The worker waits for room.
    full: bool,
    /// The socket is gone.
    broken: bool,
    /// The worker's end is gone: so goes the socket, when all has left.
    dropped: bool,
}

struct Pipe {
    bounds: DatagramBounds,
    inbound: Mutex<Inbound>,
    outbound: Mutex<Outbound>,
    io: Doorbell,
    worker: Doorbell,
}

impl Pipe {
    /// Nothing runs under the locks that could leave a queue half changed.
    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TwoEnded for Pipe {
    fn bell(&self, side: Side) -> &Doorbell {
        match side {
            Side::Io => &self.io,
            Side::Worker => &self.worker,
        }
    }
}

/// Both ends of a socket that the calling worker uses.
///
/// # Errors
/// The calling thread is no part of a split server.
pub(super) fn ends(bounds: DatagramBounds) -> io::Result<(WorkerEnd, IoEnd)> {
    let outbox = Outbox::current()
        .ok_or_else(|| io::Error::other("this thread is no part of a split server"))?;
    let pipe = Arc::new(Pipe {
        bounds,
        inbound: Mutex::new(Inbound {
            queue: Queue::new(usize::MAX),
            paused: false,
        }),
        outbound: Mutex::new(Outbound {
            queue: Queue::new(bounds.queue_bytes),
            full: false,
            broken: false,
            dropped: false,
        }),
        io: Doorbell::new(outbox.home()),
        worker: Doorbell::new(outbox.home()),
    });
    let io_end = IoEnd { pipe: pipe.clone() };
    Ok((WorkerEnd { pipe, outbox }, io_end))
}

/// The socket as its worker has it. It makes no system call.
pub(super) struct WorkerEnd {
    pipe: Arc<Pipe>,
    outbox: Rc<Outbox>,
}

impl Datagrams for WorkerEnd {
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let pipe = &self.pipe;
        pipe.bell(Side::Worker).register(cx);
        let mut inbound = pipe.inbound();
        for datagram in inbound.queue.front(pipe.bounds.batch) {
            if let Some(from) = datagram.to {
                batch.push(from.clone(), datagram.bytes);
            }
        }
        if batch.is_empty() {
            return Poll::Pending;
        }
        inbound.queue.pop(batch.len());
        let resumes = inbound.paused && inbound.queue.weight() <= pipe.bounds.queue_bytes / 2;
        if resumes {
            inbound.paused = false;
        }
        drop(inbound);
        if resumes {
            self.outbox.tell(pipe, Side::Io);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &[Outgoing<'_>],
    ) -> Poll<io::Result<usize>> {
        let pipe = &self.pipe;
        pipe.bell(Side::Worker).register(cx);
        let mut outbound = pipe.outbound();
        if outbound.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let fits = queue
            .iter()
            .take_while(|datagram| outbound.queue.push(datagram.to, datagram.bytes));
        let count = fits.count();
        outbound.full = count == 0;
        drop(outbound);
        if count == 0 {
            return Poll::Pending;
        }
        self.outbox.tell(pipe, Side::Io);
        Poll::Ready(Ok(count))
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        self.pipe.bell(Side::Worker).unregister();
        self.pipe.outbound().dropped = true;
        // Not by a lane: its thread may be ending.
        self.pipe.bell(Side::Io).answer();
    }
}

/// The socket's end, on its way to an I/O shard or there.
pub(super) struct IoEnd {
    pipe: Arc<Pipe>,
}

impl Drop for IoEnd {
    fn drop(&mut self) {
        // Also when it never came to a shard: the worker must not wait.
        self.pipe.bell(Side::Io).unregister();
        self.pipe.outbound().broken = true;
        self.pipe.bell(Side::Worker).answer();
    }
}

impl IoEnd {
    /// Moves the socket's datagrams on this I/O shard until the worker's end
    /// is gone.
    pub(super) fn serve(self, shard: &Shard, socket: Box<dyn DetachedDatagrams>) {
        let address = socket.address();
        let (socket, outbox) = match (socket.attach(), Outbox::current()) {
            (Ok(socket), Some(outbox)) => (socket, outbox),
            (Err(error), _) => {
                tracing::error!(%address, %error, "a UDP socket could not join its shard");
                return;
            }
            (_, None) => return,
        };
        self.pipe.bell(Side::Io).settle(outbox.home());
        let bounds = self.pipe.bounds;
        // The drain of an I/O shard waits for it.
        shard.count_handler(1);
        shard.counters().split_pumps.add(1);
        let pump = Pump {
            shard: shard.clone(),
            socket,
            batch: Batch::new(bounds.batch, bounds.datagram_max),
            sending: Queue::new(bounds.queue_bytes),
            outbox,
            end: self,
        };
        shard.spawn(Label::of("udp socket"), pump.run(address.to_string()));
    }
}

struct Pump {
    shard: Shard,
    socket: Box<dyn Datagrams>,
    batch: Batch,
    /// What was taken from the worker and has not left.
    sending: Queue,
    outbox: Rc<Outbox>,
    end: IoEnd,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shard.counters().split_pumps.sub(1);
        self.shard.count_handler(-1);
    }
}

impl Pump {
    async fn run(mut self, address: String) {
        describe_task(address);
        let serving = poll_fn(|cx| self.poll(cx));
        waiting(WaitsFor::plain("its socket or worker"), serving).await;
        let shard = self.shard.clone();
        let flushed = poll_fn(|cx| {
            while !self.is_flushed() {
                if self.poll_send(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        let _ = until(&shard, shard.now() + CLOSE_FLUSH, flushed).await;
    }

    /// Ready when the worker's end is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.end.pipe.bell(Side::Io).register(cx);
        for _ in 0..STEPS_PER_TURN {
            if self.end.pipe.outbound().dropped {
                return Poll::Ready(());
            }
            let sent = self.poll_send(cx);
            let received = self.poll_receive(cx);
            if sent.is_pending() && received.is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.end.pipe.outbound().queue.is_empty()
    }

    /// Ready when something left or was lost.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sending.is_empty() {
            self.take_output();
        }
        if self.sending.is_empty() {
            return Poll::Pending;
        }
        let sent = {
            let front = self.sending.front(self.end.pipe.bounds.batch);
            self.socket.poll_send(cx, &front)
        };
        match sent {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count)) => self.sending.pop(count),
            Poll::Ready(Err(error)) => {
                // It is about the first one, or about one before.
                self.sending.pop(1);
                let counters = self.shard.counters();
                counters.udp_errors.add(1);
                counters.udp_dropped.add(1);
                tracing::debug!(%error, "a datagram was not sent");
            }
        }
        Poll::Ready(())
    }

    fn take_output(&mut self) {
        let mut outbound = self.end.pipe.outbound();
        if outbound.queue.is_empty() {
            return;
        }
        std::mem::swap(&mut outbound.queue, &mut self.sending);
        let waits = std::mem::take(&mut outbound.full);
        drop(outbound);
        if waits {
            self.outbox.tell(&self.end.pipe, Side::Worker);
        }
    }

    /// Ready when something was received, or the socket has a fault.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pause() {
            return Poll::Pending;
        }
        self.batch.clear();
        let counters = self.shard.counters();
        match self.socket.poll_receive(cx, &mut self.batch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                // Such as word that nobody listens where we sent.
                counters.udp_errors.add(1);
                tracing::debug!(%error, "a UDP socket has a fault");
                return Poll::Ready(());
            }
        }
        let mut inbound = self.end.pipe.inbound();
        for (from, datagram) in self.batch.iter() {
            match datagram {
                // Its bound was checked before the batch was received.
                Some(bytes) => drop(inbound.queue.push(Some(from), bytes)),
                None => counters.udp_too_large.add(1),
            }
        }
        drop(inbound);
        self.outbox.tell(&self.end.pipe, Side::Worker);
        Poll::Ready(())
    }

    /// Whether the queue to the worker has no room: the worker says when it
    /// has.
    fn pause(&self) -> bool {
        let bounds = self.end.pipe.bounds;
        let mut inbound = self.end.pipe.inbound();
        if inbound.queue.weight() >= bounds.queue_bytes && !inbound.paused {
            inbound.paused = true;
            self.shard.counters().split_paused.add(1);
        }
        inbound.paused
    }
}
