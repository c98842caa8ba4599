//! Multi-site sync without I/O: one ordered stream of writes, applied once and in
//! order to a copy of the data in each machine room.
//!
//! The crate holds the protocol; sockets, files and databases are elsewhere
//! (`waystation-sync`). Time comes in as a [`Moment`](waystation_base::Moment),
//! randomness as a seed.
//!
//! * [`Hub`] gives every entry its place, says what must be durable before what
//!   is told, knows all sites, brings joiners and donors together, and decides
//!   what may be trimmed.
//! * [`Session`] is the hub's side of one connection: the window of a site, its
//!   acknowledgements, and the pause in its increments that a dump needs.
//! * [`Site`] applies what comes, in transactions that carry their position;
//!   joins when it must, and goes on at the same chunk when its donor dies; is a
//!   donor for others; and publishes what is captured.
//! * [`best_donor`] chooses by lag, load and distance.
//!
//! # What is promised
//!
//! | promise | scope |
//! |---|---|
//! | what is acknowledged to a publisher is durable | the log |
//! | each entry is applied once, in order | targets whose transaction holds the position |
//! | each entry is delivered at least once, in order | handlers and HTTP targets; the sequence is the idempotency key |
//! | a joiner's position is its snapshot's, exactly | every join |
//! | nothing is trimmed that no copy has | the log |
//! | a site whose token was taken away publishes nothing | captured changes |
//!
//! # Dumps
//!
//! The site named `master` starts with increments; everybody else first takes a
//! copy from a live site. When a dump is wanted, nothing new is sent to the donor;
//! what is in flight is waited for; then the donor opens a snapshot, and its
//! increments go on at once. Requests that come meanwhile share it.
//!
//! A copy that takes long leaves its snapshot for a fresh one now and then, so that
//! neither the log nor the donor's database keeps all that is written meanwhile.
//!
//! Each chunk carries the position of its snapshot. Before a joiner stores a chunk
//! of another donor, it brings the rows that it has to that chunk's position: it
//! applies the entries in between to keys below its cursor only. So chunks of
//! several snapshots make one consistent copy. The idea of chunks between
//! positions of a log is that of Andreas Andreakis and Ioannis Papapanagiotou,
//! "`DBLog`: A Watermark Based Change-Data-Capture Framework", 2019; theirs reads
//! chunks beside the stream and drops rows that the stream overwrote, ours stops
//! the stream at an exact position.
//!
//! # Example
//!
//! ```
//! use waystation_base::{Epoch, Moment, Seq};
//! use waystation_replica::{Hub, HubConfig, HubOutput, HubRestored, Publish};
//!
//! let now = Moment::from_millis(1);
//! let mut hub = Hub::new(now, HubRestored::empty(Epoch(1)), HubConfig::default());
//! hub.handle_publish(now, 7, Publish::default());
//!
//! // First the entry must be durable ...
//! assert!(matches!(hub.poll_output(), Some(HubOutput::Append(_))));
//! assert_eq!(hub.poll_output(), None);
//!
//! // ... then its sequence is told.
//! hub.handle_durable(now);
//! assert_eq!(hub.poll_output(), Some(HubOutput::End(Seq(1))));
//! let published = HubOutput::Published { ticket: 7, seq: Seq(1) };
//! assert_eq!(hub.poll_output(), Some(published));
//! ```

pub mod limits;

mod donor_choice;
mod entry;
mod hub;
mod ids;
mod keys;
mod marks;
mod message;
mod refusal;
mod session;
mod site;

#[cfg(test)]
mod test_support;

pub use donor_choice::{Candidate, best_donor};
pub use entry::{Chunk, ClientKey, Entry, Origin, SnapshotSize, Touches, TouchesOf, chunk_hash};
pub use hub::{
    AppendFault, Batch, ChangeRefusal, Hub, HubConfig, HubEvent, HubOutput, Phase, Publish, Record,
    Restored as HubRestored, SiteRecord, SiteStatus,
};
pub use ids::{Ahead, Cursor, LifeId, Position, SiteName, SiteNameError, SnapshotId};
pub use marks::Mark;
pub use message::{
    ApplyState, Donor, Hello, Holding, JoinError, PublishRefusal, Pull, Refusal, Restoring, ToHub,
    ToSite, Violation, Vitals, Welcome,
};
pub use session::{Notice, Report, Session, SessionConfig, SessionOutput, Unread, entry_bytes};
pub use site::{
    ApplierConfig, ApplyBatch, ApplyFault, Decider, Decision, JoinerConfig, Policy, ReplayRefusal,
    Restored as SiteRestored, Site, SiteConfig, SiteEvent, SiteOutput, SiteView, StoreChunk,
    Verdict,
};
