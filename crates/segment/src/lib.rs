//! Shared memory between an agent and the callers of its machine.
//!
//! A pick happens in the caller, without a system call: an agent writes a
//! service's hosts and what they cost into a *route segment*, which callers map
//! for reading; each calling process counts what it sent and how that ended in a
//! *ledger* of its own, which the agent sums up. So a pick knows the load of the
//! whole machine, and a caller that dies leaves nothing behind but numbers.
//!
//! [`RouteWriter`] and [`RouteReader`] are the two sides of a route segment,
//! [`Ledger`] and [`LedgerWatch`] those of a ledger. [`Picker`] is what a caller
//! uses; [`Keeper`] is the agent's core: a
//! [`Balancer`](waystation_balance::Balancer) that learns from ledgers and writes
//! the segment. Both work on any [`Memory`]; making, sealing and mapping it is the
//! shells' part, as are clocks.
//!
//! Layouts stand in `docs/formats/segments.md`. Whatever the memory holds, readers
//! neither crash nor loop: places are computed from the capacity that was checked
//! once, reads are tried [`limits::RETRIES_MAX`] times, and a writer that is
//! killed at any instruction leaves a valid content behind.
//!
//! ```
//! use std::sync::Arc;
//! use waystation_balance::{Balancer, BalancerConfig, CallEnd, Load, PolicyKind};
//! use waystation_base::{Moment, ServiceName};
//! use waystation_membership::{Instance, InstanceId, Owner, View, ViewVersion};
//! use waystation_segment::{
//!     Keeper, Ledger, Picker, Place, RouteReader, RouteWriter, Word, create_ledger, ledger_words, zeroed,
//! };
//!
//! // The agent makes a segment for the service's hosts ...
//! let routes = Arc::new(zeroed(RouteWriter::<&[Word]>::words(64)));
//! let writer = RouteWriter::create(Arc::clone(&routes), 64, 7, 1)?;
//! let balancer = Balancer::new(BalancerConfig::default(), PolicyKind::default().build(1), 1);
//! let mut keeper = Keeper::new(balancer, writer);
//! let service = ServiceName::new("logic")?;
//! let mut view = View::empty(service.clone(), ViewVersion::default());
//! let id = InstanceId::new("logic-1")?;
//! let host = Instance::new(id.clone(), service, "10.0.0.1:7000".parse()?, Owner::default());
//! view.instances.insert(id, Arc::new(host));
//! let now = Moment::from_millis(5);
//! keeper.handle_view(now, &view);
//!
//! // ... and a ledger for a caller, which picks and reports.
//! let ledger = Arc::new(zeroed(ledger_words(64)));
//! create_ledger(&ledger, 64, (7, 1))?;
//! keeper.attach(Arc::clone(&ledger))?;
//! let mut picker = Picker::new(RouteReader::attach(routes)?, Ledger::attach(ledger)?, 3)?;
//! let chosen = picker.pick(now)?;
//! assert_eq!(chosen.place, Place::Ip("10.0.0.1:7000".parse()?));
//! picker.report(&chosen, CallEnd::Ok, Some(1_000_000), Load::default());
//!
//! keeper.handle_turn(Moment::from_millis(7));
//! assert_eq!(keeper.counters().ended[0], 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod limits;

mod sync;

mod memory;

mod turns;

mod layout;

mod error;

mod route;

mod ledger;

mod pool;

mod picker;

mod keeper;

mod tally;

#[cfg(all(test, not(loom)))]
mod kill_tests;

pub use error::{AttachError, Miss};
pub use keeper::{Keeper, KeeperCounters, LedgerId, TURN_EVERY, WRITE_EVERY};
pub use ledger::{Added, ENDS, Ledger, LedgerWatch, create_ledger, ledger_words};
pub use memory::{Memory, Word, zeroed};
pub use picker::{Chosen, Picker, STALE_AFTER, Seat, report};
pub use route::{
    Entry, Note, Place, Route, RouteReader, RouteWriter, Routes, SegmentState, Spill, WARM,
};
pub use tally::HostEnds;
