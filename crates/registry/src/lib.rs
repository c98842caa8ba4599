//! Node discovery over a registry: who is there, kept up to date, whatever
//! keeps it.
//!
//! [`Registry`] is the one interface, and [`Client`] what implements it for
//! every backend:
//!
//! | URL | what it is |
//! |---|---|
//! | `embedded://HOST:PORT` | `waystation registry serve`, or an [`EmbeddedServer`] of one's own |
//! | `route://HOST:PORT` | a route server, which shows what registries and its store have |
//! | `etcd://HOST:PORT,…/PREFIX` | keys under a prefix of etcd, attached to leases |
//! | `zookeeper://HOST:PORT,…/ROOT` | nodes under a root of `ZooKeeper`, tied to sessions |
//! | `file://PATH` | a static list of instances, read again whenever it changes |
//!
//! [`Combined`] is several registries as one, to move from one to another while
//! everything runs.
//!
//! What a client decides is in crate `waystation-membership`: a registration
//! that never gives up, a node that fences itself before its peers evict it,
//! views that are never emptied by a lost source. A backend only moves bytes.
//!
//! A client is a task on a shard: [`Client::open`] brings a thread of its own,
//! [`Client::open_on`] uses one that is there. Handles leave what they want in
//! a bounded place and read what came of it; none of them waits for the task.
//!
//! What an embedded registry keeps over restarts is described in
//! `docs/formats/registry-journal.md`, what it says to its clients in
//! `proto/registry.proto`.
//!
//! The crate leaves out which host a caller picks, and how a service serves.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use waystation_base::ServiceName;
//! use waystation_membership::{Instance, InstanceId, Owner, Watch};
//! use waystation_registry::{
//!     Client, EmbeddedConfig, EmbeddedServer, Registry, RegistrationOptions, WatchOptions,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let dir = folder.path().to_owned();
//! let server = EmbeddedServer::start(EmbeddedConfig::new(dir, "127.0.0.1:0".parse()?))?;
//! let client = Client::open(&format!("embedded://{}", server.address()).parse()?)?;
//!
//! let service = ServiceName::new("im.logic")?;
//! let watching = client.watch(Watch::Service(service.clone()), WatchOptions::default())?;
//!
//! let id = InstanceId::new("logic-1")?;
//! let instance = Instance::new(id, service, "10.0.0.1:7000".parse()?, Owner::default());
//! let registered = client.register(instance, RegistrationOptions::default())?;
//!
//! let wait = Duration::from_secs(10);
//! let view = watching.wait_view("im.logic", wait, |view| view.instances.len() == 1);
//! assert!(view.is_some());
//! drop(registered);
//! let view = watching.wait_view("im.logic", wait, |view| view.instances.is_empty());
//! assert!(view.is_some());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "bare")]
pub mod bare;
pub mod limits;

mod backend;
mod client;
mod combined;
mod draining;
mod driver;
mod embedded;
mod error;
mod etcd;
mod file;
mod handle;
mod hub;
mod mirror;
mod observed;
mod place;
mod registries;
mod registry;
mod replace;
mod store;
#[cfg(test)]
mod test_support;
mod text;
mod url;
mod zookeeper;

pub use client::Client;
pub use combined::Combined;
pub use embedded::{EmbeddedConfig, EmbeddedServer, Pushes, Views, ViewsHome};
pub use error::{AskError, Error, ServeError};
pub use handle::{Draining, Listing, Registered, RegistrationStatus, Watching};
pub use place::Place;
pub use registries::Registries;
pub use registry::{
    Acks, Change, DrainWaits, Holder, ListedService, RegistrationOptions, Registry, Session,
    SessionState, WatchOptions,
};
pub use replace::replace_file;
#[doc(hidden)]
pub use store::entries_taken;
#[doc(hidden)]
pub use text::instances_read;
pub use text::{
    InstanceTextError, instance_from_json, instance_to_json, view_from_json, view_to_json,
};
pub use url::{RegistryUrl, UrlError};
