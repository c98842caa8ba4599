//! The embedded registry: leases and views over native frames.
//!
//! Client and server speak `proto/registry.proto`. Requests about one
//! registration are calls; what concerns a subscriber is pushes in both
//! directions, so that the connection's order is theirs: a subscriber that
//! cannot be pushed to, or cannot push, is disconnected and starts over.

mod backend;
mod calls;
mod convert;
mod disk;
mod journal;
mod orders;
mod proto;
mod server;
mod state;
mod views;

#[cfg(test)]
mod tests;

pub(crate) use backend::EmbeddedBackend;
pub use server::{EmbeddedConfig, EmbeddedServer};
pub use state::Pushes;
pub use views::{Views, ViewsHome};
