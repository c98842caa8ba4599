//! What a caller links: which host next, and how the call ended.
//!
//! A [`Caller`] picks hosts of one service from memory that the agent of this
//! machine shares with it, without a system call; where that is not there it asks
//! the agent's Unix socket, and where that is not there its UDP port, as callers
//! of Lars do ([`LarsCaller`]). Without any of these it goes on with the hosts that
//! it had last. [`PickedHost::source`] says which it was. What a caller reports, the
//! agent counts for the whole machine.
//!
//! ```no_run
//! use waystation_balance::{CallEnd, Load};
//! use waystation_client::{Caller, CallerConfig, machine_now};
//!
//! let mut caller = Caller::new(CallerConfig::new("im.logic", "/run/waystation/agent.sock"));
//! let began = machine_now();
//! let host = caller.pick()?;
//! // ... call `host.address` ...
//! let took = machine_now().saturating_since(began);
//! caller.report(&host, CallEnd::Ok, Some(took), Load::default());
//!
//! // The same with a guard, which reports in any case.
//! let call = caller.begin()?;
//! // ... call `call.address()` ...
//! call.end(CallEnd::Ok, Load::default());
//! # Ok::<(), waystation_client::Error>(())
//! ```
//!
//! A [`Caller`] belongs to a thread; clones of it are for others, and a
//! [`SharedCaller`] is for all of them.
//!
//! The crate leaves out calls themselves: crate `waystation-client-tower` makes
//! them for tower's clients, `waystation-service` for its own. [`Mapping`] and [`protocol`] are for the
//! agent, which speaks the other side.

mod attachment;
mod attempt;
mod caller;
mod callers;
mod clock;
mod config;
mod ends;
mod error;
mod former;
mod guard;
mod lars;
mod mapping;
pub mod protocol;
mod shared;
mod socket;

pub use attachment::KnownHost;
pub use caller::{Caller, PickedHost};
pub use callers::SharedCaller;
pub use clock::{machine_now, machine_now_coarse};
pub use config::{CallerConfig, Source};
pub use error::Error;
pub use guard::CallGuard;
pub use lars::LarsCaller;
pub use mapping::{Access, ForkMark, Mapping};
pub use socket::{Socket, framed};
