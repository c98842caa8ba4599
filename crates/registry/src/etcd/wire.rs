//! One connection to a member of etcd: calls, each with a deadline.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};
use waystation_base::Moment;
use waystation_net::{Address, Label, Shard, WaitsFor, until, waiting};

use super::proto::kv_client::KvClient;
use super::proto::lease_client::LeaseClient;
use super::proto::watch_client::WatchClient;
use super::proto::{
    KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest,
    RangeResponse, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse, watch_request,
};
use crate::limits::{CALL_WAIT, CONNECT_WAIT, ETCD_KEYS_MAX, ETCD_MESSAGE_BYTES_MAX, ETCD_PAGE};

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// There was no answer in time.
    #[error("no answer within {} s", CALL_WAIT.as_secs())]
    NoAnswer,
    /// No connection.
    #[error("cannot connect to {address}: {text}")]
    Connect { address: String, text: String },
    /// The member answered an error, or the connection ended.
    #[error("{text}")]
    Status { code: Code, text: String },
    /// The answer makes no sense.
    #[error("the answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// There is more than a client takes.
    #[error("there are more than {ETCD_KEYS_MAX} keys under the prefix")]
    TooMany,
}

impl Fault {
    /// Whether the store itself said no, and would say so again. Everything else
    /// may be over with another connection.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Status { code, .. } = self else {
            return false;
        };
        !matches!(
            code,
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        )
    }

    /// Whether what was asked for is not there: a lease that is over.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Status {
                code: Code::NotFound,
                ..
            }
        )
    }

    /// Whether what was asked for was compacted.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Status { code: Code::OutOfRange, text } if text.contains("compacted"))
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let text = match status.message() {
            "" => status.code().description(),
            text => text,
        };
        Self::Status {
            code: status.code(),
            text: text.chars().take(300).collect(),
        }
    }
}

/// A connection. Clones share it; when the last is dropped it is closed.
#[derive(Clone)]
pub(crate) struct Wire {
    shard: Shard,
    sender: Sender,
    origin: Uri,
    ended: Rc<Ended>,
}

/// Tells one side of a connection that the other is over.
#[derive(Default)]
struct Ended {
    by_peer: Notify,
    is_over: Cell<bool>,
    by_us: Rc<Notify>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.by_us.notify_one();
    }
}

#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Runs what a connection needs beside it on the shard that has it.
#[derive(Clone)]
struct OnShard(Shard);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnShard {
    fn execute(&self, future: F) {
        self.0.spawn(Label::of("etcd stream"), future);
    }
}

impl Wire {
    /// Connects to a member.
    pub(super) async fn connect(shard: &Shard, address: &Address) -> Result<Self, Fault> {
        let fault = |text: String| Fault::Connect {
            address: address.to_string(),
            text,
        };
        let connecting = async {
            let stream = shard.io().connect(address).await;
            let stream = stream.map_err(|error| fault(error.to_string()))?;
            let builder = http2::Builder::new(OnShard(shard.clone()));
            let handshake = builder.handshake(TokioIo::new(stream)).await;
            handshake.map_err(|error| fault(error.to_string()))
        };
        let deadline = shard.now() + CONNECT_WAIT;
        let (sender, connection) = until(shard, deadline, connecting)
            .await
            .map_err(|_| fault("no answer".to_owned()))??;
        let ended = Rc::new(Ended::default());
        let (by_us, peer) = (Rc::clone(&ended.by_us), Rc::downgrade(&ended));
        shard.spawn(Label::of("etcd connection"), async move {
            tokio::select! {
                // What went wrong is told by the calls that it met.
                _ = connection => {}
                () = by_us.notified() => {}
            }
            if let Some(ended) = peer.upgrade() {
                ended.is_over.set(true);
                ended.by_peer.notify_waiters();
            }
        });
        let origin = format!("http://{address}").parse();
        Ok(Self {
            shard: shard.clone(),
            sender: Sender(sender),
            origin: origin.map_err(|_| fault("not an address".to_owned()))?,
            ended,
        })
    }

    /// Ready when the connection is over.
    pub(super) async fn ended(&self) {
        let notified = self.ended.by_peer.notified();
        if !self.ended.is_over.get() {
            notified.await;
        }
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Fault> {
        let mut client = self.kv();
        self.within(client.range(timed(request))).await
    }

    /// All keys of a range as they stand at one revision, a page at a time.
    pub(super) async fn list(
        &self,
        (from, to): (Vec<u8>, Vec<u8>),
    ) -> Result<(ResponseHeader, Vec<KeyValue>), Fault> {
        let mut request = RangeRequest {
            key: from.into(),
            range_end: to.into(),
            limit: ETCD_PAGE,
            revision: 0,
        };
        let mut listed = Vec::new();
        let mut header = None;
        loop {
            let page = self.range(request.clone()).await?;
            let first = page.header.ok_or(Fault::Nonsense("no header"))?;
            // The later pages are of the time of the first.
            let header = *header.get_or_insert(first);
            request.revision = header.revision;
            listed.extend(page.kvs);
            if !page.more {
                return Ok((header, listed));
            }
            if listed.len() >= ETCD_KEYS_MAX {
                return Err(Fault::TooMany);
            }
            let last = listed.last().ok_or(Fault::Nonsense("an empty page"))?;
            let next: Vec<u8> = last.key.iter().copied().chain([0]).collect();
            request.key = next.into();
        }
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Fault> {
        let mut client = self.kv();
        self.within(client.txn(timed(request))).await
    }

    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        self.shard.now()
    }

    /// A new lease, and for how long it holds.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), Fault> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest {
            ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
            id: 0,
        };
        let mut client = self.lease();
        let granted = self.within(client.lease_grant(timed(request))).await?;
        match u64::try_from(granted.ttl) {
            Ok(seconds) if seconds > 0 && granted.id != 0 => {
                Ok((granted.id, Duration::from_secs(seconds)))
            }
            _ => Err(Fault::Nonsense("a lease without a length")),
        }
    }

    /// Prolongs a lease; for how long, or `None` when it is over.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<Option<Duration>, Fault> {
        let mut client = self.lease();
        let request = timed(stream::iter([LeaseKeepAliveRequest { id }]));
        let answer = async {
            let mut answers = client.lease_keep_alive(led(request)).await?.into_inner();
            answers.message().await.map(Response::new)
        };
        let answer = self.within(answer).await?;
        let answer = answer.ok_or(Fault::Nonsense("no word of the lease"))?;
        let seconds = u64::try_from(answer.ttl).unwrap_or(0);
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// Ends a lease, and deletes what is attached to it.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Fault> {
        let mut client = self.lease();
        let request = timed(LeaseRevokeRequest { id });
        self.within(client.lease_revoke(request)).await.map(drop)
    }

    /// Watches a range from a revision on. The first answer has come when this
    /// is ready.
    pub(super) async fn watch(
        &self,
        (from, to): (Vec<u8>, Vec<u8>),
        start_revision: i64,
    ) -> Result<Streaming<WatchResponse>, Fault> {
        let create = WatchCreateRequest {
            key: from.into(),
            range_end: to.into(),
            start_revision,
            progress_notify: true,
            fragment: true,
        };
        let create = WatchRequest {
            request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
        };
        // The watch lasts as long as what is sent to it.
        let asks = stream::iter([create]).chain(stream::pending());
        let client = WatchClient::with_origin(self.sender.clone(), self.origin.clone());
        let mut client = client.max_decoding_message_size(ETCD_MESSAGE_BYTES_MAX);
        self.within(client.watch(led(Request::new(asks)))).await
    }

    fn kv(&self) -> KvClient<Sender> {
        let client = KvClient::with_origin(self.sender.clone(), self.origin.clone());
        client.max_decoding_message_size(ETCD_MESSAGE_BYTES_MAX)
    }

    fn lease(&self) -> LeaseClient<Sender> {
        LeaseClient::with_origin(self.sender.clone(), self.origin.clone())
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        let deadline = self.shard.now() + CALL_WAIT;
        // On the heap: what a call keeps is larger than all that waits for it.
        let call = waiting(WaitsFor::plain("etcd"), Box::pin(call));
        match until(&self.shard, deadline, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Fault::NoAnswer),
        }
    }
}

/// A request whose deadline the member knows as well.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_WAIT);
    request
}

/// A stream that a member without a leader refuses, or ends: it would be silent
/// otherwise.
fn led<T>(mut request: Request<T>) -> Request<T> {
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    request
}
