//! A shared registry in etcd: an instance a key, as JSON, for as long as its
//! node keeps a lease alive.
//!
//! Under a prefix, `/waystation/` unless the URL says otherwise, stand
//!
//! | key | value |
//! |---|---|
//! | `instances/ID` | the instance as JSON, attached to its client's lease |
//! | `left/LEASE` | which instance of this lease left last by its own will; gone with the lease |
//! | `epoch` | a number that rises whenever the store was found to have gone back |
//!
//! What else stands there is skipped and named. Beside them, under
//! `/waystation.subscribers/`, stands who watches what and holds which version.
//!
//! A client mirrors all of it: it lists once, then watches from the revision of
//! the list on, and after a lost connection from the last revision that it has
//! seen. If that was compacted it lists again. The version of a view is the
//! epoch and the revision of the change. A store that answers with a lower
//! revision, or an earlier term, than was seen before was restored from a
//! backup: the first client that notices raises the epoch, so that versions and
//! tokens rise all the same.
//!
//! An instance's fencing token is the epoch and the revision at which its key
//! was created. Where a node replaces its own stale entry the key lives on, and
//! the token is written down in its value: one above the revision that was
//! replaced. See [`entry`].

#[cfg(feature = "bare")]
mod bare;
mod entry;
mod lease;
mod proto;
mod replica;
mod session;
mod store;
mod txn;
mod wire;

#[cfg(feature = "bare")]
pub use bare::{EtcdWatch, EtcdWriter};
pub(crate) use store::Etcd;
