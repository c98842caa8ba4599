//! Native frames on a raw stream, on either side of a connection.

use std::rc::Rc;

use bytes::Bytes;
use waystation_base::Moment;
use waystation_wire::{
    Assembler, Decoded, FRAME_LEN_MAX, Flags, HEADER_LEN, Header, Kind, decode, encode_header,
};

use super::calls::{Answer, Calls};
use super::dispatch::dispatch;
use super::heartbeat::probed;
use super::router::{Inbound, Router};
use super::unfinished::Unfinished;
use crate::conn::{CloseReason, Conn, Input, Session, Turn};
use crate::limits::MESSAGES_PER_TURN;

/// Bytes kept of the reason for which a callee refuses a connection.
const REASON_BYTES: usize = 256;

/// What the side that connected does beside handling requests.
pub(crate) struct Client {
    pub(crate) calls: Calls,
    /// Gets what the callee says when it refuses the connection.
    pub(crate) on_go_away: Box<dyn Fn(Option<String>)>,
}

/// One connection's frames.
pub(crate) struct NativeSession {
    router: Rc<Router>,
    /// There while a message is incomplete that comes in several frames.
    partial: Option<Box<Partial>>,
    client: Option<Box<Client>>,
    /// There while frames wait behind a handler that were looked at.
    ahead: Option<Box<Ahead>>,
    /// Whether pings and probes are answered before they come here.
    pings_answered: bool,
}

/// Messages that come in several frames and are incomplete.
#[derive(Default)]
struct Partial {
    assembler: Assembler,
    unfinished: Unfinished,
}

/// How far frames were looked at that wait behind a handler, in bytes from the
/// first that was not consumed.
#[derive(Default)]
struct Ahead {
    /// Pings and cancellations up to here are done.
    urgent: usize,
    /// Answers up to here are done.
    answers: usize,
    /// From here on answers wait for the frames before them.
    pieces: bool,
}

impl Ahead {
    fn has_done(&self, kind: Kind, is_probe: bool, end: usize) -> bool {
        match kind {
            Kind::Ping | Kind::Cancel => end <= self.urgent,
            // Only probes are done before their turn.
            Kind::Request => end <= self.urgent && is_probe,
            Kind::Reply => end <= self.answers,
            _ => false,
        }
    }

    /// Whether something is left of it.
    fn consume(&mut self, count: usize) -> bool {
        self.urgent = self.urgent.saturating_sub(count);
        self.answers = self.answers.saturating_sub(count);
        self.pieces &= self.urgent > 0;
        self.urgent > 0
    }
}

impl NativeSession {
    pub(crate) fn new(router: Rc<Router>, client: Option<Client>) -> Self {
        Self {
            router,
            partial: None,
            client: client.map(Box::new),
            ahead: None,
            pings_answered: false,
        }
    }

    /// Leaves pings and probes alone: the I/O side answers them.
    pub(crate) fn with_pings_answered(mut self, answered: bool) -> Self {
        self.pings_answered = answered;
        self
    }

    /// Handles the frames at the front of `bytes`. Answers how many bytes
    /// were used, how many the next frame needs in all, and what comes next.
    pub(crate) fn handle_bytes(
        &mut self,
        conn: &Conn,
        bytes: &[u8],
    ) -> Result<(usize, usize, Turn), CloseReason> {
        let mut used = 0;
        let result = self.handle_frames(conn, bytes, &mut used);
        self.ahead.take_if(|ahead| !ahead.consume(used));
        result.map(|(wanted, turn)| (used, wanted, turn))
    }

    fn handle_frames(
        &mut self,
        conn: &Conn,
        bytes: &[u8],
        used: &mut usize,
    ) -> Result<(usize, Turn), CloseReason> {
        for _ in 0..MESSAGES_PER_TURN {
            let rest = &bytes[*used..];
            let header = match decode(rest) {
                Ok(Decoded::Frame(header)) => header,
                Ok(Decoded::Need(total)) => {
                    debug_assert!(total <= FRAME_LEN_MAX, "the decoder bounds what it needs");
                    return Ok((total, Turn::NeedMore));
                }
                Err(error) => {
                    tracing::debug!(conn = %conn.name(), peer = %conn.peer(), %error, "bad frame");
                    return Err(CloseReason::Protocol(error.reason()));
                }
            };
            let body = &rest[HEADER_LEN..header.frame_len()];
            *used += header.frame_len();
            let is_probe = is_probe(&header) && !header.has_more();
            let ahead = self.ahead.as_ref();
            let done = ahead.is_some_and(|ahead| ahead.has_done(header.kind, is_probe, *used));
            if let Some(turn) = self.handle_frame(conn, &header, body, done)? {
                return Ok((0, turn));
            }
            // Many small requests with large answers: the peer is no slow
            // reader only because it sent them at once.
            if conn.holds_back() || !conn.is_open() {
                break;
            }
        }
        Ok((0, Turn::Yield))
    }

    fn handle_frame(
        &mut self,
        conn: &Conn,
        header: &Header,
        body: &[u8],
        done: bool,
    ) -> Result<Option<Turn>, CloseReason> {
        if header.kind == Kind::Cancel
            && let Some(partial) = &mut self.partial
            && partial.assembler.cancel(header.call)
        {
            partial.unfinished.cancel(header.call);
        }
        if self.is_whole() && !header.has_more() {
            return Ok(self.handle_message(conn, header, body, done));
        }
        let partial = self.partial.get_or_insert_default();
        let pushed = partial
            .assembler
            .push(*header, Bytes::copy_from_slice(body));
        match pushed {
            Ok(Some((header, body))) => {
                partial.unfinished.ends(&header);
                if self.is_whole() {
                    self.partial = None;
                }
                Ok(self.handle_message(conn, &header, &body, done))
            }
            Ok(None) => {
                partial.unfinished.goes_on(header, conn.shard().now());
                Ok(None)
            }
            Err(error) => {
                tracing::debug!(conn = %conn.name(), %error, "bad continuation");
                Err(CloseReason::Protocol(error.reason()))
            }
        }
    }

    /// Whether no message is incomplete that comes in several frames.
    fn is_whole(&self) -> bool {
        let partial = self.partial.as_ref();
        partial.is_none_or(|partial| partial.assembler.is_idle())
    }

    fn handle_message(
        &mut self,
        conn: &Conn,
        header: &Header,
        body: &[u8],
        done: bool,
    ) -> Option<Turn> {
        conn.shard().counters().messages_in.add(1);
        if done {
            return None;
        }
        match header.kind {
            Kind::Request if is_probe(header) => self.tell_load(conn, header),
            Kind::Request | Kind::Push => {
                return dispatch(&self.router, conn, Inbound { header, body });
            }
            Kind::Reply => self.complete(conn, header, body),
            Kind::Ping => self.pong(conn, header),
            Kind::Pong => {}
            Kind::Cancel => self.router.control.on_cancel(conn, header.call),
            Kind::GoAway => {
                if let Some(client) = &self.client {
                    let refused = !header.status.is_ok();
                    (client.on_go_away)(refused.then(|| reason(body)));
                }
                self.router.control.on_go_away(conn);
            }
        }
        None
    }

    fn complete(&self, conn: &Conn, header: &Header, body: &[u8]) {
        let answer = Answer {
            header: *header,
            body: Bytes::copy_from_slice(body),
        };
        let client = self.client.as_ref();
        let taken = client.is_some_and(|c| c.calls.complete(header.call, Ok(answer)));
        if !taken {
            conn.shard().counters().late_answers.add(1);
        }
    }

    /// Does what must not wait behind a handler: the I/O side answers
    /// heartbeats, a cancellation is for the handler that runs, and an answer
    /// may be what the handler waits for.
    fn act_ahead(&self, conn: &Conn, ahead: &mut Ahead, header: &Header, body: &[u8], end: usize) {
        match header.kind {
            Kind::Ping => self.pong(conn, header),
            Kind::Request if is_probe(header) && !header.has_more() => {
                self.tell_load(conn, header);
            }
            Kind::Cancel => self.router.control.on_cancel(conn, header.call),
            Kind::Reply if header.has_more() => ahead.pieces = true,
            Kind::Reply if !ahead.pieces && self.is_whole() => {
                self.complete(conn, header, body);
                ahead.answers = end;
            }
            _ => {}
        }
    }

    fn pong(&self, conn: &Conn, ping: &Header) {
        self.answer_at_once(conn, &Header::pong(ping.call));
    }

    /// Answers a probe: no handler hears of it.
    fn tell_load(&self, conn: &Conn, probe: &Header) {
        self.answer_at_once(conn, &probed(probe));
    }

    /// Says what this server has to do, unless the I/O side does.
    fn answer_at_once(&self, conn: &Conn, answer: &Header) {
        if !self.pings_answered {
            let answer = answer.with_load(conn.shard().server_load());
            // A connection that closes meanwhile counts it itself.
            let _ = conn.send_short_with(HEADER_LEN, |out| {
                out.extend_from_slice(&encode_header(&answer));
            });
        }
    }

    /// Bytes of messages in part.
    pub(crate) fn held_len(&self) -> usize {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| partial.assembler.held_len())
    }

    pub(crate) fn unfinished_since(&self) -> Option<Moment> {
        self.partial.as_ref()?.unfinished.since()
    }

    pub(crate) fn is_mid_message(&self) -> bool {
        !self.is_whole()
    }
}

/// Whether a request asks for the load only. Of one in several frames the last
/// decides, as on the I/O side.
const fn is_probe(header: &Header) -> bool {
    matches!(header.kind, Kind::Request) && header.flags.contains(Flags::PROBE)
}

/// What a peer says, as far as it is worth keeping.
fn reason(body: &[u8]) -> String {
    let body = &body[..body.len().min(REASON_BYTES)];
    String::from_utf8_lossy(body).into_owned()
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

    fn look_ahead(&mut self, conn: &Conn, received: &[u8]) {
        let mut ahead = self.ahead.take().unwrap_or_default();
        let mut at = ahead.urgent;
        while let Some(rest) = received.get(at..)
            && let Ok(Decoded::Frame(header)) = decode(rest)
        {
            let end = at + header.frame_len();
            let body = &received[at + HEADER_LEN..end];
            self.act_ahead(conn, &mut ahead, &header, body, end);
            at = end;
        }
        ahead.urgent = at;
        self.ahead = (at > 0).then_some(ahead);
    }

    fn handle_drain(&mut self, conn: &Conn) {
        send_go_away(conn);
    }

    fn unfinished_since(&self) -> Option<Moment> {
        Self::unfinished_since(self)
    }

    fn is_mid_message(&self) -> bool {
        Self::is_mid_message(self)
    }

    fn has_reader(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.calls.any_sent())
    }

    fn held_len(&self) -> usize {
        Self::held_len(self)
    }
}
