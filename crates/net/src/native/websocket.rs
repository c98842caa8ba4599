//! Messages in WebSocket frames (RFC 6455): binary ones hold native frames,
//! text ones go to the text handler.

use std::io::{self, Read, Write};
use std::rc::Rc;

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::dispatch::dispatch_text;
use super::router::Router;
use super::session::{NativeSession, send_go_away};
use crate::conn::{CloseReason, Conn, Input, Session, Turn};
use crate::limits::{MESSAGES_PER_TURN, WEBSOCKET_MESSAGE_BYTES};

/// First byte of a whole text message.
pub(crate) const TEXT: u8 = 0x81;
/// First byte of a whole binary message.
pub(crate) const BINARY: u8 = 0x82;

/// What the library reads at once. Its buffer stays for the connection's
/// life, so it is small.
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

/// One WebSocket connection.
pub(crate) struct WebSocketSession {
    router: Rc<Router>,
    context: WebSocketContext,
    frames: NativeSession,
    /// A binary message that is not handled to its end.
    pending: Option<(Vec<u8>, usize)>,
    mid_message: bool,
}

impl WebSocketSession {
    pub(crate) fn new(router: Rc<Router>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(WEBSOCKET_MESSAGE_BYTES))
            .max_frame_size(Some(WEBSOCKET_MESSAGE_BYTES));
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            frames: NativeSession::new(router.clone(), None),
            router,
            pending: None,
            mid_message: false,
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
                self.pending = Some((bytes.into(), 0));
                self.handle_pending(conn)
            }
            Message::Text(text) => {
                conn.shard().counters().messages_in.add(1);
                dispatch_text(&self.router, conn, &text).map_err(|()| CloseReason::WebSocket)
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
            let mut pipe = Pipe { conn, input };
            let read = self.context.read(&mut pipe);
            let flushed = self.context.flush(&mut pipe);
            match read {
                Ok(message) => {
                    self.mid_message = false;
                    if let Some(turn) = self.handle_message(conn, message)? {
                        return Ok(turn);
                    }
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if matches!(flushed, Err(Error::ConnectionClosed)) {
                        return Err(CloseReason::Peer);
                    }
                    return Ok(Turn::NeedMore);
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return Err(CloseReason::Peer);
                }
                Err(error) => {
                    self.say_why(conn, &error);
                    return Err(CloseReason::WebSocket);
                }
            }
        }
        Ok(Turn::Yield)
    }

    fn handle_drain(&mut self, conn: &Conn) {
        send_go_away(conn);
    }

    fn is_mid_message(&self) -> bool {
        self.mid_message || self.frames.is_mid_message()
    }
}

impl WebSocketSession {
    /// Sends the close frame that RFC 6455, 7.4.1 asks for.
    fn say_why(&mut self, conn: &Conn, error: &Error) {
        tracing::debug!(conn = %conn.name(), peer = %conn.peer(), %error, "bad websocket message");
        let code = match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        };
        let mut none = Input::default();
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        let mut pipe = Pipe {
            conn,
            input: &mut none,
        };
        // The connection ends in any case.
        let _ = self.context.close(&mut pipe, Some(frame));
    }
}

/// The library's view of a connection: reads what was received, writes into
/// the output.
struct Pipe<'a> {
    conn: &'a Conn,
    input: &'a mut Input,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.len().min(buffer.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer[..count].copy_from_slice(&self.input.bytes()[..count]);
        self.input.consume(count);
        Ok(count)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.conn.send_control(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
