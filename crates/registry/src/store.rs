//! Registries that are kept in a store of somebody else's: everything that they
//! have in common.
//!
//! A [`Store`] is a store of keys and values in which entries live no longer
//! than who wrote them, revisions come in order, changes are told, and a write
//! can be made on the condition that nobody was faster. With that,
//! [`StoreBackend`] is a registry: who may have an id, what a registration is to
//! do, who watches what and holds which version, when a drain goes on.

mod backend;
mod change;
mod claim;
mod drain;
mod holders;
mod known;
mod orders;
mod plan;
mod register;
mod shape;
mod shared;
mod skips;
mod subscribers;
mod turns;

pub(crate) use backend::StoreBackend;
#[doc(hidden)]
pub use known::entries_taken;
pub(crate) use known::{Entries, Known, Listed, note_taken};
pub(crate) use plan::How;
pub(crate) use register::Held;
pub(crate) use shape::{Bid, Entry, Renewing, Store, StoreFault, Written};
pub(crate) use shared::{Shared, backoff};
pub(crate) use skips::Skipped;
pub(crate) use subscribers::Subscriber;
pub(crate) use turns::Turns;
