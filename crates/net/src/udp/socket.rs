//! A datagram socket of a shard, and the task that moves its datagrams.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waystation_base::line_passes;

use super::queue::Queue;
use super::{UdpConfig, UdpError, UdpHandler};
use crate::io::{Address, Batch, DatagramBounds, Datagrams, DetachedDatagrams};
use crate::limits::{CLOSE_FLUSH, UDP_PAYLOAD_MAX};
use crate::shard::{Label, Shard, WaitsFor, describe_task, until, waiting};

/// Batches received before other tasks get their turn.
const BATCHES_PER_TURN: u32 = 8;

/// When a socket closes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// With the drain of its server.
    WithDrain,
    /// With its shard: handlers that end in a drain still call.
    WithShard,
}

struct Shared {
    shard: Shard,
    address: Address,
    queue: RefCell<Queue>,
    closed: Cell<bool>,
    /// The socket's own task runs: it sends before it waits.
    task_runs: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// A datagram socket on this shard. Clones share it.
#[derive(Clone)]
pub struct Udp {
    shared: Rc<Shared>,
}

impl Udp {
    pub(super) fn start(
        shard: &Shard,
        socket: Box<dyn DetachedDatagrams>,
        config: &UdpConfig,
        handler: impl UdpHandler,
        ends: Ends,
    ) -> io::Result<Self> {
        let address = socket.address();
        let bounds = DatagramBounds {
            datagram_max: config.datagram_max,
            batch: config.batch.clamp(1, 64),
            queue_bytes: config.queue_bytes,
        };
        let udp = Self {
            shared: Rc::new(Shared {
                shard: shard.clone(),
                address,
                queue: RefCell::new(Queue::new(config.queue_bytes)),
                closed: Cell::new(false),
                task_runs: Cell::new(false),
                task: RefCell::default(),
            }),
        };
        let task = Task {
            udp: udp.clone(),
            socket: shard.io().attach_datagrams(socket, bounds)?,
            batch: Batch::new(bounds.batch, bounds.datagram_max),
            batch_max: bounds.batch,
            handler,
        };
        shard.spawn(Label::of("udp"), run(task, ends));
        Ok(udp)
    }

    /// The shard that owns it.
    pub fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// Where it receives.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Sends one datagram. It leaves with all others of this turn.
    ///
    /// # Errors
    /// [`UdpError`]; the datagram is dropped then, and counted.
    pub fn send(&self, to: &Address, datagram: &[u8]) -> Result<(), UdpError> {
        self.queue(Some(to), datagram)
    }

    pub(super) fn queue(&self, to: Option<&Address>, datagram: &[u8]) -> Result<(), UdpError> {
        let shared = &*self.shared;
        if shared.closed.get() {
            return Err(UdpError::Closed);
        }
        if datagram.len() > UDP_PAYLOAD_MAX {
            shared.shard.counters().udp_dropped.add(1);
            return Err(UdpError::TooLarge(datagram.len()));
        }
        let mut queue = shared.queue.borrow_mut();
        if !queue.push(to, datagram) {
            shared.shard.counters().udp_dropped.add(1);
            return Err(UdpError::Full(queue.weight()));
        }
        drop(queue);
        self.wake();
        Ok(())
    }

    /// Closes it. What waits to be sent still leaves, where it can at once.
    pub fn close(&self) {
        self.shared.closed.set(true);
        self.wake();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    fn wake(&self) {
        if self.shared.task_runs.get() {
            return;
        }
        if let Some(task) = &*self.shared.task.borrow() {
            task.wake_by_ref();
        }
    }
}

/// Closes the socket's handle when its task ends in whatever way.
struct Task<H> {
    udp: Udp,
    socket: Box<dyn Datagrams>,
    batch: Batch,
    batch_max: usize,
    handler: H,
}

impl<H> Drop for Task<H> {
    fn drop(&mut self) {
        self.udp.shared.closed.set(true);
    }
}

async fn run<H: UdpHandler>(mut task: Task<H>, ends: Ends) {
    let shard = task.udp.shard().clone();
    describe_task(task.udp.address().to_string());
    let serving = waiting(WaitsFor::plain("datagrams"), task.serve());
    match ends {
        Ends::WithShard => serving.await,
        Ends::WithDrain => tokio::select! {
            biased;
            () = shard.drain_begun() => {}
            () = serving => {}
        },
    }
    // Answers that were given still leave.
    let flushed = poll_fn(|cx| task.poll_flush(cx));
    let _ = until(&shard, shard.now() + CLOSE_FLUSH, flushed).await;
}

impl<H: UdpHandler> Task<H> {
    /// Receives and sends until the socket is closed.
    async fn serve(&mut self) {
        poll_fn(|cx| {
            self.register(cx);
            self.udp.shared.task_runs.set(true);
            let poll = self.poll_turn(cx);
            self.udp.shared.task_runs.set(false);
            poll
        })
        .await;
    }

    fn register(&self, cx: &Context<'_>) {
        let mut task = self.udp.shared.task.borrow_mut();
        if !task
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            let old = task.replace(cx.waker().clone());
            drop(task);
            drop(old);
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..BATCHES_PER_TURN {
            if self.udp.is_closed() {
                return Poll::Ready(());
            }
            // Nothing is received that could not be answered; the kernel
            // drops what it cannot keep.
            if self.poll_flush(cx).is_pending() || self.poll_batch(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let _ = self.poll_flush(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives one batch and handles it.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shard = self.udp.shard();
        let counters = shard.counters();
        self.batch.clear();
        match self.socket.poll_receive(cx, &mut self.batch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => counters.udp_reads.add(1),
            Poll::Ready(Err(error)) => {
                // Such as word that nobody listens where we sent.
                counters.udp_errors.add(1);
                tracing::debug!(address = %self.udp.address(), %error, "a UDP socket has a fault");
                return Poll::Ready(());
            }
        }
        counters.udp_in.add(self.batch.len() as u64);
        for (from, datagram) in self.batch.iter() {
            let Some(datagram) = datagram else {
                counters.udp_too_large.add(1);
                continue;
            };
            let handling = AssertUnwindSafe(|| self.handler.handle(&self.udp, from, datagram));
            if catch_unwind(handling).is_err() {
                counters.panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(%from, unsaid, "a handler of datagrams panicked");
                }
            }
        }
        Poll::Ready(())
    }

    /// Sends what waits. Ready when nothing does.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let counters = self.udp.shard().counters();
        loop {
            let mut queue = self.udp.shared.queue.borrow_mut();
            if queue.is_empty() {
                return Poll::Ready(());
            }
            let sent = {
                let front = queue.front(self.batch_max);
                self.socket.poll_send(cx, &front)
            };
            match sent {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => {
                    queue.pop(count);
                    counters.udp_writes.add(1);
                    counters.udp_out.add(count as u64);
                }
                Poll::Ready(Err(error)) => {
                    // It is about the first one, or about one before.
                    queue.pop(1);
                    counters.udp_errors.add(1);
                    counters.udp_dropped.add(1);
                    tracing::debug!(address = %self.udp.address(), %error, "a datagram was not sent");
                }
            }
        }
    }
}
