//! A chat system in three layers, small and complete.
//!
//! - [`entry`] holds the users' connections (WebSocket, HTTP, native), knows
//!   which user is on which, answers heartbeats itself, forwards the rest, and
//!   delivers each message once and in order to each connection.
//! - [`logic`] holds the rules: conversations, groups, presence, fan-out. It
//!   keeps nothing that it cannot lose.
//! - [`das`] (data access) hides the database: numbers messages, stores each
//!   once, for ever.
//! - [`client`], [`load`] and [`chat`] are real clients: a library, a load
//!   generator that checks every transcript, and a terminal.
//!
//! What is acknowledged to a sender is durable; every member of the
//! conversation gets it exactly once and in the order of the conversation's
//! numbers, whichever of the processes is killed meanwhile. README.md beside
//! this crate says how each layer contributes to that.

pub mod chat;
pub mod client;
pub mod das;
pub mod entry;
mod error;
mod joined;
mod kept;
pub mod load;
pub mod logic;
mod ousted;
mod rival;
mod role;
mod standing;
pub mod store;

include!(concat!(env!("OUT_DIR"), "/_mod.rs"));

pub use self::error::Error;
pub use self::role::{Discovery, RoleConfig, Serving, SiteName};
