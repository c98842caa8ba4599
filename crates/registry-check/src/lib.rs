//! One suite of faults that every registry backend has to pass.
//!
//! A backend joins by a [`Fixture`]: how it is started, killed and damaged. The
//! [cases] are the same for all of them. What a backend cannot do by its
//! nature (a static list takes no registrations) it says by its
//! [abilities](Fixture::ABILITIES), and the case is left out for it.
//! [`conform`] runs all cases and prints the table of all backends that have
//! run: a row a case, a column a backend, and in each place the time that the
//! case is about.
//!
//! Nodes that are to be killed are processes of this crate's own program, which
//! can also be the registry itself:
//!
//! ```text
//! waystation-registry-check serve DIR ADDRESS
//! waystation-registry-check node URL SERVICE ID ADDRESS TTL_MS
//! ```

pub mod cases;
mod embedded;
mod etcd;
mod file;
mod fixture;
mod link;
mod process;
mod proxy;
mod table;
mod world;
mod zookeeper;

pub use embedded::Embedded;
pub use etcd::{Etcd, EtcdCluster, etcd_program};
pub use file::StaticList;
pub use fixture::{Ability, Fixture};
pub use link::{Link, on_a_link};
pub use process::Process;
pub use proxy::{Mode, Proxy};
pub use table::conform;
pub use world::{LEASE, WAIT, World};
pub use zookeeper::{Ensemble, Stand, ZooKeeper, has_zookeeper};
