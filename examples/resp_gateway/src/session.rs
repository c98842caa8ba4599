//! A client's requests, relayed in batches.
//!
//! All requests that one read brought and that stand one behind the other go
//! to the upstream by one copy and take one place there. Where many clients
//! are served in a turn of the event loop, all that they sent leaves in one
//! write, and so do the answers for each client.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_net::fifo::{Fifo, FifoLane, FifoSink, RespCodec};
use waystation_net::limits::MESSAGES_PER_TURN;
use waystation_net::{CloseReason, Conn, Input, Protocol, Session, Slot, Turn};
use waystation_wire::resp::{Arguments, RespError, RespLimits, Scanner, put_command};

use crate::client::{Client, IN_FLIGHT_MAX};
use crate::commands::Commands;

/// The largest request. It must fit into the output of an upstream connection.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// The proxy on a listener; the shard's own instance.
pub(crate) struct Gateway {
    upstream: Fifo<RespCodec>,
}

impl Gateway {
    pub(crate) fn new(upstream: Fifo<RespCodec>) -> Self {
        Self { upstream }
    }
}

impl Protocol for Gateway {
    fn serve(self: Rc<Self>, slot: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        Box::pin(async move {
            let client = Rc::new(Client::new(slot.conn().clone()));
            let mut session = GatewaySession {
                lane: self.upstream.lane(),
                sink: client.clone(),
                client,
                commands: Commands::new(),
                broken: None,
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

/// One client.
struct GatewaySession {
    /// Its way to one of the upstream's connections.
    lane: FifoLane<RespCodec>,
    client: Rc<Client>,
    /// The same, as the upstream knows it.
    sink: Rc<dyn FifoSink>,
    commands: Commands,
    /// Why the connection ends once everything before has been answered.
    broken: Option<CloseReason>,
    scanner: Scanner,
    limits: RespLimits,
}

/// Requests that stand one behind the other and are relayed together.
#[derive(Default)]
struct Batch {
    start: usize,
    count: u32,
}

/// Why the session stops for now.
enum Pause {
    /// So many bytes are needed from the front.
    Need(usize),
    /// Others come first.
    Yield,
    /// The client does not speak RESP.
    Bad(RespError),
}

impl Session for GatewaySession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        if let Some(reason) = self.broken {
            return Err(reason);
        }
        if self.client.in_flight() >= IN_FLIGHT_MAX {
            return Ok(self.wait_for(IN_FLIGHT_MAX / 2));
        }
        if self.lane.is_behind() {
            // The server is slower than its clients.
            return Ok(Turn::Suspended(Box::pin(self.lane.caught_up())));
        }
        let mut used = 0;
        let pause = self.requests(conn, input.bytes(), &mut used);
        input.consume(used);
        match pause {
            Pause::Yield => Ok(Turn::Yield),
            Pause::Need(bytes) => {
                input.want(bytes);
                Ok(Turn::NeedMore)
            }
            Pause::Bad(error) => {
                let first = self.client.number(1);
                let text = format!("ERR Protocol error: {error}");
                self.client.refuse(first, 1, &text);
                self.broken = Some(CloseReason::Protocol(error.reason()));
                Ok(self.wait_for(0))
            }
        }
    }
}

impl GatewaySession {
    /// Nothing further is read until at most so many answers are owed.
    fn wait_for(&self, most: u64) -> Turn {
        let client = self.client.clone();
        Turn::Suspended(Box::pin(async move { client.at_most(most).await }))
    }

    /// Relays the whole requests at the front of `bytes`.
    fn requests(&mut self, conn: &Conn, bytes: &[u8], used: &mut usize) -> Pause {
        let mut batch = Batch::default();
        let mut pause = Pause::Yield;
        let mut count = 0;
        let mut words = Arguments::new();
        while count < MESSAGES_PER_TURN {
            let rest = &bytes[*used..];
            let length = match words.read(&mut self.scanner, rest, &self.limits) {
                Ok(Ok(length)) => length,
                Ok(Err(need)) => {
                    pause = Pause::Need(need);
                    break;
                }
                Err(error) => {
                    pause = Pause::Bad(error);
                    break;
                }
            };
            count += 1;
            let start = *used;
            *used += length;
            let is_line = rest[0] != b'*';
            match words.first() {
                Some(name) if self.commands.may_pass(name) && !is_line => {
                    batch.count += 1;
                    continue;
                }
                _ => {}
            }
            // What came before goes first.
            self.relay(&mut batch, &bytes[..start]);
            batch.start = *used;
            self.single(&words);
        }
        self.relay(&mut batch, &bytes[..*used]);
        conn.shard().counters().messages_in.add(count.into());
        pause
    }

    /// A request that does not go as it came.
    fn single(&mut self, words: &[&[u8]]) {
        let Some(name) = words.first() else {
            // An empty line has no answer.
            return;
        };
        if self.commands.may_pass(name) {
            let mut request = Vec::new();
            put_command(&mut request, words);
            let mut batch = Batch { start: 0, count: 1 };
            self.relay(&mut batch, &request);
            return;
        }
        let name = String::from_utf8_lossy(&name[..name.len().min(40)]);
        let first = self.client.number(1);
        let text = format!("ERR the gateway does not relay `{name}`");
        self.client.refuse(first, 1, &text);
    }

    /// Relays the requests from the batch's start to the end of `bytes`.
    fn relay(&self, batch: &mut Batch, bytes: &[u8]) {
        let Batch { start, count } = std::mem::take(batch);
        if count == 0 {
            return;
        }
        let first = self.client.number(count);
        let relayed = self.lane.relay(&bytes[start..], count, &self.sink, first);
        if let Err(error) = relayed {
            let text = format!("ERR upstream: {error}");
            self.client.refuse(first, count, &text);
        }
    }
}
