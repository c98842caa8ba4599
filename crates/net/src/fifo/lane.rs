//! Relaying: requests in batches, answers as raw bytes, in order.

use std::cell::RefCell;
use std::rc::Rc;

use super::link::Link;
use super::{Fifo, FifoCodec, FifoError};

/// Takes the answers to requests that were relayed by [`FifoLane::relay`].
pub trait FifoSink {
    /// The answers to `count` requests, from the one with the number `first`
    /// on: whole, in order and one behind the other; or why there are none.
    /// Each request gets exactly one of the two, in the order of the relays of
    /// one lane as long as its connection lives.
    ///
    /// It may relay more. A panic in it ends the upstream's connection.
    fn handle_answers(&self, first: u64, count: u32, answers: Result<&[u8], FifoError>);
}

/// A proxy's way to one of a client's connections. It stays on the same one
/// while that is up, so that answers come in the order of requests; then it
/// takes another.
///
/// There is no future and no entry in the wheel for a request: its deadline is
/// the [stall timeout](super::FifoConfig::stall_timeout) of its connection.
pub struct FifoLane<C: FifoCodec> {
    fifo: Fifo<C>,
    link: RefCell<Option<Rc<Link<C::Answer>>>>,
}

impl<C: FifoCodec> FifoLane<C> {
    pub(super) fn new(fifo: &Fifo<C>) -> Self {
        Self {
            fifo: fifo.clone(),
            link: RefCell::new(None),
        }
    }

    /// Sends `count` whole, encoded requests that stand one behind the other
    /// in `requests`. Their answers come to `sink`, numbered from `first` on,
    /// never during this call.
    ///
    /// Cost: a copy of the bytes and one place for all of them.
    ///
    /// # Errors
    /// [`FifoError::NotConnected`], [`FifoError::Overloaded`] and
    /// [`FifoError::Closed`]. Nothing was sent then, and the sink hears nothing.
    ///
    /// # Panics
    /// When there are bytes and no request, or requests and no byte.
    pub fn relay(
        &self,
        requests: &[u8],
        count: u32,
        sink: &Rc<dyn FifoSink>,
        first: u64,
    ) -> Result<(), FifoError> {
        if let Some(link) = &*self.link.borrow()
            && link.is_up()
        {
            return link.relay(requests, count, sink, first);
        }
        let link = self.fifo.next_link()?;
        self.link.replace(Some(link.clone()));
        link.relay(requests, count, sink, first)
    }

    /// Whether its connection's output has reached the high-water mark: a
    /// proxy reads no more from its clients then.
    pub fn is_behind(&self) -> bool {
        let link = self.link.borrow();
        link.as_ref().is_some_and(|link| link.is_behind())
    }

    /// Waits until its connection's output is below the high-water mark, or
    /// the connection is lost: then the next relay says what is the matter.
    pub fn caught_up(&self) -> impl Future<Output = ()> + use<C> {
        let conn = self.link.borrow().as_ref().and_then(|link| link.conn());
        async move {
            if let Some(conn) = conn {
                // It is closed, which the next relay finds out.
                let _ = conn.writable().await;
            }
        }
    }
}

impl<C: FifoCodec> Fifo<C> {
    /// The connection behind the one that was given last that is up.
    fn next_link(&self) -> Result<Rc<Link<C::Answer>>, FifoError> {
        let shared = &self.shared;
        let (behind, front) = shared.links.split_at(shared.next_lane.get());
        let order = front.iter().chain(behind);
        for (step, link) in order.enumerate() {
            if link.is_up() {
                let next = shared.next_lane.get() + step + 1;
                shared.next_lane.set(next % shared.links.len());
                return Ok(link.clone());
            }
        }
        Err(FifoError::NotConnected)
    }
}
