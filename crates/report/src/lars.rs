//! Agents of Lars: frames of reports, one after the other, without an answer.
//!
//! A connection whose very first message has an unknown id that begins like a word,
//! such as 99, is taken for one of HTTP and closed.

use std::rc::Rc;

use waystation_net::{CloseReason, Conn, Input, Session, Turn};
use waystation_wire::lars::{BodyError, Frame, Message, Scan, scan};

use crate::limits::FRAMES_PER_TURN;
use crate::server::Desk;

/// One connection.
pub(crate) struct LarsSession {
    desk: Rc<Desk>,
    /// Names this connection among all that ever were.
    reporter: u64,
}

impl LarsSession {
    pub(crate) fn new(desk: Rc<Desk>) -> Self {
        let reporter = desk.next_reporter();
        Self { desk, reporter }
    }

    fn handle_frame(&self, ledger: &mut crate::ledger::Ledger, now_s: u64, frame: Frame<'_>) {
        match Message::parse(frame.id, frame.body) {
            Ok(Message::ReportStatusRequest(report)) => {
                ledger.handle_lars(now_s, self.reporter, &report);
            }
            // Of no use to a report server; Lars' own one logs and skips it.
            Ok(_) | Err(BodyError::UnknownId(_)) => self.desk.counters.unknown.add(1),
            Err(_) => self.desk.counters.bad_bodies.add(1),
        }
    }
}

impl Session for LarsSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        if input.is_empty() {
            return Ok(Turn::NeedMore);
        }
        let now_s = self.desk.shared.now_s();
        let mut used = 0;
        let mut ledger = self.desk.shared.ledger();
        for _ in 0..FRAMES_PER_TURN {
            match scan(&input.bytes()[used..]) {
                Ok(Scan::Frame(frame)) => {
                    used += frame.len();
                    self.handle_frame(&mut ledger, now_s, frame);
                }
                Ok(Scan::Need(total)) => {
                    input.consume(used);
                    input.want(total);
                    return Ok(Turn::NeedMore);
                }
                Err(error) => {
                    tracing::debug!(conn = %conn.name(), peer = %conn.peer(), %error, "bad frame of Lars");
                    self.desk.counters.bad_frames.add(1);
                    return Err(CloseReason::Protocol("too_large"));
                }
            }
        }
        input.consume(used);
        Ok(Turn::Yield)
    }
}
