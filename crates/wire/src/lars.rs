//! The protocol of Lars: agents, route servers and report servers.
//!
//! Every message is a header of [`HEADER_LEN`] bytes, two little-endian `i32`:
//! message id and length of the body; and a body in proto3. TCP carries one
//! frame after another, UDP exactly one a datagram. There is no version and no
//! checksum. The byte diagram and the messages stand in `docs/formats/lars.md`.
//!
//! [`scan`] finds the first frame of a stream, [`datagram`] reads one of a
//! datagram, and [`Message::parse`] reads a body; all are total. Bodies are read
//! as proto3 has it: fields may come in any order and twice, unknown ones are
//! skipped, numbers are cut to their width. Writing leaves out what is zero, as
//! every proto3 encoder does, so that bytes are the same as those of Lars.
//!
//! ```
//! use waystation_wire::lars::{GetRouteRequest, Message, Scan, scan};
//!
//! let ask = Message::GetRouteRequest(GetRouteRequest { modid: 1, cmdid: 1 });
//! let mut out = Vec::new();
//! ask.encode_into(&mut out)?;
//! assert_eq!(out, [1, 0, 0, 0, 4, 0, 0, 0, 8, 1, 16, 1]);
//!
//! assert_eq!(scan(&out[..7])?, Scan::Need(8));
//! let Scan::Frame(frame) = scan(&out)? else { unreachable!() };
//! assert_eq!(Message::parse(frame.id, frame.body)?, ask);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod body;
mod frame;
mod message;
mod text;

pub use body::BodyError;
pub use frame::{
    BODY_LEN_MAX, DATAGRAM_LEN_MAX, DatagramError, Frame, FrameError, HEADER_LEN, Scan, TooLarge,
    datagram, scan,
};
pub use message::{
    GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse, HostCallResult, HostInfo,
    Message, MessageId, ReportRequest, ReportStatusRequest,
};
pub use text::{RetCode, UDP_PORTS, worker_of};
