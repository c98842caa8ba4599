//! Output that other tasks put on a connection: the shard writes it when every
//! task that is ready now has had its turn. So all of it leaves in one write,
//! and the connection's own task is not woken for it, which costs more than all
//! else that a small message costs here.
//!
//! A connection whose peer takes no more, or that is about to end, is its own
//! task's matter.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use waystation_base::ConnName;

use super::{CloseReason, Conn};
use crate::limits::FLUSHES_PER_TURN;
use crate::shard::{Label, Shard, ShardTurn};

/// Connections whose output the shard is to write.
#[derive(Default)]
pub(crate) struct Flushes {
    /// Each stands here at most once.
    list: RefCell<VecDeque<ConnName>>,
    task: RefCell<Option<Waker>>,
    /// The task is in the queue of the event loop, or runs.
    awake: Cell<bool>,
}

impl Flushes {
    fn add(&self, conn: &Conn) {
        self.list.borrow_mut().push_back(conn.name());
        if !self.awake.replace(true)
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }

    /// Writes what there is to write, for ever.
    pub(crate) async fn drive(shard: Shard) {
        let label = Label::of("flush");
        poll_fn(|cx| {
            let flushes = shard.flushes();
            // It is the same one each time.
            let mut task = flushes.task.borrow_mut();
            task.get_or_insert_with(|| cx.waker().clone());
            drop(task);
            let _turn = ShardTurn::begin(&shard, label, None);
            flush(&shard);
            if flushes.list.borrow().is_empty() {
                flushes.awake.set(false);
            } else {
                // The others' turn.
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })
        .await;
    }
}

fn flush(shard: &Shard) {
    for _ in 0..FLUSHES_PER_TURN {
        let next = shard.flushes().list.borrow_mut().pop_front();
        let Some(name) = next else {
            return;
        };
        // One that has ended has nothing to say.
        let Ok(conn) = shard.connection(name) else {
            continue;
        };
        if catch_unwind(AssertUnwindSafe(|| conn.flush())).is_err() {
            // Streams may be the caller's own.
            shard.counters().panics.add(1);
            tracing::error!(conn = %conn.name(), "a stream panicked");
            conn.close(CloseReason::HandlerPanic);
        }
    }
}

/// How far the output got.
pub(super) struct Written {
    /// Some of it left.
    pub(super) some: bool,
    /// Ready when all of it did.
    pub(super) all: Poll<Result<(), CloseReason>>,
}

impl Conn {
    /// Something was put into the output, which is to leave in this turn.
    pub(super) fn flush_soon(&self) {
        if self.shared.driver_runs.get() {
            return;
        }
        if !self.may_flush() {
            self.wake_driver();
        } else if !self.shared.flushes.replace(true) {
            self.shard().flushes().add(self);
        }
    }

    /// Whether nothing but the write itself waits for the output.
    fn may_flush(&self) -> bool {
        let shared = &self.shared;
        let ends = shared.closing.get().is_some() || shared.draining.get();
        !ends && !shared.output_high.get() && shared.stream.borrow().is_some()
    }

    /// Writes the output, or lets the connection's task see to it.
    fn flush(&self) {
        self.shared.flushes.set(false);
        let written = self.may_flush().then(|| {
            // Where there is none it has not begun, and writes when it does.
            let driver = self.shared.driver.borrow();
            let waker = driver.as_ref().unwrap_or(Waker::noop());
            self.write_output(&mut Context::from_waker(waker))
        });
        let is_done = matches!(
            written.map(|written| written.all),
            Some(Poll::Ready(Ok(())))
        );
        // What was sent may be a question, whose answer is read in spite of a
        // pause.
        if !is_done || self.is_reading_paused() {
            self.wake_driver();
        }
    }

    /// Writes until everything has left or the peer takes no more.
    pub(super) fn write_output(&self, cx: &mut Context<'_>) -> Written {
        let shard = self.shard();
        let mut some = false;
        let all = loop {
            let mut output = self.shared.output.borrow_mut();
            let mut stream = self.shared.stream.borrow_mut();
            if output.len() == 0 {
                output.rest(shard);
                if let Some(stream) = stream.as_mut().filter(|_| some) {
                    stream.mark_whole();
                }
                break Poll::Ready(Ok(()));
            }
            let Some(stream) = &mut *stream else {
                break Poll::Ready(Err(CloseReason::Reset));
            };
            match output.poll_write(&mut **stream, cx) {
                Poll::Ready(Ok(count)) => {
                    some = true;
                    let counters = shard.counters();
                    counters.writes.add(1);
                    counters.bytes_out.add(count as u64);
                }
                Poll::Ready(Err(_)) => break Poll::Ready(Err(CloseReason::Reset)),
                Poll::Pending => break Poll::Pending,
            }
            drop(output);
            self.output_shrank();
            if !self.is_behind() {
                self.wake_waiters();
            }
        };
        Written { some, all }
    }
}
