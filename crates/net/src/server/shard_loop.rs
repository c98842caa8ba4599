//! What a shard's thread does from start to end.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use waystation_base::{Moment, ShardId, line_passes};
use waystation_mailbox::Receiver;

use super::accept::{self, Spread};
use super::start::{Role, Setup};
use crate::conn::{CloseReason, Conn, Transport};
use crate::io::{Reactor, Stream};
use crate::limits::{HOME_BYTES_MAX, HOME_WAIT, OFFLOAD_THREADS};
use crate::protocol::{Home, Protocol, Slot};
use crate::shard::{Arrival, Label, Mail, Shard, ShardTurn, WaitsFor, until, waiting};

/// A shard's protocols, by listener.
pub(super) type Protocols = Rc<[Rc<dyn Protocol>]>;

/// I/O shards end this long after the workers' deadline at the latest: those
/// flush for half a second after it.
const IO_AFTER_WORKERS: Duration = Duration::from_millis(750);

/// Runs a shard until it has drained. `started` hears whether it could start;
/// it is dropped without a word when its start panics.
pub(super) fn run(setup: Setup, started: &Sender<io::Result<()>>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Who waits for it is there: it waits for nothing else.
            let _ = started.send(Err(error));
            return;
        }
    };
    let shard = runtime.block_on(serve(setup, started));
    // Threads of the offload pool may still run a job; they end with it. The
    // tasks end here, while their thread is still a shard.
    runtime.shutdown_background();
    shard.leave();
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(OFFLOAD_THREADS)
        .build_local(LocalOptions::default())
}

async fn serve(setup: Setup, started: &Sender<io::Result<()>>) -> Shard {
    let Setup {
        parts,
        receiver,
        role,
        lane,
        listeners,
    } = setup;
    let shard = Shard::enter(parts);
    // Without one its sockets are on tokio's event loop.
    let _reactor = Reactor::enter()
        .inspect_err(|error| tracing::warn!(%error, "a shard has no event loop of its own"));
    if let Some(lane) = lane {
        lane.enter(&shard);
    }
    let (protocols, spread) = match role {
        Role::Worker { init, factories } => {
            for init in init {
                init(&shard);
            }
            let protocols: Protocols = factories.iter().map(|make| make(&shard)).collect();
            (protocols.clone(), Spread::Shared(protocols))
        }
        Role::Io { heartbeats, io } => (Rc::default(), Spread::Split { heartbeats, io }),
    };
    let does_io_only = matches!(spread, Spread::Split { .. });
    let spread = Rc::new(spread);
    for (index, listener) in listeners.into_iter().enumerate() {
        let accepting = accept::run(shard.clone(), index, listener, spread.clone());
        shard.spawn(Label::of("accept"), accepting);
    }
    // Who waits for it is there: it waits for nothing else.
    let _ = started.send(Ok(()));
    let drain = mail(&shard, receiver, &protocols).await;
    if does_io_only {
        sockets_end(&shard, drain).await;
    } else {
        drained(&shard, drain).await;
    }
    shard
}

/// Waits until the workers, which drain, have let go of their sockets.
async fn sockets_end(shard: &Shard, deadline: Moment) {
    shard.begin_drain(deadline).await;
    let ended = async {
        while shard.has_handlers() {
            shard.sleep(Duration::from_millis(5)).await;
        }
    };
    if until(shard, deadline + IO_AFTER_WORKERS, ended)
        .await
        .is_err()
    {
        tracing::warn!(
            shard = shard.id().0,
            "sockets were left when the drain ended"
        );
    }
}

/// Delivers mail until a drain is ordered; the drain itself needs mail too.
async fn mail(shard: &Shard, mut receiver: Receiver<Mail>, protocols: &Protocols) -> Moment {
    let mut batch = Vec::new();
    loop {
        let count = poll_fn(|cx| receiver.poll_recv_batch(cx, &mut batch)).await;
        if count.is_none() {
            return shard.now();
        }
        if let Some(within) = deliver_batch(shard, &mut batch, protocols) {
            let (shard, protocols) = (shard.clone(), protocols.clone());
            let deadline = shard.now() + within;
            tokio::task::spawn_local(async move {
                while poll_fn(|cx| receiver.poll_recv_batch(cx, &mut batch))
                    .await
                    .is_some()
                {
                    deliver_batch(&shard, &mut batch, &protocols);
                }
            });
            return deadline;
        }
    }
}

/// Handles a batch in a turn of its own, so that the monitor sees a message
/// that blocks.
fn deliver_batch(shard: &Shard, batch: &mut Vec<Mail>, protocols: &Protocols) -> Option<Duration> {
    let _turn = ShardTurn::begin(shard, Label::of("mail"), None);
    let mut drain = None;
    for mail in batch.drain(..) {
        shard.counters().mailbox_in.add(1);
        drain = deliver(shard, mail, protocols).or(drain);
    }
    drain
}

/// Handles one message; answers the time for a drain when it orders one.
fn deliver(shard: &Shard, mail: Mail, protocols: &Protocols) -> Option<Duration> {
    match mail {
        Mail::Connection(arrival) => accept_here(shard, arrival, protocols),
        Mail::Send { to, message } => match shard.connection(to) {
            // A refusal is counted by the connection.
            Ok(conn) => {
                let _ = conn.send_bytes(&message);
            }
            Err(_) => shard.counters().stale_sends.add(1),
        },
        Mail::SendAll { message } => {
            for conn in shard.connections() {
                if conn.is_accepted() && conn.takes_messages() {
                    let _ = conn.send_bytes(&message);
                }
            }
        }
        Mail::Run(job) => {
            if catch_unwind(AssertUnwindSafe(|| job(shard))).is_err() {
                shard.counters().panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(unsaid, "a message to a shard panicked");
                }
            }
        }
        Mail::Drain { within } => return Some(within),
    }
    None
}

/// A connection's place in the load of its shard, from accept until its task
/// has ended. Spreading and the limit go by it, so none may be lost, not even
/// by a panic in a home rule; and a handler that outlives its socket still
/// counts.
struct Place {
    shard: Shard,
    refused: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let place = self.shard.remote().place(self.shard.id(), self.refused);
        place.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a connection that this shard was given.
pub(super) fn accept_here(shard: &Shard, arrival: Arrival, protocols: &Protocols) {
    let place = Place {
        shard: shard.clone(),
        refused: arrival.refused,
    };
    let Some(protocol) = protocols.get(arrival.listener).cloned() else {
        return;
    };
    let Arrival {
        listener,
        stream,
        head,
        homed,
        refused,
    } = arrival;
    let stream = match stream.attach() {
        Ok(mut stream) => {
            shard.tune(&mut *stream);
            stream
        }
        Err(error) => {
            shard.counters().accept_errors.add(1);
            if let Some(unsaid) = line_passes!(shard.now()) {
                tracing::warn!(%error, unsaid, "an accepted connection could not join its shard");
            }
            return;
        }
    };
    let decided = homed || refused || !protocol.has_home();
    let label = Label::of("connection");
    let begin = Begin {
        place,
        protocol,
        stream,
        head,
    };
    if decided {
        shard.spawn(label, connection(Box::new(begin)));
        return;
    }
    // A task of its own kind, since its place in that of every connection
    // would stay.
    shard.spawn(label, async move {
        let Begin {
            place,
            protocol,
            stream,
            head,
        } = begin;
        let found = find_home(&place.shard, listener, &*protocol, stream, head).await;
        if let Some((stream, head)) = found {
            let begin = Begin {
                place,
                protocol,
                stream,
                head,
            };
            Box::pin(connection(Box::new(begin))).await;
        }
    });
}

/// What a connection begins with. Boxed for its task, which would hold the
/// place of all of it to the end.
struct Begin {
    place: Place,
    protocol: Rc<dyn Protocol>,
    stream: Box<dyn Stream>,
    head: Vec<u8>,
}

/// Reads until the protocol knows the connection's shard, and hands it over
/// when that is another one. `None` when it is gone from here.
async fn find_home(
    shard: &Shard,
    listener: usize,
    protocol: &dyn Protocol,
    mut stream: Box<dyn Stream>,
    mut head: Vec<u8>,
) -> Option<(Box<dyn Stream>, Vec<u8>)> {
    let deciding = async {
        loop {
            match protocol.home(&head) {
                Home::Here => return Some(shard.id()),
                Home::Key(key) => return Some(shard.remote().shard_of(key)),
                Home::NeedMore if head.len() >= HOME_BYTES_MAX => return None,
                Home::NeedMore => {}
            }
            let read = tokio::io::AsyncReadExt::read_buf(&mut *stream, &mut head);
            match waiting(WaitsFor::plain("its home"), read).await {
                Ok(count @ 1..) => {
                    shard.counters().reads.add(1);
                    shard.counters().bytes_in.add(count as u64);
                }
                _ => return None,
            }
        }
    };
    let home = until(shard, shard.now() + HOME_WAIT, deciding)
        .await
        .ok()
        .flatten();
    match home {
        Some(home) if home == shard.id() => return Some((stream, head)),
        Some(home) => hand_over(shard, home, listener, stream, head),
        None => shard.counters().closed.count(CloseReason::Home.label()),
    }
    None
}

/// Sends a connection that has not opened to the shard of its key.
fn hand_over(
    shard: &Shard,
    home: ShardId,
    listener: usize,
    stream: Box<dyn Stream>,
    head: Vec<u8>,
) {
    let Ok(stream) = stream.detach() else {
        shard.counters().closed.count(CloseReason::Reset.label());
        return;
    };
    shard.counters().rehomed.add(1);
    let arrival = Arrival {
        listener,
        stream,
        head,
        homed: true,
        refused: false,
    };
    let remote = shard.remote();
    let place = remote.place(home, false);
    place.fetch_add(1, Ordering::Relaxed);
    if remote.post(home, Mail::Connection(arrival)).is_err() {
        place.fetch_sub(1, Ordering::Relaxed);
        shard.counters().refused.add(1);
    }
}

/// Frees the connection when its task ends in whatever way.
struct Open {
    slot: Slot,
    protocol: Rc<dyn Protocol>,
    /// Goes when all else has.
    place: Place,
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.slot.take());
        let conn = self.slot.conn();
        let reason = conn.end_reason().unwrap_or_else(CloseReason::of_lost_task);
        conn.finish(reason);
        if !self.place.refused {
            // This may run while the task unwinds: a second panic would end
            // the process.
            let hook = AssertUnwindSafe(|| self.protocol.on_close(conn, reason));
            if catch_unwind(hook).is_err() {
                let shard = conn.shard();
                shard.counters().panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(conn = %conn.name(), unsaid, "a close hook panicked");
                }
            }
        }
        conn.drop_properties();
    }
}

/// Opens a connection. `None` when there is no slot.
fn opened(begin: Begin) -> Option<Open> {
    let Begin {
        place,
        protocol,
        stream,
        head,
    } = begin;
    let shard = &place.shard;
    let Some(conn) = Conn::open(shard, stream.peer(), true) else {
        shard.counters().refused.add(1);
        return None;
    };
    if place.refused {
        shard.counters().refused.add(1);
    }
    if shard.is_draining() {
        conn.begin_drain();
    }
    Some(Open {
        slot: Slot::new(Transport::new(conn, stream, head)),
        protocol,
        place,
    })
}

/// Serves one connection to its end. What is done between the waits stands in
/// functions: its places in the task would be there all the time.
#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its argument twice"
)]
fn connection(begin: Box<Begin>) -> impl Future<Output = ()> {
    async move {
        let Some(mut open) = opened(*begin) else {
            return;
        };
        let reason = served(&mut open).await;
        let closing = closing(&mut open, reason);
        closing.await;
    }
}

/// What the protocol does with a connection.
fn served(open: &mut Open) -> LocalBoxFuture<'_, CloseReason> {
    let (protocol, slot) = (open.protocol.clone(), &mut open.slot);
    if open.place.refused {
        protocol.refuse(slot)
    } else {
        protocol.on_open(slot.conn());
        protocol.serve(slot)
    }
}

/// The end of a connection.
fn closing(open: &mut Open, reason: CloseReason) -> LocalBoxFuture<'static, ()> {
    open.slot.conn().end(reason);
    match open.slot.take() {
        Some(transport) => Box::pin(transport.close(reason)),
        None => Box::pin(std::future::ready(())),
    }
}

/// Waits for the drain: hooks, then connections of all shards, then whatever is
/// left goes.
async fn drained(shard: &Shard, deadline: Moment) {
    shard.begin_drain(deadline).await;
    let empty = async {
        // Handlers of connections that are gone may be in the middle of work.
        while shard.has_handlers() || shard.connections().iter().any(Conn::is_accepted) {
            shard.sleep(Duration::from_millis(5)).await;
        }
    };
    if until(shard, deadline, empty).await.is_err() {
        let left: Vec<Conn> = shard.connections();
        tracing::warn!(
            shard = shard.id().0,
            left = left.len(),
            "the drain missed its deadline"
        );
    }
    // What other shards have in progress may need this one.
    shard.remote().end_work();
    let others = async {
        while shard.remote().has_work() || shard.has_handlers() {
            shard.sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = until(shard, deadline, others).await;
    shard.set_ending();
    for conn in shard.connections() {
        conn.close(CloseReason::Draining);
    }
    // One last turn, so that closing connections flush.
    let gone = async {
        while !shard.connections().is_empty() {
            shard.sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = until(shard, shard.now() + Duration::from_millis(500), gone).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Box<Begin>) -> F) -> usize {
        size_of::<F>()
    }

    /// A task takes 128 bytes more when what it holds grows by one word: tokio
    /// adds 120 to this future and aligns the sum to 128.
    #[test]
    fn what_a_connection_holds_fits_a_task_of_256_bytes() {
        assert!(size(connection) <= 136, "{} bytes", size(connection));
    }
}
