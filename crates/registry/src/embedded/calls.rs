//! Calls to an embedded registry, typed.

use std::rc::Rc;

use prost::Message;
use waystation_base::{FencingToken, MessageId, Moment, Sid, SiteId, TraceId};
use waystation_net::native::{Call, CallError, Upstream};
use waystation_net::{Label, Shard};
use waystation_wire::Status;

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallFault {
    /// There was no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The registry answered an error.
    #[error("{status}: {text}")]
    Status { status: Status, text: String },
    /// The answer cannot be decoded.
    #[error("the answer cannot be decoded: {0}")]
    Decode(String),
}

impl CallFault {
    /// Whether the same call would have the same outcome. All else may be over
    /// by the next try: who is asked has much to do, cannot store, or was not
    /// heard.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Call(error) => matches!(error, CallError::Closed | CallError::TooLarge),
            Self::Status { status, .. } => matches!(
                status,
                Status::InvalidRequest
                    | Status::Unimplemented
                    | Status::PermissionDenied
                    | Status::Unauthenticated
                    | Status::TooLarge
            ),
            Self::Decode(_) => true,
        }
    }
}

/// Calls `message` and decodes its answer.
pub(crate) async fn call<A: Message + Default>(
    upstream: &Upstream,
    shard: &Shard,
    message: MessageId,
    body: &impl Message,
    deadline: Moment,
) -> Result<A, CallFault> {
    let call = Call {
        message,
        label: Label::of("registry"),
        sid: Sid(u128::from(shard.random())),
        trace: TraceId(0),
        deadline,
        idempotent: true,
        site: SiteId(0),
        fencing: FencingToken(0),
    };
    let answer = upstream.call(&call, &body.encode_to_vec()).await?;
    if answer.header.status != Status::Ok {
        let text = String::from_utf8_lossy(&answer.body);
        return Err(CallFault::Status {
            status: answer.header.status,
            text: text.chars().take(300).collect(),
        });
    }
    A::decode(answer.body).map_err(|error| CallFault::Decode(error.to_string()))
}

/// A handler from a closure that leaves nothing to do.
pub(crate) struct FnHandler<F> {
    label: Label,
    run: F,
}

impl<F: Fn(&waystation_net::Conn, waystation_net::native::Inbound<'_>) + 'static> FnHandler<F> {
    pub(crate) fn new(name: &str, run: F) -> Rc<Self> {
        let label = Label::of(name);
        Rc::new(Self { label, run })
    }
}

impl<F: Fn(&waystation_net::Conn, waystation_net::native::Inbound<'_>) + 'static>
    waystation_net::native::Handler for FnHandler<F>
{
    fn handle(
        &self,
        conn: &waystation_net::Conn,
        message: waystation_net::native::Inbound<'_>,
    ) -> waystation_net::native::Started {
        (self.run)(conn, message);
        None
    }

    fn label(&self) -> Label {
        self.label
    }
}
