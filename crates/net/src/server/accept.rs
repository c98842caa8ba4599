//! Accepts connections on the first shard and spreads them evenly over all.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::shard_loop::accept_here;
use crate::io::DetachedListener;
use crate::limits::{ACCEPT_PAUSE, REFUSALS_MAX};
use crate::protocol::Protocol;
use crate::shard::{Arrival, Mail, Shard, WaitsFor, waiting};

/// Connections accepted before other tasks get their turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// Accepts until the shard drains, then closes the listener.
pub(super) async fn run(
    shard: Shard,
    index: usize,
    listener: Box<dyn DetachedListener>,
    protocols: Rc<[Rc<dyn Protocol>]>,
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
                let arrival = Arrival {
                    listener: index,
                    stream,
                    head: Vec::new(),
                    homed: false,
                    refused: false,
                };
                next = next.wrapping_add(1);
                spread(&shard, arrival, next, &protocols);
                in_turn += 1;
                if in_turn >= ACCEPTS_PER_TURN {
                    in_turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => failed(&shard, &error).await,
        }
    }
}

/// Gives a connection to the shard with the fewest. Those that are only told
/// of the limit are counted apart: they must not keep others out.
fn spread(shard: &Shard, mut arrival: Arrival, next: usize, protocols: &Rc<[Rc<dyn Protocol>]>) {
    let remote = shard.remote();
    arrival.refused = remote.load_sum() >= shard.config().connections_max;
    if arrival.refused && remote.refusing().load(Ordering::Relaxed) >= REFUSALS_MAX {
        // Dropping the stream closes it.
        shard.counters().refused.add(1);
        return;
    }
    let home = remote.least_loaded(next % remote.shards());
    let place = remote.place(home, arrival.refused);
    place.fetch_add(1, Ordering::Relaxed);
    if home == shard.id() {
        accept_here(shard, arrival, protocols);
    } else if remote.post(home, Mail::Connection(arrival)).is_err() {
        place.fetch_sub(1, Ordering::Relaxed);
        shard.counters().refused.add(1);
    }
}

/// A failed accept must not spin: without file descriptors the listener stays
/// readable.
async fn failed(shard: &Shard, error: &io::Error) {
    shard.counters().accept_errors.add(1);
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    );
    if !transient {
        tracing::warn!(%error, "cannot accept; pausing");
        shard.sleep(ACCEPT_PAUSE).await;
    }
}
