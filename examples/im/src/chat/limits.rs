//! Every bound of the terminal client, with what happens when it is reached.

use std::time::Duration;

/// Bytes of one line of input. A longer one is refused as a whole.
pub(super) const LINE_BYTES_MAX: usize = 32 * 1024;

/// Lines read ahead of the one being handled; then reading waits.
pub(super) const INPUT_LINES_MAX: usize = 64;

/// Lines that wait to be printed. Above it lines are left out and counted,
/// because who does not read must not stop the connection.
pub(super) const OUTPUT_LINES_MAX: usize = 16_384;

/// Time for the first login. After it the chat ends with an error.
pub(super) const LOGIN_WAIT: Duration = Duration::from_secs(10);

/// Time for a command. After it the command is reported as failed.
pub(super) const COMMAND_WAIT: Duration = Duration::from_secs(10);

/// A message is tried for this long, over however many connections.
pub(super) const SEND_WAIT: Duration = Duration::from_mins(1);

/// Messages under way before the next line of input waits.
pub(super) const SENDS_AHEAD_MAX: usize = 256;

/// Time at the end for messages that are under way.
pub(super) const END_WAIT: Duration = Duration::from_secs(10);

/// Messages that `/history` shows without a number.
pub(super) const HISTORY_DEFAULT: u32 = 20;

/// Users whose coming and going is announced. Further ones are only shown.
pub(super) const WATCHED_MAX: usize = 500;
