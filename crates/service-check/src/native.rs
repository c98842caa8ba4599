//! A peer that speaks native frames by hand, so that it may also misbehave.

use std::future::poll_fn;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waystation_base::{CallId, Sid};
use waystation_net::{
    Address, DetachedListener, DetachedStream, Io, Listener, MemoryIo, MemoryStream, Stream,
};
use waystation_service::codegen::prost::Message;
use waystation_service::{Code, Method};
use waystation_wire::{Decoded, Header, Kind, decode, encode_into};

/// One end of a connection.
pub struct NativePeer {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl NativePeer {
    /// Connects to a listener in memory.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn dial(io: &MemoryIo, name: &str) -> Self {
        Self::new(io.dial(name).expect("someone listens"))
    }

    /// Speaks over a stream.
    pub fn new(stream: MemoryStream) -> Self {
        Self::over(Box::new(stream))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Sends one message. False when the connection is lost.
    pub async fn send(&mut self, header: &Header, body: &[u8]) -> bool {
        let mut frame = Vec::new();
        encode_into(header, body, &mut frame).expect("tests send no giants");
        self.send_raw(&frame).await
    }

    /// Sends bytes as they are, in one write.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Asks for a method under a call id.
    pub async fn request<M: Method>(&mut self, call: u64, request: &M::Request) -> bool {
        let header = Header::request(M::ID, CallId(call));
        self.send(&header, &request.encode_to_vec()).await
    }

    /// Answers a request that this peer got.
    pub async fn reply(&mut self, request: &Header, body: &impl Message) -> bool {
        let header = Header::reply(request.call, request.message, Code::Ok);
        self.send(&header, &body.encode_to_vec()).await
    }

    /// Refuses a request that this peer got.
    pub async fn refuse(&mut self, request: &Header, code: Code) -> bool {
        let header = Header::reply(request.call, request.message, code);
        self.send(&header, b"no").await
    }

    /// Gives up a call.
    pub async fn cancel(&mut self, call: u64) -> bool {
        self.send(&Header::cancel(CallId(call)), &[]).await
    }

    /// The next message, pings and their like included; `None` when the other
    /// side has ended the connection.
    pub async fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            match decode(&self.received).expect("the other side speaks the protocol") {
                Decoded::Frame(header) => {
                    let frame: Vec<u8> = self.received.drain(..header.frame_len()).collect();
                    let body = frame[frame.len() - header.body_len as usize..].to_vec();
                    return Some((header, body));
                }
                Decoded::Need(_) => match self.stream.read_buf(&mut self.received).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return None,
                },
            }
        }
    }

    /// The next message of a kind; what comes before it is dropped.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn receive_kind(&mut self, kind: Kind) -> (Header, Vec<u8>) {
        loop {
            let message = self.receive().await.expect("the connection stays open");
            if message.0.kind == kind {
                return message;
            }
        }
    }

    /// The answer to a method, whichever call it is for.
    ///
    /// # Panics
    /// When the connection ends first, or the answer is none of the method.
    pub async fn answer<M: Method>(&mut self) -> (u64, Result<M::Reply, Code>) {
        let (header, body) = self.receive_kind(Kind::Reply).await;
        assert_ne!(header.sid, Sid::default(), "every answer names its request");
        let answer = match header.status {
            Code::Ok => Ok(M::Reply::decode(&*body).expect("the method's reply")),
            code => Err(code),
        };
        (header.call.0, answer)
    }

    /// Which call the next answer is for, whatever its method, and how it ended.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn answer_to(&mut self) -> (u64, Code) {
        let (header, _) = self.receive_kind(Kind::Reply).await;
        (header.call.0, header.status)
    }

    /// Waits until the other side answers a ping: it has read all before.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn ping(&mut self) {
        self.send(&Header::ping(CallId(0)), &[]).await;
        self.receive_kind(Kind::Pong).await;
    }

    /// Whether something has been received that was not looked at.
    pub fn has_more(&mut self) -> bool {
        !self.received.is_empty()
            || self
                .stream
                .read_buf(&mut self.received)
                .now_or_never()
                .is_some()
    }

    /// Ends the connection at once.
    pub fn hang_up(self) {
        drop(self.stream);
    }
}

/// A listener whose peers are the test itself.
pub struct NativeListener(Box<dyn Listener>);

impl NativeListener {
    /// Listens on a name.
    ///
    /// # Panics
    /// When the name is taken.
    #[track_caller]
    pub fn bind(io: &MemoryIo, name: &str) -> Self {
        let listener = io.listen(&Address::Memory(name.to_owned()));
        Self(
            listener
                .and_then(DetachedListener::attach)
                .expect("the name is free"),
        )
    }

    /// The next connection.
    pub async fn accept(&mut self) -> NativePeer {
        let stream = poll_fn(|cx| self.0.poll_accept(cx)).await;
        NativePeer::over(
            stream
                .and_then(DetachedStream::attach)
                .expect("memory does not fail"),
        )
    }
}
