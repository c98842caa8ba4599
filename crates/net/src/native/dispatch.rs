//! Starts handlers under a router's rules.

use std::rc::Rc;

use super::router::{Inbound, Router, Started, reply_error};
use crate::conn::{Conn, Turn};
use crate::shard::Label;
use waystation_wire::{Kind, Status};

/// Starts the handler of a request or push. `Some` when the connection has to
/// wait for it: the ordering rule, or no more handlers at once.
pub(crate) fn dispatch(router: &Router, conn: &Conn, message: Inbound<'_>) -> Option<Turn> {
    let id = message.header.message;
    let Some(handler) = router.routes.get(&id).or(router.fallback.as_ref()) else {
        conn.shard().counters().unrouted.add(1);
        if message.header.kind == Kind::Request {
            let reason = format!("no handler has the message id {}", id.0);
            // A connection that closes meanwhile counts it itself.
            let _ = reply_error(conn, message.header, Status::Unimplemented, &reason);
        }
        return None;
    };
    let label = handler.label();
    conn.shard().running(label);
    let started = handler.handle(conn, message);
    proceed(router.concurrency, conn, label, started)
}

/// Runs what a handler left to do, beside the connection or in its way.
pub(crate) fn proceed(most: u32, conn: &Conn, label: Label, started: Started) -> Option<Turn> {
    let Some(future) = started else {
        // It may have kept a guard, and answers later without a task of its own.
        return wait_for_capacity(most.max(1), conn);
    };
    if most <= 1 {
        let guard = conn.handler_guard();
        return Some(Turn::Suspended(Box::pin(async move {
            let _guard = guard;
            future.await;
        })));
    }
    let guard = conn.handler_guard();
    conn.shard().spawn(label, async move {
        let _guard = guard;
        future.await;
    });
    wait_for_capacity(most, conn)
}

/// Some while as many handlers run as may.
fn wait_for_capacity(most: u32, conn: &Conn) -> Option<Turn> {
    (conn.handlers() >= most).then(|| {
        let conn = conn.clone();
        Turn::Suspended(Box::pin(async move { conn.handler_capacity(most).await }))
    })
}

/// The text handler's turn.
pub(crate) fn dispatch_text(
    router: &Rc<Router>,
    conn: &Conn,
    text: &str,
) -> Result<Option<Turn>, ()> {
    let handler = router.text.as_ref().ok_or(())?;
    let label = handler.label();
    conn.shard().running(label);
    let started = handler.handle(conn, text);
    Ok(proceed(router.concurrency, conn, label, started))
}
