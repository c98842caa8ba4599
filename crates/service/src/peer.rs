//! The other end of a connection, as handlers see it.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::rc::Rc;

use bytes::Bytes;
use prost::Message;
use waystation_base::ConnName;
use waystation_net::{Address, CloseReason, Conn, SendError};
use waystation_wire::{Header, encode_into};

use crate::contexts::Contexts;
use crate::method::Method;

/// Why a push did not go out. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The connection is closed.
    #[error("connection {0} is closed")]
    Closed(ConnName),
    /// The peer does not read fast enough; its output is full.
    #[error("the output of connection {0} is full")]
    Full(ConnName),
    /// There is no connection to the callee now.
    #[error("not connected")]
    NotConnected,
    /// The peer speaks HTTP, which has room for answers only, or has not said
    /// anything yet, so that nobody knows what it speaks.
    #[error("connection {0} takes no pushes (yet)")]
    Mute(ConnName),
    /// The message is larger than a message may be, or has no JSON.
    #[error("the message cannot be encoded: {0}")]
    Encode(String),
}

impl From<SendError> for PushError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full(name) => Self::Full(name),
            SendError::Closed(name) => Self::Closed(name),
            SendError::Mute(name) => Self::Mute(name),
            _ => Self::Encode(error.to_string()),
        }
    }
}

/// This peer speaks JSON text over WebSocket.
pub(crate) struct SpeaksText;

/// A connection of this process, on this shard. See [`Conn`] on keeping one.
#[derive(Clone, Debug)]
pub struct Peer {
    conn: Conn,
}

impl Peer {
    /// The peer of a connection.
    pub fn new(conn: Conn) -> Self {
        Self { conn }
    }

    /// Its connection.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Its name, to keep instead of the peer.
    pub fn name(&self) -> ConnName {
        self.conn.name()
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        self.conn.peer()
    }

    /// Ends the connection after what is on its way to it.
    pub fn close(&self) {
        self.conn.close(CloseReason::Local);
    }

    /// Keeps a value with the connection.
    pub fn set<T: 'static>(&self, value: Rc<T>) {
        self.conn.set_property(value);
    }

    /// The value kept by [`Peer::set`].
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.conn.property()
    }

    /// Says on whose behalf it asks from now on: all connections of a shard
    /// with one name have one share between them, of the requests in progress,
    /// of the turns at each [`Channel`](crate::Channel) and of retries. Without
    /// a name a connection has a share of its own.
    ///
    /// A share bounds only what would be taken from others: who floods is
    /// refused and waits, who stays within a share is not. Processes and shards
    /// share nothing: a name has a share on each.
    pub fn set_caller(&self, name: &str) {
        let contexts = Contexts::of(self.conn.shard());
        self.conn.set_property(contexts.callers().named(name));
    }

    /// Sends a one-way message of a method, in the encoding that the peer
    /// speaks.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push<M: Method>(&self, message: &M::Request) -> Result<(), PushError> {
        self.push_shared(&Push::<M>::new(message))
    }

    /// Like [`Peer::push`] for a message that goes to many peers: it is
    /// encoded once for each encoding.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push_shared<M: Method>(&self, push: &Push<'_, M>) -> Result<(), PushError> {
        if self.conn.property::<SpeaksText>().is_some() {
            return Ok(self.conn.send_text(push.text()?)?);
        }
        Ok(self.conn.send_bytes(push.frame()?)?)
    }
}

/// A one-way message, encoded at most once for each encoding.
pub struct Push<'a, M: Method> {
    message: &'a M::Request,
    frame: OnceCell<Bytes>,
    text: OnceCell<String>,
    method: PhantomData<fn() -> M>,
}

impl<'a, M: Method> Push<'a, M> {
    /// A push of `message`. Cost: none until it is first sent.
    pub fn new(message: &'a M::Request) -> Self {
        Self {
            message,
            frame: OnceCell::new(),
            text: OnceCell::new(),
            method: PhantomData,
        }
    }

    fn frame(&self) -> Result<&Bytes, PushError> {
        if let Some(frame) = self.frame.get() {
            return Ok(frame);
        }
        let mut out = Vec::new();
        encode_into(
            &Header::push(M::ID),
            &self.message.encode_to_vec(),
            &mut out,
        )
        .map_err(|error| PushError::Encode(error.to_string()))?;
        Ok(self.frame.get_or_init(|| out.into()))
    }

    fn text(&self) -> Result<&String, PushError> {
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let body = serde_json::to_string(self.message)
            .map_err(|error| PushError::Encode(error.to_string()))?;
        let text = format!("{{\"push\":\"{}\",\"body\":{body}}}", M::NAME);
        Ok(self.text.get_or_init(|| text))
    }
}
