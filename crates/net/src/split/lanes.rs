//! Which pipes became ready, from each thread to each other, in batches.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use waystation_mailbox::{Doorbell, Receiver, Sender, mailbox};

use super::pipe::Side;
use crate::shard::Shard;

/// What has an end on two threads.
pub(super) trait TwoEnded: Send + Sync + 'static {
    /// Tells an end that it has something to do.
    fn bell(&self, side: Side) -> &Doorbell;
}

/// One end of it has something to do.
pub(super) struct Ready {
    pub(super) pipe: Arc<dyn TwoEnded>,
    pub(super) side: Side,
}

impl Ready {
    /// Wakes that end. It finds out itself what there is to do.
    fn deliver(self) {
        self.pipe.bell(self.side).answer();
    }
}

/// One thread's place among the lanes, before the thread runs.
pub(crate) struct LaneEnd {
    home: u16,
    lanes: Arc<[Sender<Ready>]>,
    receiver: Receiver<Ready>,
}

/// A lane to each of `threads` threads. Each pipe is in a lane at most once
/// for each of its ends, so that `pipes_max` bounds them.
pub(crate) fn lanes(threads: u16, pipes_max: usize) -> Vec<LaneEnd> {
    let capacity = pipes_max.saturating_mul(2).max(1);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mailbox(capacity)).unzip();
    let lanes: Arc<[Sender<Ready>]> = senders.into();
    let ends = receivers.into_iter().zip(0..);
    ends.map(|(receiver, home)| LaneEnd {
        home,
        lanes: lanes.clone(),
        receiver,
    })
    .collect()
}

impl LaneEnd {
    /// Makes the calling thread this end: it sends by its [`Outbox`] from here
    /// on, and delivers what comes.
    pub(crate) fn enter(self, shard: &Shard) {
        let Self {
            home,
            lanes,
            mut receiver,
        } = self;
        let outbox = Rc::new(Outbox {
            home,
            pending: RefCell::new(lanes.iter().map(|_| Vec::new()).collect()),
            lanes,
            filled: Cell::new(false),
            flusher: RefCell::new(None),
        });
        shard.set_extension(outbox.clone());
        tokio::task::spawn_local(async move { outbox.flush_for_ever().await });
        tokio::task::spawn_local(async move {
            let mut batch = Vec::new();
            while receiver.recv_batch(&mut batch).await.is_some() {
                batch.drain(..).for_each(Ready::deliver);
            }
        });
    }
}

/// What a thread has to tell the others at the end of this turn of its event
/// loop.
pub(super) struct Outbox {
    home: u16,
    lanes: Arc<[Sender<Ready>]>,
    pending: RefCell<Vec<Vec<Ready>>>,
    filled: Cell<bool>,
    flusher: RefCell<Option<Waker>>,
}

impl Outbox {
    /// The calling thread's, if it is part of a split server.
    pub(super) fn current() -> Option<Rc<Self>> {
        Shard::current()?.extension()
    }

    /// Which thread this is.
    pub(super) fn home(&self) -> u16 {
        self.home
    }

    /// Tells the other end of a pipe that it has something to do, unless it is
    /// being told already.
    ///
    /// Cost: one atomic, and a push when it is the first word.
    pub(super) fn tell(&self, pipe: &Arc<impl TwoEnded>, side: Side) {
        let Some(home) = pipe.bell(side).ring() else {
            return;
        };
        let pipe: Arc<dyn TwoEnded> = pipe.clone();
        if let Some(lane) = self.pending.borrow_mut().get_mut(usize::from(home)) {
            lane.push(Ready { pipe, side });
        }
        if !self.filled.replace(true)
            && let Some(flusher) = &*self.flusher.borrow()
        {
            // It runs behind the tasks that are ready now.
            flusher.wake_by_ref();
        }
    }

    async fn flush_for_ever(&self) {
        poll_fn(|cx| {
            self.flusher.replace(Some(cx.waker().clone()));
            if self.filled.replace(false) {
                self.flush();
            }
            Poll::<()>::Pending
        })
        .await;
    }

    fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        for (lane, batch) in self.lanes.iter().zip(&mut *pending) {
            if !batch.is_empty() {
                lane.try_send_batch(batch);
                // A lane has room for all connections, and fills where there
                // are as many datagram sockets beside them; a thread that has
                // ended has dropped its ends. Waking from here is dearer, and
                // loses nothing.
                batch.drain(..).for_each(Ready::deliver);
            }
        }
    }
}
