//! The native protocol: frames of crate `wire` over TCP, Unix sockets and
//! WebSocket, beside HTTP on the same port.

mod calls;
mod dispatch;
mod heartbeat;
mod http;
mod protocol;
mod router;
mod session;
mod unfinished;
mod upgrade;
mod upstream;
pub(crate) mod websocket;

pub use self::calls::{Answer, CallError};
pub use self::http::HttpHandler;
pub use self::protocol::NativeProtocol;
pub use self::router::{
    Control, Handler, Inbound, RouteError, Router, Started, TextHandler, refuse, reply, reply_error,
};
pub use self::upgrade::Origins;
pub use self::upstream::{Call, Upstream, UpstreamConfig, UpstreamEvents, UpstreamState};
