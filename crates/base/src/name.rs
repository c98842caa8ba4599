//! Service names.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::SERVICE_NAME_BYTES_MAX;

/// The name of a service: 1 to 128 characters out of `a-z 0-9 . _ -`.
///
/// A clone shares the text and costs one reference count.
///
/// ```
/// use waystation_base::{ServiceName, ServiceNameError};
///
/// let name: ServiceName = "im.logic".parse().unwrap();
/// assert_eq!(name.as_str(), "im.logic");
/// assert_eq!(
///     ServiceName::new("im/logic"),
///     Err(ServiceNameError::Character { character: '/', position: 2 }),
/// );
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// Why a text is not a service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ServiceNameError {
    /// The text is empty.
    #[error("a service name has at least one character")]
    Empty,
    /// The text is longer than [`SERVICE_NAME_BYTES_MAX`].
    #[error("a service name has at most {SERVICE_NAME_BYTES_MAX} bytes, found {found}")]
    TooLong {
        /// Length of the text in bytes.
        found: usize,
    },
    /// A character is not one of `a-z 0-9 . _ -`.
    #[error("{character:?} at byte {position} is not one of a-z 0-9 . _ -")]
    Character {
        /// The offending character.
        character: char,
        /// Its offset in bytes.
        position: usize,
    },
}

impl ServiceName {
    /// Checks `text` and keeps a copy of it.
    ///
    /// # Errors
    /// Names the first fault: the length, or the first character that is not
    /// allowed and where it stands.
    pub fn new(text: &str) -> Result<Self, ServiceNameError> {
        if text.is_empty() {
            return Err(ServiceNameError::Empty);
        }
        if text.len() > SERVICE_NAME_BYTES_MAX {
            return Err(ServiceNameError::TooLong { found: text.len() });
        }
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
        match text.char_indices().find(|&(_, c)| !allowed(c)) {
            Some((position, character)) => Err(ServiceNameError::Character {
                character,
                position,
            }),
            None => Ok(Self(text.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        Self::new(text)
    }
}

impl TryFrom<&str> for ServiceName {
    type Error = ServiceNameError;

    fn try_from(text: &str) -> Result<Self, ServiceNameError> {
        Self::new(text)
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// Lets a map keyed by names be searched with a plain text.
impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_every_allowed_character_and_length() {
        for text in [
            "a",
            "0",
            "im.logic",
            "a_b-c.9",
            &"x".repeat(SERVICE_NAME_BYTES_MAX),
        ] {
            assert_eq!(ServiceName::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_the_fault_and_where_it_stands() {
        let refuse = |text: &str| ServiceName::new(text).unwrap_err();
        assert_eq!(refuse(""), ServiceNameError::Empty);
        assert_eq!(
            refuse(&"x".repeat(129)),
            ServiceNameError::TooLong { found: 129 }
        );
        let upper = refuse("imLogic");
        assert_eq!(
            upper,
            ServiceNameError::Character {
                character: 'L',
                position: 2
            }
        );
        assert_eq!(
            upper.to_string(),
            "'L' at byte 2 is not one of a-z 0-9 . _ -"
        );
        assert_eq!(
            refuse("aé b"),
            ServiceNameError::Character {
                character: 'é',
                position: 1
            }
        );
        assert_eq!(
            refuse("a\0"),
            ServiceNameError::Character {
                character: '\0',
                position: 1
            }
        );
    }
}
