//! Who and where: names of sites, lives of copies, positions, cursors.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use waystation_base::{Epoch, Seq, SiteId};

use crate::limits::SITE_NAME_BYTES_MAX;

/// Why a text is not a site's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SiteNameError {
    /// The text is empty, or longer than
    /// [`SITE_NAME_BYTES_MAX`].
    #[error("a site's name has 1 to {SITE_NAME_BYTES_MAX} bytes, found {found}")]
    Length {
        /// Length of the text in bytes.
        found: usize,
    },
    /// A character is not one of `A-Z a-z 0-9 . _ -`.
    #[error("{character:?} at byte {position} is not one of A-Z a-z 0-9 . _ -")]
    Character {
        /// The offending character.
        character: char,
        /// Its offset in bytes.
        position: usize,
    },
}

/// The name of a site: 1 to 64 characters out of `A-Z a-z 0-9 . _ -`. Clones
/// share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// Checks `text` and keeps a copy of it.
    ///
    /// # Errors
    /// Names the first fault.
    pub fn new(text: &str) -> Result<Self, SiteNameError> {
        if text.is_empty() || text.len() > SITE_NAME_BYTES_MAX {
            return Err(SiteNameError::Length { found: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match text.char_indices().find(|&(_, c)| !allowed(c)) {
            Some((position, character)) => Err(SiteNameError::Character {
                character,
                position,
            }),
            None => Ok(Self(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The life of one copy of the data: drawn at random when the copy is created or
/// joined anew, and stored in it. It tells a copy from the one that stood under
/// the same name before, and its writes from that one's.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifeId(pub u128);

impl fmt::Display for LifeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LifeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LifeId({self})")
    }
}

/// An open snapshot of a donor, named by the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A place in a log: everything up to and with `seq` in the history `epoch`.
/// Sequences begin at 1, so that 0 is the place before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The history. A log that was reset has another one.
    pub epoch: Epoch,
    /// The sequence within it.
    pub seq: Seq,
}

impl Position {
    /// The place `seq` in the history `epoch`.
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self {
            epoch: Epoch(epoch),
            seq: Seq(seq),
        }
    }
}

impl fmt::Display for Position {
    /// `epoch/seq`, as in `3/120`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

/// How far into the order of all keys a copy reaches: keys below it are there.
/// The adapter encodes table and key in it so that bytes compare as keys do; the
/// empty cursor lies below all keys.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(Arc<[u8]>);

impl Cursor {
    /// The cursor with these bytes; they share one allocation over clones.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ")")
    }
}

/// What a copy contains beyond its position: the writes of one writer up to
/// `source`, which were captured there and come back through the log later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The writer's site.
    pub site: SiteId,
    /// The life of the writer's copy.
    pub life: LifeId,
    /// The last of its captured changes that the copy contains.
    pub source: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_by_reason() {
        let long = "x".repeat(SITE_NAME_BYTES_MAX + 1);
        assert_eq!(SiteName::new(""), Err(SiteNameError::Length { found: 0 }));
        assert_eq!(
            SiteName::new(&long),
            Err(SiteNameError::Length { found: 65 })
        );
        assert_eq!(
            SiteName::new("a/b"),
            Err(SiteNameError::Character {
                character: '/',
                position: 1
            })
        );
        assert_eq!(SiteName::new("room-2").unwrap().to_string(), "room-2");
    }

    #[test]
    fn positions_of_one_history_are_ordered_by_sequence() {
        assert!(Position::new(1, 2) < Position::new(1, 10));
        assert_eq!(Position::new(3, 120).to_string(), "3/120");
    }

    #[test]
    fn the_empty_cursor_lies_below_all_keys() {
        assert!(Cursor::default() < Cursor::new(&[0]));
        assert_eq!(format!("{:?}", Cursor::new(&[1, 0xab])), "Cursor(01ab)");
    }
}
