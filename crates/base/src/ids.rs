//! Ids: newtypes, so that one kind is never taken for another.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Declares ids that are plain integers and print as decimal numbers.
macro_rules! decimal_ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

decimal_ids! {
    /// A shard: one thread with one event loop that owns its connections.
    ShardId(u16);
    /// A request on one connection; chosen by the caller, echoed in the reply.
    CallId(u64);
    /// A machine room.
    SiteId(u16);
    /// A period in which one writer, and no other, may append.
    Epoch(u64);
    /// A position in a log within its epoch.
    Seq(u64);
    /// A number that grows with each holder of a lease; a store refuses a write
    /// that carries a lower one than it has seen.
    FencingToken(u64);
}

/// Declares ids of 128 bits that print and parse as 32 hexadecimal digits.
macro_rules! hex_ids {
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

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex_128(text).map(Self)
            }
        }
    )*};
}

hex_ids! {
    /// The id of one request, unique over all processes; see [`SidSource`].
    /// It names the request's context, never a user: a user has several
    /// requests in flight.
    Sid;
    /// The id of a trace, shared by every request that one cause led to.
    TraceId;
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text does not have exactly 32 characters.
    #[error("an id has 32 hexadecimal digits, found {found} bytes")]
    Length {
        /// Length of the text in bytes.
        found: usize,
    },
    /// A character is not a hexadecimal digit.
    #[error("{character:?} at byte {position} is not a hexadecimal digit")]
    Digit {
        /// The offending character.
        character: char,
        /// Its offset in bytes.
        position: usize,
    },
}

/// Reads exactly 32 hexadecimal digits. (`from_str_radix` would take a sign.)
fn parse_hex_128(text: &str) -> Result<u128, ParseIdError> {
    let mut value = 0_u128;
    for (position, character) in text.char_indices() {
        let digit = character.to_digit(16).ok_or(ParseIdError::Digit {
            character,
            position,
        })?;
        value = value << 4 | u128::from(digit);
    }
    if text.len() == 32 {
        Ok(value)
    } else {
        Err(ParseIdError::Length { found: text.len() })
    }
}

/// The name of a connection. The generation tells its owner from earlier and
/// later owners of the same slot, so a stale name is an error value and never
/// another peer; see [`Slots`](crate::Slots).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnName {
    /// The shard that owns the connection.
    pub shard: ShardId,
    /// Its slot in the shard's table.
    pub slot: u32,
    /// Which owner of the slot. Zero is never handed out, so that the default
    /// name names nothing.
    pub generation: u32,
}

impl fmt::Display for ConnName {
    /// `shard:slot#generation`, as in `0:12#3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}#{}", self.shard, self.slot, self.generation)
    }
}

/// The id of a message type on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u32);

impl MessageId {
    /// The id of the method or message `full_name`, such as `im.Logic/Send`:
    /// FNV-1a of 32 bits over its bytes. Stable over builds and languages; two
    /// names of one service may collide, which the router refuses at start.
    ///
    /// ```
    /// use waystation_base::MessageId;
    ///
    /// const SEND: MessageId = MessageId::of("im.Logic/Send");
    /// assert_ne!(SEND, MessageId::of("im.Logic/Read"));
    /// ```
    pub const fn of(full_name: &str) -> Self {
        let bytes = full_name.as_bytes();
        let mut hash = 0x811c_9dc5_u32;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        Self(hash)
    }
}

impl fmt::Display for MessageId {
    /// Eight hexadecimal digits with their prefix: `0x0badcafe`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Hands out [`Sid`]s: the high 64 bits are the process's random number, the
/// low 64 bits count.
///
/// Sids are unique, not secret: whoever sees one can guess the next, so none of
/// them may serve as proof of anything.
#[derive(Clone, Debug)]
pub struct SidSource {
    process_random: u64,
    counter: u64,
}

impl SidSource {
    /// A source for a process (or a shard of it) that drew `process_random`.
    /// Two sources with the same number hand out the same sids.
    pub const fn new(process_random: u64) -> Self {
        Self {
            process_random,
            counter: 0,
        }
    }

    /// The next sid; the first one counts 1.
    pub const fn next(&mut self) -> Sid {
        self.counter = self.counter.wrapping_add(1);
        Sid((self.process_random as u128) << 64 | self.counter as u128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_fnv_1a() {
        // Test vectors of the algorithm's authors (Fowler, Noll, Vo).
        assert_eq!(MessageId::of(""), MessageId(0x811c_9dc5));
        assert_eq!(MessageId::of("a"), MessageId(0xe40c_292c));
        assert_eq!(MessageId::of("foobar"), MessageId(0xbf9c_f968));
        assert_eq!(MessageId(0xbad).to_string(), "0x00000bad");
    }

    #[test]
    fn connection_names_print_shard_slot_and_generation() {
        let name = ConnName {
            shard: ShardId(0),
            slot: 12,
            generation: 3,
        };
        assert_eq!(name.to_string(), "0:12#3");
    }

    #[test]
    fn sids_print_and_parse_as_32_digits() {
        let mut source = SidSource::new(0xabcd);
        let first = source.next();
        assert_eq!(first.to_string(), "000000000000abcd0000000000000001");
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(format!("{first:?}"), format!("Sid({first})"));
        assert_eq!(source.next(), Sid(first.0 + 1));
        let top = TraceId(u128::MAX);
        assert_eq!(top.to_string().to_uppercase().parse(), Ok(top));
    }

    #[test]
    fn texts_that_are_no_ids_are_refused_by_reason() {
        let parse = |text: &str| text.parse::<Sid>().unwrap_err();
        assert_eq!(parse(""), ParseIdError::Length { found: 0 });
        assert_eq!(parse(&"1".repeat(31)), ParseIdError::Length { found: 31 });
        assert_eq!(parse(&"1".repeat(33)), ParseIdError::Length { found: 33 });
        assert_eq!(
            parse("+1"),
            ParseIdError::Digit {
                character: '+',
                position: 0
            }
        );
        assert_eq!(
            parse("0é"),
            ParseIdError::Digit {
                character: 'é',
                position: 1
            }
        );
    }
}
