//! Datagrams in memory, which are lost, doubled and overtake one another.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::Address;
use super::datagram::{Batch, Datagrams, DetachedDatagrams, Outgoing};
use super::memory::{Network, lock};

/// Datagrams that wait at a socket. One more is lost, as in the kernel.
const INBOX: usize = 1024;

/// What waits at one socket.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: VecDeque<(Address, Vec<u8>)>,
    waker: Option<Waker>,
}

type Shared = Arc<Mutex<Network>>;

/// Binds a name.
pub(super) fn bind(
    network: &Shared,
    name: &str,
    peer: Option<Address>,
) -> io::Result<Box<dyn DetachedDatagrams>> {
    let inbox = Arc::new(Mutex::new(Inbox::default()));
    let mut shared = lock(network);
    if shared.inboxes.contains_key(name) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    shared.inboxes.insert(name.to_owned(), inbox.clone());
    Ok(Box::new(MemoryDatagrams {
        name: name.to_owned(),
        inbox,
        peer,
        network: network.clone(),
    }))
}

struct MemoryDatagrams {
    name: String,
    inbox: Arc<Mutex<Inbox>>,
    peer: Option<Address>,
    network: Shared,
}

impl DetachedDatagrams for MemoryDatagrams {
    fn address(&self) -> Address {
        Address::Memory(self.name.clone())
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Datagrams>> {
        Ok(self)
    }
}

impl MemoryDatagrams {
    /// Delivers one datagram, or not, or twice, or before the one that was
    /// sent before it.
    fn deliver(&self, to: &Address, bytes: &[u8]) {
        let Address::Memory(name) = to else { return };
        let mut shared = lock(&self.network);
        let Some(inbox) = shared.inboxes.get(name).cloned() else {
            return;
        };
        let faults = shared.faults;
        let lost = shared.rng.chance(faults.loss);
        let copies = 1 + usize::from(shared.rng.chance(faults.duplicate));
        let overtakes = shared.rng.chance(faults.reorder);
        drop(shared);
        if lost {
            return;
        }
        let mut inbox = lock(&inbox);
        for _ in 0..copies {
            if inbox.waiting.len() >= INBOX {
                break;
            }
            let datagram = (Address::Memory(self.name.clone()), bytes.to_vec());
            let behind = inbox.waiting.len().saturating_sub(usize::from(overtakes));
            inbox.waiting.insert(behind, datagram);
        }
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Datagrams for MemoryDatagrams {
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut inbox = lock(&self.inbox);
        while batch.len() < batch.most()
            && let Some((from, bytes)) = inbox.waiting.pop_front()
        {
            if self.peer.as_ref().is_none_or(|peer| *peer == from) {
                batch.push(from, &bytes);
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Ok(()));
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        queue: &[Outgoing<'_>],
    ) -> Poll<io::Result<usize>> {
        for outgoing in queue {
            let Some(to) = outgoing.to.or(self.peer.as_ref()) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            self.deliver(to, outgoing.bytes);
        }
        Poll::Ready(Ok(queue.len()))
    }
}

impl Drop for MemoryDatagrams {
    fn drop(&mut self) {
        lock(&self.network).inboxes.remove(&self.name);
    }
}
