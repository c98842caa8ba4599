//! Where handles leave what they want, and the driver finds it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use waystation_base::Clock;
use waystation_net::MonotonicClock;

use crate::error::{AskError, Error};
use crate::handle::{Question, RegistrationSlot, WatchSlot};
use crate::limits::{QUESTIONS_MAX, REGISTRATIONS_MAX, WATCHES_MAX};
use crate::observed::Observed;
use crate::registry::{Session, SessionState};

/// Something that the driver should look at.
#[derive(Debug)]
pub(crate) enum Order {
    Registration(Arc<RegistrationSlot>),
    Watch(Arc<WatchSlot>),
    Question(Arc<Question>),
}

/// What handles and the driver share. Orders are bounded: each handle has at
/// most one on its way, and handles are counted.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    wake: Notify,
    pub(crate) session: Observed<Session>,
    /// Ready when the driver has said goodbye.
    pub(crate) ended: Observed<bool>,
    pub(crate) url: String,
}

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Order>,
    registrations: usize,
    watches: usize,
    questions: usize,
    keys: u64,
    is_closed: bool,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Registration,
    Watch,
    Question,
}

impl Hub {
    pub(crate) fn new(url: String) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            session: Observed::new(Session {
                state: SessionState::Connecting,
                since: MonotonicClock.now(),
                fault: None,
                skipped: 0,
                skipped_places: Vec::new(),
                went_back: None,
                went_back_times: 0,
            }),
            ended: Observed::new(false),
            url,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more, and gives it a number of its own.
    pub(crate) fn admit(&self, what: Counted) -> Result<u64, Error> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Error::Closed);
        }
        let (count, max, full) = match what {
            Counted::Registration => (
                &mut state.registrations,
                REGISTRATIONS_MAX,
                Error::RegistrationsFull,
            ),
            Counted::Watch => (&mut state.watches, WATCHES_MAX, Error::WatchesFull),
            Counted::Question => (&mut state.questions, QUESTIONS_MAX, Error::QuestionsFull),
        };
        if *count >= max {
            return Err(full);
        }
        *count += 1;
        state.keys += 1;
        Ok(state.keys)
    }

    /// Gives the room of one back.
    pub(crate) fn release(&self, what: Counted) {
        let mut state = self.lock();
        let count = match what {
            Counted::Registration => &mut state.registrations,
            Counted::Watch => &mut state.watches,
            Counted::Question => &mut state.questions,
        };
        *count -= 1;
    }

    /// Leaves an order. After the close it is dropped: nobody would look.
    pub(crate) fn order(&self, order: Order) {
        let mut state = self.lock();
        if !state.is_closed {
            state.orders.push_back(order);
            drop(state);
            return self.wake.notify_one();
        }
        drop(state);
        if let Order::Question(question) = order {
            question
                .answer
                .update(|answer| *answer = Some(Err(AskError::Closed)));
        }
    }

    /// From here on nothing is taken any more.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// So many orders, the oldest first, and whether there are or may be more.
    pub(crate) fn take(&self, count: usize) -> (VecDeque<Order>, bool) {
        let mut state = self.lock();
        let count = count.min(state.orders.len());
        let others = state.orders.split_off(count);
        let taken = std::mem::replace(&mut state.orders, others);
        let is_rest = !state.orders.is_empty();
        if is_rest {
            self.wake.notify_one();
        }
        (taken, is_rest || !state.is_closed)
    }

    /// Ready when there may be orders.
    pub(crate) async fn ordered(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use waystation_membership::Watch;

    use super::*;
    use crate::handle::QuestionKind;

    fn orders(hub: &Hub, count: usize) {
        for _ in 0..count {
            let question = Question::new(QuestionKind::List {
                watch: Watch::Prefix("".into()),
                with_holders: false,
            });
            hub.order(Order::Question(Arc::new(question)));
        }
    }

    /// Whoever made thousands of watches at once held up its shard until all were
    /// begun.
    #[test]
    fn orders_are_taken_a_few_at_a_time_and_none_is_forgotten() {
        let hub = Hub::new("test://".to_owned());
        orders(&hub, 5);
        let is_woken = || hub.ordered().now_or_never().is_some();
        for (left, is_more) in [(3, true), (1, true)] {
            assert!(is_woken(), "{left} are to be taken");
            let (taken, is_open) = hub.take(2);
            assert_eq!((taken.len(), is_open), (2, is_more));
        }
        // Those that came before the close are still taken.
        hub.close();
        orders(&hub, 1);
        let (taken, is_open) = hub.take(2);
        assert_eq!((taken.len(), is_open), (1, false));
        assert!(hub.take(2).0.is_empty());
    }
}
