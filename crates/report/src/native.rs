//! Our own agents: counts in native frames.

use std::rc::Rc;

use waystation_net::native::{Handler, Inbound, Started};
use waystation_net::{Conn, Label};
use waystation_wire::calls::CallCounts;

use crate::server::Desk;

/// Takes pushes of [`CallCounts`].
pub(crate) struct CountsHandler {
    pub(crate) desk: Rc<Desk>,
    pub(crate) label: Label,
}

impl Handler for CountsHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        match CallCounts::parse(message.body) {
            Ok(counts) => {
                let now_s = self.desk.shared.now_s();
                self.desk.shared.ledger().handle_named(now_s, &counts);
            }
            Err(error) => {
                tracing::debug!(conn = %conn.name(), %error, "bad counts");
                self.desk.counters.bad_bodies.add(1);
            }
        }
        None
    }

    fn label(&self) -> Label {
        self.label
    }
}
