//! A shared registry in `ZooKeeper`: an instance a node, as JSON, for as long as
//! its owner keeps a session.
//!
//! Under a root, `/waystation` unless the URL says otherwise, stand
//!
//! | node | what it holds |
//! |---|---|
//! | `instances` | how to read the numbers below it: an epoch, and what is added to them |
//! | `instances/ID` | the instance as JSON; goes with its owner's session |
//! | `subscribers/ID` | who watches what, and which versions it holds |
//!
//! What else stands under `instances` is skipped and named. The nodes are
//! described in `docs/formats/zookeeper-nodes.md`.
//!
//! A client mirrors all of it. One recursive watch tells what changed, and that
//! is read; after a lost connection everything is, since what changed meanwhile
//! is told by nobody. What was read is shown when nothing changed while it was
//! read: then it is as it was at one moment, and its version is the latest
//! transaction in it. So whoever holds a version of a service has seen what led
//! to it, which is what a drain waits for.
//!
//! An instance's fencing token is the transaction that created its node. A node
//! is created by each new holder, and by a holder that had lost its session; who
//! attaches to its session again keeps the node and the token, and who replaces
//! its own stale entry deletes and creates in one step, so that no watcher sees
//! a gap and the token rises. A counter of our own would have to be read and
//! written by every registration, all of them in turn.
//!
//! Transactions that count from lower numbers than were seen before are those of
//! a store that was restored from a backup. The first client that notices writes
//! a higher epoch, and the highest number seen as what is added to all of them:
//! versions and tokens rise all the same.
//!
//! What a client registers lives in sessions apart from the one that watches:
//! one for each length of lease that is asked for. A registration is renewed by
//! a question in its session that goes as far as the leader, so that its owner
//! knows until when it lives at least, whatever the connection says. The leader
//! hears of a session up to half a tick late, so a lease lasts a quarter less
//! than its session. Signs of life between renewals see to it that it is no less.

mod entry;
mod lease;
mod replica;
mod session;
mod store;
mod wire;

pub(crate) use store::ZooKeeper;
pub(crate) use wire::{Digest, Place};
