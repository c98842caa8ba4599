//! Frames to bytes and back.

use std::time::Duration;

use waystation_base::{CallId, FencingToken, MessageId, Sid, SiteId, TraceId};

use crate::header::{Flags, Header, Kind, Load};
use crate::limits::{BODY_LEN_MAX, FRAME_LEN_MAX, HEADER_LEN, MESSAGE_LEN_MAX};
use crate::protocol::{MAGIC, VERSION};
use crate::status::Status;

/// Bytes of a header up to the end of the body's length: what can be wrong in it
/// stands there, so that no fault can appear once they are checked.
const PREFIX_LEN: usize = 8;

/// What [`decode`] found at the start of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Not a whole frame yet: try again when the input, counted from its start,
    /// has at least this many bytes. Always more than there were, and never more
    /// than [`FRAME_LEN_MAX`].
    ///
    /// It is first the 8 bytes that decide whether this can become a frame, then
    /// the whole frame, so that a reader who waits for as many as are needed does
    /// not wait for the rest of a header that is wrong. Trying earlier is allowed,
    /// and names a fault in those 8 bytes sooner.
    Need(usize),
    /// A whole frame: its body is `input[HEADER_LEN..header.frame_len()]`.
    Frame(Header),
}

/// Why bytes are no frame. The connection has lost its place and must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first byte is not [`MAGIC`]: the peer speaks another protocol.
    #[error("a frame starts with byte {0:#04x} instead of {MAGIC:#04x}")]
    BadMagic(u8),
    /// The peer speaks a version of the frame that this one does not.
    #[error("frame version {0} is unknown, this side speaks {VERSION}")]
    UnknownVersion(u8),
    /// The third byte names no [`Kind`].
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A flag is set that has no meaning in this version.
    #[error("frame flags {0:#010b} contain unknown ones")]
    UnknownFlags(u8),
    /// The frame is larger than one may be; a negative length reads as this too.
    #[error("a frame of {len} bytes is larger than {max}")]
    TooLarge {
        /// Bytes of the announced frame, header and body.
        len: usize,
        /// [`FRAME_LEN_MAX`].
        max: usize,
    },
}

impl FrameError {
    /// A short stable label for counters, one per variant.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BadMagic(_) => "bad_magic",
            Self::UnknownVersion(_) => "unknown_version",
            Self::UnknownKind(_) => "unknown_kind",
            Self::UnknownFlags(_) => "unknown_flags",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// A body is larger than a message may be; nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message of {len} bytes is larger than {max}")]
pub struct TooLarge {
    /// Bytes of the refused body.
    pub len: usize,
    /// Most bytes for its kind: [`MESSAGE_LEN_MAX`], or [`BODY_LEN_MAX`] for a
    /// kind that cannot be spread over frames.
    pub max: usize,
}

/// Reads the frame at the start of `input`, in constant time.
///
/// Total: every input gives a frame, a larger count of bytes, or an error, and
/// none makes it panic. An error comes as soon as the byte at fault is there,
/// before the rest of the header, and is the same at every later length.
///
/// # Errors
/// A [`FrameError`] for bytes that can never become a frame.
#[inline]
pub fn decode(input: &[u8]) -> Result<Decoded, FrameError> {
    let Some(head) = input.first_chunk::<HEADER_LEN>() else {
        return need(input);
    };
    let body_len = u32::from_le_bytes(field(head, 4));
    // The checks are repeated one by one, to name the fault, only when one fails.
    let (Some(kind), Some(flags), true) = (
        Kind::from_code(head[2]),
        Flags::from_bits(head[3]),
        head[0] == MAGIC && head[1] == VERSION && body_len as usize <= BODY_LEN_MAX,
    ) else {
        return need(input);
    };
    let frame_len = HEADER_LEN + body_len as usize;
    if input.len() < frame_len {
        return Ok(Decoded::Need(frame_len));
    }
    Ok(Decoded::Frame(Header {
        kind,
        flags,
        status: Status::from_code(u16::from_le_bytes(field(head, 12))),
        message: MessageId(u32::from_le_bytes(field(head, 8))),
        call: CallId(u64::from_le_bytes(field(head, 16))),
        body_len,
        sid: Sid(u128::from_le_bytes(field(head, 24))),
        trace: TraceId(u128::from_le_bytes(field(head, 40))),
        deadline_left: deadline_from_us(u32::from_le_bytes(field(head, 56))),
        load: Load {
            in_flight: u32::from_le_bytes(field(head, 60)),
            latency_us: u32::from_le_bytes(field(head, 64)),
        },
        site: SiteId(u16::from_le_bytes(field(head, 14))),
        fencing: FencingToken(u64::from_le_bytes(field(head, 72))),
    }))
}

/// Checks what is there of a header, in the order of its bytes, and says how
/// long the input must become.
#[cold]
fn need(input: &[u8]) -> Result<Decoded, FrameError> {
    match input.first() {
        Some(&magic) if magic != MAGIC => return Err(FrameError::BadMagic(magic)),
        _ => {}
    }
    match input.get(1) {
        Some(&version) if version != VERSION => return Err(FrameError::UnknownVersion(version)),
        _ => {}
    }
    match input.get(2) {
        Some(&kind) if Kind::from_code(kind).is_none() => {
            return Err(FrameError::UnknownKind(kind));
        }
        _ => {}
    }
    match input.get(3) {
        Some(&flags) if Flags::from_bits(flags).is_none() => {
            return Err(FrameError::UnknownFlags(flags));
        }
        _ => {}
    }
    let Some(prefix) = input.first_chunk::<PREFIX_LEN>() else {
        return Ok(Decoded::Need(PREFIX_LEN));
    };
    let body_len = u32::from_le_bytes(field(prefix, 4)) as usize;
    if body_len > BODY_LEN_MAX {
        // Saturates where `usize` has 32 bits.
        let len = body_len.saturating_add(HEADER_LEN);
        return Err(FrameError::TooLarge {
            len,
            max: FRAME_LEN_MAX,
        });
    }
    Ok(Decoded::Need(HEADER_LEN + body_len))
}

/// Writes a header as it goes onto the wire, in constant time.
///
/// It writes `body_len` and the flags as they are, also when the length is more
/// than a frame may have, which the peer then refuses: [`encode_into`] is the
/// one that splits.
pub fn encode_header(header: &Header) -> [u8; HEADER_LEN] {
    let mut head = [0; HEADER_LEN];
    head[0] = MAGIC;
    head[1] = VERSION;
    head[2] = header.kind.code();
    head[3] = header.flags.bits();
    head[4..8].copy_from_slice(&header.body_len.to_le_bytes());
    head[8..12].copy_from_slice(&header.message.0.to_le_bytes());
    head[12..14].copy_from_slice(&header.status.code().to_le_bytes());
    head[14..16].copy_from_slice(&header.site.0.to_le_bytes());
    head[16..24].copy_from_slice(&header.call.0.to_le_bytes());
    head[24..40].copy_from_slice(&header.sid.0.to_le_bytes());
    head[40..56].copy_from_slice(&header.trace.0.to_le_bytes());
    head[56..60].copy_from_slice(&deadline_to_us(header.deadline_left).to_le_bytes());
    head[60..64].copy_from_slice(&header.load.in_flight.to_le_bytes());
    head[64..68].copy_from_slice(&header.load.latency_us.to_le_bytes());
    head[72..80].copy_from_slice(&header.fencing.0.to_le_bytes());
    head
}

/// Appends a message to `out`: one frame, or as many as its body needs.
///
/// `header.body_len` and its flag MORE do not count: both are set for each
/// frame. Costs one copy of the body.
///
/// # Errors
/// [`TooLarge`] when the body is more than [`MESSAGE_LEN_MAX`], or more than
/// [`BODY_LEN_MAX`] in a kind that cannot be spread over frames; `out` is then
/// as it was.
pub fn encode_into(header: &Header, body: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let max = if header.kind.may_continue() {
        MESSAGE_LEN_MAX
    } else {
        BODY_LEN_MAX
    };
    if body.len() > max {
        return Err(TooLarge {
            len: body.len(),
            max,
        });
    }
    out.reserve(frames_len(body.len()));
    let mut rest = body;
    loop {
        let (piece, tail) = rest.split_at(rest.len().min(BODY_LEN_MAX));
        let flags = header.flags.without(Flags::MORE);
        let flags = if tail.is_empty() {
            flags
        } else {
            flags.with(Flags::MORE)
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a piece has at most BODY_LEN_MAX"
        )]
        let body_len = piece.len() as u32;
        out.extend_from_slice(&encode_header(&Header {
            flags,
            body_len,
            ..*header
        }));
        out.extend_from_slice(piece);
        if tail.is_empty() {
            return Ok(());
        }
        rest = tail;
    }
}

/// How many frames a message with a body of `body_len` bytes is sent as.
pub const fn frame_count(body_len: usize) -> usize {
    // An empty body has a frame too.
    if body_len == 0 {
        1
    } else {
        body_len.div_ceil(BODY_LEN_MAX)
    }
}

/// How many bytes [`encode_into`] writes for a body of `body_len` bytes.
///
/// Saturates at `usize::MAX` for lengths that no memory holds.
pub const fn frames_len(body_len: usize) -> usize {
    body_len.saturating_add(frame_count(body_len).saturating_mul(HEADER_LEN))
}

/// The `N` bytes from `offset`, which the callers give as constants in range.
#[inline]
fn field<const LEN: usize, const N: usize>(head: &[u8; LEN], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[offset..offset + N]);
    bytes
}

/// Microseconds as sent: 0 is no deadline, so that an expired one becomes 1.
fn deadline_to_us(deadline_left: Option<Duration>) -> u32 {
    let Some(left) = deadline_left else { return 0 };
    u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1)
}

#[inline]
fn deadline_from_us(us: u32) -> Option<Duration> {
    if us == 0 {
        None
    } else {
        Some(Duration::from_micros(u64::from(us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(header: &Header, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_into(header, body, &mut out).expect("the body fits");
        out
    }

    /// A head that left out fields which were zero was shorter then, and its
    /// reader took the body from the wrong place.
    #[test]
    fn a_zero_field_leaves_the_head_its_size() {
        let zeroes: [fn(&mut Header); 9] = [
            |header| header.message = MessageId::default(),
            |header| header.call = CallId::default(),
            |header| header.sid = Sid::default(),
            |header| header.trace = TraceId::default(),
            |header| header.deadline_left = None,
            |header| header.load.in_flight = 0,
            |header| header.load.latency_us = 0,
            |header| header.site = SiteId::default(),
            |header| header.fencing = FencingToken::default(),
        ];
        let mut header = Header::request(MessageId(7), CallId(8))
            .with_sid(Sid(9))
            .with_trace(TraceId(10))
            .with_deadline_left(Some(Duration::from_millis(11)))
            .with_site(SiteId(12))
            .with_fencing(FencingToken(13));
        (header.load.in_flight, header.load.latency_us) = (14, 15);
        for zero in zeroes {
            // One after another, until all are zero.
            zero(&mut header);
            let bytes = encoded(&header, b"body");
            assert_eq!(bytes.len(), HEADER_LEN + 4);
            let Ok(Decoded::Frame(read)) = decode(&bytes) else {
                panic!("{header:?} is not read back");
            };
            assert_eq!(
                read,
                Header {
                    body_len: 4,
                    ..header
                }
            );
            assert_eq!(&bytes[HEADER_LEN..read.frame_len()], b"body");
        }
    }

    #[test]
    fn a_fault_is_named_as_soon_as_its_byte_is_there() {
        let good = encoded(&Header::push(MessageId(1)), b"");
        let cases = [
            (0, 0x00, FrameError::BadMagic(0)),
            (1, 2, FrameError::UnknownVersion(2)),
            (2, 0, FrameError::UnknownKind(0)),
            (2, 8, FrameError::UnknownKind(8)),
            (3, 0b1000, FrameError::UnknownFlags(0b1000)),
        ];
        for (place, byte, error) in cases {
            let mut bytes = good.clone();
            bytes[place] = byte;
            assert_eq!(decode(&bytes[..place]), Ok(Decoded::Need(PREFIX_LEN)));
            for len in place + 1..=bytes.len() {
                assert_eq!(decode(&bytes[..len]), Err(error), "{len} bytes");
            }
        }
    }

    #[test]
    fn the_first_of_several_faults_is_named() {
        let all_wrong = [0u8; HEADER_LEN];
        for len in 1..=HEADER_LEN {
            assert_eq!(decode(&all_wrong[..len]), Err(FrameError::BadMagic(0)));
        }
    }

    #[test]
    fn oversized_and_negative_lengths_are_refused_at_the_eighth_byte() {
        let body_len_max = u32::try_from(BODY_LEN_MAX).expect("1 MiB");
        // The reference system had no limit and an overflow in this sum.
        for body_len in [
            body_len_max + 1,
            i32::MAX.cast_unsigned(),
            i32::MIN.cast_unsigned(),
            u32::MAX,
        ] {
            let bytes = encode_header(&Header {
                body_len,
                ..Header::push(MessageId(1))
            });
            let len = body_len as usize + HEADER_LEN;
            let error = FrameError::TooLarge {
                len,
                max: FRAME_LEN_MAX,
            };
            assert_eq!(decode(&bytes[..7]), Ok(Decoded::Need(PREFIX_LEN)));
            assert_eq!(decode(&bytes[..8]), Err(error));
            assert_eq!(decode(&bytes), Err(error));
            assert_eq!(error.reason(), "too_large");
        }
        let bytes = encode_header(&Header {
            body_len: body_len_max,
            ..Header::push(MessageId(1))
        });
        assert_eq!(decode(&bytes[..8]), Ok(Decoded::Need(FRAME_LEN_MAX)));
        assert_eq!(decode(&bytes), Ok(Decoded::Need(FRAME_LEN_MAX)));
    }

    #[test]
    fn reserved_bytes_are_ignored() {
        let mut bytes = encoded(&Header::request(MessageId(1), CallId(2)), b"x");
        let before = decode(&bytes);
        bytes[68..72].fill(0xFF);
        assert_eq!(decode(&bytes), before);
    }

    #[test]
    fn a_deadline_is_never_sent_as_none_and_never_as_longer() {
        let sent = |left| {
            let header = Header::request(MessageId(1), CallId(1)).with_deadline_left(left);
            match decode(&encode_header(&header)) {
                Ok(Decoded::Frame(header)) => header.deadline_left,
                other => panic!("{other:?}"),
            }
        };
        let us = Duration::from_micros;
        assert_eq!(sent(None), None);
        assert_eq!(sent(Some(Duration::ZERO)), Some(us(1)));
        assert_eq!(sent(Some(Duration::from_nanos(1_999))), Some(us(1)));
        assert_eq!(sent(Some(us(250_000))), Some(us(250_000)));
        assert_eq!(sent(Some(Duration::MAX)), Some(us(u64::from(u32::MAX))));
    }

    #[test]
    fn a_body_at_a_limit_is_split_where_it_must_be() {
        let header = Header::request(MessageId(1), CallId(1));
        for (body_len, frames) in [
            (0, 1),
            (1, 1),
            (BODY_LEN_MAX, 1),
            (BODY_LEN_MAX + 1, 2),
            (2 * BODY_LEN_MAX, 2),
        ] {
            let out = encoded(&header, &vec![7; body_len]);
            assert_eq!(frame_count(body_len), frames);
            assert_eq!(out.len(), frames_len(body_len));
            assert_eq!(out.len(), body_len + frames * HEADER_LEN);
            let mut rest = out.as_slice();
            for nth in 1..=frames {
                let Ok(Decoded::Frame(header)) = decode(rest) else {
                    panic!("frame {nth}")
                };
                assert_eq!(header.has_more(), nth < frames);
                rest = &rest[header.frame_len()..];
            }
            assert!(rest.is_empty());
        }
        assert_eq!(frames_len(usize::MAX), usize::MAX);
    }

    #[test]
    fn a_body_over_the_limit_writes_nothing() {
        let mut out = vec![1, 2, 3];
        let body = vec![0; MESSAGE_LEN_MAX + 1];
        let header = Header::push(MessageId(1));
        let refused = TooLarge {
            len: body.len(),
            max: MESSAGE_LEN_MAX,
        };
        assert_eq!(encode_into(&header, &body, &mut out), Err(refused));
        // A ping cannot go on in a second frame.
        let body = &body[..=BODY_LEN_MAX];
        let refused = TooLarge {
            len: body.len(),
            max: BODY_LEN_MAX,
        };
        assert_eq!(
            encode_into(&Header::ping(CallId(1)), body, &mut out),
            Err(refused)
        );
        assert_eq!(out, [1, 2, 3]);
    }
}
