//! The framework for services: routes, request contexts, deadlines, shedding.
//!
//! A service is written as async functions over typed messages, which
//! `service-build` generates from `.proto` files. Each request has a
//! [context](Ctx) with an id, a deadline and a state; it gets exactly one
//! answer: a result, a refusal, or a timeout. Calls to other services
//! ([`Channel`]) carry the context's id and what is left of its deadline, and
//! an answer that comes after its call has ended is discarded and counted.
//! The same methods are served over native frames, HTTP/JSON and WebSocket.
//! Those who want to enumerate states write a [`StateMachine`] instead.
//!
//! The crate leaves out sockets and shards (crate `net`), and where services
//! are found (later `registry`, `client`).
//!
//! ```
//! use waystation_service::{App, Ctx, Method, MessageId, Status};
//! use waystation_net::NetConfig;
//!
//! // What `service-build` would generate.
//! #[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
//! struct Text { #[prost(string, tag = "1")] text: String }
//! struct Shout;
//! impl Method for Shout {
//!     type Request = Text;
//!     type Reply = Text;
//!     const NAME: &'static str = "demo.Echo/Shout";
//!     const ID: MessageId = MessageId::of(Self::NAME);
//!     const IDEMPOTENT: bool = true;
//! }
//!
//! async fn shout(ctx: Ctx, request: Text) -> Result<Text, Status> {
//!     ctx.set_state("shouting");
//!     Ok(Text { text: request.text.to_uppercase() })
//! }
//!
//! let app = App::builder("echo-1", NetConfig::default())
//!     .listen("127.0.0.1:0".parse()?, |router| router.method::<Shout, _>(shout))
//!     .start()?;
//! println!("curl -d '{{\"text\":\"hi\"}}' http://{}/demo.Echo/Shout", app.server().addresses()[0]);
//! app.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admin;
mod app;
mod channel;
mod contexts;
mod ctx;
mod endpoint;
mod exchange;
mod http;
mod latency;
pub mod limits;
mod machine;
mod method;
pub mod metrics;
mod native;
mod peer;
mod retry;
mod router;
mod sessions;
mod status;
mod text;

pub use waystation_base::MessageId;
pub use waystation_wire::Status as Code;

pub use self::admin::Health;
pub use self::app::{App, AppBuilder, AppError};
pub use self::channel::{Channel, Group};
pub use self::contexts::ContextInfo;
pub use self::ctx::Ctx;
pub use self::machine::{StateMachine, Step};
pub use self::method::Method;
pub use self::peer::{Peer, Push, PushError};
pub use self::retry::Retry;
pub use self::router::{RegisterError, Router};
pub use self::sessions::{LockGuard, Locks, Sessions, SessionsFull};
pub use self::status::Status;

/// What generated code uses.
pub mod codegen {
    pub use {pbjson, prost, serde};
}
