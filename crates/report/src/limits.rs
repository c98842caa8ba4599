//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Keys (a service, a host, a caller) that are counted at a time. Results of one
/// more are refused and counted until others were not told for [`FORGET_AFTER`].
/// A key takes about 400 bytes.
pub const KEYS_MAX: usize = 262_144;

/// After so long without a word a key is held in memory no longer. Its rows in
/// the store stay, and say from where it goes on when it is told again.
pub const FORGET_AFTER: Duration = Duration::from_hours(24);

/// The row of a key stays in the store for so long at least after it was told last.
/// Who tells the same totals later counts anew; our agents tell none that old.
pub const KEYS_KEPT: Duration = Duration::from_hours(30 * 24);

/// Keys that the store is asked for in one step. More are asked for in the next.
pub const ASKED_KEYS_MAX: usize = 2_000;

/// Counts that wait for the store, in cells of one key in one bucket of history,
/// beside those of the present bucket. When more wait, the two oldest buckets
/// become one: the counts stay, their time is told less exactly. A cell takes 56
/// bytes.
pub const CELLS_MAX: usize = 524_288;

/// Cells that are written in one transaction. More go into the next.
pub const BATCH_CELLS_MAX: usize = 20_000;

/// Rows of one statement.
pub const STATEMENT_ROWS_MAX: usize = 500;

/// Baselines of one key: so many agents may tell of the same calls. One more
/// takes the place of the one that was silent longest.
pub const REPORTERS_MAX: usize = 4;

/// Frames that a connection handles before others get their turn.
pub const FRAMES_PER_TURN: usize = 64;

/// A connection from which nothing came for so long is closed. Agents of Lars
/// are silent while nobody calls; one whose machine is gone is found by the
/// system's own probes.
pub const IDLE: Duration = Duration::from_hours(24);

/// How long one step of the store may take. Then its connection is given up and
/// the batch is written over another one.
pub const STORE_WAIT: Duration = Duration::from_secs(30);

/// Pauses between attempts to reach a store that is down, at first and at most.
pub const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A calendar clock that differs by more from what the monotonic one lets expect has
/// jumped.
pub const STEP_MAX: Duration = Duration::from_mins(1);

/// A clock that jumped is followed once it has stood by its new time for so long.
pub const CLOCK_WAIT: Duration = Duration::from_mins(5);

/// For so long after a jump was followed, and after a start that is not within such
/// a time of what the store was written last, no history is deleted.
pub const EXPIRE_WAIT: Duration = Duration::from_hours(1);

/// When history is that far ahead of the clock, which had jumped, counts go to the
/// present again.
pub const AHEAD_MAX: Duration = Duration::from_hours(1);

/// Rows of history that are deleted in one step, so that no step is long.
pub const DELETE_ROWS_MAX: usize = 20_000;

/// Steps of deletion after one bucket. What is left goes after the next.
pub const DELETE_STEPS_MAX: usize = 4;

/// How long the last counts may take to be stored when the server ends.
pub const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Rows of one answer to a question for counts or history. The rest is left out,
/// and the answer says so.
pub const ANSWER_ROWS_MAX: usize = 100_000;

/// Bytes of an answer that `report show` reads.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;
