//! Streams (and datagrams) in memory, with the faults that real sockets have: short reads and
//! writes, readiness that turns out to be none, delayed delivery, cuts.
//!
//! Everything random comes from the seed, so a failing schedule replays.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use waystation_base::Rng;

use super::memory_datagram::{self, Inbox};
use super::{
    Address, Connecting, DatagramOptions, DetachedDatagrams, DetachedListener, DetachedStream, Io,
    Listener, Stream,
};

/// How badly the streams of a [`MemoryIo`] behave.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Probability that a read or write moves only a part of the bytes.
    pub short: f64,
    /// Probability that a ready stream answers "would block" once.
    pub spurious: f64,
    /// Probability that an event comes late: a read or write that could go on
    /// waits up to 4 ms of the runtime's time first.
    pub delay: f64,
    /// Probability, for each operation, that the connection is cut.
    pub cut: f64,
    /// Bytes that a direction holds before its writer has to wait.
    pub capacity: usize,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
    /// Probability that a datagram overtakes the one before it.
    pub reorder: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            short: 0.0,
            spurious: 0.0,
            delay: 0.0,
            cut: 0.0,
            capacity: 64 * 1024,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
        }
    }
}

/// The longest delay of an event.
const DELAY_MAX: Duration = Duration::from_millis(4);

/// Connections waiting to be accepted on one name. Above it connects fail.
const BACKLOG: usize = 1024;

/// Listeners and streams of one simulated network. Clones share it.
#[derive(Clone)]
pub struct MemoryIo {
    shared: Arc<Mutex<Network>>,
}

pub(super) struct Network {
    listeners: HashMap<String, Arc<Mutex<Backlog>>>,
    pub(super) inboxes: HashMap<String, Arc<Mutex<Inbox>>>,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    clients: u64,
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<MemoryStream>,
    waker: Option<Waker>,
    closed: bool,
}

/// A test's own mutexes are never poisoned in a way that matters.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryIo {
    /// A network whose faults follow from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let network = Network {
            listeners: HashMap::new(),
            inboxes: HashMap::new(),
            faults,
            rng: Rng::from_seed(seed),
            clients: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(network)),
        }
    }

    /// Changes the faults of connections made from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.shared).faults = faults;
    }

    /// Connects to `name` at once, for a test that is the peer itself.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] when nobody listens there.
    pub fn dial(&self, name: &str) -> io::Result<MemoryStream> {
        let mut network = lock(&self.shared);
        network.clients += 1;
        let client = Address::Memory(format!("client-{}", network.clients));
        let backlog = network
            .listeners
            .get(name)
            .cloned()
            .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (faults, seed) = (network.faults, network.rng.next_u64());
        drop(network);
        let (near, far) = pair(faults, seed, client, Address::Memory(name.to_owned()));
        let mut backlog = lock(&backlog);
        if backlog.closed || backlog.waiting.len() >= BACKLOG {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        backlog.waiting.push_back(far);
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(near)
    }
}

impl Io for MemoryIo {
    fn listen(&self, address: &Address) -> io::Result<Box<dyn DetachedListener>> {
        let Address::Memory(name) = address else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut network = lock(&self.shared);
        if network.listeners.contains_key(name) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let backlog = Arc::new(Mutex::new(Backlog::default()));
        network.listeners.insert(name.clone(), backlog.clone());
        Ok(Box::new(MemoryListener {
            name: name.clone(),
            backlog,
            network: self.shared.clone(),
        }))
    }

    fn connect(&self, address: &Address) -> Connecting {
        let result = match address {
            Address::Memory(name) => self.dial(name),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        Box::pin(async move { Ok(Box::new(result?) as Box<dyn Stream>) })
    }

    fn bind_datagrams(
        &self,
        address: &Address,
        _: &DatagramOptions,
    ) -> io::Result<Box<dyn DetachedDatagrams>> {
        match address {
            Address::Memory(name) => memory_datagram::bind(&self.shared, name, None),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn connect_datagrams(&self, to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
        let name = {
            let mut network = lock(&self.shared);
            network.clients += 1;
            format!("client-{}", network.clients)
        };
        memory_datagram::bind(&self.shared, &name, Some(to.clone()))
    }
}

struct MemoryListener {
    name: String,
    backlog: Arc<Mutex<Backlog>>,
    network: Arc<Mutex<Network>>,
}

impl DetachedListener for MemoryListener {
    fn address(&self) -> Address {
        Address::Memory(self.name.clone())
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Listener>> {
        Ok(self)
    }
}

impl Listener for MemoryListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Box<dyn DetachedStream>>> {
        let mut backlog = lock(&self.backlog);
        if let Some(stream) = backlog.waiting.pop_front() {
            return Poll::Ready(Ok(Box::new(stream)));
        }
        backlog.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        lock(&self.network).listeners.remove(&self.name);
        let mut backlog = lock(&self.backlog);
        backlog.closed = true;
        let waiting = std::mem::take(&mut backlog.waiting);
        drop(backlog);
        drop(waiting);
    }
}

/// One direction of a connection.
struct Pipe {
    bytes: VecDeque<u8>,
    faults: Faults,
    rng: Rng,
    /// The writer is done: what is in `bytes` is all that comes.
    finished: bool,
    /// The connection was cut, or the reader is gone.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(faults: Faults, seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            bytes: VecDeque::new(),
            faults,
            rng: Rng::from_seed(seed),
            finished: false,
            broken: false,
            reader: None,
            writer: None,
        }))
    }

    /// How many of `most` bytes move now; at least one.
    fn portion(&mut self, most: usize) -> usize {
        if most > 1 && self.rng.chance(self.faults.short) {
            let most = u64::try_from(most).unwrap_or(u64::MAX);
            return usize::try_from(1 + self.rng.below(most - 1)).unwrap_or(1);
        }
        most
    }

    /// True when this operation must be tried again later; the task is woken.
    fn hiccup(&mut self, cx: &Context<'_>) -> bool {
        let hiccup = self.rng.chance(self.faults.spurious);
        if hiccup {
            cx.waker().wake_by_ref();
        }
        hiccup
    }

    fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

fn pair(
    faults: Faults,
    seed: u64,
    client: Address,
    server: Address,
) -> (MemoryStream, MemoryStream) {
    let (up, down) = (Pipe::new(faults, seed), Pipe::new(faults, seed ^ u64::MAX));
    let near = MemoryStream {
        read: down.clone(),
        write: up.clone(),
        peer: server,
        late: Default::default(),
    };
    let far = MemoryStream {
        read: up,
        write: down,
        peer: client,
        late: Default::default(),
    };
    (near, far)
}

/// One end of a connection in memory.
pub struct MemoryStream {
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
    peer: Address,
    /// Delays of the read and the write at hand.
    late: [Late; 2],
}

/// The delay of one operation.
#[derive(Default)]
enum Late {
    /// It has not been drawn.
    #[default]
    Undrawn,
    Until(Pin<Box<tokio::time::Sleep>>),
    Over,
}

impl Late {
    /// Pending while the operation is late. Drawn once for each operation.
    fn poll(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Undrawn = self {
            *self = if pipe.rng.chance(pipe.faults.delay) {
                let most = u64::try_from(DELAY_MAX.as_micros()).unwrap_or(1);
                let delay = Duration::from_micros(pipe.rng.below(most));
                Self::Until(Box::pin(tokio::time::sleep(delay)))
            } else {
                Self::Over
            };
        }
        if let Self::Until(sleep) = self {
            std::task::ready!(sleep.as_mut().poll(cx));
            *self = Self::Over;
        }
        Poll::Ready(())
    }
}

impl MemoryStream {
    /// Breaks the connection in both directions; bytes on the way are lost.
    pub fn cut(&self) {
        for pipe in [&self.read, &self.write] {
            let mut pipe = lock(pipe);
            pipe.broken = true;
            pipe.bytes.clear();
            pipe.wake_all();
        }
    }

    fn cut_by_chance(&self) {
        let cut = {
            let mut pipe = lock(&self.write);
            let chance = pipe.faults.cut;
            pipe.rng.chance(chance)
        };
        if cut {
            self.cut();
        }
    }
}

impl Stream for MemoryStream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.read);
        if !pipe.bytes.is_empty() || pipe.finished || pipe.broken {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn peer(&self) -> Address {
        self.peer.clone()
    }

    fn detach(mut self: Box<Self>) -> io::Result<Box<dyn DetachedStream>> {
        // A delay is on this thread's timers.
        self.late = Default::default();
        Ok(self)
    }
}

impl DetachedStream for MemoryStream {
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(self)
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut_by_chance();
        let this = &mut *self;
        let mut pipe = lock(&this.read);
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.bytes.is_empty() {
            if pipe.finished {
                return Poll::Ready(Ok(()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if this.late[0].poll(&mut pipe, cx).is_pending() || pipe.hiccup(cx) {
            return Poll::Pending;
        }
        this.late[0] = Late::Undrawn;
        let most = pipe.bytes.len().min(buffer.remaining());
        let count = pipe.portion(most);
        let (first, second) = pipe.bytes.as_slices();
        let from_first = count.min(first.len());
        buffer.put_slice(&first[..from_first]);
        buffer.put_slice(&second[..count - from_first]);
        pipe.bytes.drain(..count);
        if let Some(waker) = pipe.writer.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.cut_by_chance();
        let this = &mut *self;
        let mut pipe = lock(&this.write);
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = pipe.faults.capacity.saturating_sub(pipe.bytes.len());
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if this.late[1].poll(&mut pipe, cx).is_pending() || pipe.hiccup(cx) {
            return Poll::Pending;
        }
        this.late[1] = Late::Undrawn;
        let count = pipe.portion(room.min(bytes.len()));
        pipe.bytes.extend(&bytes[..count]);
        if let Some(waker) = pipe.reader.take() {
            waker.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.write);
        pipe.finished = true;
        pipe.wake_all();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let mut pipe = lock(&self.write);
        pipe.finished = true;
        pipe.wake_all();
        drop(pipe);
        let mut pipe = lock(&self.read);
        pipe.broken = true;
        pipe.wake_all();
    }
}
