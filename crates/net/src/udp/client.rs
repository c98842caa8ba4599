//! Calls over UDP: each has a deadline, and may be sent again until then.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use waystation_base::Moment;

use super::socket::{Ends, Udp};
use super::{UdpConfig, UdpError};
use crate::io::Address;
use crate::limits;
use crate::shard::{Label, Shard, WaitsFor, until, waiting};

/// Settings of a UDP client.
#[derive(Debug, Clone)]
pub struct UdpClientConfig {
    /// Where the server is.
    pub address: Address,
    /// Calls in flight at once.
    pub in_flight_max: usize,
    /// Its socket.
    pub socket: UdpConfig,
}

impl UdpClientConfig {
    /// The defaults for an address.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            in_flight_max: limits::UDP_IN_FLIGHT_MAX,
            socket: UdpConfig::default(),
        }
    }
}

/// How one call is made.
#[derive(Debug, Clone, Copy)]
pub struct UdpCall {
    /// When the caller gives up.
    pub deadline: Moment,
    /// How often the request is sent at most, at equal distances until the
    /// deadline. More than once only where asking twice is the same as asking
    /// once: an answer may be lost, too.
    pub tries: u32,
    /// Its name, for dumps.
    pub label: Label,
}

/// A caller that waits for the datagram of its key.
#[derive(Default)]
struct Seat {
    answer: RefCell<Option<Bytes>>,
    waker: RefCell<Option<Waker>>,
}

type Seats = Rc<RefCell<HashMap<u64, Rc<Seat>>>>;

/// A client of one address on one shard. Clones share its socket; when the
/// last is dropped it closes.
///
/// An answer finds its call by a key, such as a sequence number that the
/// server repeats. It is taken from the server's address only; one that comes
/// late, or again, finds nobody and is counted.
#[derive(Clone)]
pub struct UdpClient {
    inner: Rc<Inner>,
}

struct Inner {
    socket: Udp,
    seats: Seats,
    in_flight_max: usize,
    next_key: Cell<u64>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl UdpClient {
    /// A client of the configured address. `key` finds the key of an answer;
    /// a datagram without one is dropped and counted.
    ///
    /// # Errors
    /// What the system answers when the socket is made.
    pub fn new(
        shard: &Shard,
        config: &UdpClientConfig,
        key: impl Fn(&[u8]) -> Option<u64> + 'static,
    ) -> io::Result<Self> {
        let seats = Seats::default();
        let waiting = seats.clone();
        let take = move |socket: &Udp, _: &Address, datagram: &[u8]| {
            let seat = key(datagram).and_then(|key| waiting.borrow_mut().remove(&key));
            let Some(seat) = seat else {
                socket.shard().counters().late_answers.add(1);
                return;
            };
            *seat.answer.borrow_mut() = Some(Bytes::copy_from_slice(datagram));
            if let Some(waker) = seat.waker.take() {
                waker.wake();
            }
        };
        let socket = shard.io().connect_datagrams(&config.address)?;
        let socket = Udp::start(shard, socket, &config.socket, take, Ends::WithShard)?;
        Ok(Self {
            inner: Rc::new(Inner {
                socket,
                seats,
                in_flight_max: config.in_flight_max,
                next_key: Cell::new(shard.random()),
            }),
        })
    }

    /// A key that no call had for as long as possible. The first one is
    /// random, so that answers to a process before are not taken for ours.
    pub fn next_key(&self) -> u64 {
        let key = self.inner.next_key.get();
        self.inner.next_key.set(key.wrapping_add(1));
        key
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.inner.seats.borrow().len()
    }

    /// Sends a request and waits for the answer that has its key, until the
    /// deadline.
    ///
    /// Cost: an entry in a table, a wheel entry, one copy of the answer.
    ///
    /// # Errors
    /// [`UdpError`].
    pub async fn call(&self, key: u64, request: &[u8], call: &UdpCall) -> Result<Bytes, UdpError> {
        let shard = self.inner.socket.shard();
        let counters = shard.counters();
        counters.calls.add(1);
        let seat = self.sit(key).inspect_err(|_| {
            counters.calls_refused.add(1);
        })?;
        let result = self.exchange(&seat, request, call).await;
        if result.is_err() {
            counters.calls_failed.add(1);
        }
        result
    }

    fn sit(&self, key: u64) -> Result<Taken<'_>, UdpError> {
        let mut seats = self.inner.seats.borrow_mut();
        if seats.len() >= self.inner.in_flight_max {
            return Err(UdpError::Overloaded(seats.len()));
        }
        let Entry::Vacant(entry) = seats.entry(key) else {
            return Err(UdpError::KeyInUse(key));
        };
        let seat = entry.insert(Rc::default()).clone();
        self.inner.socket.shard().counters().calls_in_flight.add(1);
        Ok(Taken {
            client: &self.inner,
            key,
            seat,
        })
    }

    async fn exchange(
        &self,
        taken: &Taken<'_>,
        request: &[u8],
        call: &UdpCall,
    ) -> Result<Bytes, UdpError> {
        let shard = self.inner.socket.shard();
        let tries = call.tries.max(1);
        let left = call.deadline.saturating_since(shard.now());
        if left == Duration::ZERO {
            return Err(UdpError::Timeout);
        }
        let pause = left / tries;
        for attempt in 1..=tries {
            match self.inner.socket.queue(None, request) {
                // The one before may still be answered.
                Err(UdpError::Full(_)) if attempt > 1 => {}
                queued => queued?,
            }
            let until_then = if attempt == tries {
                call.deadline
            } else {
                shard.now() + pause
            };
            let answer = waiting(
                WaitsFor {
                    what: "answer to",
                    of: call.label,
                },
                taken.answer(),
            );
            if let Ok(answer) = until(shard, until_then, answer).await {
                return answer;
            }
        }
        Err(UdpError::Timeout)
    }
}

/// A place in the table, given up however the call ends.
struct Taken<'a> {
    client: &'a Inner,
    key: u64,
    seat: Rc<Seat>,
}

impl Taken<'_> {
    async fn answer(&self) -> Result<Bytes, UdpError> {
        poll_fn(|cx| {
            if let Some(answer) = self.seat.answer.borrow_mut().take() {
                return Poll::Ready(Ok(answer));
            }
            if self.client.socket.is_closed() {
                return Poll::Ready(Err(UdpError::Closed));
            }
            let old = self.seat.waker.borrow_mut().replace(cx.waker().clone());
            drop(old);
            Poll::Pending
        })
        .await
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let counters = self.client.socket.shard().counters();
        counters.calls_in_flight.sub(1);
        let mut seats = self.client.seats.borrow_mut();
        // By now it may be another call's.
        if seats
            .get(&self.key)
            .is_some_and(|seat| Rc::ptr_eq(seat, &self.seat))
        {
            seats.remove(&self.key);
        }
    }
}
