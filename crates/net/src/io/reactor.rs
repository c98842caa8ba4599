//! The readiness of a shard's sockets, on an epoll of our own within tokio's.
//!
//! tokio keeps 256 bytes for each socket, aligned to 128, with a lock around
//! the wakers, since any thread may use it. A shard's sockets are used by one
//! thread: an entry here is 40 bytes in a table. The epoll is itself one
//! descriptor on tokio's event loop; its task takes the events of all sockets
//! by one system call and wakes their owners.
//!
//! Readiness is edge-triggered: it is noted when the kernel tells of it, and
//! forgotten when a system call would have blocked or took less than it was
//! offered.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::task::coop;

/// Events taken from the kernel by one system call.
const EVENTS: usize = 256;

/// In which direction a socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// One socket's readiness.
#[derive(Default)]
struct Entry {
    /// Tells events of the socket that had the place before from those of the
    /// present one.
    generation: u32,
    readable: bool,
    writable: bool,
    /// The peer sends nothing more, or the connection is lost: what remains
    /// is readable for good.
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The sockets of one thread.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<u32>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// Sockets of this thread are registered with a reactor while it lives.
pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// What tokio watches: the reactor's own descriptor.
struct Watched(Rc<Reactor>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.epoll.as_raw_fd()
    }
}

impl Reactor {
    /// Makes a reactor for the sockets of this thread and starts its task.
    /// Called within the thread's runtime.
    ///
    /// # Errors
    /// What the system answers. Sockets are on tokio's event loop then.
    pub(crate) fn enter() -> io::Result<Entered> {
        let reactor = Rc::new(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            entries: RefCell::default(),
            free: RefCell::default(),
        });
        #[allow(unsafe_code, reason = "the event loop keeps the raw descriptor")]
        // SAFETY: the reactor owns its descriptor, never replaces it, and is
        // owned by the watch itself.
        let watch = unsafe { AsyncFd::register(Watched(reactor.clone())) };
        let watch = watch.map_err(io::Error::from)?;
        tokio::task::spawn_local(drive(watch));
        CURRENT.set(Some(reactor));
        Ok(Entered(()))
    }

    /// That of this thread, if there is one.
    pub(super) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Watches a socket, which is not blocking and not watched elsewhere.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn register(self: &Rc<Self>, socket: impl AsFd) -> io::Result<Registration> {
        let index = self.place();
        let generation = self.entries.borrow()[index as usize].generation;
        let registration = Registration {
            reactor: self.clone(),
            index,
            generation,
        };
        let data = u64::from(generation) << 32 | u64::from(index);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(data), flags)?;
        Ok(registration)
    }

    fn place(&self) -> u32 {
        if let Some(index) = self.free.borrow_mut().pop() {
            return index;
        }
        let mut entries = self.entries.borrow_mut();
        entries.push(Entry::default());
        u32::try_from(entries.len() - 1).expect("a process has fewer descriptors")
    }

    /// Takes what the kernel has to tell, once; whether there may be more.
    fn turn(&self, events: &mut Vec<Event>) -> io::Result<bool> {
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        events.clear();
        let spare = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, spare, Some(&at_once)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            self.note(*event);
        }
        Ok(events.len() == EVENTS)
    }

    fn note(&self, event: Event) {
        let (data, flags) = (event.data.u64(), event.flags);
        #[allow(clippy::cast_possible_truncation, reason = "two halves")]
        let (index, generation) = (data as u32, (data >> 32) as u32);
        let mut entries = self.entries.borrow_mut();
        let entry = entries
            .get_mut(index as usize)
            .filter(|entry| entry.generation == generation);
        let Some(entry) = entry else {
            return;
        };
        let lost = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        entry.ended |= lost || flags.contains(EventFlags::RDHUP);
        let (mut reader, mut writer) = (None, None);
        if entry.ended || flags.contains(EventFlags::IN) {
            entry.readable = true;
            reader = entry.reader.take();
        }
        if lost || flags.contains(EventFlags::OUT) {
            entry.writable = true;
            writer = entry.writer.take();
        }
        // Outside the borrow: who is woken may come back here.
        drop(entries);
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// Tells the owners of sockets what the kernel tells, for ever.
async fn drive(watch: AsyncFd<Watched>) {
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        let Ok(mut ready) = watch.readable().await else {
            // The runtime ends.
            return;
        };
        match watch.get_ref().0.turn(&mut events) {
            Ok(true) => {}
            Ok(false) => ready.clear_ready(),
            Err(error) => {
                tracing::error!(%error, "the event loop of a shard's sockets failed");
                return;
            }
        }
    }
}

/// A socket's place in a reactor, given back when it is dropped. Drop it
/// before the socket's descriptor goes elsewhere.
pub(super) struct Registration {
    reactor: Rc<Reactor>,
    index: u32,
    generation: u32,
}

impl Registration {
    /// Ready when the socket may be read or written.
    pub(super) fn poll_ready(&self, way: Way, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.reactor.entries.borrow_mut();
        let entry = &mut entries[self.index as usize];
        let (is_ready, waker) = match way {
            Way::Read => (entry.readable, &mut entry.reader),
            Way::Write => (entry.writable, &mut entry.writer),
        };
        if is_ready {
            return Poll::Ready(());
        }
        let known = waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        let old = if known {
            None
        } else {
            waker.replace(cx.waker().clone())
        };
        drop(entries);
        // A waker's drop may run a task's drop, which may come back here.
        drop(old);
        Poll::Pending
    }

    /// Ready with what `operation` answers, as soon as it does not block.
    /// `offered` says for how many bytes there is room: when fewer were moved
    /// the kernel had no more.
    pub(super) fn poll_io(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        offered: usize,
        mut operation: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // A socket that is always ready must leave others their turn.
        let turn = ready!(coop::poll_proceed(cx));
        loop {
            ready!(self.poll_ready(way, cx));
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.forget(way, true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    if matches!(result, Ok(count) if 0 < count && count < offered) {
                        self.forget(way, false);
                    }
                    turn.made_progress();
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// It is not ready any more. Where the peer has ended it stays readable,
    /// unless the kernel itself says otherwise.
    fn forget(&self, way: Way, blocked: bool) {
        let mut entries = self.reactor.entries.borrow_mut();
        let entry = &mut entries[self.index as usize];
        match way {
            Way::Read => entry.readable = entry.ended && !blocked,
            Way::Write => entry.writable = false,
        }
    }

    /// Takes the socket off, which lives on.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn deregister(self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.reactor.epoll, socket)?)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut entries = self.reactor.entries.borrow_mut();
        let entry = &mut entries[self.index as usize];
        debug_assert_eq!(entry.generation, self.generation, "its place is its own");
        let next = entry.generation.wrapping_add(1);
        let old = std::mem::replace(
            entry,
            Entry {
                generation: next,
                ..Entry::default()
            },
        );
        drop(entries);
        self.reactor.free.borrow_mut().push(self.index);
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn reactor() -> Rc<Reactor> {
        Rc::new(Reactor {
            epoll: epoll::create(CreateFlags::CLOEXEC).unwrap(),
            entries: RefCell::default(),
            free: RefCell::default(),
        })
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn turn(reactor: &Reactor) {
        while reactor.turn(&mut Vec::with_capacity(EVENTS)).unwrap() {}
    }

    /// An event that the kernel had told of before a socket was closed marked
    /// the next socket in its place ready, and woke its owner.
    #[test]
    fn an_event_of_a_socket_that_is_gone_is_nobodys() {
        let reactor = reactor();
        let (near, _far) = pair();
        let first = reactor.register(&near).unwrap();
        let (index, generation) = (first.index, first.generation);
        first.deregister(&near).unwrap();
        let second = reactor.register(&near).unwrap();
        assert_eq!(second.index, index, "places are used again");
        let late = |generation: u32| Event {
            flags: EventFlags::IN,
            data: EventData::new_u64(u64::from(generation) << 32 | u64::from(index)),
        };
        reactor.note(late(generation));
        assert!(second.poll_ready(Way::Read, &mut cx()).is_pending());
        reactor.note(late(second.generation));
        assert!(second.poll_ready(Way::Read, &mut cx()).is_ready());
    }

    #[test]
    fn readiness_is_told_forgotten_and_told_again() {
        let reactor = reactor();
        let (mut near, mut far) = pair();
        let registration = reactor.register(&near).unwrap();
        turn(&reactor);
        assert!(registration.poll_ready(Way::Read, &mut cx()).is_pending());
        assert!(registration.poll_ready(Way::Write, &mut cx()).is_ready());
        let mut buffer = [0; 16];
        for _ in 0..3 {
            far.write_all(b"four").unwrap();
            turn(&reactor);
            let mut read =
                || registration.poll_io(Way::Read, &mut cx(), 16, || near.read(&mut buffer));
            assert!(matches!(read(), Poll::Ready(Ok(4))));
            // Fewer came than there was room for.
            assert!(read().is_pending());
        }
        drop(far);
        turn(&reactor);
        for _ in 0..2 {
            let read = registration.poll_io(Way::Read, &mut cx(), 16, || near.read(&mut buffer));
            assert!(matches!(read, Poll::Ready(Ok(0))), "an end stays");
        }
    }

    /// What is read up to the brim may have more behind it, which the kernel
    /// does not tell of a second time.
    #[test]
    fn a_full_buffer_is_read_again() {
        let reactor = reactor();
        let (mut near, mut far) = pair();
        let registration = reactor.register(&near).unwrap();
        far.write_all(b"eightish").unwrap();
        turn(&reactor);
        let mut buffer = [0; 4];
        for _ in 0..2 {
            let read = registration.poll_io(Way::Read, &mut cx(), 4, || near.read(&mut buffer));
            assert!(matches!(read, Poll::Ready(Ok(4))));
        }
        let read = registration.poll_io(Way::Read, &mut cx(), 4, || near.read(&mut buffer));
        assert!(read.is_pending());
    }

    #[test]
    fn places_are_as_many_as_sockets_at_once() {
        let reactor = reactor();
        for _ in 0..100 {
            let (near, _far) = pair();
            let (other, _end) = pair();
            let _both = (
                reactor.register(&near).unwrap(),
                reactor.register(&other).unwrap(),
            );
        }
        assert_eq!(reactor.entries.borrow().len(), 2);
        assert_eq!(reactor.free.borrow().len(), 2);
    }
}
