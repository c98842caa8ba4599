//! The framework for services: routes, request contexts, deadlines, shedding.
//!
//! A service is written as async functions over typed messages, which
//! `service-build` generates from `.proto` files. Each request has a
//! [context](Ctx) with an id, a deadline and a state, and gets exactly one
//! answer: a result, a refusal, or a timeout.
//!
//! The crate leaves out sockets and shards (crate `net`), and where services
//! are found (crates `registry` and `client`).
//!
//! # A service
//!
//! For `rpc Shout(Text) returns (Text)` in service `Echo` of package `demo`
//! the generated module has a trait with `async fn shout(&self, ctx: &Ctx,
//! request: Text) -> Result<Text, Status>`, `register`, and `EchoClient`.
//! Below it all stands a marker for each rpc, its [`Method`], which a plain
//! function can serve as well:
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
//!     if request.text.is_empty() {
//!         return Err(Status::invalid_request("nothing to shout"));
//!     }
//!     ctx.set_state("shouting");
//!     Ok(Text { text: request.text.to_uppercase() })
//! }
//!
//! let app = App::builder("echo-1", NetConfig::default())
//!     .listen("127.0.0.1:0".parse()?, |router| router.method::<Shout, _>(shout))
//!     .start()?;
//! println!("curl -d '{{\"text\":\"hi\"}}' http://{}/demo.Echo/Shout", app.server().addresses()[0]);
//! app.drain(); // or `app.run(signals)`, until SIGTERM
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Handlers run on the shard that owns the request's connection. They share
//! state by `Rc`, need no `Send`, and must not block: blocking work goes to
//! [`Shard::offload`](waystation_net::Shard::offload). What a shard's handlers
//! share is built in [`AppBuilder::on_shard`].
//!
//! # Wires
//!
//! One port speaks all of them, to the same handlers:
//!
//! | wire | request | answer |
//! |---|---|---|
//! | native frames | the method's id, protobuf | status, protobuf or the reason as text |
//! | HTTP | `POST /demo.Echo/Shout`, JSON; `waystation-deadline-ms` | JSON, or the nearest HTTP status with `{"code":…,"message":…}` |
//! | WebSocket text | `{"call":1,"method":"demo.Echo/Shout","body":{…}}` | `{"call":1,"body":{…}}` or `{"call":1,"error":{…}}` |
//! | WebSocket binary | native frames | native frames |
//!
//! JSON is the canonical one of protobuf. A [`Peer`] takes [pushes](Push) in
//! the encoding that it speaks.
//!
//! # Calls to others
//!
//! A [`Channel`] leads to one instance of another service, a [`Group`] to
//! several, and a [`Balanced`] to whichever of them the agent of this machine
//! picks (`waystation-client`). A call takes the caller's context: it carries the request's id,
//! ends with the request's deadline, and sends what is left of it along.
//!
//! ```
//! # use waystation_service::{Channel, Ctx, Method, Retry, Status};
//! async fn ask<M: Method>(ctx: &Ctx, stock: &Channel, request: M::Request) -> Result<M::Reply, Status> {
//!     // Half of what is left for this step; tried again while the callee is
//!     // away, or when nobody knows whether it was done.
//!     let step = ctx.within(ctx.time_left() / 2);
//!     step.retry(&Retry::idempotent().tries(3), async || stock.call::<M>(&step, &request).await).await
//! }
//! ```
//!
//! # What a request can rely on
//!
//! - **One answer.** A handler that fails, panics (also while it is decoded
//!   for, encoded after or dropped) or never ends is answered for. A
//!   one-way message is never answered.
//! - **A deadline.** It comes with the request, or is the default
//!   ([`Router::limits`]). When it has passed the handler is dropped and the
//!   caller told; a request that arrives too late is not begun.
//! - **Cancellation.** A caller that gives up over native frames says so: the
//!   handler is dropped, and with it its calls, whose callees are told in
//!   turn. A cancelled request has no answer. A lost connection cancels
//!   nothing: what was begun runs on until its deadline.
//! - **No mistaken answers.** Every call has an id of its own, so an answer
//!   that comes after its step has ended is discarded and counted, and never
//!   continues another.
//! - **Refusal at once.** Above the bound of requests in progress a request
//!   is refused before it is decoded; nothing waits in a queue. Each answer
//!   tells the load that is left.
//!
//! - **A fair share.** Whose requests are counted together says
//!   [`Peer::set_caller`], a connection by default. Who has its share of the
//!   requests in progress ([`Router::share`]) is refused; calls to others go
//!   in [turns](Turns), callers in rotation; and nobody uses up the retries
//!   that others' steps have earned. Who stays within a share is never refused
//!   because somebody else floods.
//! - **One layer tries again.** What a callee has tried again in vain is not
//!   tried again by its caller ([`Status::is_retried`]), and what it says is
//!   what the caller at the top reads.
//!
//! - **Other shards.** A part of a request that belongs to another shard of the
//!   process runs there under the same id and deadline ([`Ctx::on_shard`]), and
//!   ends with the request.
//!
//! Every bound stands in [`limits`].
//!
//! # States instead of straight lines
//!
//! Those who want to enumerate states write a [`StateMachine`]: on request,
//! on each answer, on timeout, end. It runs over the same contexts, deadlines
//! and calls, and is registered with [`Router::machine`].
//!
//! # Beside requests
//!
//! [`Sessions`] keeps values by key until they are not used for a while;
//! [`Locks`] puts work on one key in order. [`AppBuilder::admin`] serves
//! `/healthz`, `/metrics`, `/api/v1/contexts`, `/api/v1/tasks` and
//! `/api/v1/blocked` on a thread of its own.

mod across;
mod admin;
mod agent;
mod app;
mod balanced;
mod budget;
mod caller;
mod channel;
mod contexts;
mod ctx;
mod endpoint;
mod exchange;
mod group;
mod http;
mod latency;
pub mod limits;
mod machine;
mod member;
mod method;
pub mod metrics;
mod native;
mod peer;
mod probe;
mod retry;
mod router;
mod sessions;
mod status;
mod text;
mod turns;

pub use waystation_base::MessageId;
pub use waystation_wire::Status as Code;

pub use self::admin::Health;
pub use self::app::{App, AppBuilder, AppError, Attendant};
pub use self::balanced::{Balanced, BalancedConfig, BalancedCounters, Hedging};
pub use self::channel::Channel;
pub use self::contexts::ContextInfo;
pub use self::ctx::Ctx;
pub use self::group::{Group, Pick, Updated, address_of};
pub use self::machine::{StateMachine, Step};
pub use self::member::Member;
pub use self::method::Method;
pub use self::peer::{Peer, Push, PushError};
pub use self::probe::{ProbeConfig, ProbeKind, ProbeKindError};
pub use self::retry::Retry;
pub use self::router::{RegisterError, Router};
pub use self::sessions::{LockGuard, Locks, Sessions, SessionsFull};
pub use self::status::Status;
pub use self::turns::{Turn, Turns};

/// What generated code uses.
pub mod codegen {
    pub use {pbjson, prost, serde};
}
