//! Who waits on one connection, in the order of requests. Pure: it touches no
//! socket and no clock.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waystation_base::Moment;

use super::{FifoError, FifoSink};
use crate::limits::FIFO_SPARE_BYTES;

enum Seat<A> {
    Free,
    /// Its answer has not come.
    Waiting(Option<Waker>),
    /// Its answer has not come, and its caller is gone.
    Abandoned,
    /// Its answer has come, of so many bytes, or will not.
    Done(Result<A, FifoError>, usize),
}

/// Who is next in line.
enum Place {
    /// A caller that waits by itself.
    Seat(usize),
    /// One that waits for an answer to no request.
    Unasked(usize),
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
    /// Answers that came unasked, where that is allowed, each with its bytes.
    spare: VecDeque<(A, usize)>,
    spare_bytes: usize,
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
            spare_bytes: 0,
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
        if let Some((answer, bytes)) = self.spare.pop_front() {
            self.spare_bytes -= bytes;
            return Ok(self.seat(Seat::Done(Ok(answer), bytes)));
        }
        self.admit(1)?;
        let seat = self.seat(Seat::Waiting(None));
        self.order.push_back((Place::Unasked(seat), now));
        self.waiting += 1;
        Ok(seat)
    }

    /// Whether an answer came unasked that nobody has.
    pub(super) fn has_spare(&self) -> bool {
        !self.spare.is_empty()
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
            Some((Place::Unasked(_), _)) | None => Next::Caller,
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

    /// An answer of so many bytes was read: it belongs to the caller that is
    /// next in line. The waker is of the caller that now has it.
    pub(super) fn answer(&mut self, answer: A, bytes: usize) -> (Answered, Option<Waker>) {
        let Some((Place::Seat(seat) | Place::Unasked(seat), _)) = self.order.pop_front() else {
            // One finds room in any case.
            let fits = self.spare.is_empty() || self.spare_bytes + bytes <= FIFO_SPARE_BYTES;
            if self.spare.len() >= self.spare_max || !fits {
                return (Answered::Unasked, None);
            }
            self.spare.push_back((answer, bytes));
            self.spare_bytes += bytes;
            return (Answered::Kept, None);
        };
        self.waiting -= 1;
        let old = std::mem::replace(&mut self.seats[seat], Seat::Done(Ok(answer), bytes));
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
            Seat::Done(..) => {
                let done = std::mem::replace(&mut self.seats[seat], Seat::Free);
                self.free.push(seat);
                match done {
                    Seat::Done(result, _) => Poll::Ready(result),
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
            Seat::Done(..) => {
                self.seats[seat] = Seat::Free;
                self.free.push(seat);
            }
            Seat::Free | Seat::Abandoned => unreachable!("a caller owns its seat"),
        }
    }

    /// Whoever waited for an answer that comes unasked goes away. Nothing was
    /// written for its place, which goes too, and an answer that it has and
    /// did not see is the next one's. The waker is of the caller that now has
    /// it.
    pub(super) fn leave_unasked(&mut self, seat: usize) -> Option<Waker> {
        let left = std::mem::replace(&mut self.seats[seat], Seat::Free);
        self.free.push(seat);
        match left {
            Seat::Waiting(_) => {
                self.take_unasked(|other| other == seat);
                None
            }
            Seat::Done(Ok(answer), bytes) => {
                if let Some(next) = self.take_unasked(|_| true) {
                    let now = Seat::Done(Ok(answer), bytes);
                    return match std::mem::replace(&mut self.seats[next], now) {
                        Seat::Waiting(waker) => waker,
                        _ => unreachable!("it stood in line"),
                    };
                }
                // It was within the bounds when it came.
                self.spare.push_front((answer, bytes));
                self.spare_bytes += bytes;
                None
            }
            Seat::Done(Err(_), _) => None,
            Seat::Free | Seat::Abandoned => unreachable!("a caller owns its seat"),
        }
    }

    /// Takes the first place like that out of the order.
    fn take_unasked(&mut self, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let is_wanted = |(place, _): &(Place, Moment)| match place {
            Place::Unasked(seat) => wanted(*seat),
            _ => false,
        };
        let index = self.order.iter().position(is_wanted)?;
        let Some((Place::Unasked(seat), _)) = self.order.remove(index) else {
            unreachable!("it was there a moment ago");
        };
        self.waiting -= 1;
        Some(seat)
    }

    /// The connection is lost: no place is left. Who waited must be told.
    pub(super) fn fail(&mut self, error: FifoError) -> Failed {
        self.failed = true;
        self.waiting = 0;
        let mut failed = Failed::default();
        for (place, _) in std::mem::take(&mut self.order) {
            let seat = match place {
                Place::Seat(seat) | Place::Unasked(seat) => seat,
                Place::Batch(batch) => {
                    failed.batches.push(batch);
                    continue;
                }
            };
            match std::mem::replace(&mut self.seats[seat], Seat::Done(Err(error), 0)) {
                Seat::Waiting(waker) => failed.wakers.extend(waker),
                _ => self.leave(seat),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests;
