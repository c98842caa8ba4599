//! Frames: a header, and a body that nobody has looked into yet.

use thiserror::Error;

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;

/// Largest body in bytes, on TCP and UDP alike. One that announces more, or
/// less than nothing, ends its connection: [`FrameError::BadLength`].
pub const BODY_LEN_MAX: usize = 65_527;

/// Largest datagram that UDP carries over IPv4, in bytes. A message that is
/// larger with its header cannot be sent by UDP.
pub const DATAGRAM_LEN_MAX: usize = 65_507;

/// A frame, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message id, known or not.
    pub id: i32,
    /// The body.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of header and body.
    pub const fn len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Never: a frame has a header.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// The beginning of a frame; look again when there are so many bytes in all.
    Need(usize),
    /// A whole frame.
    Frame(Frame<'a>),
}

/// Why a stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A header announces a body that is negative or too large. Close.
    #[error("body of {length} bytes, expected 0 to {BODY_LEN_MAX}")]
    BadLength {
        /// What was announced.
        length: i32,
    },
}

/// Why a datagram is no frame. Drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It is shorter than a header.
    #[error("datagram of {0} bytes has no header")]
    NoHeader(usize),
    /// Its header announces another body than it has.
    #[error("datagram announces a body of {announced} bytes and has {actual}")]
    LengthMismatch {
        /// What the header says.
        announced: i32,
        /// What there is.
        actual: usize,
    },
    /// Its body passes the bound of all frames.
    #[error("body of {0} bytes, at most {BODY_LEN_MAX}")]
    TooLong(usize),
}

/// A message that no frame can carry. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("message of {body_len} bytes, at most {BODY_LEN_MAX}")]
pub struct TooLarge {
    /// The length of the body.
    pub body_len: usize,
}

/// The first frame of a stream. Cost: O(1), the body is not read.
///
/// # Errors
/// [`FrameError`], from the eighth byte on.
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, FrameError> {
    let Some((id, length, rest)) = header(bytes) else {
        return Ok(Scan::Need(HEADER_LEN));
    };
    let body_len = match usize::try_from(length) {
        Ok(body_len) if body_len <= BODY_LEN_MAX => body_len,
        _ => return Err(FrameError::BadLength { length }),
    };
    Ok(match rest.get(..body_len) {
        Some(body) => Scan::Frame(Frame { id, body }),
        None => Scan::Need(HEADER_LEN + body_len),
    })
}

/// The frame of a datagram. Cost: O(1), the body is not read.
///
/// # Errors
/// [`DatagramError`]: it is none.
pub fn datagram(bytes: &[u8]) -> Result<Frame<'_>, DatagramError> {
    let Some((id, announced, body)) = header(bytes) else {
        return Err(DatagramError::NoHeader(bytes.len()));
    };
    if usize::try_from(announced) != Ok(body.len()) {
        return Err(DatagramError::LengthMismatch {
            announced,
            actual: body.len(),
        });
    }
    if body.len() > BODY_LEN_MAX {
        return Err(DatagramError::TooLong(body.len()));
    }
    Ok(Frame { id, body })
}

/// Writes a header.
pub(super) fn put_header(id: i32, body_len: i32, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&body_len.to_le_bytes());
}

/// Message id, announced length and what follows; `None` for less than a header.
fn header(bytes: &[u8]) -> Option<(i32, i32, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    Some((i32::from_le_bytes(*id), i32::from_le_bytes(*length), rest))
}
