//! The part of proto3 that Lars' messages use: varints and messages inside.
//!
//! After the encoding guide of Protocol Buffers. Groups, which no proto3 writer
//! makes, are skipped as unknown fields are, to a bounded depth.

use thiserror::Error;

/// Groups within groups that are skipped. Deeper ones are
/// [`BodyError::TooDeep`].
const GROUP_DEPTH_MAX: u32 = 32;

/// Largest number of a field.
const FIELD_MAX: u64 = (1 << 29) - 1;

/// Why a body cannot be read. On TCP as on UDP the message is dropped and
/// counted, and the stream goes on: frames carry their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// No message has this id; skip it.
    #[error("unknown message id {0}")]
    UnknownId(i32),
    /// It ends within a field.
    #[error("body ends within a field")]
    Truncated,
    /// A number of more than ten bytes.
    #[error("number of more than ten bytes")]
    LongNumber,
    /// A field number that proto3 does not know: 0, or above 2^29 - 1.
    #[error("field number {0}")]
    BadField(u64),
    /// A wire type that proto3 does not know, or an end without a beginning.
    #[error("wire type {0}")]
    BadType(u8),
    /// Groups within groups beyond the bound.
    #[error("groups are nested too deeply")]
    TooDeep,
}

/// A field's value, as far as Lars uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A varint; its reader cuts it to the field's width.
    Number(u64),
    /// Bytes with a length: a message inside.
    Bytes(&'a [u8]),
    /// What no message of Lars has; skipped.
    Other,
}

/// Reads the fields of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn of(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// The next field and its value; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, BodyError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (field, kind) = self.key()?;
        Ok(Some((field, self.value(field, kind, 0)?)))
    }

    fn key(&mut self) -> Result<(u64, u8), BodyError> {
        // A key is a varint of 32 bits.
        let key = self.number()?;
        let field = key >> 3;
        if field == 0 || field > FIELD_MAX {
            return Err(BodyError::BadField(field));
        }
        Ok((field, (key & 7) as u8))
    }

    fn value(&mut self, field: u64, kind: u8, depth: u32) -> Result<Value<'a>, BodyError> {
        Ok(match kind {
            0 => Value::Number(self.number()?),
            1 => {
                self.take(8)?;
                Value::Other
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            3 => {
                self.skip_group(field, depth)?;
                Value::Other
            }
            5 => {
                self.take(4)?;
                Value::Other
            }
            other => return Err(BodyError::BadType(other)),
        })
    }

    /// Skips to behind the end of the group `field`.
    fn skip_group(&mut self, field: u64, depth: u32) -> Result<(), BodyError> {
        if depth >= GROUP_DEPTH_MAX {
            return Err(BodyError::TooDeep);
        }
        loop {
            match self.key()? {
                (end, 4) if end == field => return Ok(()),
                (inner, kind) => self.value(inner, kind, depth + 1)?,
            };
        }
    }

    fn number(&mut self) -> Result<u64, BodyError> {
        let mut number = 0;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            // Bits beyond 64 are cut off, as every proto3 reader does.
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < 10 {
            BodyError::Truncated
        } else {
            BodyError::LongNumber
        })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], BodyError> {
        let length = usize::try_from(length).map_err(|_| BodyError::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A number cut to 32 bits, as readers of `uint32` do.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
pub(crate) const fn unsigned(number: u64) -> u32 {
    number as u32
}

/// A number cut to 32 bits, as readers of `int32` do.
pub(crate) const fn signed(number: u64) -> i32 {
    unsigned(number).cast_signed()
}

/// Appends an `int32` field; negative numbers take ten bytes. Zero is not
/// written.
pub(crate) fn put_signed(field: u8, value: i32, out: &mut Vec<u8>) {
    put_number(field, i64::from(value).cast_unsigned(), out);
}

/// Appends a `uint32` or `bool` field. Zero is not written.
pub(crate) fn put_number(field: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(field << 3);
        put_varint(value, out);
    }
}

/// Appends a message inside, `body_len` bytes that `write` appends.
pub(crate) fn put_message(
    field: u8,
    body_len: usize,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    out.push(field << 3 | 2);
    put_varint(body_len as u64, out);
    write(out);
}

/// Bytes of an `int32` field.
pub(crate) const fn signed_len(value: i32) -> usize {
    number_len((value as i64).cast_unsigned())
}

/// Bytes of a `uint32` or `bool` field.
pub(crate) const fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Bytes of a message inside.
pub(crate) const fn message_len(body_len: usize) -> usize {
    1 + varint_len(body_len as u64) + body_len
}

const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}
