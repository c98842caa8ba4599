//! Native frames on a raw stream, on either side of a connection.

use std::rc::Rc;

use bytes::Bytes;
use waystation_wire::{
    Assembler, Decoded, FRAME_LEN_MAX, HEADER_LEN, Header, Kind, decode, encode_header,
};

use super::calls::{Answer, Calls};
use super::dispatch::dispatch;
use super::router::{Inbound, Router};
use crate::conn::{CloseReason, Conn, Input, Session, Turn};
use crate::limits::MESSAGES_PER_TURN;

/// What the side that connected does beside handling requests.
pub(crate) struct Client {
    pub(crate) calls: Calls,
    pub(crate) on_go_away: Box<dyn Fn()>,
}

/// One connection's frames.
pub(crate) struct NativeSession {
    router: Rc<Router>,
    assembler: Assembler,
    client: Option<Client>,
}

impl NativeSession {
    pub(crate) fn new(router: Rc<Router>, client: Option<Client>) -> Self {
        Self {
            router,
            assembler: Assembler::new(),
            client,
        }
    }

    /// Handles the frames at the front of `bytes`. Answers how many bytes
    /// were used, how many the next frame needs in all, and what comes next.
    pub(crate) fn handle_bytes(
        &mut self,
        conn: &Conn,
        bytes: &[u8],
    ) -> Result<(usize, usize, Turn), CloseReason> {
        let mut used = 0;
        for _ in 0..MESSAGES_PER_TURN {
            let rest = &bytes[used..];
            let header = match decode(rest) {
                Ok(Decoded::Frame(header)) => header,
                Ok(Decoded::Need(total)) => {
                    debug_assert!(total <= FRAME_LEN_MAX, "the decoder bounds what it needs");
                    return Ok((used, total, Turn::NeedMore));
                }
                Err(error) => {
                    tracing::debug!(conn = %conn.name(), peer = %conn.peer(), %error, "bad frame");
                    return Err(CloseReason::Protocol(error.reason()));
                }
            };
            let body = &rest[HEADER_LEN..header.frame_len()];
            used += header.frame_len();
            if let Some(turn) = self.handle_frame(conn, &header, body)? {
                return Ok((used, 0, turn));
            }
        }
        Ok((used, 0, Turn::Yield))
    }

    fn handle_frame(
        &mut self,
        conn: &Conn,
        header: &Header,
        body: &[u8],
    ) -> Result<Option<Turn>, CloseReason> {
        if header.kind == Kind::Cancel {
            self.assembler.cancel(header.call);
        }
        if self.assembler.is_idle() && !header.has_more() {
            return Ok(self.handle_message(conn, header, body));
        }
        match self.assembler.push(*header, Bytes::copy_from_slice(body)) {
            Ok(Some((header, body))) => Ok(self.handle_message(conn, &header, &body)),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::debug!(conn = %conn.name(), %error, "bad continuation");
                Err(CloseReason::Protocol(error.reason()))
            }
        }
    }

    fn handle_message(&mut self, conn: &Conn, header: &Header, body: &[u8]) -> Option<Turn> {
        let counters = conn.shard().counters();
        counters.messages_in.add(1);
        match header.kind {
            Kind::Request | Kind::Push => {
                return dispatch(&self.router, conn, Inbound { header, body });
            }
            Kind::Reply => {
                let answer = Answer {
                    header: *header,
                    body: Bytes::copy_from_slice(body),
                };
                let client = self.client.as_ref();
                let taken = client.is_some_and(|c| c.calls.complete(header.call, Ok(answer)));
                if !taken {
                    counters.late_answers.add(1);
                }
            }
            Kind::Ping => {
                let pong = encode_header(&Header::pong(header.call));
                // A full output is the slow reader's own fault.
                let _ = conn.send(&pong);
            }
            Kind::Pong => {}
            Kind::Cancel => self.router.control.on_cancel(conn, header.call),
            Kind::GoAway => {
                if let Some(client) = &self.client {
                    (client.on_go_away)();
                }
                self.router.control.on_go_away(conn);
            }
        }
        None
    }

    pub(crate) fn is_mid_message(&self) -> bool {
        !self.assembler.is_idle()
    }
}

/// Tells the peer that this process goes away.
pub(crate) fn send_go_away(conn: &Conn) {
    let _ = conn.send(&encode_header(&Header::go_away()));
}

impl Session for NativeSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        if input.is_empty() {
            return Ok(Turn::NeedMore);
        }
        let (used, wanted, turn) = self.handle_bytes(conn, input.bytes())?;
        input.consume(used);
        input.want(wanted);
        Ok(turn)
    }

    fn handle_drain(&mut self, conn: &Conn) {
        send_go_away(conn);
    }

    fn is_mid_message(&self) -> bool {
        Self::is_mid_message(self)
    }
}
