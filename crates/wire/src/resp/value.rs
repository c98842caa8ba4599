//! Values of answers.

use bytes::Bytes;

use super::scan::{RespError, RespLimits, Scan, Scanner, length};

/// A RESP value, owned. Bulks are slices of the bytes it was parsed from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `_`, and the `$-1` and `*-1` of RESP2.
    Null,
    /// `+`: a short text, such as `OK`.
    Simple(Bytes),
    /// `-` and `!`: the server refuses; the text begins with a code.
    Error(Bytes),
    /// `:`.
    Integer(i64),
    /// `$`, and `=` without its format.
    Bulk(Bytes),
    /// `*`, `~` and `>`.
    Array(Vec<Value>),
    /// `%`, in the order it came.
    Map(Vec<(Value, Value)>),
    /// `#`.
    Boolean(bool),
    /// `,`.
    Double(f64),
    /// `(`: its digits.
    BigNumber(Bytes),
}

/// Parses one whole value, as [`Scanner`] found it. Attributes are skipped.
/// Cost: linear; bulks are not copied.
///
/// # Errors
/// [`RespError`], also when bytes are missing or left over.
pub fn parse(bytes: &Bytes) -> Result<Value, RespError> {
    // The scanner has bounded depth and lengths; run it again so that this
    // is total whatever it is given.
    match Scanner::new().scan(bytes, &RespLimits::default())? {
        Scan::Complete(end) if end == bytes.len() => {}
        Scan::Complete(_) => return Err(RespError::BadEnd),
        Scan::Need(_) => return Err(RespError::Incomplete),
    }
    let mut reader = Reader { bytes, position: 0 };
    reader.value()
}

struct Reader<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl Reader<'_> {
    /// The next line without its type and end.
    fn line(&mut self) -> Result<(u8, Bytes), RespError> {
        let rest = self
            .bytes
            .get(self.position..)
            .ok_or(RespError::Incomplete)?;
        let end = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(RespError::Incomplete)?;
        if end < 2 {
            return Err(RespError::BadEnd);
        }
        let line = self.bytes.slice(self.position + 1..self.position + end - 1);
        let kind = rest[0];
        self.position += end + 1;
        Ok((kind, line))
    }

    fn bulk(&mut self, digits: &[u8]) -> Result<Option<Bytes>, RespError> {
        let Some(count) = length(digits)? else {
            return Ok(None);
        };
        let count = usize::try_from(count).map_err(|_| RespError::BadLength)?;
        let end = self
            .position
            .checked_add(count)
            .ok_or(RespError::BadLength)?;
        if end + 2 > self.bytes.len() {
            return Err(RespError::Incomplete);
        }
        let bulk = self.bytes.slice(self.position..end);
        self.position = end + 2;
        Ok(Some(bulk))
    }

    fn value(&mut self) -> Result<Value, RespError> {
        let (kind, line) = self.line()?;
        Ok(match kind {
            b'+' => Value::Simple(line),
            b'-' => Value::Error(line),
            b':' => Value::Integer(text(&line)?.parse().map_err(|_| RespError::BadNumber)?),
            b'$' => self.bulk(&line)?.map_or(Value::Null, Value::Bulk),
            b'!' => self.bulk(&line)?.map_or(Value::Null, Value::Error),
            b'=' => match self.bulk(&line)? {
                // Three letters of format and a colon stand before the text.
                Some(bulk) if bulk.len() >= 4 => Value::Bulk(bulk.slice(4..)),
                Some(_) => return Err(RespError::BadLength),
                None => Value::Null,
            },
            b'*' | b'~' | b'>' => match length(&line)? {
                None => Value::Null,
                Some(count) => {
                    Value::Array((0..count).map(|_| self.value()).collect::<Result<_, _>>()?)
                }
            },
            b'%' => Value::Map(self.pairs(&line)?),
            b'|' => {
                self.pairs(&line)?;
                self.value()?
            }
            b'_' => Value::Null,
            b'#' => match &line[..] {
                b"t" => Value::Boolean(true),
                b"f" => Value::Boolean(false),
                _ => return Err(RespError::BadNumber),
            },
            b',' => Value::Double(text(&line)?.parse().map_err(|_| RespError::BadNumber)?),
            b'(' => Value::BigNumber(line),
            other => return Err(RespError::UnknownType(other)),
        })
    }

    fn pairs(&mut self, digits: &[u8]) -> Result<Vec<(Value, Value)>, RespError> {
        let count = length(digits)?.ok_or(RespError::BadLength)?;
        (0..count)
            .map(|_| Ok((self.value()?, self.value()?)))
            .collect()
    }
}

fn text(bytes: &[u8]) -> Result<&str, RespError> {
    std::str::from_utf8(bytes).map_err(|_| RespError::BadNumber)
}
