//! The interleavings of small cases. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p waystation-mailbox --test loom --release`.
#![cfg(loom)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use waystation_mailbox::{Doorbell, Receiver, TrySendError, mailbox};

/// Runs a model of three threads under every interleaving with at most three
/// preemptions: a second, where the unbounded search takes minutes (and was made
/// once; it found nothing either). Models of two threads are searched in full.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Lets the model's thread sleep until it is woken. A wake-up that is lost
/// leaves every thread asleep, which loom reports as a deadlock.
struct Parker(Notify);

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Receives one batch, asleep until woken; `None` at the end.
fn receive<T>(receiver: &mut Receiver<T>, into: &mut Vec<T>) -> Option<usize> {
    let parker = Arc::new(Parker(Notify::new()));
    let waker = Waker::from(Arc::clone(&parker));
    loop {
        match receiver.poll_recv_batch(&mut Context::from_waker(&waker), into) {
            Poll::Ready(batch) => return batch,
            Poll::Pending => parker.0.wait(),
        }
    }
}

/// Counts how often it is dropped.
struct Tracked(Arc<AtomicUsize>);

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn no_message_and_no_wake_up_is_lost() {
    check(|| {
        let (sender, mut receiver) = mailbox(4);
        let producers = [1, 2].map(|n| {
            let sender = sender.clone();
            thread::spawn(move || sender.try_send(n).unwrap())
        });
        drop(sender);
        let mut all = Vec::new();
        while receive(&mut receiver, &mut all).is_some() {}
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn each_producer_keeps_its_order() {
    check(|| {
        let (sender, mut receiver) = mailbox(4);
        let other = sender.clone();
        let first = thread::spawn(move || {
            sender.try_send((1, 'a')).unwrap();
            sender.try_send((1, 'b')).unwrap();
        });
        let second = thread::spawn(move || other.try_send((2, 'a')).unwrap());
        let mut all = Vec::new();
        while receive(&mut receiver, &mut all).is_some() {}
        let of_first: Vec<char> = all.iter().filter(|m| m.0 == 1).map(|m| m.1).collect();
        assert_eq!(of_first, ['a', 'b']);
        assert_eq!(all.len(), 3);
        first.join().unwrap();
        second.join().unwrap();
    });
}

#[test]
fn the_end_is_seen_however_late_the_last_sender_goes() {
    check(|| {
        let (sender, mut receiver) = mailbox::<u8>(1);
        let others = [sender.clone(), sender].map(|sender| thread::spawn(move || drop(sender)));
        assert_eq!(receive(&mut receiver, &mut Vec::new()), None);
        for other in others {
            other.join().unwrap();
        }
    });
}

/// Whether a message was taken in before the receiver went, or refused after,
/// it is dropped exactly once.
#[test]
fn a_message_that_races_with_the_close_is_dropped_once() {
    loom::model(|| {
        let (sender, mut receiver) = mailbox(1);
        let drops = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&drops);
        let producer = thread::spawn(move || {
            // Two messages through one place: taken in, full or closed.
            let outcomes = [Tracked(counter.clone()), Tracked(counter)].map(|m| sender.try_send(m));
            let closed = outcomes.map(|outcome| matches!(outcome, Err(TrySendError::Closed(_))));
            assert!(!closed[0] || closed[1], "a closed mailbox opened again");
        });
        let mut batch = Vec::new();
        let _ = receiver.try_recv_batch(&mut batch);
        drop(receiver);
        producer.join().unwrap();
        drop(batch);
        assert_eq!(drops.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_full_mailbox_counts_what_it_refuses() {
    loom::model(|| {
        let (sender, mut receiver) = mailbox(1);
        let other = sender.clone();
        let producer = thread::spawn(move || other.try_send(1).is_ok());
        let taken = u64::from(sender.try_send(2).is_ok());
        let taken = taken + u64::from(producer.join().unwrap());
        let mut all = Vec::new();
        receiver.try_recv_batch(&mut all);
        assert_eq!(all.len(), 1);
        let counters = sender.counters();
        assert_eq!((taken, counters.sent, counters.refused), (1, 1, 1));
    });
}

/// A batch wakes once; what did not fit stays with the producer, in order.
#[test]
fn a_batch_is_taken_in_whole_and_wakes_or_stays_with_its_producer() {
    check(|| {
        let (sender, mut receiver) = mailbox(3);
        let other = sender.clone();
        let batches = thread::spawn(move || {
            let mut batch = vec![1, 2];
            assert_eq!(sender.try_send_batch(&mut batch), 2);
            assert!(batch.is_empty());
        });
        let single = thread::spawn(move || other.try_send(9).unwrap());
        let mut all = Vec::new();
        while receive(&mut receiver, &mut all).is_some() {}
        let of_batch: Vec<i32> = all.iter().copied().filter(|&n| n < 9).collect();
        assert_eq!((all.len(), of_batch), (3, vec![1, 2]));
        batches.join().unwrap();
        single.join().unwrap();
    });
}

/// Two producers put one item each into a queue and ring; the messages that
/// they owe are answered on a third thread, as a lane does. The consumer, which
/// changes threads in between, gets both items.
#[test]
fn nothing_put_in_before_a_ring_is_missed() {
    check(|| {
        let bell = Arc::new(Doorbell::new(0));
        let queue = Arc::new(AtomicUsize::new(0));
        let producers = [(); 2].map(|()| {
            let (bell, queue) = (Arc::clone(&bell), Arc::clone(&queue));
            thread::spawn(move || {
                queue.fetch_add(1, Ordering::Relaxed);
                if bell.ring().is_some() {
                    bell.answer();
                }
            })
        });
        let parker = Arc::new(Parker(Notify::new()));
        let waker = Waker::from(Arc::clone(&parker));
        let cx = Context::from_waker(&waker);
        bell.settle(1);
        loop {
            bell.register(&cx);
            if queue.load(Ordering::Relaxed) == 2 {
                break;
            }
            parker.0.wait();
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}
