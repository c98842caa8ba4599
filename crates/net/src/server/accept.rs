//! Accepts connections on the first shard and spreads them evenly over all.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use waystation_base::{ShardId, Trouble, TroubleNews, line_passes};

use super::shard_loop::{Protocols, accept_here};
use crate::io::{Address, DetachedListener};
use crate::limits::{ACCEPT_PAUSE, LOG_PERIOD, REFUSALS_MAX};
use crate::shard::{Arrival, Mail, Remote, Shard, WaitsFor, waiting};
use crate::split::{MakeHeartbeat, serve_accepted};

/// Connections accepted before other tasks get their turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// Accepts until the shard drains, then closes the listener.
pub(super) async fn run(
    shard: Shard,
    index: usize,
    listener: Box<dyn DetachedListener>,
    spread: Rc<Spread>,
) {
    let address = listener.address();
    let mut listener = match listener.attach() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "a listener could not join its shard");
            return;
        }
    };
    crate::shard::describe_task(address.to_string());
    let mut next = 0_usize;
    let mut in_turn = 0;
    let mut trouble = Trouble::new(LOG_PERIOD);
    loop {
        let accept = poll_fn(|cx| listener.poll_accept(cx));
        let stream = tokio::select! {
            biased;
            () = shard.drain_begun() => return,
            accepted = waiting(WaitsFor::plain("a connection"), accept) => accepted,
        };
        match stream {
            Ok(stream) => {
                shard.counters().accepted.add(1);
                if let Some(failures) = trouble.succeeded() {
                    tracing::info!(%address, failures, "accepts again");
                }
                let arrival = Arrival {
                    listener: index,
                    stream,
                    head: Vec::new(),
                    homed: false,
                    refused: false,
                };
                next = next.wrapping_add(1);
                spread.give(&shard, arrival, next);
                in_turn += 1;
                if in_turn >= ACCEPTS_PER_TURN {
                    in_turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                if is_lasting(&shard, &error) {
                    tell(&address, &error, trouble.failed(shard.now()));
                    shard.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Where accepted connections go.
pub(super) enum Spread {
    /// To the shards, this one among them, which do their own I/O.
    Shared(Protocols),
    /// Their sockets to the I/O shards, this one among them, and the rest to
    /// the workers.
    Split {
        /// Of each listener.
        heartbeats: Vec<MakeHeartbeat>,
        /// Reaches the I/O shards.
        io: Remote,
    },
}

impl Spread {
    /// Gives a connection to the shard with the fewest. Those that are only
    /// told of the limit are counted apart: they must not keep others out.
    fn give(&self, shard: &Shard, mut arrival: Arrival, next: usize) {
        let remote = shard.remote();
        arrival.refused = remote.load_sum() >= shard.config().connections_max;
        if arrival.refused && remote.refusing().load(Ordering::Relaxed) >= REFUSALS_MAX {
            // Dropping the stream closes it.
            shard.counters().refused.add(1);
            return;
        }
        let home = remote.least_loaded(next % remote.shards());
        remote
            .place(home, arrival.refused)
            .fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Shared(protocols) if home == shard.id() => accept_here(shard, arrival, protocols),
            Self::Shared(_) => post(shard, home, arrival),
            Self::Split { heartbeats, io } => {
                let Some(&heartbeat) = heartbeats.get(arrival.listener) else {
                    return;
                };
                let index = next % io.shards();
                if index + remote.shards() == usize::from(shard.id().0) {
                    return split(shard, home, arrival, heartbeat);
                }
                let refused = arrival.refused;
                let serve = move |shard: &Shard| split(shard, home, arrival, heartbeat);
                let target = ShardId(u16::try_from(index).unwrap_or(0));
                if io.run_on(target, serve).is_err() {
                    release(shard, home, refused);
                    shard.counters().refused.add(1);
                }
            }
        }
    }
}

/// Serves an accepted connection's socket here and gives the rest to its
/// worker.
fn split(shard: &Shard, home: ShardId, mut arrival: Arrival, heartbeat: MakeHeartbeat) {
    match serve_accepted(shard, arrival.stream, heartbeat) {
        Ok(stream) => {
            arrival.stream = stream;
            post(shard, home, arrival);
        }
        Err(error) => {
            release(shard, home, arrival.refused);
            shard.counters().accept_errors.add(1);
            if let Some(unsaid) = line_passes!(shard.now()) {
                tracing::warn!(%error, unsaid, "an accepted connection could not join its I/O shard");
            }
        }
    }
}

fn post(shard: &Shard, home: ShardId, arrival: Arrival) {
    let refused = arrival.refused;
    if shard
        .remote()
        .post(home, Mail::Connection(arrival))
        .is_err()
    {
        release(shard, home, refused);
        shard.counters().refused.add(1);
    }
}

fn release(shard: &Shard, home: ShardId, refused: bool) {
    let place = shard.remote().place(home, refused);
    place.fetch_sub(1, Ordering::Relaxed);
}

/// Whether accepting fails for more than one connection. It must not spin
/// then: without file descriptors the listener stays readable.
fn is_lasting(shard: &Shard, error: &io::Error) -> bool {
    shard.counters().accept_errors.add(1);
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn tell(address: &Address, error: &io::Error, news: Option<TroubleNews>) {
    match news {
        Some(TroubleNews::Begins { unsaid }) => {
            tracing::warn!(%address, %error, unsaid, "cannot accept; pausing");
        }
        Some(TroubleNews::GoesOn { failures }) => {
            tracing::warn!(%address, %error, failures, "still cannot accept");
        }
        None => {}
    }
}
