//! The task of an upstream: connects, serves, waits, and again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::time::Duration;

use waystation_base::{Backoff, CallId, line_passes};
use waystation_wire::{Header, encode_header};

use super::{Closer, Shared, Upstream, UpstreamState};
use crate::conn::{CloseReason, Conn, SlowReader, Transport};
use crate::io::Stream;
use crate::native::calls::CallError;
use crate::native::session::{Client, NativeSession};
use crate::shard::{WaitsFor, until, waiting};

/// Connections that live this long let the back-off start anew.
const STABLE: Duration = Duration::from_secs(1);

/// Connects, serves, waits, for as long as anyone uses the upstream.
pub(super) async fn run(shared: Rc<Shared>, users: Weak<Closer>) {
    let shard = shared.shard.clone();
    crate::shard::describe_task(shared.config.address.to_string());
    let mut backoff = Backoff::new(shared.config.backoff, shard.random());
    loop {
        let connected = tokio::select! {
            biased;
            () = shared.closed() => return,
            connected = connect(&shared) => connected,
        };
        match connected {
            // The shard's last pass over its connections has been already.
            Ok((conn, _)) if shard.is_ending() => conn.finish(CloseReason::Draining),
            Ok((conn, stream)) => {
                shard.counters().connects.add(1);
                *shared.fault.borrow_mut() = None;
                let since = shard.now();
                serve(&shared, &users, conn, stream).await;
                if shard.now().saturating_since(since) >= STABLE {
                    backoff.reset();
                }
            }
            Err(error) => {
                shard.counters().connect_errors.add(1);
                let reason = error.to_string();
                let before = shared.fault.replace(Some(reason.clone()));
                if before.is_none() {
                    tracing::warn!(address = %shared.config.address, %error, "cannot connect; will go on trying");
                }
                if before.as_ref() != Some(&reason) {
                    shared.events.on_unreachable(&reason);
                }
            }
        }
        if shard.is_ending() || shared.is_retired.get() {
            // What is still called here fails with the shard.
            return shared.close();
        }
        let pause = shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = shared.closed() => return,
            () = waiting(WaitsFor::plain("back-off"), pause) => {}
        }
    }
}

async fn connect(shared: &Shared) -> io::Result<(Conn, Box<dyn Stream>)> {
    let shard = &shared.shard;
    let deadline = shard.now() + shared.config.connect_wait;
    let connecting = shard.io().connect(&shared.config.address);
    let connected = until(
        shard,
        deadline,
        waiting(WaitsFor::plain("connect"), connecting),
    )
    .await;
    let mut stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    shard.tune(&mut *stream);
    let peer = shared.config.address.clone();
    let conn = Conn::open(shard, peer, false)
        .ok_or_else(|| io::Error::other("the shard has no slot left"))?;
    // A callee that is slow for a while gets no more calls; closing would
    // leave the outcome of all that are in flight unknown.
    conn.set_slow_reader(SlowReader::Refuse);
    Ok((conn, stream))
}

/// Fails what is in flight when the connection's task ends in whatever way.
struct Connected<'a> {
    shared: &'a Rc<Shared>,
    users: &'a Weak<Closer>,
    conn: Conn,
    /// None until it has ended in order.
    reason: Option<CloseReason>,
}

impl Connected<'_> {
    fn upstream(&self) -> Option<Upstream> {
        let closer = self.users.upgrade()?;
        Some(Upstream {
            shared: self.shared.clone(),
            closer,
        })
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let reason = self.reason.unwrap_or_else(CloseReason::of_lost_task);
        self.conn.finish(reason);
        self.shared.conn.replace(None);
        self.shared.set_state(UpstreamState::Connecting);
        self.shared.calls.fail_sent(&CallError::OutcomeUnknown);
        if let Some(upstream) = self.upstream() {
            // This may run while the task unwinds: a second panic would end
            // the process.
            let hook = AssertUnwindSafe(|| self.shared.events.on_down(&upstream, reason));
            if catch_unwind(hook).is_err() {
                let shard = &self.shared.shard;
                shard.counters().panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(conn = %self.conn.name(), unsaid, "a hook of an upstream panicked");
                }
            }
        }
        self.conn.drop_properties();
    }
}

async fn serve(shared: &Rc<Shared>, users: &Weak<Closer>, conn: Conn, stream: Box<dyn Stream>) {
    let mut connected = Connected {
        shared,
        users,
        conn: conn.clone(),
        reason: None,
    };
    let mut transport = Transport::new(conn.clone(), stream, Vec::new());
    let drained = Rc::downgrade(shared);
    let client = Client {
        calls: shared.calls.clone(),
        on_go_away: Box::new(move |refusal| {
            if let Some(shared) = drained.upgrade() {
                if refusal.is_some() {
                    *shared.fault.borrow_mut() = refusal;
                }
                shared.go_away();
            }
        }),
    };
    let mut session = NativeSession::new(shared.router.clone(), Some(client));
    shared.conn.replace(Some(conn.clone()));
    if let Some(upstream) = connected.upstream() {
        shared.events.on_up(&upstream, &conn);
    }
    shared.set_state(UpstreamState::Up);
    let alive = keep_alive(shared, &conn);
    let reason = tokio::select! {
        reason = transport.run(&mut session) => reason,
        reason = alive => reason,
    };
    connected.reason = Some(reason);
    tracing::debug!(address = %shared.config.address, %reason, "upstream lost");
    transport.close(reason).await;
}

/// Pings a quiet connection; ready when it gives no sign of life.
async fn keep_alive(shared: &Shared, conn: &Conn) -> CloseReason {
    let config = &shared.config;
    loop {
        shared.shard.sleep(config.keepalive_interval).await;
        if conn.is_reading_paused() {
            // It is we who do not listen.
            continue;
        }
        let quiet = shared.shard.now().saturating_since(conn.received());
        if quiet >= config.keepalive_wait {
            return CloseReason::Keepalive;
        }
        if quiet >= config.keepalive_interval {
            let _ = conn.send(&encode_header(&Header::ping(CallId(0))));
        }
    }
}
