//! A scarce resource in fair turns: callers in rotation, however much each of
//! them wants.
//!
//! Source: Nagle, "On Packet Switches with Infinite Storage", RFC 970, 1985: a
//! queue for each source, served round robin. It differs in that a turn is a
//! place for some time instead of the length of a packet: who holds places
//! long gets no fewer turns.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waystation_net::{WaitsFor, until, waiting};

use crate::ctx::Ctx;
use crate::limits::TURNS_WAITING;
use crate::status::Status;

/// Places for so many at once, given in fair turns: while all are taken,
/// callers ([`Peer::set_caller`](crate::Peer::set_caller)) get the next ones
/// in rotation, one each, and the requests of one caller in their order. So
/// who asks little gets its turn after at most one of each other caller.
///
/// Each [`Channel`](crate::Channel) has one for its calls. Clones share it.
///
/// ```
/// use waystation_service::{Ctx, Status, Turns};
///
/// async fn report(ctx: &Ctx, printers: &Turns) -> Result<(), Status> {
///     let _turn = printers.turn(ctx).await?;
///     // One of the printers is ours until here.
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Turns {
    shared: Rc<Shared>,
}

struct Shared {
    at_once: usize,
    line: RefCell<Line>,
}

/// Whose turn it is. The places are all taken while anyone waits.
#[derive(Default)]
struct Line {
    taken: usize,
    waiting: usize,
    /// The keys of `tickets`, in the order of their turns.
    rotation: VecDeque<Key>,
    /// Those who wait, by caller. A queue that was left by its last may stay
    /// empty until its turn.
    tickets: HashMap<Key, VecDeque<Rc<Ticket>>>,
}

/// A caller, for as long as a context of it lives. All work that nobody asked
/// for is one.
type Key = usize;

fn key_of(ctx: &Ctx) -> Key {
    ctx.caller()
        .map_or(0, |caller| std::ptr::from_ref(caller).addr())
}

#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place, until it is dropped.
pub struct Turn {
    shared: Rc<Shared>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl Turns {
    /// Turns at so many places; at least one.
    pub fn new(at_once: usize) -> Self {
        let shared = Shared {
            at_once: at_once.max(1),
            line: RefCell::default(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.shared.line.borrow().waiting
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.shared.line.borrow().taken
    }

    /// A place, when it is its caller's turn. Dropping the future leaves the
    /// line. Cost: none while a place is free, otherwise a place in a queue.
    ///
    /// # Errors
    /// [`Status`] `overloaded` when its turn has not come before the deadline,
    /// or when too many wait ([`TURNS_WAITING`]); nothing was begun.
    pub async fn turn(&self, ctx: &Ctx) -> Result<Turn, Status> {
        if self.shared.take() {
            let shared = self.shared.clone();
            return Ok(Turn { shared });
        }
        ctx.contexts().count(|counts| counts.calls_waited += 1);
        let waits = self.shared.enqueue(key_of(ctx))?;
        // In a box, since most do not wait.
        let turn = Box::pin(waiting(WaitsFor::plain("its turn"), waits));
        let turn = until(ctx.shard(), ctx.deadline(), turn).await;
        turn.map_err(|_| {
            let at_once = self.shared.at_once;
            Status::overloaded(format!(
                "its turn did not come before the deadline: {at_once} are in progress and {} wait",
                self.waiting()
            ))
        })
    }
}

impl Shared {
    /// A place that nobody waits for.
    fn take(&self) -> bool {
        let mut line = self.line.borrow_mut();
        let free = line.taken < self.at_once && line.waiting == 0;
        line.taken += usize::from(free);
        free
    }

    fn enqueue(self: &Rc<Self>, key: Key) -> Result<Waits, Status> {
        let mut line = self.line.borrow_mut();
        let (waiting, own) = (
            line.waiting,
            line.tickets.get(&key).map_or(0, VecDeque::len),
        );
        // Who has more than is left for everyone else gets no more.
        if waiting >= TURNS_WAITING || own > TURNS_WAITING - waiting {
            return Err(Status::overloaded(format!(
                "{waiting} wait for their turn, {own} of this caller"
            )));
        }
        let ticket = Rc::<Ticket>::default();
        let line = &mut *line;
        let queue = line.tickets.entry(key).or_insert_with(|| {
            line.rotation.push_back(key);
            VecDeque::new()
        });
        queue.push_back(ticket.clone());
        line.waiting += 1;
        Ok(Waits {
            shared: self.clone(),
            key,
            ticket,
            taken: false,
        })
    }

    /// A place is free: whose turn it is gets it.
    fn release(&self) {
        let mut line = self.line.borrow_mut();
        let next = line.take_next();
        if next.is_none() {
            line.taken -= 1;
        }
        // Woken outside the borrow: a waker may drop a task that has a place.
        drop(line);
        if let Some(ticket) = next {
            ticket.granted.set(true);
            let waker = ticket.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Line {
    /// Takes out whose turn it is.
    fn take_next(&mut self) -> Option<Rc<Ticket>> {
        loop {
            let key = self.rotation.pop_front()?;
            let Some(queue) = self.tickets.get_mut(&key) else {
                continue;
            };
            let ticket = queue.pop_front();
            if queue.is_empty() {
                self.tickets.remove(&key);
            } else {
                self.rotation.push_back(key);
            }
            if ticket.is_some() {
                self.waiting -= 1;
                return ticket;
            }
        }
    }

    fn leave(&mut self, key: Key, ticket: &Rc<Ticket>) {
        if let Some(queue) = self.tickets.get_mut(&key)
            && let Some(place) = queue.iter().position(|other| Rc::ptr_eq(other, ticket))
        {
            queue.remove(place);
            self.waiting -= 1;
        }
    }
}

/// Waits for a turn.
struct Waits {
    shared: Rc<Shared>,
    key: Key,
    ticket: Rc<Ticket>,
    taken: bool,
}

impl Future for Waits {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.ticket.granted.get() {
            self.taken = true;
            let shared = self.shared.clone();
            return Poll::Ready(Turn { shared });
        }
        let mut waker = self.ticket.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if self.ticket.granted.get() {
            self.shared.release();
        } else {
            self.shared.line.borrow_mut().leave(self.key, &self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(at_once: usize) -> Rc<Shared> {
        Turns::new(at_once).shared
    }

    fn poll(waits: &mut Waits) -> Option<Turn> {
        match Pin::new(waits).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// Calls went to the next layer in the order in which they came: one user
    /// with 15,000 of them stood before everyone else.
    #[test]
    fn callers_get_their_turns_in_rotation() {
        let shared = turns(1);
        assert!(shared.take());
        let mut waits: Vec<(Key, Waits)> = [7, 7, 7, 7, 8, 9, 9]
            .map(|key| (key, shared.enqueue(key).unwrap()))
            .into();
        let mut turn = Turn {
            shared: shared.clone(),
        };
        let mut order = Vec::new();
        while !waits.is_empty() {
            drop(turn);
            let (place, next) = waits
                .iter_mut()
                .enumerate()
                .find_map(|(place, (_, waits))| Some((place, poll(waits)?)))
                .expect("a place that was released is given on");
            turn = next;
            order.push(waits.remove(place).0);
        }
        assert_eq!(order, [7, 8, 9, 7, 9, 7, 7]);
        assert!(!shared.take());
        drop(turn);
        assert!(shared.take());
    }

    #[test]
    fn who_leaves_the_line_takes_and_leaves_no_place() {
        let shared = turns(2);
        assert!(shared.take() && shared.take());
        let turns = [(); 2].map(|()| Turn {
            shared: shared.clone(),
        });
        let (gone, given, mut stays) = (
            shared.enqueue(1).unwrap(),
            shared.enqueue(2).unwrap(),
            shared.enqueue(3).unwrap(),
        );
        drop(gone);
        let [first, second] = turns;
        // It is given to one that leaves before it looks.
        drop(first);
        assert!(given.ticket.granted.get());
        assert!(poll(&mut stays).is_none());
        drop(given);
        let turn = poll(&mut stays).expect("what was given and not taken is given on");
        drop((turn, second));
        let line = shared.line.borrow();
        assert_eq!((line.taken, line.waiting), (0, 0));
        assert!(line.rotation.is_empty() && line.tickets.is_empty());
    }

    #[test]
    fn the_line_is_bounded_and_one_caller_does_not_fill_it() {
        let shared = turns(1);
        assert!(shared.take());
        let mut waits = vec![shared.enqueue(1).unwrap()];
        waits.extend(std::iter::from_fn(|| shared.enqueue(2).ok()));
        assert!(waits.len() <= TURNS_WAITING / 2 + 2, "{}", waits.len());
        assert!(shared.enqueue(3).is_ok());
    }
}
