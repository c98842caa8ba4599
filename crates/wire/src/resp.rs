//! RESP, the protocol of Redis: values in answers, commands in requests.
//!
//! Source: the Redis serialization protocol specification (RESP2, and the
//! RESP3 types in answers). A [`Scanner`] finds where a value ends without
//! reading any byte twice, so that a value that comes in many pieces costs
//! its length once; [`parse`] then reads it in one pass, and [`Command`] reads
//! the arguments of a request in place.
//!
//! Bounds are in [`RespLimits`]. A value that passes one is an error, which
//! ends the connection: its stream cannot be followed any further.

mod command;
mod encode;
mod scan;
mod value;

pub use command::{Arguments, Command};
pub use encode::{put_array, put_bulk, put_command, put_error, put_integer, put_null, put_simple};
pub use scan::{RespError, RespLimits, Scan, Scanner};
pub use value::{Value, parse};
