//! One connection of a FIFO client: connects, serves, waits, and again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use waystation_base::{Backoff, line_passes};

use super::line::{Batch, Line};
use super::session::FifoSession;
use super::{FifoCodec, FifoConfig, FifoError, FifoSink, MakeCodec};
use crate::conn::{CloseReason, Conn, SlowReader, Transport};
use crate::io::Stream;
use crate::limits::FIFO_SPARE_MAX;
use crate::shard::{Label, Shard, Waiters, WaitsFor, describe_task, until, waiting};

/// Connections that live this long let the back-off start anew.
const STABLE: Duration = Duration::from_secs(1);

/// What a link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Up,
    Closed,
}

pub(super) type Lines<A> = Rc<RefCell<Line<A>>>;

/// One connection, and the line of those who wait on it. Each time it is
/// made anew the line is a new one.
pub(super) struct Link<A> {
    shard: Shard,
    state: Cell<State>,
    current: RefCell<Option<(Conn, Lines<A>)>>,
    /// The line of a connection that is lost, with answers that came unasked
    /// and that nobody has.
    last: RefCell<Option<Lines<A>>>,
    /// Who waits for the state to change.
    changed: Rc<Waiters>,
    /// Waits for a request to be in flight: the stall clock.
    asked: Waiters,
}

impl<A: 'static> Link<A> {
    /// A link that is made again whenever it is lost.
    pub(super) fn start<C: FifoCodec<Answer = A>>(
        shard: &Shard,
        config: &FifoConfig,
        codec: MakeCodec<C>,
        changed: Rc<Waiters>,
    ) -> Rc<Self> {
        Self::spawn(shard, config.clone(), codec, changed, true)
    }

    /// A link that is made once.
    pub(super) fn once<C: FifoCodec<Answer = A>>(
        shard: &Shard,
        config: &FifoConfig,
        codec: MakeCodec<C>,
        changed: Rc<Waiters>,
    ) -> Rc<Self> {
        // Its user's deadlines look after it: a subscription may be quiet.
        let config = FifoConfig {
            stall_timeout: Duration::MAX,
            ..config.clone()
        };
        Self::spawn(shard, config, codec, changed, false)
    }

    fn spawn<C: FifoCodec<Answer = A>>(
        shard: &Shard,
        config: FifoConfig,
        codec: MakeCodec<C>,
        changed: Rc<Waiters>,
        again: bool,
    ) -> Rc<Self> {
        let link = Rc::new(Self {
            shard: shard.clone(),
            state: Cell::new(State::Connecting),
            current: RefCell::new(None),
            last: RefCell::new(None),
            changed,
            asked: Waiters::default(),
        });
        let task = drive(link.clone(), config, codec, again);
        shard.spawn(Label::of("fifo upstream"), task);
        link
    }
}

impl<A> Link<A> {
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.get() == State::Up
            && self
                .current
                .borrow()
                .as_ref()
                .is_some_and(|(conn, _)| conn.is_open())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.current
            .borrow()
            .as_ref()
            .map_or(0, |(_, line)| line.borrow().len())
    }

    /// The connection, while there is one.
    pub(super) fn conn(&self) -> Option<Conn> {
        let current = self.current.borrow();
        current.as_ref().map(|(conn, _)| conn.clone())
    }

    pub(super) fn is_behind(&self) -> bool {
        let current = self.current.borrow();
        current.as_ref().is_some_and(|(conn, _)| conn.is_behind())
    }

    /// Writes a request and takes its place: one step.
    ///
    /// # Panics
    /// When it is empty: what answers nothing would have a place.
    pub(super) fn send(&self, request: &[u8]) -> Result<Place<A>, FifoError> {
        assert!(!request.is_empty(), "a request has bytes");
        let push = |line: &mut Line<A>| line.push(self.shard.now());
        let (line, seat) = self.write(request, 1, push)?;
        Ok(Place::new(line, seat, true))
    }

    /// Takes a place for an answer that comes, or came, unasked; also when the
    /// connection is lost, for those that came before.
    pub(super) fn listen(&self) -> Result<Place<A>, FifoError> {
        let now = self.shard.now();
        let last = self.last.borrow().clone();
        if let Some(line) = last.filter(|line| line.borrow().has_spare()) {
            let seat = line.borrow_mut().push_unasked(now)?;
            return Ok(Place::new(line, seat, false));
        }
        let (line, seat) = self.write(&[], 1, |line| line.push_unasked(now))?;
        Ok(Place::new(line, seat, false))
    }

    /// Writes requests and takes their places: one step.
    ///
    /// # Panics
    /// When there are bytes and no request, or requests and no byte.
    pub(super) fn relay(
        &self,
        requests: &[u8],
        count: u32,
        sink: &Rc<dyn FifoSink>,
        first: u64,
    ) -> Result<(), FifoError> {
        assert!((count == 0) == requests.is_empty(), "a request has bytes");
        let batch = Batch {
            sink: sink.clone(),
            first,
            count,
        };
        self.write(requests, count as usize, |line| {
            line.push_batch(batch, self.shard.now())
        })?;
        Ok(())
    }

    /// Nothing is written without a place, and no place is taken for what is
    /// not written: both would put everyone out of step.
    fn write<T>(
        &self,
        requests: &[u8],
        count: usize,
        push: impl FnOnce(&mut Line<A>) -> Result<T, FifoError>,
    ) -> Result<(Lines<A>, T), FifoError> {
        let current = self.current.borrow();
        let (conn, line) = current.as_ref().ok_or(FifoError::NotConnected)?;
        if !conn.is_open() {
            return Err(FifoError::NotConnected);
        }
        let mut open = line.borrow_mut();
        let before = open.len();
        open.admit(count)?;
        if !requests.is_empty() && conn.send(requests).is_err() {
            // Its output is full: the server does not read.
            return Err(FifoError::Overloaded(before));
        }
        let place = push(&mut open)?;
        let begins = before == 0 && open.len() > 0;
        drop(open);
        if begins {
            // The stall clock had nothing to watch until now.
            self.asked.wake_all();
        }
        Ok((line.clone(), place))
    }

    /// Closes the link for good.
    pub(super) fn close(&self) {
        self.set_state(State::Closed);
        if let Some((conn, _)) = &*self.current.borrow() {
            conn.close(CloseReason::Local);
        }
    }

    fn set_state(&self, state: State) {
        if self.state.get() != State::Closed {
            self.state.set(state);
        }
        self.changed.wake_all();
    }

    /// Ready when the link is closed for good.
    async fn closed(&self) {
        let closed = || match self.state.get() {
            State::Closed => Poll::Ready(()),
            _ => Poll::Pending,
        };
        self.changed.until(closed).await;
    }
}

/// One request's place. Dropping it leaves the place in the order; a place
/// without a request goes.
pub(super) struct Place<A> {
    line: Lines<A>,
    seat: usize,
    /// A request was written for it.
    asked: bool,
    left: bool,
}

impl<A> Place<A> {
    fn new(line: Lines<A>, seat: usize, asked: bool) -> Self {
        Self {
            line,
            seat,
            asked,
            left: false,
        }
    }

    /// Waits for the answer.
    pub(super) async fn answer(mut self, label: Label) -> Result<A, FifoError> {
        let answer = poll_fn(|cx| self.line.borrow_mut().poll_seat(self.seat, cx));
        let result = waiting(
            WaitsFor {
                what: "answer to",
                of: label,
            },
            answer,
        )
        .await;
        self.left = true;
        result
    }
}

impl<A> Drop for Place<A> {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if self.asked {
            return self.line.borrow_mut().leave(self.seat);
        }
        let next = self.line.borrow_mut().leave_unasked(self.seat);
        if let Some(next) = next {
            next.wake();
        }
    }
}

async fn drive<C: FifoCodec>(
    link: Rc<Link<C::Answer>>,
    config: FifoConfig,
    codec: MakeCodec<C>,
    again: bool,
) {
    let shard = link.shard.clone();
    describe_task(config.address.to_string());
    let mut backoff = Backoff::new(config.backoff, shard.random());
    let mut failing = false;
    // On a shared connection an answer that nobody asked for is a fault.
    let spare_max = if again { 0 } else { FIFO_SPARE_MAX };
    loop {
        let connected = tokio::select! {
            biased;
            () = link.closed() => return,
            connected = connect(&shard, &config) => connected,
        };
        match connected {
            Ok((conn, stream)) => {
                failing = false;
                shard.counters().connects.add(1);
                let since = shard.now();
                // A codec that panics ends its connection, not the link.
                let served =
                    AssertUnwindSafe(serve(&link, &config, &codec, spare_max, (conn, stream)));
                if served.catch_unwind().await.is_err() {
                    shard.counters().panics.add(1);
                    if let Some(unsaid) = line_passes!(shard.now()) {
                        tracing::error!(address = %config.address, unsaid, "a codec panicked");
                    }
                }
                if shard.now().saturating_since(since) >= STABLE {
                    backoff.reset();
                }
            }
            Err(error) => {
                shard.counters().connect_errors.add(1);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(address = %config.address, %error, "cannot connect; will go on trying");
                }
            }
        }
        if !again || shard.is_ending() {
            return link.close();
        }
        let pause = shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = link.closed() => return,
            () = waiting(WaitsFor::plain("back-off"), pause) => {}
        }
    }
}

async fn connect(shard: &Shard, config: &FifoConfig) -> io::Result<(Conn, Box<dyn Stream>)> {
    let connecting = shard.io().connect(&config.address);
    let connecting = waiting(WaitsFor::plain("connect"), connecting);
    let connected = until(shard, shard.now() + config.connect_wait, connecting).await;
    let mut stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    shard.tune(&mut *stream);
    let conn = Conn::open(shard, config.address.clone(), false)
        .ok_or_else(|| io::Error::other("the shard has no slot left"))?;
    conn.set_slow_reader(SlowReader::Refuse);
    Ok((conn, stream))
}

/// Fails the line when the connection's task ends in whatever way.
struct Connected<'a, A> {
    link: &'a Link<A>,
    conn: Conn,
    line: Lines<A>,
    reason: Option<CloseReason>,
}

impl<A> Connected<'_, A> {
    /// Tells everyone who waits.
    fn fail(&self) {
        self.link.current.replace(None);
        let failed = self.line.borrow_mut().fail(FifoError::OutcomeUnknown);
        if self.line.borrow().has_spare() {
            self.link.last.replace(Some(self.line.clone()));
        }
        for waker in failed.wakers {
            waker.wake();
        }
        for batch in failed.batches {
            // This may run while the task unwinds: a second panic would end
            // the process.
            let told = || batch.hand_over(Err(FifoError::OutcomeUnknown));
            if catch_unwind(AssertUnwindSafe(told)).is_err() {
                let shard = &self.link.shard;
                shard.counters().panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(unsaid, "a sink of relayed answers panicked");
                }
            }
        }
        self.link.set_state(State::Connecting);
    }
}

impl<A> Drop for Connected<'_, A> {
    fn drop(&mut self) {
        self.conn
            .finish(self.reason.unwrap_or(CloseReason::HandlerPanic));
        self.fail();
        self.conn.drop_properties();
    }
}

async fn serve<C: FifoCodec>(
    link: &Link<C::Answer>,
    config: &FifoConfig,
    codec: &MakeCodec<C>,
    spare_max: usize,
    (conn, stream): (Conn, Box<dyn Stream>),
) {
    let line = Rc::new(RefCell::new(Line::new(config.in_flight_max, spare_max)));
    link.current.replace(Some((conn.clone(), line.clone())));
    let mut connected = Connected {
        link,
        conn: conn.clone(),
        line: line.clone(),
        reason: None,
    };
    let mut session = FifoSession::new(codec(), &line);
    let mut transport = Transport::new(conn.clone(), stream, Vec::new());
    link.set_state(State::Up);
    let reason = tokio::select! {
        reason = transport.run(&mut session) => reason,
        reason = stalled(link, &line, config.stall_timeout) => reason,
    };
    connected.reason = Some(reason);
    tracing::debug!(address = %config.address, %reason, "upstream lost");
    // The end of the socket may take some time, for which nobody has to wait.
    connected.fail();
    transport.close(reason).await;
}

/// Ready when the oldest request is overdue.
async fn stalled<A>(link: &Link<A>, line: &RefCell<Line<A>>, timeout: Duration) -> CloseReason {
    loop {
        let oldest = link.asked.until(|| match line.borrow().oldest() {
            Some(written) => Poll::Ready(written),
            None => Poll::Pending,
        });
        let due = oldest.await + timeout;
        if link.shard.now() >= due {
            return CloseReason::Protocol("stalled");
        }
        link.shard.sleep_until(due).await;
    }
}
