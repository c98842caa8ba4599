//! The native protocol on a listener: the first byte decides between native
//! frames, HTTP and what else the router may serve.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_wire::{FirstByte, Header, Status, classify, encode_into};

use super::heartbeat::NativeHeartbeat;
use super::http;
use super::router::Router;
use super::session::NativeSession;
use super::websocket::WebSocketSession;
use crate::conn::{CloseReason, Conn, Filled, Framing};
use crate::limits::REFUSAL_WAIT;
use crate::protocol::{Home, Protocol, Slot};
use crate::shard::until;
use crate::split::Heartbeat;

/// Serves native frames, HTTP and WebSocket on one port.
pub struct NativeProtocol {
    router: Rc<Router>,
}

impl NativeProtocol {
    /// Serves what `router` knows.
    pub fn new(router: Rc<Router>) -> Self {
        Self { router }
    }
}

impl Protocol for NativeProtocol {
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let first = match first_byte(slot).await {
                Ok(first) => first,
                Err(reason) => return reason,
            };
            // The others are boxed: native connections are many, and would
            // hold the places of all.
            let served = match first {
                FirstByte::Native => {
                    slot.conn().set_framing(Framing::Raw);
                    let transport = match slot.transport() {
                        Ok(transport) => transport,
                        Err(reason) => return reason,
                    };
                    let mut session = NativeSession::new(self.router.clone(), None)
                        .with_pings_answered(transport.answers_heartbeats());
                    return transport.run(&mut session).await;
                }
                FirstByte::Http => Box::pin(serve_http(&self.router, slot)).await,
                FirstByte::Lars => Box::pin(serve_foreign(&self.router, slot)).await,
            };
            match served {
                Ok(reason) | Err(reason) => reason,
            }
        })
    }

    fn refuse(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let shard = slot.conn().shard().clone();
            let answer = async {
                if first_byte(slot).await? == FirstByte::Http {
                    let busy = http::refusal();
                    slot.conn().send_control(&busy);
                } else {
                    send_refusal(slot.conn());
                }
                Ok::<(), CloseReason>(())
            };
            // Whatever comes of it, the connection ends here.
            let _ = until(&shard, shard.now() + REFUSAL_WAIT, answer).await;
            CloseReason::Refused
        })
    }

    fn home(&self, head: &[u8]) -> Home {
        self.router
            .home
            .as_ref()
            .map_or(Home::Here, |home| home(head))
    }

    fn has_home(&self) -> bool {
        self.router.home.is_some()
    }

    fn heartbeat() -> Option<Box<dyn Heartbeat>> {
        Some(Box::new(NativeHeartbeat::default()))
    }

    fn on_open(&self, conn: &Conn) {
        // Nobody knows yet what the peer speaks.
        conn.set_framing(Framing::Mute);
        self.router.control.on_open(conn);
    }

    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        self.router.control.on_close(conn, reason);
    }
}

/// A native refusal: the process takes no more connections.
fn send_refusal(conn: &Conn) {
    let mut header = Header::go_away();
    header.status = Status::Overloaded;
    let mut frame = Vec::new();
    // The reason is far below the limit of a message.
    let _ = encode_into(&header, b"too many connections", &mut frame);
    conn.send_control(&frame);
}

async fn first_byte(slot: &mut Slot) -> Result<FirstByte, CloseReason> {
    let transport = slot.transport()?;
    loop {
        if let Some(&first) = transport.input().bytes().first() {
            transport.forget_drain();
            return Ok(classify(first));
        }
        match transport.fill().await? {
            Filled::End => return Err(CloseReason::Peer),
            // What was sent before the peer could know of a drain is still
            // served. In which protocol to tell it will be known then.
            Filled::Bytes | Filled::Drain => {}
        }
    }
}

/// What is neither native nor HTTP, by whatever the router has for it.
async fn serve_foreign(router: &Rc<Router>, slot: &mut Slot) -> Result<CloseReason, CloseReason> {
    let make = router.foreign.as_ref();
    let make = make.ok_or(CloseReason::UnknownProtocol)?;
    slot.conn().set_framing(Framing::Raw);
    let mut session = make(slot.conn());
    Ok(slot.transport()?.run(&mut session).await)
}

async fn serve_http(router: &Rc<Router>, slot: &mut Slot) -> Result<CloseReason, CloseReason> {
    // Boxed, as is the session below: a WebSocket would hold the places of
    // both.
    if !Box::pin(http::serve(router, slot)).await? {
        return Ok(CloseReason::Http);
    }
    slot.conn().set_framing(Framing::WebSocket);
    let mut session = Box::new(WebSocketSession::new(router.clone()));
    Ok(slot.transport()?.run(&mut *session).await)
}
