//! What a frame's header says.

use std::fmt;
use std::ops::BitOr;
use std::time::Duration;

use waystation_base::{CallId, FencingToken, MessageId, Sid, SiteId, TraceId};

use crate::limits::HEADER_LEN;
use crate::status::Status;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Asks for exactly one reply with the same call id.
    Request = 1,
    /// The one answer to a request.
    Reply = 2,
    /// A message that is not answered.
    Push = 3,
    /// The caller gave up; the call id names the request, which may have ended.
    Cancel = 4,
    /// Asks for a pong with the same call id, at once and by the I/O side.
    Ping = 5,
    /// The answer to a ping.
    Pong = 6,
    /// The sender takes no new request on this connection; those in flight end.
    GoAway = 7,
}

impl Kind {
    /// Every kind, by ascending number from 1.
    pub const ALL: [Self; 7] = [
        Self::Request,
        Self::Reply,
        Self::Push,
        Self::Cancel,
        Self::Ping,
        Self::Pong,
        Self::GoAway,
    ];

    /// The kind with this number, or nothing when there is none.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Push,
            4 => Self::Cancel,
            5 => Self::Ping,
            6 => Self::Pong,
            7 => Self::GoAway,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// A stable name in `snake_case`, for JSON and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reply => "reply",
            Self::Push => "push",
            Self::Cancel => "cancel",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::GoAway => "go_away",
        }
    }

    /// Whether a message of this kind may be spread over several frames.
    pub const fn may_continue(self) -> bool {
        matches!(self, Self::Request | Self::Reply | Self::Push)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The message goes on in a later frame of the same kind, call and message id.
    pub const MORE: Self = Self(1);
    /// The request may be carried out more than once with the effect of once.
    pub const IDEMPOTENT: Self = Self(2);
    /// In replies, where [`Flags::IDEMPOTENT`] has no meaning: what failed has
    /// been tried again by the callee, and is not to be tried again further up.
    pub const RETRIED: Self = Self(2);
    /// The request asks only for the callee's load and reaches no handler.
    pub const PROBE: Self = Self(4);

    const KNOWN: u8 = Self::MORE.0 | Self::IDEMPOTENT.0 | Self::PROBE.0;

    /// The flags with these bits, or nothing when one of them has no meaning.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::KNOWN == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The bits on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other`'s flags are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and `other`'s.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags less `other`'s.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// A host's load, as each of its replies reports it; all zero when not reported.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Load {
    /// Requests that the host is working on.
    pub in_flight: u32,
    /// Recent median time of its answers at that level, in microseconds.
    pub latency_us: u32,
}

/// The header of a frame: all that a node needs to route it without its body.
///
/// Fields that have no meaning for a kind are zero there; the constructors see
/// to that. [`Header::new`] and the `with_` methods set the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The frame's flags.
    pub flags: Flags,
    /// How the request ended; [`Status::Ok`] unless the frame is a reply.
    pub status: Status,
    /// Which handler the message is for. A reply repeats its request's.
    pub message: MessageId,
    /// Which call on this connection the frame belongs to; 0 for pushes.
    pub call: CallId,
    /// Bytes of body after the header; in an assembled message, of all frames.
    pub body_len: u32,
    /// The request's unique id, the same on every hop.
    pub sid: Sid,
    /// The trace that the request belongs to; 0 for none.
    pub trace: TraceId,
    /// Time that the sender left for the answer when it wrote the frame.
    ///
    /// On the wire it is a count of microseconds, rounded down, from 1 (it has
    /// expired or is about to) to `u32::MAX` (71 minutes, also for more).
    pub deadline_left: Option<Duration>,
    /// The sender's load.
    pub load: Load,
    /// The site that the message comes from; 0 for none.
    pub site: SiteId,
    /// Proof of leadership of the sender; 0 for none.
    pub fencing: FencingToken,
}

impl Header {
    /// A header of this kind whose other fields are all zero.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: Flags::NONE,
            status: Status::Ok,
            message: MessageId(0),
            call: CallId(0),
            body_len: 0,
            sid: Sid(0),
            trace: TraceId(0),
            deadline_left: None,
            load: Load {
                in_flight: 0,
                latency_us: 0,
            },
            site: SiteId(0),
            fencing: FencingToken(0),
        }
    }

    /// A request to the handler of `message`, to be answered under `call`.
    pub const fn request(message: MessageId, call: CallId) -> Self {
        Self {
            message,
            call,
            ..Self::new(Kind::Request)
        }
    }

    /// The answer to the request `message` that came under `call`.
    pub const fn reply(call: CallId, message: MessageId, status: Status) -> Self {
        Self {
            status,
            message,
            call,
            ..Self::new(Kind::Reply)
        }
    }

    /// A message to the handler of `message` that is not answered.
    pub const fn push(message: MessageId) -> Self {
        Self {
            message,
            ..Self::new(Kind::Push)
        }
    }

    /// Says that the sender no longer waits for the answer to its `call`.
    pub const fn cancel(call: CallId) -> Self {
        Self {
            call,
            ..Self::new(Kind::Cancel)
        }
    }

    /// A heartbeat; `call` comes back in the pong.
    pub const fn ping(call: CallId) -> Self {
        Self {
            call,
            ..Self::new(Kind::Ping)
        }
    }

    /// The answer to the ping that came under `call`.
    pub const fn pong(call: CallId) -> Self {
        Self {
            call,
            ..Self::new(Kind::Pong)
        }
    }

    /// Says that the sender takes no new request on this connection.
    pub const fn go_away() -> Self {
        Self::new(Kind::GoAway)
    }

    /// The same header with `flags` added.
    #[must_use]
    pub const fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }

    /// The same header with this request id.
    #[must_use]
    pub const fn with_sid(mut self, sid: Sid) -> Self {
        self.sid = sid;
        self
    }

    /// The same header in this trace.
    #[must_use]
    pub const fn with_trace(mut self, trace: TraceId) -> Self {
        self.trace = trace;
        self
    }

    /// The same header with this much time left; `None` is no deadline.
    #[must_use]
    pub const fn with_deadline_left(mut self, deadline_left: Option<Duration>) -> Self {
        self.deadline_left = deadline_left;
        self
    }

    /// The same header reporting `load`.
    #[must_use]
    pub const fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// The same header from this site.
    #[must_use]
    pub const fn with_site(mut self, site: SiteId) -> Self {
        self.site = site;
        self
    }

    /// The same header under this fencing token.
    #[must_use]
    pub const fn with_fencing(mut self, fencing: FencingToken) -> Self {
        self.fencing = fencing;
        self
    }

    /// Whether the message goes on in a later frame.
    pub const fn has_more(&self) -> bool {
        self.flags.contains(Flags::MORE)
    }

    /// Bytes of the whole frame, header and body.
    pub const fn frame_len(&self) -> usize {
        HEADER_LEN + self.body_len as usize
    }
}
