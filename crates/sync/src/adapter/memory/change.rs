//! Changes of a table in memory, as values and as bytes.

use bytes::Bytes;

use super::Rows;

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryChange {
    /// Puts a value in the place of whatever was there.
    Put(Vec<u8>, Bytes),
    /// Appends to the value that is there, so that a change that is applied twice
    /// or out of order shows.
    Append(Vec<u8>, Bytes),
    /// Removes the row.
    Delete(Vec<u8>),
}

impl MemoryChange {
    /// The key of the row.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Append(key, _) | Self::Delete(key) => key,
        }
    }

    /// The payload of an entry with these changes: for each its kind in a byte,
    /// the key and the value with their lengths in front, in four bytes,
    /// little-endian.
    pub fn encode(changes: &[Self]) -> Bytes {
        let mut out = Vec::new();
        for change in changes {
            let (kind, value) = match change {
                Self::Put(_, value) => (1, Some(value)),
                Self::Append(_, value) => (2, Some(value)),
                Self::Delete(_) => (3, None),
            };
            out.push(kind);
            put(&mut out, change.key());
            put(&mut out, value.map_or(&[], |value| value));
        }
        out.into()
    }

    /// The changes of a payload.
    ///
    /// # Errors
    /// They make no sense.
    pub fn decode(payload: &[u8]) -> Result<Vec<Self>, &'static str> {
        const FAULT: &str = "a payload makes no sense";
        let mut rest = payload;
        let mut changes = Vec::new();
        while let Some((kind, after)) = rest.split_first() {
            let (key, after) = take(after).ok_or(FAULT)?;
            let (value, after) = take(after).ok_or(FAULT)?;
            let (key, value) = (key.to_vec(), Bytes::copy_from_slice(value));
            changes.push(match kind {
                1 => Self::Put(key, value),
                2 => Self::Append(key, value),
                3 => Self::Delete(key),
                _ => return Err(FAULT),
            });
            rest = after;
        }
        Ok(changes)
    }

    pub(super) fn apply(&self, rows: &mut Rows) {
        match self {
            Self::Put(key, value) => {
                rows.insert(key.clone(), value.clone());
            }
            Self::Append(key, more) => {
                let mut value = rows.get(key).map_or(Vec::new(), |one| one.to_vec());
                value.extend_from_slice(more);
                rows.insert(key.clone(), value.into());
            }
            Self::Delete(key) => {
                rows.remove(key);
            }
        }
    }
}

pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a row is smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}
