//! Who is who: instances, their owners, subscribers, and the labels they carry.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{INSTANCE_ID_BYTES_MAX, LABEL_BYTES_MAX};

/// Why a text is not an id or a label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TextError {
    /// The text is empty.
    #[error("an id or label has at least one character")]
    Empty,
    /// The text is too long.
    #[error("{found} bytes are more than {bytes_max}")]
    TooLong {
        /// Length of the text in bytes.
        found: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A character is not one of `A-Z a-z 0-9 . _ : -`.
    #[error("{character:?} at byte {position} is not one of A-Z a-z 0-9 . _ : -")]
    Character {
        /// The offending character.
        character: char,
        /// Its offset in bytes.
        position: usize,
    },
}

fn check(text: &str, bytes_max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() > bytes_max {
        return Err(TextError::TooLong {
            found: text.len(),
            bytes_max,
        });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    match text.char_indices().find(|&(_, c)| !allowed(c)) {
        Some((position, character)) => Err(TextError::Character {
            character,
            position,
        }),
        None => Ok(()),
    }
}

/// Declares checked texts whose clones share their bytes.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($bytes_max:expr);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and keeps a copy of it.
            ///
            /// # Errors
            /// Names the first fault: the length, or the first character that is
            /// not one of `A-Z a-z 0-9 . _ : -`.
            pub fn new(text: &str) -> Result<Self, TextError> {
                check(text, $bytes_max)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        // Lets a map be searched with a plain text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

texts! {
    /// The id of an instance, unique in one registry over all services: 1 to 128
    /// characters out of `A-Z a-z 0-9 . _ : -`.
    InstanceId(INSTANCE_ID_BYTES_MAX);
    /// A site, a zone or a software version: 1 to 64 characters out of
    /// `A-Z a-z 0-9 . _ : -`.
    Label(LABEL_BYTES_MAX);
}

/// Declares ids of 128 bits that print as 32 hexadecimal digits.
macro_rules! wide_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

wide_ids! {
    /// A node's identity over its restarts: drawn at random once and kept in its
    /// folder. It tells a node's own stale entry from another node's.
    OwnerId;
    /// A subscriber's identity over its connections: drawn at random at its
    /// start. With it a subscriber that comes back is the one that was lost.
    SubscriberId;
}

/// Who owns an instance's entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The node.
    pub id: OwnerId,
    /// Which start of the node: rises with each one. A process that was paused
    /// while its successor started is told from it by this number, so that the
    /// two do not replace each other for ever.
    pub incarnation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_refused_by_reason() {
        assert_eq!(InstanceId::new(""), Err(TextError::Empty));
        assert_eq!(
            Label::new(&"x".repeat(65)),
            Err(TextError::TooLong {
                found: 65,
                bytes_max: 64
            })
        );
        assert_eq!(
            InstanceId::new("a/b"),
            Err(TextError::Character {
                character: '/',
                position: 1
            })
        );
        let id: InstanceId = "logic-1".parse().unwrap();
        assert_eq!(id.as_str(), "logic-1");
        assert_eq!(format!("{id:>9}|{id:?}"), "  logic-1|\"logic-1\"");
    }

    #[test]
    fn wide_ids_print_32_digits() {
        assert_eq!(OwnerId(0xab).to_string(), format!("{:0>32}", "ab"));
        assert!(format!("{:?}", SubscriberId(1)).starts_with("SubscriberId(0"));
    }
}
