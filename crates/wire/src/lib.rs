//! Bytes to messages and back: the native frame that nodes speak to each other,
//! beside it the protocols of [`lars`] and of Redis ([`resp`]), and the [`calls`]
//! that agents count.
//!
//! A frame is a fixed header of [`HEADER_LEN`] bytes and a body. [`decode`]
//! turns the bytes received so far into a [`Header`], a count of bytes still
//! needed, or a typed [`FrameError`]; it never panics, whatever the peer
//! sends. [`encode_into`] writes a message as one frame, or as several when its
//! body is larger than a frame may be, and an [`Assembler`] joins those again.
//! [`classify`] tells from a connection's first byte which protocol it speaks.
//!
//! The crate leaves out what a body means, sockets, clocks and buffers: the
//! caller reads, counts deadlines and writes. The byte diagram and the rules for
//! other implementations stand in `docs/formats/native-frame.md`.
//!
//! ```
//! use waystation_base::{CallId, MessageId};
//! use waystation_wire::{Decoded, HEADER_LEN, Header, decode, encode_into};
//!
//! let mut out = Vec::new();
//! encode_into(&Header::request(MessageId(7), CallId(1)), b"hello", &mut out)?;
//!
//! // The first bytes alone are not a frame yet; the decoder says how many are.
//! assert_eq!(decode(&out[..20])?, Decoded::Need(HEADER_LEN + 5));
//! let Decoded::Frame(header) = decode(&out)? else { unreachable!() };
//! assert_eq!(header.message, MessageId(7));
//! assert_eq!(&out[HEADER_LEN..header.frame_len()], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod limits;
mod protocol;
mod status;

mod header;

mod frame;

mod assemble;

pub mod calls;

pub mod lars;

pub mod resp;

pub use assemble::{AssembleError, Assembler};
pub use frame::{
    Decoded, FrameError, TooLarge, decode, encode_header, encode_into, frame_count, frames_len,
};
pub use header::{Flags, Header, Kind, Load};
pub use limits::{
    BODY_LEN_MAX, FRAME_LEN_MAX, HEADER_LEN, MESSAGE_LEN_MAX, PARTIAL_LEN_SUM_MAX, PARTIALS_MAX,
};
pub use protocol::{FirstByte, MAGIC, VERSION, classify};
pub use status::{Status, UnknownStatus};
