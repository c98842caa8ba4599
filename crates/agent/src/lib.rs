//! The agent: one per machine, it knows which hosts there are and how they fare,
//! and tells the callers on its machine.
//!
//! An [`Agent`] watches a registry, keeps a route segment of shared memory for
//! each service that a caller uses (crate `waystation-segment`), hands segments
//! and ledgers over its Unix socket (`waystation_client::protocol`), sums up what
//! callers did, and answers callers of Lars by UDP with the rule and the settings
//! of Lars. A caller that dies is noticed by the end of its socket. After the
//! agent is killed callers go on for two seconds by their segments, then by the
//! hosts that these had last, and attach to the next agent by themselves.
//!
//! Of a route server (`route://HOST:PORT`) it watches what somebody here uses, asks
//! for what it does not know, and forgets what nobody wants any more; so it does of
//! a route server of Lars, for pairs; of a registry it watches all. What it knows is
//! kept on disk, so that it answers when it starts while its source is away, and says
//! so.
//!
//! It tells a report server how calls ended ([`ReportTo`]): natively what its own
//! callers counted, and by Lars' protocol what callers of Lars reported. What it
//! tells are running totals, so that neither a lost connection nor a report server
//! that is down loses a count.
//!
//! Hosts tell what they have to do in the replies that callers get, and to the
//! probes that the agent sends while a policy wants them ([`Probes`]).
//!
//! ```no_run
//! use waystation_agent::{Agent, AgentConfig};
//!
//! let registry = "embedded://127.0.0.1:7071".parse()?;
//! let agent = Agent::start(AgentConfig::new("/run/waystation/agent.sock", registry, 7))?;
//! println!("{:?}", agent.udp_addresses());
//! agent.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod limits;

mod agent;
mod config;
mod desk;
mod error;
mod explained;
mod figures;
mod held;
mod lars;
mod lars_source;
mod probes;
mod reports;
mod routes;
mod service;
mod unix;
mod witnesses;

pub use agent::Agent;
pub use config::{AgentConfig, ReportTo, SocketAccess};
pub use error::Error;
pub use figures::{FigureBoard, Figures};
pub use probes::Probes;
