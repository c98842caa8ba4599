//! Every bound of this crate, with what happens when it is reached. The protocol's
//! own stand in `waystation_replica::limits`.

use std::time::Duration;

use waystation_replica::limits::PAYLOAD_BYTES_MAX;

/// Longest time that a call of an adapter may block. A site whose adapter takes
/// longer goes on waiting, and the hub sees it fall behind.
pub const ADAPTER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Rows of a range whose hash is compared, on average. Fewer find a difference
/// more exactly and cost more bytes on the wire.
pub const RANGE_ROWS: u64 = 1024;

/// Most bytes of one message between hub and site: an entry or a row of the
/// largest size, and what may stand beside it. A longer one ends the connection.
pub const SYNC_MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (8 << 20);

/// Bytes of a message in one native frame, at most. Smaller ones leave room for
/// heartbeats between them.
pub const PIECE_BYTES: usize = 256 << 10;

/// Letters that wait for the hub's desk. One more publish is refused as too many;
/// one more of a site's messages ends its connection.
pub const DESK_LETTERS_MAX: usize = 65_536;

/// Letters in the mailbox of a shard. More wait at the desk.
pub const SHARD_LETTERS_MAX: usize = 65_536;

/// Bytes that wait to be written to one peer. What sites are sent waits for room
/// before this; an answer that passes it ends the connection.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Bytes of the last entries that are kept in memory. Older ones are read from
/// the disk.
pub const TAIL_BYTES_MAX: u64 = 64 << 20;

/// Inputs of a session that wait for its task. One more ends the connection.
pub const SESSION_INPUTS_MAX: usize = 8192;

/// Payloads of which parts have come and that are not published yet, of one
/// connection. One more part of another payload ends the connection.
pub const PAYLOADS_IN_PARTS_MAX: usize = 4;

/// Bytes of such payloads, of all connections of a shard. One more part ends its
/// connection.
pub const PARTS_BYTES_MAX: usize = 512 << 20;

/// Most bytes of a hello, in pieces: a name, a zone, and two cursors at most. A
/// connection that says more before it is admitted ends.
pub const HELLO_BYTES_MAX: usize = 64 << 10;

/// Bytes of a payload from which on it is published in parts.
pub const PUBLISH_PART_BYTES: usize = 512 << 10;

/// Most proofs of equality under way. One more is refused.
pub const PROOFS_MAX: usize = 4;

/// Longest wait of a proof. A longer wish is cut to it.
pub const PROOF_WAIT_MAX: Duration = Duration::from_mins(10);

/// Most ranges of one copy in a proof. A copy with more fails it.
pub const PROOF_RANGES_MAX: usize = 1 << 20;

/// Most ranges that differ that are told of one site. The others are left out.
pub const DIFFERENCES_MAX: usize = 16;

/// Requests of one connection that are in progress. More wait in the socket.
pub const REQUESTS_PER_CONNECTION: u32 = 256;

/// Jobs of an adapter's thread that wait. One more is refused as if the target
/// were not available.
pub const LANE_JOBS_MAX: usize = 64;

/// Bytes of captured writes that are read at once, unless a single one is larger.
pub const OUTBOX_READ_BYTES: usize = 4 << 20;

/// Events of a site that wait to be asked for. Of more the oldest are left out.
pub const EVENTS_TOLD_MAX: usize = 256;

/// Longest payload that is looked at for a statement on a shard's own thread. A
/// longer one is on another thread.
pub const STATEMENT_HERE_BYTES: usize = 4 << 10;

/// Longest body of an operation, by HTTP. A larger one is refused.
pub const OPERATION_BYTES_MAX: usize = 64 << 10;

/// Bytes that all connections of a shard hold together. Above it the connection
/// that holds most is closed.
pub const SHARD_BYTES_MAX: usize = 1 << 30;

/// Bytes of captured writes under one number: about what an entry may have. More in
/// one transaction, or in those that were captured while no site ran, is cut between
/// two rows.
pub const CAPTURE_GROUP_BYTES: u64 = 62 << 20;

/// Bytes of the values of a row, so that an entry and a chunk can hold it. A larger
/// one is refused where writes are captured; elsewhere it stops copies and proofs.
pub const ROW_BYTES_MAX: usize = 61 << 20;

/// Bytes of the values of a key, so that a cursor can name it: each zero takes two
/// bytes there. A larger one is refused where writes are captured; elsewhere one
/// that no cursor can name stops copies and proofs.
pub const KEY_BYTES_MAX: usize = 7 << 10;

/// How often a file is looked at for captured writes. A look costs microseconds.
pub const CAPTURE_POLL: Duration = Duration::from_millis(2);

/// Rows of an outbox that are erased in one transaction, so that writers do not
/// wait for long.
pub const ERASE_ROWS_MAX: i64 = 10_000;

/// Longest time that a connection to a `SQLite` file waits for its lock. Then the
/// target counts as not available, and is asked again.
pub const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Longest time that the lane of captured writes waits for the lock: the hub may be
/// waiting for what it is asked to read next. It tries again at its next look.
pub const CAPTURE_BUSY_WAIT: Duration = Duration::from_millis(20);

/// Longest time that a proof of equality keeps others from writing to a site's
/// database. Then the proof goes on without that, and may find that site ahead.
pub const PROOF_HOLD_MAX: Duration = Duration::from_secs(2);

/// Captured writes that may still have to be published when others are kept from
/// writing for a proof. With more the proof waits.
pub const PROOF_BACKLOG_MAX: u64 = 8;

/// How often a proof is begun again because a site was ahead. Then it says so.
pub const PROOF_TRIES_MAX: u32 = 8;

/// Prepared statements that a connection to a `SQLite` file keeps. The least
/// recently used one goes.
pub const STATEMENTS_CACHED: usize = 512;

/// Sets of tables, as payloads name them, whose statements a lane of transactions
/// keeps: the last ones that it met. They are looked through one after the other.
pub const HEADS_MAX: usize = 64;

/// Longest wait for a handler's answer to one entry. Then it counts as not
/// available, and the entry is delivered again.
pub const HANDLER_WAIT_MAX: Duration = Duration::from_secs(8);

/// Bytes of a handler's answer that are read. A longer one counts as none.
pub const HANDLER_ANSWER_BYTES_MAX: usize = 64 << 10;

/// For how long entries of one batch are delivered before its position is stored. One
/// that is under way then is waited for; the rest is the next batch.
pub const HANDLER_BATCH_WAIT: Duration = Duration::from_secs(2);

/// Entries that are delivered to a handler before its position is stored, and that
/// come again after a crash.
pub const HANDLER_BATCH_ENTRIES_MAX: usize = 32;

/// How long a site waits for an operator's question, or to be rid of its answer.
/// Others wait meanwhile.
pub const CONTROL_WAIT: Duration = Duration::from_secs(2);

/// How long an operator waits for a site: a call of its database may block for
/// ten seconds, and another operator may be before this one.
pub const CONTROL_ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Bytes of an operator's question. What is cut there makes no sense and is
/// refused.
pub const CONTROL_QUESTION_BYTES_MAX: u64 = 4096;

/// Entries of the audited list that are told. Of more the oldest are left out.
pub const AUDIT_SHOWN_MAX: usize = 10_000;
