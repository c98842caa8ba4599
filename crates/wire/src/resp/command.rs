//! Commands of requests.

use super::scan::{RespError, RespLimits, Scan, Scanner, length};

/// A whole command at the front of a buffer: an array of bulk strings, or an
/// inline command, a line of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command<'a> {
    /// The command's name and its arguments; empty for an empty line.
    pub arguments: Vec<&'a [u8]>,
    /// How many bytes it has.
    pub length: usize,
}

impl<'a> Command<'a> {
    /// Reads the command at the front of `input`; `Err` in the inner result
    /// is how many bytes are needed before trying again.
    ///
    /// # Errors
    /// [`RespError`]; the connection cannot be followed any further.
    pub fn read(
        scanner: &mut Scanner,
        input: &'a [u8],
        limits: &RespLimits,
    ) -> Result<Result<Self, usize>, RespError> {
        match input.first() {
            None => Ok(Err(1)),
            Some(b'*') => match scanner.scan(input, limits)? {
                Scan::Need(bytes) => Ok(Err(bytes)),
                Scan::Complete(length) => Ok(Ok(Self {
                    arguments: bulks(&input[..length])?,
                    length,
                })),
            },
            Some(_) => inline(input, limits),
        }
    }
}

/// The bulks of a scanned array.
fn bulks(input: &[u8]) -> Result<Vec<&[u8]>, RespError> {
    let (count, mut rest) = head(input, b'*')?;
    let mut arguments = Vec::with_capacity(count.min(64));
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

fn inline<'a>(
    input: &'a [u8],
    limits: &RespLimits,
) -> Result<Result<Command<'a>, usize>, RespError> {
    let window = &input[..input.len().min(limits.line_max)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        if input.len() >= limits.line_max {
            return Err(RespError::TooLarge("line"));
        }
        return Ok(Err(input.len() + 1));
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let words = line.split(u8::is_ascii_whitespace);
    let arguments = words.filter(|word| !word.is_empty()).collect();
    Ok(Ok(Command {
        arguments,
        length: end + 1,
    }))
}
