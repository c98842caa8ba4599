//! Node discovery without I/O: who offers which service, since when, and for
//! how long that may be believed.
//!
//! The crate holds the decisions; sockets, clocks and stores are elsewhere
//! (`waystation-registry`). Time comes in as a
//! [`Moment`](waystation_base::Moment), randomness as a seed.
//!
//! * [`Instance`] is what a node says about itself. A [`View`] is all instances
//!   of a service at a [`ViewVersion`], a [`ViewDelta`] leads from one to the
//!   next, and a [`ViewAck`] says that callers see it.
//! * [`Leases`] says who holds which id, under a fencing token that rises with
//!   every new holder.
//! * [`Directory`] is the core of a registry: registrations and renewals in,
//!   pushes and what to store out; drains; who holds which version.
//! * [`Registration`] is the core of a node: it never gives up until it is
//!   dropped, and fences the node before its peers evict it.
//! * [`Follower`] is the core of a subscriber: the last known good views, with
//!   a guard that keeps for a while, as suspects, what is lost all at once.
//! * [`fuse`] turns what lease, probe and callers say into a [`Verdict`].
//!
//! # Health
//!
//! | lease | probe | callers ok | callers failing | nobody called |
//! |---|---|---|---|---|
//! | live | ok | Use | Suspect | Use |
//! | live | failed | Use | Gone | Suspect |
//! | live | none | Use | Suspect | Use |
//! | expired | ok | Suspect | Gone | Suspect |
//! | expired | failed | Suspect | Gone | Gone |
//! | expired | none | Suspect | Gone | Gone |
//! | unknown | ok | Use | Suspect | Use |
//! | unknown | failed | Use | Gone | Suspect |
//! | unknown | none | Use | Suspect | Use |
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use waystation_base::{Epoch, ServiceName};
//! use waystation_membership::{Instance, InstanceId, Owner, View, ViewVersion};
//!
//! let service = ServiceName::new("im.logic").unwrap();
//! let version = |number| ViewVersion { epoch: Epoch(1), number };
//! let mut held = View::empty(service.clone(), version(1));
//!
//! let id = InstanceId::new("logic-1").unwrap();
//! let address = "10.0.0.1:7000".parse().unwrap();
//! let instance = Instance::new(id.clone(), service, address, Owner::default());
//! instance.validate().unwrap();
//!
//! let mut newer = held.clone();
//! newer.at = version(2);
//! newer.instances.insert(id, Arc::new(instance));
//! let delta = held.delta_to(&newer);
//! held.apply(&delta).unwrap();
//! assert_eq!(held, newer);
//! ```

pub mod limits;

mod address;
mod directory;
mod follower;
mod health;
mod ids;
mod instance;
mod lease;
mod registration;
mod view;

#[cfg(test)]
mod test_support;

pub use address::{Address, AddressError};
pub use directory::{
    Content, Directory, DirectoryConfig, DrainStep, Granted, Holding, Output, Refusal, Register,
    Renewed, SubscribeError, Watch,
};
pub use follower::{DropReason, Follower, FollowerConfig, FollowerOutput};
pub use health::{CallersWord, LeaseWord, ProbeWord, Verdict, fuse};
pub use ids::{InstanceId, Label, Owner, OwnerId, SubscriberId, TextError};
pub use instance::{Instance, InstanceError, LarsPair, LarsPairError, Lifetime, State, Update};
pub use lease::{GrantError, HolderError, Lease, Leases, epoch_of};
pub use registration::{Attempt, Command, Registration, RegistrationConfig};
pub use view::{ApplyError, Removal, View, ViewAck, ViewDelta, ViewVersion};
