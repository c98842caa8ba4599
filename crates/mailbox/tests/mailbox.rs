//! What a mailbox promises on one thread, and under load on several.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use waystation_mailbox::{Counters, Receiver, Sender, TrySendError, mailbox};

/// Long enough that reaching it means a hang; no test waits for it.
const HANG: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn poll<T>(
    receiver: &mut Receiver<T>,
    wakes: &Arc<Wakes>,
    into: &mut Vec<T>,
) -> Poll<Option<usize>> {
    let waker = Waker::from(Arc::clone(wakes));
    receiver.poll_recv_batch(&mut Context::from_waker(&waker), into)
}

#[test]
fn a_batch_wakes_once_and_comes_in_one_piece() {
    let (sender, mut receiver) = mailbox(100);
    let wakes = Arc::new(Wakes::default());
    let mut batch = Vec::new();
    for round in 1..4 {
        assert_eq!(poll(&mut receiver, &wakes, &mut batch), Poll::Pending);
        assert_eq!(poll(&mut receiver, &wakes, &mut batch), Poll::Pending);
        for n in 0..100 {
            sender.try_send(n).unwrap();
        }
        assert_eq!(wakes.count(), round);
        assert_eq!(
            poll(&mut receiver, &wakes, &mut batch),
            Poll::Ready(Some(100))
        );
        assert_eq!(batch, (0..100).collect::<Vec<_>>());
        batch.clear();
    }
    // A receiver that does not wait is not woken.
    sender.try_send(1).unwrap();
    assert_eq!(wakes.count(), 3);
}

#[test]
fn only_the_waker_of_the_latest_poll_is_woken() {
    let (sender, mut receiver) = mailbox(1);
    let (earlier, later) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    assert_eq!(poll(&mut receiver, &earlier, &mut vec![]), Poll::Pending);
    assert_eq!(poll(&mut receiver, &later, &mut vec![]), Poll::Pending);
    sender.try_send(()).unwrap();
    assert_eq!((earlier.count(), later.count()), (0, 1));
}

#[test]
fn a_full_mailbox_refuses_and_hands_the_message_back() {
    let (sender, mut receiver) = mailbox(2);
    sender.try_send("a".to_string()).unwrap();
    sender.try_send("b".to_string()).unwrap();
    let refused = sender.try_send("c".to_string()).unwrap_err();
    assert_eq!(refused.to_string(), "the mailbox is full");
    assert_eq!(refused.into_message(), "c");
    assert_eq!(sender.len(), 2);
    let mut batch = vec!["before".to_string()];
    assert_eq!(receiver.try_recv_batch(&mut batch), Some(2));
    assert_eq!(batch, ["before", "a", "b"]);
    sender.try_send("d".to_string()).unwrap();
    assert_eq!(
        receiver.counters(),
        Counters {
            sent: 3,
            refused: 1
        }
    );
}

#[test]
fn what_does_not_fit_of_a_batch_stays_with_its_sender() {
    let (sender, mut receiver) = mailbox(3);
    let mut batch = vec![1, 2];
    assert_eq!(sender.try_send_batch(&mut batch), 2);
    batch.extend([3, 4, 5]);
    assert_eq!(sender.try_send_batch(&mut batch), 1);
    assert_eq!(batch, [4, 5]);
    let counters = sender.counters();
    assert_eq!((counters.sent, counters.refused), (3, 2));
    let mut all = Vec::new();
    assert_eq!(receiver.try_recv_batch(&mut all), Some(3));
    assert_eq!(all, [1, 2, 3]);
    drop(receiver);
    assert_eq!(sender.try_send_batch(&mut batch), 0);
    assert_eq!((batch, sender.is_closed()), (vec![4, 5], true));
}

#[test]
fn the_end_comes_after_the_last_message_and_wakes() {
    let (sender, mut receiver) = mailbox(4);
    let other = sender.clone();
    let wakes = Arc::new(Wakes::default());
    let mut batch = Vec::new();
    assert_eq!(poll(&mut receiver, &wakes, &mut batch), Poll::Pending);
    drop(sender);
    assert_eq!(wakes.count(), 0);
    other.try_send(7).unwrap();
    drop(other);
    assert_eq!(
        poll(&mut receiver, &wakes, &mut batch),
        Poll::Ready(Some(1))
    );
    assert_eq!(poll(&mut receiver, &wakes, &mut batch), Poll::Ready(None));

    let (sender, mut receiver) = mailbox::<u8>(4);
    assert_eq!(poll(&mut receiver, &wakes, &mut vec![]), Poll::Pending);
    let before = wakes.count();
    drop(sender);
    assert_eq!(wakes.count(), before + 1);
    assert_eq!(poll(&mut receiver, &wakes, &mut vec![]), Poll::Ready(None));
}

/// Its destructor uses the mailbox: that must neither deadlock nor be lost.
struct SendsOnDrop {
    sender: Sender<SendsOnDrop>,
    closed_seen: Arc<AtomicUsize>,
    again: bool,
}

impl Drop for SendsOnDrop {
    fn drop(&mut self) {
        if !self.again {
            return;
        }
        let next = Self {
            sender: self.sender.clone(),
            closed_seen: Arc::clone(&self.closed_seen),
            again: false,
        };
        if let Err(TrySendError::Closed(_)) = self.sender.try_send(next) {
            self.closed_seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_dropped_receiver_drops_what_is_queued_outside_the_lock() {
    let (sender, receiver) = mailbox(8);
    let closed_seen = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let message = SendsOnDrop {
            sender: sender.clone(),
            closed_seen: Arc::clone(&closed_seen),
            again: true,
        };
        assert!(sender.try_send(message).is_ok());
    }
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(closed_seen.load(Ordering::Relaxed), 3);
    // Every message, and with it every clone of the counter, is gone.
    assert_eq!(Arc::strong_count(&closed_seen), 1);
}

#[test]
fn blocking_receive_returns_what_is_there_the_end_or_nothing_in_time() {
    let (sender, mut receiver) = mailbox(4);
    let mut batch = Vec::new();
    assert_eq!(
        receiver.recv_batch_timeout(&mut batch, Duration::from_millis(1)),
        Some(0)
    );
    sender.try_send(1).unwrap();
    assert_eq!(receiver.recv_batch_timeout(&mut batch, HANG), Some(1));
    let producer = thread::spawn(move || sender.try_send(2));
    assert_eq!(receiver.recv_batch_timeout(&mut batch, HANG), Some(1));
    producer.join().unwrap().unwrap();
    assert_eq!(receiver.recv_batch_timeout(&mut batch, HANG), None);
    assert_eq!(batch, [1, 2]);
}

/// Four producers with 50,000 messages each through 64 places: each sends again
/// what was refused, so every message arrives once and in its producer's order.
#[test]
fn producers_on_threads_lose_and_reorder_nothing() {
    const PRODUCERS: usize = 4;
    // Miri is a thousand times as slow.
    const EACH: u64 = if cfg!(miri) { 100 } else { 50_000 };
    let (sender, mut receiver) = mailbox(64);
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let sender = sender.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    while let Err(TrySendError::Full(_)) = sender.try_send((producer, n)) {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let mut next = [0; PRODUCERS];
    let mut batch = Vec::new();
    while let Some(count) = receiver.recv_batch_timeout(&mut batch, HANG) {
        assert!(count > 0 && count <= 64, "{count} messages in a batch");
        for (producer, n) in batch.drain(..) {
            assert_eq!(n, next[producer]);
            next[producer] += 1;
        }
    }
    assert_eq!(next, [EACH; PRODUCERS]);
    assert_eq!(receiver.counters().sent, EACH * PRODUCERS as u64);
    for producer in producers {
        producer.join().unwrap();
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send,
    Poll,
    TakeWithoutWaiting,
    CloneSender,
    DropSender,
}

proptest! {
    /// Against a plain queue: contents, order, refusals, counters, the end, and
    /// that a waiting receiver is woken by exactly the first thing that happens.
    #[test]
    fn behaves_as_a_bounded_queue(
        capacity in 1_usize..5,
        steps in prop::collection::vec(
            prop_oneof![
                6 => Just(Step::Send),
                3 => Just(Step::Poll),
                1 => Just(Step::TakeWithoutWaiting),
                1 => Just(Step::CloneSender),
                1 => Just(Step::DropSender),
            ],
            1..60,
        ),
    ) {
        let (sender, mut receiver) = mailbox(capacity);
        let mut senders = vec![sender];
        let mut model = VecDeque::new();
        let mut expected = Counters::default();
        let wakes = Arc::new(Wakes::default());
        let (mut waiting, mut wakes_expected) = (false, 0);
        for (number, step) in steps.into_iter().enumerate() {
            match (step, senders.last()) {
                (Step::Send, Some(sender)) if model.len() < capacity => {
                    prop_assert_eq!(sender.try_send(number), Ok(()));
                    model.push_back(number);
                    expected.sent += 1;
                    wakes_expected += usize::from(std::mem::take(&mut waiting));
                }
                (Step::Send, Some(sender)) => {
                    prop_assert_eq!(sender.try_send(number), Err(TrySendError::Full(number)));
                    expected.refused += 1;
                }
                (Step::CloneSender, Some(sender)) => {
                    let clone = sender.clone();
                    senders.push(clone);
                }
                (Step::DropSender, Some(_)) => {
                    senders.pop();
                    if senders.is_empty() {
                        wakes_expected += usize::from(std::mem::take(&mut waiting));
                    }
                }
                (Step::Poll | Step::TakeWithoutWaiting, _) => {
                    let mut batch = Vec::new();
                    let received = match step {
                        Step::Poll => poll(&mut receiver, &wakes, &mut batch),
                        _ => Poll::Ready(receiver.try_recv_batch(&mut batch)),
                    };
                    let count = model.len();
                    let outcome = match (count, senders.is_empty()) {
                        (0, true) => Poll::Ready(None),
                        (0, false) if matches!(step, Step::Poll) => Poll::Pending,
                        _ => Poll::Ready(Some(count)),
                    };
                    prop_assert_eq!(received, outcome);
                    prop_assert_eq!(batch, model.drain(..).collect::<Vec<_>>());
                    waiting |= outcome.is_pending();
                }
                (_, None) => {}
            }
            prop_assert_eq!(wakes.count(), wakes_expected);
            prop_assert_eq!(receiver.counters(), expected);
            prop_assert_eq!(receiver.len(), model.len());
        }
    }
}
