//! Messages in WebSocket frames (RFC 6455): binary ones hold native frames,
//! text ones go to the text handler.

use std::io::{self, Read, Write};
use std::rc::Rc;

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use waystation_base::Moment;

use super::dispatch::dispatch_text;
use super::heartbeat::PONG;
use super::router::Router;
use super::session::{NativeSession, send_go_away};
use crate::conn::{CloseReason, Conn, Input, Session, Turn};
use crate::limits::{MESSAGES_PER_TURN, WEBSOCKET_MESSAGE_BYTES};

/// First byte of a whole text message.
pub(crate) const TEXT: u8 = 0x81;
/// First byte of a whole binary message.
pub(crate) const BINARY: u8 = 0x82;

/// What the library reads at once.
const READ_BYTES: usize = 2048;

/// Writes the head of a server's message of `length` bytes (RFC 6455, 5.2:
/// unmasked, in one frame).
pub(crate) fn put_head(out: &mut Vec<u8>, first: u8, length: usize) {
    out.push(first);
    match length {
        0..=125 => out.push(u8::try_from(length).unwrap_or(125)),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The library's state of a connection that is between messages.
fn new_context() -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(WEBSOCKET_MESSAGE_BYTES))
        .max_frame_size(Some(WEBSOCKET_MESSAGE_BYTES));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

/// One WebSocket connection.
pub(crate) struct WebSocketSession {
    router: Rc<Router>,
    /// The library's state and buffers, while the peer is in the middle of
    /// something: between messages a connection holds none.
    context: Option<Box<WebSocketContext>>,
    frames: NativeSession,
    /// A binary message that is not handled to its end.
    pending: Option<(Vec<u8>, usize)>,
    bounds: Bounds,
    speaks: Speaks,
    /// A close frame has gone out.
    said_why: bool,
}

/// What a peer understands, as far as it has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// It has said nothing yet. Every WebSocket peer knows the close frame.
    Nothing,
    /// Native frames in binary messages.
    Native,
    /// The text handler's texts, and perhaps native frames too.
    Text,
}

impl WebSocketSession {
    pub(crate) fn new(router: Rc<Router>) -> Self {
        Self {
            context: None,
            frames: NativeSession::new(router.clone(), None),
            router,
            pending: None,
            bounds: Bounds::default(),
            speaks: Speaks::Nothing,
            said_why: false,
        }
    }

    /// Handles native frames of the binary message at hand.
    fn handle_pending(&mut self, conn: &Conn) -> Result<Option<Turn>, CloseReason> {
        let Some((bytes, start)) = self.pending.take() else {
            return Ok(None);
        };
        let (used, _, turn) = self.frames.handle_bytes(conn, &bytes[start..])?;
        let start = start + used;
        match turn {
            Turn::NeedMore if start < bytes.len() => {
                // A native frame may not be spread over two messages.
                Err(CloseReason::Protocol("truncated"))
            }
            Turn::NeedMore => Ok(None),
            other => {
                self.pending = (start < bytes.len()).then_some((bytes, start));
                Ok(Some(other))
            }
        }
    }

    fn handle_message(
        &mut self,
        conn: &Conn,
        message: Message,
    ) -> Result<Option<Turn>, CloseReason> {
        match message {
            Message::Binary(bytes) => {
                if self.speaks == Speaks::Nothing {
                    self.speaks = Speaks::Native;
                }
                self.pending = Some((bytes.into(), 0));
                self.handle_pending(conn)
            }
            Message::Text(text) => {
                conn.shard().counters().messages_in.add(1);
                self.speaks = Speaks::Text;
                dispatch_text(&self.router, conn, &text).map_err(|()| {
                    self.say_why(conn, CloseCode::Unsupported);
                    CloseReason::WebSocket
                })
            }
            // The library answers pings and closes itself, on the next flush.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(None),
        }
    }
}

impl Session for WebSocketSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        if let Some(turn) = self.handle_pending(conn)? {
            return Ok(turn);
        }
        for _ in 0..MESSAGES_PER_TURN {
            let mut pipe = Pipe {
                conn,
                input,
                bounds: &mut self.bounds,
            };
            let context = self.context.get_or_insert_with(new_context);
            let read = context.read(&mut pipe);
            // Pongs and the answer to a close frame go out here; the end of
            // the handshake comes with the next read.
            let _ = context.flush(&mut pipe);
            match read {
                Ok(message) => {
                    if let Some(turn) = self.handle_message(conn, message)? {
                        return Ok(turn);
                    }
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.rest();
                    return Ok(Turn::NeedMore);
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.said_why = true;
                    return Err(CloseReason::Peer);
                }
                Err(error) => {
                    tracing::debug!(conn = %conn.name(), peer = %conn.peer(), %error, "bad websocket message");
                    let code = match error {
                        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
                        Error::Utf8(_) => CloseCode::Invalid,
                        _ => CloseCode::Protocol,
                    };
                    self.say_why(conn, code);
                    return Err(CloseReason::WebSocket);
                }
            }
            if conn.holds_back() || !conn.is_open() {
                break;
            }
        }
        Ok(Turn::Yield)
    }

    fn handle_drain(&mut self, conn: &Conn) {
        match self.speaks {
            Speaks::Nothing => {}
            Speaks::Native => send_go_away(conn),
            Speaks::Text => {
                let handler = self.router.text.as_ref();
                if let Some(text) = handler.and_then(|handler| handler.go_away()) {
                    // One that has no room for it is closed in any case.
                    let _ = conn.send_short_text(text);
                }
            }
        }
    }

    fn handle_end(&mut self, conn: &Conn, reason: CloseReason) {
        let code = match reason {
            CloseReason::Local | CloseReason::Peer => CloseCode::Normal,
            CloseReason::Draining | CloseReason::Idle => CloseCode::Away,
            CloseReason::Protocol(_) | CloseReason::FrameTimeout => CloseCode::Protocol,
            CloseReason::Reset | CloseReason::SlowReader => return,
            _ => CloseCode::Error,
        };
        self.say_why(conn, code);
    }

    fn held_len(&self) -> usize {
        let pending = self
            .pending
            .as_ref()
            .map_or(0, |(bytes, _)| bytes.capacity());
        let library = if self.context.is_some() {
            READ_BYTES
        } else {
            0
        };
        library + self.bounds.held + pending + self.frames.held_len()
    }

    fn unfinished_since(&self) -> Option<Moment> {
        let frames = self.frames.unfinished_since();
        self.bounds
            .continued_since()
            .into_iter()
            .chain(frames)
            .min()
    }

    fn is_mid_message(&self) -> bool {
        self.bounds.is_inside() || self.frames.is_mid_message()
    }
}

impl WebSocketSession {
    /// Frees the library's buffers between messages: it has read all that
    /// came, and that ended with a whole message.
    fn rest(&mut self) {
        let quiet = self
            .context
            .as_ref()
            .is_some_and(|context| context.can_write());
        if quiet && !self.bounds.is_inside() {
            self.context = None;
        }
    }

    /// Sends the close frame that RFC 6455, 5.5.1 asks for, once. The
    /// connection ends in any case.
    fn say_why(&mut self, conn: &Conn, code: CloseCode) {
        if std::mem::replace(&mut self.said_why, true) {
            return;
        }
        let mut pipe = Pipe {
            conn,
            input: &mut Input::default(),
            bounds: &mut self.bounds,
        };
        let reason = "".into();
        let context = self.context.get_or_insert_with(new_context);
        let _ = context.close(&mut pipe, Some(CloseFrame { code, reason }));
    }
}

/// Where the frames of a stream end (RFC 6455, 5.2). The library reads ahead
/// into its own buffer and does not say whether it is within a message, but a
/// message that is begun has to be completed in time.
#[derive(Default)]
struct Bounds {
    head: [u8; 14],
    head_len: usize,
    /// Bytes of the frame's payload that have not come.
    payload: u64,
    /// More frames of the same message follow.
    continues: bool,
    /// Messages in several frames that were begun.
    continued: u64,
    /// The last of them, and when it was.
    since: Option<(u64, Moment)>,
    /// Bytes that have come of a message that is not complete.
    held: usize,
}

impl Bounds {
    /// Takes the next bytes of the stream; true when a frame ended in them.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        self.held = self.held.saturating_add(bytes.len());
        while !bytes.is_empty() {
            if self.payload > 0 {
                let step = self.payload.min(bytes.len() as u64);
                self.payload -= step;
                bytes = &bytes[usize::try_from(step).unwrap_or(bytes.len())..];
            } else {
                self.head[self.head_len] = bytes[0];
                self.head_len += 1;
                bytes = &bytes[1..];
                if self.head_len < self.head_wanted() {
                    continue;
                }
                self.begin_payload();
            }
            ended |= self.payload == 0;
        }
        if !self.is_inside() {
            self.held = 0;
        }
        ended
    }

    /// Bytes of the head at hand, as far as it is known.
    fn head_wanted(&self) -> usize {
        if self.head_len < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn begin_payload(&mut self) {
        let long = |count: usize| {
            let bytes = self.head[2..2 + count].iter();
            bytes.fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        };
        self.payload = match self.head[1] & 0x7F {
            126 => long(2),
            127 => long(8),
            short => u64::from(short),
        };
        let is_control = self.head[0] & 0x08 != 0;
        if !is_control {
            let begins = self.head[0] & 0x0F != 0;
            self.continues = self.head[0] & 0x80 == 0;
            self.continued += u64::from(self.continues && begins);
        }
        self.head_len = 0;
    }

    /// Something has come by now.
    fn note(&mut self, now: Moment) {
        if self.continues && self.since.map(|(begun, _)| begun) != Some(self.continued) {
            self.since = Some((self.continued, now));
        }
    }

    /// When the message began of which further frames follow.
    fn continued_since(&self) -> Option<Moment> {
        let (_, since) = self.since?;
        self.continues.then_some(since)
    }

    fn is_inside(&self) -> bool {
        self.head_len > 0 || self.payload > 0 || self.continues
    }
}

/// The library's view of a connection: reads what was received, writes into
/// the output.
struct Pipe<'a> {
    conn: &'a Conn,
    input: &'a mut Input,
    bounds: &'a mut Bounds,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.len().min(buffer.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = &self.input.bytes()[..count];
        buffer[..count].copy_from_slice(bytes);
        let ended = self.bounds.pass(bytes);
        self.bounds.note(self.conn.shard().now());
        self.input.take_off(count);
        if ended {
            self.input.mark_progress();
        }
        Ok(count)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The library writes its own control frames only, each by itself.
        let answered = self.conn.are_pings_answered() && bytes.first() == Some(&PONG);
        if !answered {
            self.conn.send_control(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slow senders of WebSocket frames were never timed out, because nobody
    /// knew that a frame had begun.
    #[test]
    fn bounds_of_frames_are_found_however_they_are_cut() {
        let mut stream = vec![0x82, 0x83, 1, 2, 3, 4, 9, 9, 9];
        stream.extend([0x01, 0xFE, 0, 126, 0, 0, 0, 0]);
        stream.extend([7; 126]);
        stream.extend([0x89, 0x80, 1, 1, 1, 1]);
        stream.extend([0x80, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        stream.extend(vec![7; 65_536]);
        for step in [1, 2, 3, 7, 4096, stream.len()] {
            let mut bounds = Bounds::default();
            let mut ends = 0;
            for part in stream.chunks(step) {
                ends += u32::from(bounds.pass(part));
            }
            assert!(!bounds.is_inside(), "in steps of {step}");
            assert!(if step == 1 {
                ends == 4
            } else {
                (1..=4).contains(&ends)
            });
            for begun in [&stream[..1], &stream[..8], &stream[..9 + 8 + 126 + 6]] {
                let mut bounds = Bounds::default();
                for part in begun.chunks(step) {
                    bounds.pass(part);
                }
                assert!(bounds.is_inside());
            }
        }
    }
}
