//! Typed methods and their encodings.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use waystation_base::MessageId;

use crate::status::Status;

/// One rpc of a service, as `service-build` generates it.
pub trait Method: 'static {
    /// What the caller sends.
    type Request: Message + Default + Serialize + DeserializeOwned + 'static;
    /// What the handler answers.
    type Reply: Message + Default + Serialize + DeserializeOwned + 'static;
    /// `package.Service/Method`.
    const NAME: &'static str;
    /// The id of its messages in native frames, [`MessageId::of`] its name.
    const ID: MessageId;
    /// Whether asking twice is the same as asking once.
    const IDEMPOTENT: bool;
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Protobuf, in native frames.
    Protobuf,
    /// Canonical protobuf JSON, over HTTP and in WebSocket text.
    Json,
}

impl Format {
    pub(crate) fn decode<T: Message + Default + DeserializeOwned>(
        self,
        body: &[u8],
    ) -> Result<T, Status> {
        match self {
            Self::Protobuf => T::decode(body).map_err(|error| {
                Status::invalid_request(format!("the body is not the method's message: {error}"))
            }),
            Self::Json if body.is_empty() => Ok(T::default()),
            Self::Json => serde_json::from_slice(body).map_err(|error| {
                Status::invalid_request(format!("the body is not the method's message: {error}"))
            }),
        }
    }

    pub(crate) fn encode<T: Message + Serialize>(self, message: &T) -> Result<Vec<u8>, Status> {
        match self {
            Self::Protobuf => Ok(message.encode_to_vec()),
            Self::Json => serde_json::to_vec(message)
                .map_err(|error| Status::internal(format!("the answer has no JSON: {error}"))),
        }
    }
}
