//! What is spoken on the port: the first byte decides between native frames,
//! HTTP, and Lars.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_net::native::NativeProtocol;
use waystation_net::{CloseReason, Conn, Filled, Heartbeat, Home, Protocol, Slot};
use waystation_wire::{FirstByte, classify};

use crate::lars::LarsSession;
use crate::server::Desk;

/// The protocols of a report server.
pub(crate) struct ReportProtocol {
    pub(crate) native: Rc<NativeProtocol>,
    pub(crate) desk: Rc<Desk>,
}

impl Protocol for ReportProtocol {
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            match first_byte(slot).await {
                Err(reason) => reason,
                Ok(FirstByte::Lars) => match slot.transport() {
                    Ok(transport) => {
                        transport
                            .run(&mut LarsSession::new(Rc::clone(&self.desk)))
                            .await
                    }
                    Err(reason) => reason,
                },
                Ok(FirstByte::Native | FirstByte::Http) => {
                    Rc::clone(&self.native).serve(slot).await
                }
            }
        })
    }

    fn refuse(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Rc::clone(&self.native).refuse(slot)
    }

    fn home(&self, head: &[u8]) -> Home {
        self.native.home(head)
    }

    fn heartbeat() -> Option<Box<dyn Heartbeat>> {
        NativeProtocol::heartbeat()
    }

    fn on_open(&self, conn: &Conn) {
        self.native.on_open(conn);
    }

    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        self.native.on_close(conn, reason);
    }
}

async fn first_byte(slot: &mut Slot) -> Result<FirstByte, CloseReason> {
    let transport = slot.transport()?;
    loop {
        if let Some(&first) = transport.input().bytes().first() {
            return Ok(classify(first));
        }
        match transport.fill().await? {
            Filled::End => return Err(CloseReason::Peer),
            // What was sent before the peer could know is still taken.
            Filled::Bytes | Filled::Drain => {}
        }
    }
}
