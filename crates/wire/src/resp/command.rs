//! Commands of requests.

use std::fmt;
use std::ops::Deref;

use super::scan::{RespError, RespLimits, Scan, Scanner, length, short_bulk};

/// Arguments that are held without an allocation.
const INLINE: usize = 4;

/// The arguments of a command, a slice of slices. Up to four of them need no
/// allocation.
#[derive(Clone)]
pub struct Arguments<'a> {
    inline: [&'a [u8]; INLINE],
    len: usize,
    /// All of them, once there are more than fit.
    many: Vec<&'a [u8]>,
}

impl<'a> Arguments<'a> {
    /// None. Holds no memory.
    #[inline]
    pub const fn new() -> Self {
        Self {
            inline: [&[]; INLINE],
            len: 0,
            many: Vec::new(),
        }
    }

    /// Reads the command at the front of `input` into this, in place of what
    /// was here, as [`Command::read`] does; the result is its length. For a
    /// loop over many: what a command is returned in is made once.
    ///
    /// Cost: as [`Command::read`].
    ///
    /// # Errors
    /// As [`Command::read`]. There are no arguments then.
    // Inline, with what it calls for short commands: a call per command and
    // copies of what it returns took a third of a pipelined PING.
    #[inline]
    pub fn read(
        &mut self,
        scanner: &mut Scanner,
        input: &'a [u8],
        limits: &RespLimits,
    ) -> Result<Result<usize, usize>, RespError> {
        // Only at its first sight, so that no byte is read twice for each
        // piece in which a long command comes.
        if scanner.is_idle()
            && self.many.is_empty()
            && let Some(length) = self.read_short(input, limits)
        {
            return Ok(Ok(length));
        }
        *self = Self::new();
        match input.first() {
            None => Ok(Err(1)),
            Some(b'*') => self.read_long(scanner, input, limits),
            Some(_) => self.read_line(input, limits),
        }
    }

    /// A short command that is there as a whole and is as most are. Whatever
    /// it does not like, the scanner judges.
    #[inline]
    fn read_short(&mut self, input: &'a [u8], limits: &RespLimits) -> Option<usize> {
        // `*3\r\n`
        let [b'*', count @ b'1'..=b'4', b'\r', b'\n', rest @ ..] = input else {
            return None;
        };
        let count = count - b'0';
        if u64::from(count) > limits.elements_max {
            return None;
        }
        self.len = usize::from(count);
        let mut rest = rest;
        for place in &mut self.inline[..usize::from(count)] {
            (*place, rest) = short_bulk(rest)?;
        }
        let length = input.len() - rest.len();
        (length <= limits.bytes_max).then_some(length)
    }

    /// A command that is long, came in pieces, or is none.
    fn read_long(
        &mut self,
        scanner: &mut Scanner,
        input: &'a [u8],
        limits: &RespLimits,
    ) -> Result<Result<usize, usize>, RespError> {
        match scanner.scan(input, limits)? {
            Scan::Need(bytes) => Ok(Err(bytes)),
            Scan::Complete(length) => {
                *self = bulks(&input[..length])?;
                Ok(Ok(length))
            }
        }
    }

    /// An inline command.
    fn read_line(
        &mut self,
        input: &'a [u8],
        limits: &RespLimits,
    ) -> Result<Result<usize, usize>, RespError> {
        let window = &input[..input.len().min(limits.line_max)];
        let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
            if input.len() >= limits.line_max {
                return Err(RespError::TooLarge("line"));
            }
            return Ok(Err(input.len() + 1));
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let words = line.split(u8::is_ascii_whitespace);
        *self = words.filter(|word| !word.is_empty()).collect();
        Ok(Ok(end + 1))
    }

    #[inline]
    fn push(&mut self, argument: &'a [u8]) {
        if let Some(place) = self.inline.get_mut(self.len) {
            *place = argument;
        } else {
            self.push_many(argument);
        }
        self.len += 1;
    }

    #[cold]
    fn push_many(&mut self, argument: &'a [u8]) {
        if self.many.is_empty() {
            self.many.extend_from_slice(&self.inline);
        }
        self.many.push(argument);
    }
}

impl Default for Arguments<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Deref for Arguments<'a> {
    type Target = [&'a [u8]];

    #[inline]
    fn deref(&self) -> &Self::Target {
        if self.many.is_empty() {
            &self.inline[..self.len]
        } else {
            &self.many
        }
    }
}

impl PartialEq for Arguments<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Arguments<'_> {}

impl fmt::Debug for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<&'a [u8]> for Arguments<'a> {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(iter: I) -> Self {
        let mut arguments = Self::new();
        for argument in iter {
            arguments.push(argument);
        }
        arguments
    }
}

/// A whole command at the front of a buffer: an array of bulk strings, or an
/// inline command, a line of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command<'a> {
    /// The command's name and its arguments; empty for an empty line.
    pub arguments: Arguments<'a>,
    /// How many bytes it has.
    pub length: usize,
}

impl<'a> Command<'a> {
    /// Reads the command at the front of `input`; `Err` in the inner result
    /// is how many bytes are needed before trying again, with the same bytes
    /// in front.
    ///
    /// Cost: one pass over the lengths of a command that is there as a whole
    /// and has at most four arguments; no allocation for it.
    ///
    /// # Errors
    /// [`RespError`]; the connection cannot be followed any further.
    #[inline]
    pub fn read(
        scanner: &mut Scanner,
        input: &'a [u8],
        limits: &RespLimits,
    ) -> Result<Result<Self, usize>, RespError> {
        let mut arguments = Arguments::new();
        let read = arguments.read(scanner, input, limits)?;
        Ok(read.map(|length| Self { arguments, length }))
    }
}

/// The bulks of a scanned array.
fn bulks(input: &[u8]) -> Result<Arguments<'_>, RespError> {
    let (count, mut rest) = head(input, b'*')?;
    let mut arguments = Arguments::new();
    for _ in 0..count {
        let (bytes, behind) = head(rest, b'$')?;
        let argument = behind.get(..bytes).ok_or(RespError::Incomplete)?;
        arguments.push(argument);
        rest = behind.get(bytes + 2..).ok_or(RespError::Incomplete)?;
    }
    Ok(arguments)
}

/// A line of this type with a length, and what is behind it.
fn head(input: &[u8], kind: u8) -> Result<(usize, &[u8]), RespError> {
    if input.first() != Some(&kind) {
        return Err(RespError::NotACommand);
    }
    let end = input
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(RespError::Incomplete)?;
    let digits = input.get(1..end - 1).ok_or(RespError::BadEnd)?;
    let value = length(digits)?.ok_or(RespError::NotACommand)?;
    let value = usize::try_from(value).map_err(|_| RespError::BadLength)?;
    Ok((value, &input[end + 1..]))
}
