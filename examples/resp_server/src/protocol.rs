//! What is done with received bytes.
//!
//! The network core reads whatever the kernel has, calls the session with all
//! of it, and writes everything that the session answered with one system
//! call. A socket's turn costs about 5 µs whatever is in it, so that a peer
//! who sends 16 requests at once gets them for little more than the price of
//! one: parse all that is there, answer it all, then return.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_net::limits::{MESSAGES_PER_TURN, READ_CHUNK_BYTES};
use waystation_net::{CloseReason, Conn, Input, Protocol, Session, Slot, Turn};
use waystation_wire::resp::{
    Arguments, RespError, RespLimits, Scanner, put_bulk, put_error, put_integer, put_null,
    put_simple,
};

use crate::store::{Refused, Store};

/// The largest request. A connection holds at most that much of an unfinished
/// one.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// RESP on a listener; the shard's own instance.
pub(crate) struct RespProtocol {
    store: Rc<Store>,
}

impl RespProtocol {
    pub(crate) fn new(store: Rc<Store>) -> Self {
        Self { store }
    }
}

impl Protocol for RespProtocol {
    /// Called once for each connection, as a task of its own.
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let mut session = RespSession {
                store: self.store.clone(),
                scanner: Scanner::new(),
                limits: RespLimits {
                    bytes_max: REQUEST_BYTES_MAX,
                    ..RespLimits::default()
                },
            };
            match slot.transport() {
                Ok(transport) => transport.run(&mut session).await,
                Err(reason) => reason,
            }
        })
    }
}

/// One connection. Nothing here is allocated while it is quiet.
struct RespSession {
    store: Rc<Store>,
    /// Where the search for the end of an unfinished request goes on.
    scanner: Scanner,
    limits: RespLimits,
}

/// Why the session stops for now.
enum Pause {
    /// So many bytes are needed from the front.
    Need(usize),
    /// Others come first.
    Yield,
    /// The peer does not speak RESP.
    Bad(RespError),
}

impl Session for RespSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        if input.is_empty() {
            return Ok(Turn::NeedMore);
        }
        let bytes = input.bytes();
        let (mut used, mut count) = (0, 0);
        let mut pause = Pause::Yield;
        let sent = conn.send_many(0, |out| {
            (pause, used, count) = self.requests(bytes, out);
            count
        });
        input.consume(used);
        conn.shard().counters().messages_in.add(count);
        // The peer does not read its answers, and has been told to go.
        sent.map_err(|_| CloseReason::SlowReader)?;
        match pause {
            Pause::Yield => Ok(Turn::Yield),
            Pause::Need(bytes) => {
                // There may be room for a long request then, beyond the bound
                // on what is read ahead. The scanner has bounded it.
                input.want(bytes);
                Ok(Turn::NeedMore)
            }
            Pause::Bad(error) => {
                let text = format!("ERR Protocol error: {error}");
                // It leaves before the connection ends; if it cannot, the
                // peer is gone.
                let _ = conn.send_with(text.len() + 3, |out| put_error(out, &text));
                Err(CloseReason::Protocol(error.reason()))
            }
        }
    }
}

impl RespSession {
    /// Answers the whole requests at the front of `bytes`: why it stops, the
    /// bytes that are done with, and how many requests they were.
    fn requests(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (Pause, usize, u64) {
        let enough = out.len() + READ_CHUNK_BYTES;
        let (mut rest, mut count) = (bytes, 0);
        let mut pause = Pause::Yield;
        let mut words = Arguments::new();
        for _ in 0..MESSAGES_PER_TURN {
            match words.read(&mut self.scanner, rest, &self.limits) {
                Ok(Ok(length)) => {
                    rest = &rest[length..];
                    // An empty line is no request.
                    if let Some((name, arguments)) = words.split_first() {
                        self.request(name, arguments, out);
                        count += 1;
                    }
                }
                Ok(Err(need)) => {
                    pause = Pause::Need(need);
                    break;
                }
                Err(error) => {
                    pause = Pause::Bad(error);
                    break;
                }
            }
            // Small requests may have large answers. The core looks at the
            // output's limits between turns.
            if out.len() > enough {
                break;
            }
        }
        (pause, bytes.len() - rest.len(), count)
    }

    fn request(&self, name: &[u8], arguments: &[&[u8]], out: &mut Vec<u8>) {
        // Most clients write names in capitals: one comparison then.
        let is =
            |known: &str| name == known.as_bytes() || name.eq_ignore_ascii_case(known.as_bytes());
        match arguments {
            [] if is("PING") => out.extend_from_slice(b"+PONG\r\n"),
            [text] if is("PING") => put_bulk(out, text),
            [key] if is("GET") => self.store.get(key, |value| match value {
                Some(value) => put_bulk(out, value),
                None => put_null(out),
            }),
            [key, value] if is("SET") => match self.store.set(key, value) {
                Ok(()) => put_simple(out, "OK"),
                Err(refused) => put_error(out, text_of(refused)),
            },
            [key] if is("INCR") => match self.store.increment(key) {
                Ok(number) => put_integer(out, number),
                Err(refused) => put_error(out, text_of(refused)),
            },
            [_, ..] if is("DEL") => {
                let gone = arguments.iter().filter(|key| self.store.delete(key));
                put_integer(out, i64::try_from(gone.count()).unwrap_or(i64::MAX));
            }
            _ => {
                let shown = String::from_utf8_lossy(&name[..name.len().min(40)]);
                let is_known = ["PING", "SET", "GET", "DEL", "INCR"].into_iter().any(is);
                let fault = if is_known {
                    format!("ERR wrong number of arguments for `{shown}`")
                } else {
                    format!("ERR unknown command `{shown}`")
                };
                put_error(out, &fault);
            }
        }
    }
}

fn text_of(refused: Refused) -> &'static str {
    match refused {
        Refused::Full => "OOM the store is full",
        Refused::NotANumber => "ERR value is not an integer or out of range",
        Refused::Overflow => "ERR increment would overflow",
    }
}
