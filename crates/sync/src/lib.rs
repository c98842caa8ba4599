//! Multi-site sync: what stands around the cores of `waystation-replica`.
//!
//! * [`Log`] keeps the hub's entries and its records of sites in segment files of
//!   its own (`docs/formats/sync-log.md`), behind the trait [`LogStore`].
//! * [`adapter`] says what a site asks of its database, or of a handler
//!   (`docs/formats/sync-changes.md`, `docs/formats/sync-handler.md`);
//!   [`statement`] what it may be asked to run.
//! * [`codec`] turns messages into bytes (`docs/formats/sync-wire.md`).
//! * [`hub`] serves sites and publishers, [`site`] keeps one copy, [`client`]
//!   publishes, [`control`] is where operators ask a site on their machine.
//!
//! The crate leaves out the protocol (`waystation-replica`). A call of the log that
//! syncs blocks until the disk has answered, so it belongs on a thread of its own.
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use waystation_base::{Epoch, Seq};
//! use waystation_replica::{Batch, Entry, Origin, Position};
//! use waystation_sync::{Folder, Log, LogConfig, LogStore};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let files = Folder::open(folder.path()).unwrap();
//! let mut log = Log::open(files, LogConfig::default(), Epoch(1)).unwrap();
//! let entry = Arc::new(Entry {
//!     position: Position::new(1, 1),
//!     origin: Origin::Client { key: None },
//!     payload: Bytes::from_static(b"first"),
//! });
//! log.append(&Batch { entries: vec![Arc::clone(&entry)], records: vec![] }).unwrap();
//! assert_eq!(log.read(Seq(0), Seq(1), 1024).unwrap(), [entry]);
//! ```

pub mod adapter;
pub mod client;
pub mod codec;
pub mod control;
pub mod hub;
pub mod limits;

mod log;
mod parts;
pub mod progress;
pub mod site;
pub mod statement;

#[cfg(any(test, feature = "test-support"))]
#[doc(hidden)]
pub use log::recorded;
pub use log::{
    AppendError, Files, Folder, Log, LogConfig, LogError, LogFile, LogReader, LogStore, ReadError,
    check_segment, segment_with,
};
