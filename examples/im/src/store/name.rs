//! Names of users, groups and conversations.
//!
//! A conversation is `d:UID:UID` with the two uids in byte order (they may be the
//! same: notes to oneself), or `g:GROUP`. Uids and group names are 1 to 64 bytes of
//! `a-z`, `0-9`, `_`, `.` and `-`, so a colon always separates.

use super::error::StoreError;
use super::limits::NAME_BYTES_MAX;

/// A conversation's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationName<'a> {
    /// Between two users; exists from its first message.
    Direct {
        /// The lower uid in byte order.
        first: &'a str,
        /// The higher uid, or the same one.
        second: &'a str,
    },
    /// Of a group; exists from its creation.
    Group {
        /// The group's name without the prefix.
        name: &'a str,
    },
}

impl<'a> ConversationName<'a> {
    /// Takes a name apart.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] with the offset of the first offending byte; for
    /// two uids in the wrong order that is the offset of the second.
    pub fn parse(value: &'a str) -> Result<Self, StoreError> {
        const WHAT: &str = "conversation";
        let invalid = |position| StoreError::invalid_name(WHAT, value, position);
        if let Some(name) = value.strip_prefix("g:") {
            return match offence(name) {
                None => Ok(Self::Group { name }),
                Some(position) => Err(invalid(position + 2)),
            };
        }
        let Some(pair) = value.strip_prefix("d:") else {
            let kind_is_known = value.starts_with(['d', 'g']);
            return Err(invalid(usize::from(kind_is_known)));
        };
        let (first, second) = pair.split_once(':').unwrap_or((pair, ""));
        if let Some(position) = offence(first) {
            return Err(invalid(position + 2));
        }
        let second_at = (2 + first.len() + 1).min(value.len());
        if let Some(position) = offence(second) {
            return Err(invalid(second_at + position));
        }
        if first > second {
            return Err(invalid(second_at));
        }
        Ok(Self::Direct { first, second })
    }

    /// Whether the name alone keeps `uid` out: of a direct conversation of others.
    pub fn excludes(&self, uid: &str) -> bool {
        match self {
            Self::Direct { first, second } => uid != *first && uid != *second,
            Self::Group { .. } => false,
        }
    }
}

/// The name of the direct conversation of two users, in either order.
///
/// # Errors
/// [`StoreError::InvalidName`] for the first invalid uid.
pub fn direct_conversation(one: &str, other: &str) -> Result<String, StoreError> {
    check_uid(one)?;
    check_uid(other)?;
    let (first, second) = if one <= other {
        (one, other)
    } else {
        (other, one)
    };
    Ok(format!("d:{first}:{second}"))
}

/// The name of a group's conversation.
///
/// # Errors
/// [`StoreError::InvalidName`].
pub fn group_conversation(group: &str) -> Result<String, StoreError> {
    match offence(group) {
        None => Ok(format!("g:{group}")),
        Some(position) => Err(StoreError::invalid_name("group name", group, position)),
    }
}

/// Refuses what is no uid.
///
/// # Errors
/// [`StoreError::InvalidName`].
pub fn check_uid(uid: &str) -> Result<(), StoreError> {
    match offence(uid) {
        None => Ok(()),
        Some(position) => Err(StoreError::invalid_name("uid", uid, position)),
    }
}

/// Offset of the first byte that breaks the rules for uids and group names.
fn offence(name: &str) -> Option<usize> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    let wrong = name.bytes().position(|byte| !allowed(byte));
    match wrong {
        Some(position) => Some(position.min(NAME_BYTES_MAX)),
        None if name.is_empty() => Some(0),
        None => (name.len() > NAME_BYTES_MAX).then_some(NAME_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offence_of(value: &str) -> usize {
        match ConversationName::parse(value) {
            Err(StoreError::InvalidName { position, .. }) => position,
            other => panic!("{value:?} gave {other:?}"),
        }
    }

    #[test]
    fn conversations_are_taken_apart() {
        let direct = ConversationName::Direct {
            first: "a.b",
            second: "c-d_9",
        };
        assert_eq!(ConversationName::parse("d:a.b:c-d_9").unwrap(), direct);
        assert!(direct.excludes("a"));
        assert!(!direct.excludes("a.b"));
        let group = ConversationName::Group { name: "team" };
        assert_eq!(ConversationName::parse("g:team").unwrap(), group);
        assert!(!group.excludes("anyone"));
        assert!(ConversationName::parse("d:a:a").is_ok());
    }

    #[test]
    fn faults_are_located() {
        let long = "x".repeat(65);
        for (value, position) in [
            ("", 0),
            ("x:a", 0),
            ("g", 1),
            ("dd:a:b", 1),
            ("g:", 2),
            ("g:Team", 2),
            ("g:te am", 4),
            ("g:te:am", 4),
            ("d:", 2),
            ("d:a", 3),
            ("d:a:", 4),
            ("d::a", 2),
            ("d:a:b:c", 5),
            ("d:b:a", 4),
            ("d:a:\u{e9}", 4),
            ("d:a:b\0", 5),
            (&format!("g:{long}"), 66),
            (&format!("d:a:{long}"), 68),
        ] {
            assert_eq!(offence_of(value), position, "{value:?}");
        }
    }

    #[test]
    fn a_direct_conversation_has_one_name() {
        assert_eq!(direct_conversation("bob", "alice").unwrap(), "d:alice:bob");
        assert_eq!(direct_conversation("alice", "bob").unwrap(), "d:alice:bob");
        assert!(direct_conversation("alice", "Bob").is_err());
        assert_eq!(group_conversation("team").unwrap(), "g:team");
        assert!(group_conversation("g:team").is_err());
    }

    #[test]
    fn uids_are_one_to_64_bytes() {
        assert!(check_uid(&"x".repeat(64)).is_ok());
        assert!(check_uid(&"x".repeat(65)).is_err());
        assert!(check_uid("").is_err());
    }

    #[test]
    fn errors_do_not_repeat_a_megabyte() {
        let huge = "\u{e9}".repeat(500_000);
        let Err(StoreError::InvalidName { value, .. }) = check_uid(&huge) else {
            panic!("accepted");
        };
        assert_eq!(value.len(), 160);
    }
}
