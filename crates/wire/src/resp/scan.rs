//! Where a value ends.

/// Bounds of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RespLimits {
    /// Bytes of the whole value.
    pub bytes_max: usize,
    /// Bytes of a line that is no bulk: a simple string, an error, a number,
    /// an inline command.
    pub line_max: usize,
    /// Elements of all its arrays together.
    pub elements_max: u64,
    /// Arrays within arrays.
    pub depth_max: usize,
}

impl Default for RespLimits {
    /// 64 MiB, lines of 64 KiB, a million elements, 32 levels.
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024 * 1024,
            line_max: 64 * 1024,
            elements_max: 1_000_000,
            depth_max: 32,
        }
    }
}

/// Why bytes are no RESP, or too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RespError {
    /// A value begins with a byte that is no type.
    #[error("{0:#04x} begins no RESP value")]
    UnknownType(u8),
    /// A length or count is no number, negative, or has leading junk or zeros.
    #[error("a RESP length is no number")]
    BadLength,
    /// A number, boolean or double is none.
    #[error("a RESP number is no number")]
    BadNumber,
    /// A line or bulk does not end in CR LF.
    #[error("a RESP line does not end in CR LF")]
    BadEnd,
    /// A bound of [`RespLimits`] is passed.
    #[error("a RESP value passes the bound on its {0}")]
    TooLarge(&'static str),
    /// A request is not an array of bulk strings.
    #[error("a RESP request is not an array of bulk strings")]
    NotACommand,
    /// The bytes end within the value.
    #[error("a RESP value is incomplete")]
    Incomplete,
}

impl RespError {
    /// A short stable word for counters.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Incomplete => "truncated",
            _ => "protocol",
        }
    }
}

/// What [`Scanner::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The value has this many bytes, from the front.
    Complete(usize),
    /// So many bytes from the front are needed before it is worth trying
    /// again.
    Need(usize),
}

/// Finds the end of the value at the front of a growing buffer. It must see
/// the same bytes again each time, with more behind them; after `Complete`
/// or an error it begins anew with the next value.
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    /// Bytes that are done with.
    position: usize,
    /// Where the search for a line's end goes on.
    searched: usize,
    /// Elements still to come of each open array, outermost first.
    open: Vec<u64>,
    elements: u64,
}

/// What one line announces.
enum Line {
    /// A value of its own.
    Whole,
    /// A bulk of so many bytes behind the line.
    Bulk(usize),
    /// So many values behind the line.
    Values(u64),
    /// Pairs of an attribute, which belong to the value behind them.
    Attribute(u64),
}

impl Scanner {
    /// A scanner at the front of a value. Holds no memory.
    pub const fn new() -> Self {
        Self {
            position: 0,
            searched: 0,
            open: Vec::new(),
            elements: 0,
        }
    }

    /// Whether it has not yet seen a byte of a value.
    pub const fn is_idle(&self) -> bool {
        self.position == 0 && self.searched == 0
    }

    /// Goes on with `input`, which begins with the same value as before.
    /// Cost: each byte of a line once, bulks by their length.
    ///
    /// # Errors
    /// [`RespError`]; the stream cannot be followed any further.
    // Inline, with what finds short answers: a call for each took a third of
    // what relaying it costs.
    #[inline]
    pub fn scan(&mut self, input: &[u8], limits: &RespLimits) -> Result<Scan, RespError> {
        // Only at its first sight, so that no byte is read twice for each
        // piece in which a value comes.
        if self.is_idle()
            && let Some(length) = short(input, limits)
        {
            return Ok(Scan::Complete(length));
        }
        self.scan_long(input, limits)
    }

    fn scan_long(&mut self, input: &[u8], limits: &RespLimits) -> Result<Scan, RespError> {
        let result = self.go_on(input, limits);
        if !matches!(result, Ok(Scan::Need(_))) {
            // Not `clear`: a quiet connection holds no memory.
            *self = Self::new();
        }
        result
    }

    fn go_on(&mut self, input: &[u8], limits: &RespLimits) -> Result<Scan, RespError> {
        loop {
            let Some(line) = self.line(input, limits)? else {
                let need = input.len().max(self.searched) + 1;
                return Ok(Scan::Need(need));
            };
            let (line, next) = line;
            match line {
                Line::Whole => self.position = next,
                Line::Bulk(length) => {
                    let end = next + length + 2;
                    if end > limits.bytes_max {
                        return Err(RespError::TooLarge("bytes"));
                    }
                    if input.len() < end {
                        // The line is read again then; it is short.
                        self.searched = self.position;
                        return Ok(Scan::Need(end));
                    }
                    if input[end - 2..end] != *b"\r\n" {
                        return Err(RespError::BadEnd);
                    }
                    self.position = end;
                }
                Line::Values(count) => {
                    self.position = next;
                    self.searched = next;
                    self.announce(count, limits)?;
                    if count > 0 {
                        self.open.push(count);
                        continue;
                    }
                }
                Line::Attribute(count) => {
                    self.position = next;
                    self.searched = next;
                    self.announce(count, limits)?;
                    // One more value follows the pairs: the one they are of.
                    self.open.push(count + 1);
                    continue;
                }
            }
            self.searched = self.position;
            if let Some(end) = self.value_ended() {
                return Ok(Scan::Complete(end));
            }
        }
    }

    fn announce(&mut self, count: u64, limits: &RespLimits) -> Result<(), RespError> {
        self.elements = self.elements.saturating_add(count);
        if self.elements > limits.elements_max {
            return Err(RespError::TooLarge("elements"));
        }
        if self.open.len() >= limits.depth_max {
            return Err(RespError::TooLarge("depth"));
        }
        Ok(())
    }

    /// Closes every array that this value completes.
    fn value_ended(&mut self) -> Option<usize> {
        loop {
            let Some(left) = self.open.last_mut() else {
                return Some(self.position);
            };
            *left -= 1;
            if *left > 0 {
                return None;
            }
            self.open.pop();
        }
    }

    /// The line at the position and where the next one begins, or `None` when
    /// its end is not there yet.
    fn line(
        &mut self,
        input: &[u8],
        limits: &RespLimits,
    ) -> Result<Option<(Line, usize)>, RespError> {
        let start = self.position;
        let Some(&first) = input.get(start) else {
            return Ok(None);
        };
        if !is_type(first) {
            return Err(RespError::UnknownType(first));
        }
        let from = self.searched.max(start + 1).min(input.len());
        let Some(length) = input[from..].iter().position(|&byte| byte == b'\n') else {
            if input.len() - start > limits.line_max {
                return Err(RespError::TooLarge("line"));
            }
            self.searched = input.len();
            return Ok(None);
        };
        let next = from + length + 1;
        if next - start > limits.line_max {
            return Err(RespError::TooLarge("line"));
        }
        if next > limits.bytes_max {
            return Err(RespError::TooLarge("bytes"));
        }
        if next < start + 3 || input[next - 2] != b'\r' {
            return Err(RespError::BadEnd);
        }
        Ok(Some((announced(first, &input[start + 1..next - 2])?, next)))
    }
}

const fn is_type(byte: u8) -> bool {
    matches!(
        byte,
        b'+' | b'-'
            | b':'
            | b'$'
            | b'*'
            | b'_'
            | b'#'
            | b','
            | b'('
            | b'!'
            | b'='
            | b'%'
            | b'~'
            | b'>'
            | b'|'
    )
}

/// What a line of this type announces.
fn announced(kind: u8, rest: &[u8]) -> Result<Line, RespError> {
    match kind {
        b'$' | b'!' | b'=' => Ok(match length(rest)? {
            Some(bytes) => Line::Bulk(usize::try_from(bytes).map_err(|_| RespError::BadLength)?),
            None => Line::Whole,
        }),
        b'*' | b'~' | b'>' => Ok(length(rest)?.map_or(Line::Whole, Line::Values)),
        b'%' => Ok(Line::Values(pairs(rest)?)),
        b'|' => Ok(Line::Attribute(pairs(rest)?)),
        _ => Ok(Line::Whole),
    }
}

fn pairs(rest: &[u8]) -> Result<u64, RespError> {
    let count = length(rest)?.ok_or(RespError::BadLength)?;
    count.checked_mul(2).ok_or(RespError::BadLength)
}

/// Bytes of a line that is looked at before anything else.
const SHORT_LINE: usize = 64;

/// The end of a short line or bulk that is there as a whole, as most answers
/// are. Whatever it does not like, the scanner judges.
#[inline]
fn short(input: &[u8], limits: &RespLimits) -> Option<usize> {
    if limits.line_max < SHORT_LINE {
        return None;
    }
    let length = match input {
        // What most writes are answered.
        [b'+', b'O', b'K', b'\r', b'\n', ..] => 5,
        [b'$', ..] => {
            let (_, rest) = short_bulk(input)?;
            input.len() - rest.len()
        }
        [b'+' | b'-' | b':', ..] => short_line(input)?,
        _ => return None,
    };
    (length <= limits.bytes_max).then_some(length)
}

fn short_line(input: &[u8]) -> Option<usize> {
    let window = &input[..input.len().min(SHORT_LINE)];
    let end = window.iter().position(|&byte| byte == b'\n')?;
    (end >= 2 && window[end - 1] == b'\r').then_some(end + 1)
}

/// A bulk that is there as a whole, and what is behind it.
#[inline]
pub(super) fn short_bulk(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = short_head(input)?;
    let (bulk, rest) = rest.split_at_checked(length)?;
    match rest {
        [b'\r', b'\n', rest @ ..] => Some((bulk, rest)),
        _ => None,
    }
}

/// The length in `$123\r\n` and what is behind it. One digit is what most
/// names of commands have, two what most keys have.
#[inline]
fn short_head(input: &[u8]) -> Option<(usize, &[u8])> {
    match input {
        [b'$', one @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => Some((usize::from(one - b'0'), rest)),
        [
            b'$',
            ten @ b'1'..=b'9',
            one @ b'0'..=b'9',
            b'\r',
            b'\n',
            rest @ ..,
        ] => Some((usize::from(ten - b'0') * 10 + usize::from(one - b'0'), rest)),
        _ => longer_head(input),
    }
}

/// The same for three to six digits, so that nothing overflows.
fn longer_head(input: &[u8]) -> Option<(usize, &[u8])> {
    let [b'$', rest @ ..] = input else {
        return None;
    };
    if let [b'0', ..] = rest {
        return None;
    }
    let mut value = 0;
    for (place, &byte) in rest.iter().take(7).enumerate() {
        match byte {
            digit @ b'0'..=b'9' if place < 6 => value = value * 10 + usize::from(digit - b'0'),
            b'\r' if place > 2 => {
                let behind = &rest[place + 1..];
                return behind.strip_prefix(b"\n").map(|rest| (value, rest));
            }
            _ => return None,
        }
    }
    None
}

/// A length; `None` for -1, which is the null of RESP2. Digits only, no sign
/// and no space, at most 18 of them. No zero stands before others: Redis takes
/// none, and closes the connection of a proxy that hands one on.
pub(super) fn length(digits: &[u8]) -> Result<Option<u64>, RespError> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 18 || matches!(digits, [b'0', _, ..]) {
        return Err(RespError::BadLength);
    }
    let mut value = 0_u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(RespError::BadLength);
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    Ok(Some(value))
}
