//! Picked hosts for clients of tower and tonic.
//!
//! A [`Balance`] is a tower service that sends each request to a host that the
//! agent of this machine says is best, and tells the agent how it ended: whatever
//! client stands above it finds hosts by the service's name, leaves those that
//! fail, and shares what it learns with every other caller of the machine. It is
//! made by [`BalanceLayer`] from a function that makes the client of one host. For
//! those who balance by themselves [`Hosts`] is tower's `Discover`.
//!
//! ```no_run
//! use std::time::Duration;
//! use tonic::transport::{Channel, Endpoint};
//! use tower::Layer as _;
//! use waystation_client::{CallerConfig, SharedCaller};
//! use waystation_client_tower::{BalanceLayer, HttpJudge};
//! use waystation_membership::Address;
//!
//! let caller = SharedCaller::new(CallerConfig::new("pay", "/run/waystation/agent.sock"));
//! let layer = BalanceLayer::new(caller, HttpJudge).timeout(Duration::from_secs(2));
//! let pay = layer.layer(|host: &Address| -> Channel {
//!     let endpoint = Endpoint::from_shared(format!("http://{host}"));
//!     endpoint.expect("an address is a part of a URL").connect_lazy()
//! });
//! // Any generated client takes it: `PayClient::new(pay)`.
//! let client = tonic::client::Grpc::new(pay);
//! # drop(client);
//! ```
//!
//! It leaves out tries after a failure: a `tower::retry::Retry` above it sends each
//! try to a host that is picked anew.

mod balance;
mod discover;
mod error;
mod judge;
pub mod limits;

pub use balance::{Answer, Balance, BalanceLayer, MakeHost};
pub use discover::Hosts;
pub use error::Error;
pub use judge::{AnswerJudge, HttpJudge, Judge};
