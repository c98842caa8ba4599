//! Who waits on one connection, in the order of requests. Pure: it touches no
//! socket and no clock.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waystation_base::Moment;

use super::{FifoError, FifoSink};

enum Seat<A> {
    Free,
    /// Its answer has not come.
    Waiting(Option<Waker>),
    /// Its answer has not come, and its caller is gone.
    Abandoned,
    /// Its answer has come, or will not.
    Done(Result<A, FifoError>),
}

/// Who is next in line.
enum Place {
    /// A caller that waits by itself.
    Seat(usize),
    /// Requests that were relayed together and are answered to one sink.
    Batch(Batch),
}

/// Relayed requests whose answers have not come.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) sink: Rc<dyn FifoSink>,
    /// The number of the first of them.
    pub(super) first: u64,
    pub(super) count: u32,
}

impl Batch {
    pub(super) fn hand_over(&self, answers: Result<&[u8], FifoError>) {
        self.sink.handle_answers(self.first, self.count, answers);
    }
}

/// To whom the next answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// To a caller that waits, so it must be read; or nobody asked.
    Caller,
    /// To a caller that gave up.
    Gone,
    /// To a sink, and so many behind it as well.
    Batch(u32),
}

/// Everyone who is to hear that the connection is lost.
#[derive(Default)]
pub(super) struct Failed {
    pub(super) wakers: Vec<Waker>,
    pub(super) batches: Vec<Batch>,
}

/// The waiters of one connection.
///
/// Calls come in this order: `push` or `push_batch` for requests as they are
/// written, `answer`, `skip` or `take` for answers as they are read, as `next`
/// says, `fail` once when the connection is lost. A caller polls its seat
/// until it is ready, or leaves it.
pub(super) struct Line<A> {
    seats: Vec<Seat<A>>,
    free: Vec<usize>,
    /// In the order of their requests, with when they were written.
    order: VecDeque<(Place, Moment)>,
    /// Requests in `order`.
    waiting: usize,
    /// Answers that came unasked, where that is allowed.
    spare: VecDeque<A>,
    spare_max: usize,
    most: usize,
    failed: bool,
}

/// An answer came, and what became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Its caller has it.
    Taken,
    /// Its caller had given up.
    Discarded,
    /// Nobody had asked for anything; it waits for whoever does.
    Kept,
    /// Nobody had asked for anything: the server is out of step.
    Unasked,
}

impl<A> Line<A> {
    /// A line for at most so many requests, and so many answers that come
    /// unasked.
    pub(super) fn new(most: usize, spare_max: usize) -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            waiting: 0,
            spare: VecDeque::new(),
            spare_max,
            most: most.max(1),
            failed: false,
        }
    }

    /// Requests whose answers have not been read.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Whether so many more requests may be written.
    pub(super) fn admit(&self, count: usize) -> Result<(), FifoError> {
        if self.failed {
            return Err(FifoError::NotConnected);
        }
        if self.waiting.saturating_add(count) > self.most {
            return Err(FifoError::Overloaded(self.waiting));
        }
        Ok(())
    }

    /// Takes the next place, for a request that is being written.
    pub(super) fn push(&mut self, now: Moment) -> Result<usize, FifoError> {
        self.admit(1)?;
        let seat = self.seat(Seat::Waiting(None));
        self.order.push_back((Place::Seat(seat), now));
        self.waiting += 1;
        Ok(seat)
    }

    /// Takes the next places, for requests that are being relayed.
    pub(super) fn push_batch(&mut self, batch: Batch, now: Moment) -> Result<(), FifoError> {
        let count = batch.count as usize;
        self.admit(count)?;
        if count > 0 {
            self.order.push_back((Place::Batch(batch), now));
            self.waiting += count;
        }
        Ok(())
    }

    /// Takes a place for the next answer that comes, or came, unasked.
    pub(super) fn push_unasked(&mut self, now: Moment) -> Result<usize, FifoError> {
        match self.spare.pop_front() {
            Some(answer) => Ok(self.seat(Seat::Done(Ok(answer)))),
            None => self.push(now),
        }
    }

    fn seat(&mut self, taken: Seat<A>) -> usize {
        let seat = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::Free);
            self.seats.len() - 1
        });
        self.seats[seat] = taken;
        seat
    }

    /// To whom the next answer goes.
    pub(super) fn next(&self) -> Next {
        match self.order.front() {
            Some((Place::Batch(batch), _)) => Next::Batch(batch.count),
            Some((Place::Seat(seat), _)) => match &self.seats[*seat] {
                Seat::Abandoned => Next::Gone,
                _ => Next::Caller,
            },
            None => Next::Caller,
        }
    }

    /// Up to `count` answers of the batch that is next in line were read.
    ///
    /// # Panics
    /// When [`Line::next`] did not say so.
    pub(super) fn take(&mut self, count: u32) -> Batch {
        let Some((Place::Batch(mut batch), written)) = self.order.pop_front() else {
            unreachable!("a batch is next in line");
        };
        let count = count.min(batch.count);
        self.waiting -= count as usize;
        if count < batch.count {
            let taken = Batch {
                count,
                ..batch.clone()
            };
            batch.first += u64::from(count);
            batch.count -= count;
            self.order.push_front((Place::Batch(batch), written));
            return taken;
        }
        batch
    }

    /// An answer of a caller that gave up was read.
    pub(super) fn skip(&mut self) {
        if let Some((Place::Seat(seat), _)) = self.order.pop_front() {
            self.waiting -= 1;
            self.seats[seat] = Seat::Free;
            self.free.push(seat);
        }
    }

    /// An answer was read: it belongs to the caller that is next in line. The
    /// waker is of the caller that now has it.
    pub(super) fn answer(&mut self, answer: A) -> (Answered, Option<Waker>) {
        let Some((Place::Seat(seat), _)) = self.order.pop_front() else {
            if self.spare.len() >= self.spare_max {
                return (Answered::Unasked, None);
            }
            self.spare.push_back(answer);
            return (Answered::Kept, None);
        };
        self.waiting -= 1;
        let old = std::mem::replace(&mut self.seats[seat], Seat::Done(Ok(answer)));
        if let Seat::Waiting(waker) = old {
            return (Answered::Taken, waker);
        }
        self.leave(seat);
        (Answered::Discarded, None)
    }

    /// When the oldest request was written.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.order.front().map(|(_, written)| *written)
    }

    /// Ready with the seat's answer; the seat is given up then.
    pub(super) fn poll_seat(
        &mut self,
        seat: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<A, FifoError>> {
        match &mut self.seats[seat] {
            Seat::Waiting(waker) => {
                if !waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()))
                {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Seat::Done(_) => {
                let done = std::mem::replace(&mut self.seats[seat], Seat::Free);
                self.free.push(seat);
                match done {
                    Seat::Done(result) => Poll::Ready(result),
                    _ => unreachable!("it was done a moment ago"),
                }
            }
            Seat::Free | Seat::Abandoned => unreachable!("a caller owns its seat"),
        }
    }

    /// The caller goes away. Its place in the order stays until its answer
    /// has been read.
    pub(super) fn leave(&mut self, seat: usize) {
        match &self.seats[seat] {
            Seat::Waiting(_) => self.seats[seat] = Seat::Abandoned,
            Seat::Done(_) => {
                self.seats[seat] = Seat::Free;
                self.free.push(seat);
            }
            Seat::Free | Seat::Abandoned => unreachable!("a caller owns its seat"),
        }
    }

    /// The connection is lost: no place is left. Who waited must be told.
    pub(super) fn fail(&mut self, error: FifoError) -> Failed {
        self.failed = true;
        self.waiting = 0;
        let mut failed = Failed::default();
        for (place, _) in std::mem::take(&mut self.order) {
            let seat = match place {
                Place::Seat(seat) => seat,
                Place::Batch(batch) => {
                    failed.batches.push(batch);
                    continue;
                }
            };
            match std::mem::replace(&mut self.seats[seat], Seat::Done(Err(error))) {
                Seat::Waiting(waker) => failed.wakers.extend(waker),
                _ => self.leave(seat),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poll(line: &mut Line<u32>, seat: usize) -> Poll<Result<u32, FifoError>> {
        line.poll_seat(seat, &Context::from_waker(Waker::noop()))
    }

    /// A caller that gave up took its place in the queue along, and everyone
    /// behind it got the answer of the one before.
    #[test]
    fn a_place_lives_until_its_answer_is_read() {
        let mut line = Line::new(8, 0);
        let first = line.push(Moment::ZERO).unwrap();
        let second = line.push(Moment::ZERO).unwrap();
        line.leave(first);
        assert_eq!(line.len(), 2);
        assert_eq!(line.answer(1).0, Answered::Discarded);
        assert!(poll(&mut line, second).is_pending());
        assert_eq!(line.answer(2).0, Answered::Taken);
        assert_eq!(poll(&mut line, second), Poll::Ready(Ok(2)));
        assert_eq!(line.answer(3).0, Answered::Unasked);
    }

    #[test]
    fn a_lost_connection_fails_everyone_and_takes_nobody_more() {
        let mut line = Line::<u32>::new(2, 0);
        let first = line.push(Moment::ZERO).unwrap();
        let second = line.push(Moment::ZERO).unwrap();
        assert_eq!(line.push(Moment::ZERO), Err(FifoError::Overloaded(2)));
        line.leave(second);
        line.fail(FifoError::OutcomeUnknown);
        assert_eq!(
            poll(&mut line, first),
            Poll::Ready(Err(FifoError::OutcomeUnknown))
        );
        assert_eq!(line.push(Moment::ZERO), Err(FifoError::NotConnected));
        assert_eq!((line.len(), line.free.len()), (0, 2));
    }

    /// A message of a subscription that came before it was waited for was
    /// taken for a fault.
    #[test]
    fn answers_that_come_unasked_wait_where_that_is_allowed() {
        let mut line = Line::new(8, 1);
        assert_eq!(line.answer(1).0, Answered::Kept);
        assert_eq!(line.answer(2).0, Answered::Unasked);
        let seat = line.push_unasked(Moment::ZERO).unwrap();
        assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(1)));
        let seat = line.push_unasked(Moment::ZERO).unwrap();
        assert!(poll(&mut line, seat).is_pending());
        assert_eq!(line.answer(3).0, Answered::Taken);
        assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(3)));
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Push,
        Answer,
        Leave(prop::sample::Index),
        Take(prop::sample::Index),
    }

    fn operations() -> impl Strategy<Value = Operation> {
        prop_oneof![
            3 => Just(Operation::Push),
            3 => Just(Operation::Answer),
            1 => any::<prop::sample::Index>().prop_map(Operation::Leave),
            2 => any::<prop::sample::Index>().prop_map(Operation::Take),
        ]
    }

    proptest! {
        /// Whoever leaves whenever, the n-th answer belongs to the n-th
        /// request, and every seat comes back.
        #[test]
        fn answers_match_requests(list in prop::collection::vec(operations(), 0..200)) {
            let mut line = Line::new(64, 0);
            let (mut asked, mut answered) = (0_u32, 0_u32);
            let mut held: Vec<(usize, u32)> = Vec::new();
            for operation in list {
                match operation {
                    Operation::Push => if let Ok(seat) = line.push(Moment::ZERO) {
                        held.push((seat, asked));
                        asked += 1;
                    },
                    Operation::Answer => {
                        let became = line.answer(answered).0;
                        if asked == answered {
                            prop_assert_eq!(became, Answered::Unasked);
                        } else {
                            let wanted = held.iter().any(|(_, number)| *number == answered);
                            let expected = if wanted { Answered::Taken } else { Answered::Discarded };
                            prop_assert_eq!(became, expected);
                            answered += 1;
                        }
                    }
                    Operation::Leave(index) => if !held.is_empty() {
                        let (seat, _) = held.swap_remove(index.index(held.len()));
                        line.leave(seat);
                    },
                    Operation::Take(index) => if !held.is_empty() {
                        let place = index.index(held.len());
                        let (seat, number) = held[place];
                        match poll(&mut line, seat) {
                            Poll::Ready(result) => {
                                prop_assert_eq!(result, Ok(number));
                                held.swap_remove(place);
                            }
                            Poll::Pending => prop_assert!(number >= answered),
                        }
                    },
                }
            }
            line.fail(FifoError::OutcomeUnknown);
            for (seat, number) in held {
                let expected = if number < answered { Ok(number) } else { Err(FifoError::OutcomeUnknown) };
                prop_assert_eq!(poll(&mut line, seat), Poll::Ready(expected));
            }
            prop_assert_eq!(line.free.len(), line.seats.len());
        }
    }
}
