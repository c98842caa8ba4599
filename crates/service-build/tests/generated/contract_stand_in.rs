//! A stand-in for what `waystation-service` promises to generated code, and nothing of what that
//! crate does: methods in a map, calls that go straight to the handler, pushes that are kept.
//!
//! It proves that generated code fits the contract and that bytes and JSON survive the way. How
//! the real runtime behaves is tested there.
//!
//! prost is taken from another crate on purpose: were it a dependency of this test, code that names
//! `::prost` would compile here and in no crate of a user.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use protox::prost::{self, Message as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What generated code finds its crates by.
pub mod codegen {
    pub use {pbjson, protox::prost, serde};
}

pub use waystation_base::MessageId;

/// One rpc.
pub trait Method: 'static {
    /// What is asked.
    type Request: prost::Message + Default + Serialize + DeserializeOwned + 'static;
    /// What is answered.
    type Reply: prost::Message + Default + Serialize + DeserializeOwned + 'static;
    /// The full name, with the service in front.
    const NAME: &'static str;
    /// The id on the wire.
    const ID: MessageId;
    /// Whether sending it twice does no harm.
    const IDEMPOTENT: bool;
}

/// A request context; here the trace of what handlers have seen.
#[derive(Clone, Default)]
pub struct Ctx {
    /// What handlers noted.
    pub trace: Rc<RefCell<Vec<String>>>,
}

/// An error of a call.
#[derive(Debug, PartialEq)]
pub struct Status(pub String);

/// A method that is registered already.
#[derive(Debug, PartialEq)]
pub struct RegisterError(pub MessageId);

/// A message that was not sent.
#[derive(Debug, PartialEq)]
pub struct PushError;

type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, Status>>>>;
type Handler = Box<dyn Fn(Ctx, Encoding, Vec<u8>) -> Answer>;

/// How a request and its reply are written.
#[derive(Clone, Copy)]
pub enum Encoding {
    /// Protobuf bytes.
    Protobuf,
    /// Protobuf's JSON.
    Json,
}

impl Encoding {
    fn read<T: prost::Message + Default + DeserializeOwned>(
        self,
        bytes: &[u8],
    ) -> Result<T, Status> {
        match self {
            Self::Protobuf => T::decode(bytes).map_err(|error| Status(error.to_string())),
            Self::Json => serde_json::from_slice(bytes).map_err(|error| Status(error.to_string())),
        }
    }

    fn write<T: prost::Message + Serialize>(self, message: &T) -> Result<Vec<u8>, Status> {
        match self {
            Self::Protobuf => Ok(message.encode_to_vec()),
            Self::Json => serde_json::to_vec(message).map_err(|error| Status(error.to_string())),
        }
    }
}

/// Methods by their ids.
#[derive(Default)]
pub struct Router {
    handlers: HashMap<MessageId, Handler>,
}

impl Router {
    /// Adds a method with its handler.
    ///
    /// # Errors
    ///
    /// The id is taken.
    pub fn method<M: Method, H>(&mut self, handler: H) -> Result<(), RegisterError>
    where
        H: AsyncFn(Ctx, M::Request) -> Result<M::Reply, Status> + 'static,
    {
        if self.handlers.contains_key(&M::ID) {
            return Err(RegisterError(M::ID));
        }
        let handler = Rc::new(handler);
        let erased: Handler = Box::new(move |ctx, encoding, request| {
            let handler = Rc::clone(&handler);
            Box::pin(async move {
                let reply = handler(ctx, encoding.read::<M::Request>(&request)?).await?;
                encoding.write(&reply)
            })
        });
        self.handlers.insert(M::ID, erased);
        Ok(())
    }

    /// Hands a request to its handler.
    ///
    /// # Errors
    ///
    /// The handler's, or that bytes or id mean nothing.
    pub async fn dispatch(
        &self,
        ctx: Ctx,
        id: MessageId,
        encoding: Encoding,
        request: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let handler = self.handlers.get(&id);
        let handler = handler.ok_or_else(|| Status(format!("no method {id}")))?;
        handler(ctx, encoding, request).await
    }
}

/// A way to a router in the same process.
#[derive(Clone)]
pub struct Channel {
    /// Where calls go.
    pub router: Rc<Router>,
}

impl Channel {
    /// Calls a method with protobuf bytes on both ways.
    ///
    /// # Errors
    ///
    /// Those of [`Router::dispatch`].
    pub async fn call<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
    ) -> Result<M::Reply, Status> {
        let request = request.encode_to_vec();
        let reply = self
            .router
            .dispatch(ctx.clone(), M::ID, Encoding::Protobuf, request);
        Encoding::Protobuf.read(&reply.await?)
    }
}

type Pushed = Vec<(MessageId, Vec<u8>)>;

/// A connection that keeps what is pushed to it, up to a bound.
#[derive(Clone, Default)]
pub struct Peer {
    /// Ids and bytes of what was pushed.
    pub pushed: Rc<RefCell<Pushed>>,
}

impl Peer {
    /// How many messages fit.
    pub const QUEUE_LENGTH_MAX: usize = 1;

    /// Keeps a message.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn push<M: Method>(&self, message: &M::Request) -> Result<(), PushError> {
        let mut pushed = self.pushed.borrow_mut();
        if pushed.len() == Self::QUEUE_LENGTH_MAX {
            return Err(PushError);
        }
        pushed.push((M::ID, message.encode_to_vec()));
        Ok(())
    }
}
