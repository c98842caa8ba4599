//! Publishing at a hub, and asking it for operations.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use thiserror::Error;
use waystation_base::{FencingToken, MessageId, Moment, ShardId, Sid, SiteId, TraceId};
use waystation_net::native::{Answer, Call, CallError, Router, Upstream, UpstreamConfig};
use waystation_net::{Address, BlockingError, Label, NetConfig, Server, Shard, StartError};
use waystation_replica::Position;
use waystation_replica::limits::{CLIENT_KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use waystation_wire::{Header, Status, encode_into, frames_len};

use crate::codec::id;
use crate::hub::{Operation, ProofReport, StatusReport, TrimReport};
use crate::limits::{PROOF_WAIT_MAX, PUBLISH_PART_BYTES};
use crate::log::random;
use crate::parts::{Reader, put_bytes, put_u64};

/// Pause before a publish that may be sent again is.
const AGAIN: Duration = Duration::from_millis(50);

/// What a wait for an answer has beyond what was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Why a hub did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It refuses; publish again where the status says so.
    #[error("{status}: {text}")]
    Refused {
        /// What sort of refusal.
        status: Status,
        /// What it said.
        text: String,
    },
    /// There is no answer: it may be done or not.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer makes no sense.
    #[error("the hub's answer makes no sense")]
    Answer,
    /// The client's own thread did not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// The client's own thread does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The payload or the key is longer than it may be; nothing was sent.
    #[error("{what} of {found} bytes are more than {bytes_max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The bound.
        bytes_max: usize,
    },
}

impl ClientError {
    /// Whether the same publish may be sent again: with a key it is one entry
    /// however often it is sent, without one only if nothing was begun.
    fn may_go_again(&self, has_key: bool) -> bool {
        match self {
            Self::Call(CallError::NotConnected | CallError::Overloaded(_)) => true,
            Self::Call(CallError::OutcomeUnknown) => has_key,
            Self::Refused { status, .. } => match *status {
                Status::Overloaded | Status::Unavailable | Status::Draining => true,
                Status::OutcomeUnknown => has_key,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Publishes from a shard. Clones share the connection.
#[derive(Clone)]
pub struct Publisher {
    shard: Shard,
    upstream: Upstream,
    last_tag: Rc<Cell<u64>>,
    may_differ: bool,
    label: Label,
}

impl Publisher {
    /// A client of the hub at this address; it connects at once.
    pub fn new(shard: &Shard, hub: Address) -> Self {
        let router = Rc::new(Router::new());
        Self {
            shard: shard.clone(),
            upstream: Upstream::new(shard, UpstreamConfig::new(hub), router),
            last_tag: Rc::new(Cell::new(0)),
            may_differ: false,
            label: Label::of("sync hub"),
        }
    }

    /// Publishes statements that would do something else at each site, or that
    /// cannot be read, too. By default the hub refuses them.
    #[must_use]
    pub fn allow_nondeterministic(mut self) -> Self {
        self.may_differ = true;
        self
    }

    /// Publishes, and answers the entry's place once it is durable. What may be
    /// sent again is, until the deadline; with a key it is one entry.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Call`] the entry may be stored.
    pub async fn publish(
        &self,
        key: Option<&[u8]>,
        payload: &[u8],
        deadline: Moment,
    ) -> Result<Position, ClientError> {
        let key = key.unwrap_or_default();
        bound("a payload", payload.len(), PAYLOAD_BYTES_MAX)?;
        bound("a key", key.len(), CLIENT_KEY_BYTES_MAX)?;
        loop {
            let error = match self.publish_once(key, payload, deadline).await {
                Ok(position) => return Ok(position),
                Err(error) => error,
            };
            let now = self.shard.now();
            if !error.may_go_again(!key.is_empty()) || now + AGAIN >= deadline {
                return Err(error);
            }
            self.shard.sleep(AGAIN).await;
        }
    }

    async fn publish_once(
        &self,
        key: &[u8],
        payload: &[u8],
        deadline: Moment,
    ) -> Result<Position, ClientError> {
        let tag = self.last_tag.get() + 1;
        self.last_tag.set(tag);
        let last_part = payload.len().saturating_sub(1) / PUBLISH_PART_BYTES * PUBLISH_PART_BYTES;
        let (ahead, rest) = payload.split_at(last_part);
        if !ahead.is_empty() {
            let sending = self.send_ahead(tag, ahead);
            let sent = waystation_net::until(&self.shard, deadline, sending).await;
            sent.unwrap_or(Err(CallError::NotConnected))?;
        }
        let mut body = Vec::with_capacity(rest.len() + key.len() + 32);
        put_u64(&mut body, tag);
        put_u64(&mut body, payload.len() as u64);
        body.push(u8::from(self.may_differ));
        put_bytes(&mut body, key);
        body.extend_from_slice(rest);
        let answer = self
            .call(id::PUBLISH, &body, !key.is_empty(), deadline)
            .await?;
        Reader::new(answer.body)
            .position()
            .ok_or(ClientError::Answer)
    }

    /// Sends the first parts of a payload. Should the connection be another one by
    /// the time the rest is sent, the hub finds the payload too short and refuses.
    async fn send_ahead(&self, tag: u64, ahead: &[u8]) -> Result<(), CallError> {
        let conn = self.upstream.up().await?;
        let header = Header::push(id::PUBLISH_PART);
        for part in ahead.chunks(PUBLISH_PART_BYTES) {
            let mut body = tag.to_le_bytes().to_vec();
            body.extend_from_slice(part);
            let lost = |_| CallError::NotConnected;
            conn.writable().await.map_err(lost)?;
            conn.send_with(frames_len(body.len()), |out| {
                // A part is far below the bound of a message.
                let _ = encode_into(&header, &body, out);
            })
            .map_err(lost)?;
        }
        Ok(())
    }

    /// Has an operation done: the answer in JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn operate(
        &self,
        operation: &Operation,
        deadline: Moment,
    ) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(operation).map_err(|_| ClientError::Answer)?;
        let answer = self.call(id::OPERATE, &body, false, deadline).await?;
        Ok(answer.body)
    }

    async fn call(
        &self,
        message: MessageId,
        body: &[u8],
        is_idempotent: bool,
        deadline: Moment,
    ) -> Result<Answer, ClientError> {
        let call = Call {
            message,
            label: self.label,
            sid: Sid(u128::from(self.shard.random())),
            trace: TraceId(0),
            deadline,
            idempotent: is_idempotent,
            site: SiteId(0),
            fencing: FencingToken(0),
        };
        let answer = self.upstream.call(&call, body).await?;
        if answer.header.status == Status::Ok {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer.body);
        Err(ClientError::Refused {
            status: answer.header.status,
            text: text.chars().take(300).collect(),
        })
    }
}

fn bound(what: &'static str, found: usize, bytes_max: usize) -> Result<(), ClientError> {
    if found <= bytes_max {
        return Ok(());
    }
    Err(ClientError::TooLong {
        what,
        found,
        bytes_max,
    })
}

/// A client of a hub for threads that are no shards. Its connection has a thread
/// of its own; it ends when this is dropped.
pub struct HubClient {
    server: Server,
    may_differ: bool,
}

/// The publisher of the client's thread.
struct Kept(Publisher);

impl HubClient {
    /// Begins to connect.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(hub: Address) -> Result<Self, ClientError> {
        let net = NetConfig {
            seed: random(),
            drain: Duration::from_secs(1),
            ..NetConfig::default()
        };
        let begin = move |shard: &Shard| {
            let publisher = Publisher::new(shard, hub.clone());
            shard.set_extension(Rc::new(Kept(publisher)));
        };
        let server = Server::builder(net).on_shard(begin).start()?;
        let may_differ = false;
        Ok(Self { server, may_differ })
    }

    /// As [`Publisher::allow_nondeterministic`].
    #[must_use]
    pub fn allow_nondeterministic(mut self) -> Self {
        self.may_differ = true;
        self
    }

    /// Publishes, as [`Publisher::publish`] does.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish(
        &self,
        key: Option<&[u8]>,
        payload: &[u8],
        within: Duration,
    ) -> Result<Position, ClientError> {
        let key: Option<Arc<[u8]>> = key.map(Arc::from);
        let payload = Bytes::copy_from_slice(payload);
        let may_differ = self.may_differ;
        self.ask(within, move |mut publisher, deadline| {
            publisher.may_differ |= may_differ;
            Box::pin(async move { publisher.publish(key.as_deref(), &payload, deadline).await })
        })
    }

    /// How the hub and all sites fare.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self, within: Duration) -> Result<StatusReport, ClientError> {
        self.operate(Operation::Status, within)
    }

    /// Whether all live sites are equal at the log's present end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn verify(&self, within: Duration) -> Result<ProofReport, ClientError> {
        let within = within.min(PROOF_WAIT_MAX);
        let wait_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.operate(Operation::Verify { wait_ms }, within + GRACE)
    }

    /// Has gone what all sites have.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trim(&self, within: Duration) -> Result<TrimReport, ClientError> {
        self.operate(Operation::Trim, within)
    }

    /// Has any operation done; its answer as JSON of the type asked for.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn operate<T: DeserializeOwned>(
        &self,
        operation: Operation,
        within: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.ask(within, move |publisher, deadline| {
            Box::pin(async move { publisher.operate(&operation, deadline).await })
        })?;
        serde_json::from_slice(&answer).map_err(|_| ClientError::Answer)
    }

    fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        question: impl FnOnce(
            Publisher,
            Moment,
        )
            -> futures_util::future::LocalBoxFuture<'static, Result<T, ClientError>>
        + Send
        + 'static,
    ) -> Result<T, ClientError> {
        // The inner deadline says more than the outer one.
        let outer = within + GRACE;
        self.server.remote().ask(ShardId(0), outer, move |shard| {
            let kept = shard.extension::<Kept>();
            let kept = kept.expect("it was made when the shard began");
            question(kept.0.clone(), shard.now() + within)
        })?
    }
}
