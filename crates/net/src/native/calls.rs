//! Calls in flight on an upstream, by call id.
//!
//! A call id is a slot and its generation, so an answer that comes after its
//! call has ended finds nobody, and never the next user of the slot.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use waystation_base::CallId;
use waystation_wire::{Header, Status};

/// An answer of an upstream.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its header, with status and the callee's load.
    pub header: Header,
    /// Its body.
    pub body: Bytes,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Too many calls are in flight on this upstream. Nothing was sent.
    #[error("{0} calls are in flight already")]
    Overloaded(u32),
    /// There was no connection until the deadline, or it was lost before the
    /// call could be sent. Nothing was sent.
    #[error("there is no connection to the callee")]
    NotConnected,
    /// There is a connection, but the callee did not read what was sent before
    /// this call until the deadline. Nothing of it was sent.
    #[error("the callee takes calls too slowly; this one was not sent before the deadline")]
    Behind,
    /// The deadline had passed already. Nothing was sent.
    #[error("the deadline had passed before the call began")]
    Expired,
    /// The deadline passed after the call was sent.
    #[error("no answer before the deadline")]
    Timeout,
    /// The connection was lost after the call was sent: the callee may or may
    /// not have acted on it.
    #[error("the connection was lost with the call in flight; its outcome is unknown")]
    OutcomeUnknown,
    /// The upstream was closed on this side. Nothing was sent.
    #[error("the upstream is closed")]
    Closed,
    /// The request is larger than a message may be. Nothing was sent.
    #[error("the request is larger than a message may be")]
    TooLarge,
}

impl CallError {
    /// The status that says the same to a caller further up.
    pub fn status(&self) -> Status {
        match self {
            Self::Overloaded(_) | Self::Behind => Status::Overloaded,
            Self::NotConnected | Self::Closed => Status::Unavailable,
            Self::Timeout | Self::Expired => Status::DeadlineExceeded,
            Self::OutcomeUnknown => Status::OutcomeUnknown,
            Self::TooLarge => Status::TooLarge,
        }
    }

    /// True when the callee cannot have seen the request.
    pub fn was_not_sent(&self) -> bool {
        !matches!(self, Self::Timeout | Self::OutcomeUnknown)
    }
}

enum Slot {
    Free {
        next: u32,
    },
    Waiting {
        waker: Option<Waker>,
        sent: bool,
    },
    Done(Result<Answer, CallError>),
    /// Done, and its answer was taken.
    Taken,
}

struct Entry {
    generation: u32,
    slot: Slot,
}

/// Marks the end of the free list.
const NONE: u32 = u32::MAX;

struct Table {
    entries: Vec<Entry>,
    free: u32,
    used: u32,
    /// Calls that were sent and have no answer yet.
    sent: u32,
    most: u32,
    first_generation: u32,
}

/// The calls of one upstream. Clones share it.
#[derive(Clone)]
pub(crate) struct Calls {
    table: Rc<RefCell<Table>>,
}

fn id(index: u32, generation: u32) -> CallId {
    CallId((u64::from(generation) << 32) | u64::from(index))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the halves are taken apart"
)]
fn parts(call: CallId) -> (u32, u32) {
    (call.0 as u32, (call.0 >> 32) as u32)
}

impl Calls {
    pub(crate) fn new(most: u32, first_generation: u32) -> Self {
        let table = Table {
            entries: Vec::new(),
            free: NONE,
            used: 0,
            sent: 0,
            most,
            first_generation: first_generation.max(1),
        };
        Self {
            table: Rc::new(RefCell::new(table)),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.table.borrow().used
    }

    /// A place for one call, until the ticket is dropped.
    pub(crate) fn begin(&self) -> Result<Ticket, CallError> {
        let mut table = self.table.borrow_mut();
        if table.used >= table.most {
            return Err(CallError::Overloaded(table.used));
        }
        let index = if table.free == NONE {
            let index = u32::try_from(table.entries.len()).unwrap_or(NONE);
            let generation = table.first_generation;
            table.entries.push(Entry {
                generation,
                slot: Slot::Waiting {
                    waker: None,
                    sent: false,
                },
            });
            index
        } else {
            let index = table.free;
            let entry = &mut table.entries[index as usize];
            let Slot::Free { next } = entry.slot else {
                unreachable!("the free list holds free slots")
            };
            entry.slot = Slot::Waiting {
                waker: None,
                sent: false,
            };
            table.free = next;
            index
        };
        table.used += 1;
        let call = id(index, table.entries[index as usize].generation);
        drop(table);
        Ok(Ticket {
            calls: self.clone(),
            call,
            sent: false,
            ended: false,
        })
    }

    /// Gives a call its answer. False when nobody waits for it any more.
    pub(crate) fn complete(&self, call: CallId, result: Result<Answer, CallError>) -> bool {
        let (index, generation) = parts(call);
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.entries.get_mut(index as usize) else {
            return false;
        };
        if entry.generation != generation {
            return false;
        }
        let Slot::Waiting { waker, sent } = &mut entry.slot else {
            return false;
        };
        let (waker, sent) = (waker.take(), *sent);
        entry.slot = Slot::Done(result);
        table.sent -= u32::from(sent);
        drop(table);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether any call waits for an answer of the connection.
    pub(crate) fn any_sent(&self) -> bool {
        self.table.borrow().sent > 0
    }

    /// The connection is lost: every call that was sent on it ends so.
    pub(crate) fn fail_sent(&self, error: &CallError) {
        let lost: Vec<CallId> = {
            let table = self.table.borrow();
            let sent =
                |entry: &&(usize, &Entry)| matches!(entry.1.slot, Slot::Waiting { sent: true, .. });
            let entries = table.entries.iter().enumerate();
            entries
                .filter(|entry| sent(&entry))
                .map(|(index, entry)| id(u32::try_from(index).unwrap_or(NONE), entry.generation))
                .collect()
        };
        for call in lost {
            self.complete(call, Err(error.clone()));
        }
    }

    fn end(&self, call: CallId) {
        let (index, generation) = parts(call);
        let mut table = self.table.borrow_mut();
        let next = table.free;
        let entry = &mut table.entries[index as usize];
        debug_assert_eq!(entry.generation, generation, "a ticket owns its slot");
        // Never 0: pushes and pings carry call id 0.
        entry.generation = entry.generation.wrapping_add(1).max(1);
        let old = std::mem::replace(&mut entry.slot, Slot::Free { next });
        if matches!(old, Slot::Waiting { sent: true, .. }) {
            table.sent -= 1;
        }
        table.free = index;
        table.used -= 1;
        drop(table);
        drop(old);
    }
}

/// One call's place. Dropping it ends the call: a later answer is discarded.
pub(crate) struct Ticket {
    calls: Calls,
    call: CallId,
    sent: bool,
    ended: bool,
}

impl Ticket {
    pub(crate) fn call(&self) -> CallId {
        self.call
    }

    /// The request is on its way to the callee.
    pub(crate) fn mark_sent(&mut self) {
        self.sent = true;
        let (index, _) = parts(self.call);
        let table = &mut *self.calls.table.borrow_mut();
        if let Slot::Waiting {
            sent: sent @ false, ..
        } = &mut table.entries[index as usize].slot
        {
            *sent = true;
            table.sent += 1;
        }
    }

    /// Whether the callee may have seen the request.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent
    }

    /// Ends the call; an answer that comes later is discarded.
    pub(crate) fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.calls.end(self.call);
        }
    }

    /// Whether an answer is still awaited.
    pub(crate) fn is_waiting(&self) -> bool {
        let (index, _) = parts(self.call);
        let table = self.calls.table.borrow();
        matches!(table.entries[index as usize].slot, Slot::Waiting { .. })
    }

    /// Ready with the answer, which is given once.
    pub(crate) fn poll_answer(&self, cx: &Context<'_>) -> Poll<Result<Answer, CallError>> {
        let (index, _) = parts(self.call);
        let mut table = self.calls.table.borrow_mut();
        let slot = &mut table.entries[index as usize].slot;
        match slot {
            Slot::Done(_) => match std::mem::replace(slot, Slot::Taken) {
                Slot::Done(result) => Poll::Ready(result),
                _ => unreachable!("it was matched above"),
            },
            Slot::Taken => unreachable!("a call is not polled after its answer"),
            Slot::Waiting { waker, .. } => {
                let known = waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
                if !known {
                    let old = waker.replace(cx.waker().clone());
                    drop(table);
                    drop(old);
                }
                Poll::Pending
            }
            Slot::Free { .. } => unreachable!("a ticket owns its slot"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_base::MessageId;

    fn answer(call: CallId) -> Answer {
        Answer {
            header: Header::reply(call, MessageId(1), Status::Ok),
            body: Bytes::from_static(b"x"),
        }
    }

    /// The answer of step 1 came late and was taken for step 2's, because
    /// both used the request's id alone.
    #[test]
    fn a_late_answer_never_reaches_the_next_call_of_its_slot() {
        for first_generation in [1, u32::MAX - 1] {
            let calls = Calls::new(4, first_generation);
            for _ in 0..4 {
                let first = calls.begin().unwrap();
                let late = first.call();
                drop(first);
                let second = calls.begin().unwrap();
                assert_ne!(second.call(), late);
                assert_ne!(second.call(), CallId(0));
                assert!(!calls.complete(late, Ok(answer(late))));
                let cx = &Context::from_waker(Waker::noop());
                assert!(second.poll_answer(cx).is_pending());
                assert!(calls.complete(second.call(), Ok(answer(second.call()))));
                assert!(
                    !calls.complete(second.call(), Ok(answer(second.call()))),
                    "one answer each"
                );
                assert!(second.poll_answer(cx).is_ready());
            }
        }
    }

    #[test]
    fn a_guessed_call_id_completes_nothing() {
        let calls = Calls::new(4, 1);
        let ticket = calls.begin().unwrap();
        for guess in [0, 1, 2, 1 << 32 | 1, 2 << 32, u64::MAX] {
            assert!(!calls.complete(CallId(guess), Ok(answer(CallId(guess)))));
        }
        assert_eq!(ticket.call(), CallId(1 << 32));
    }

    #[test]
    fn in_flight_is_bounded_and_comes_back() {
        let calls = Calls::new(2, 1);
        let (a, b) = (calls.begin().unwrap(), calls.begin().unwrap());
        assert_eq!(calls.begin().err(), Some(CallError::Overloaded(2)));
        drop(a);
        assert!(calls.begin().is_ok());
        drop(b);
        assert_eq!(calls.len(), 0);
    }
}
