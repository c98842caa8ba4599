//! Which protocol a connection speaks, from its first byte.

/// First byte of every native frame.
///
/// It is no ASCII character and no possible first byte of UTF-8 text, so that a
/// text protocol is never taken for a native one.
pub const MAGIC: u8 = 0xF7;

/// Version of the native frame that this crate reads and writes.
pub const VERSION: u8 = 1;

/// The protocol that a connection's first byte announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FirstByte {
    /// The native frame: the byte is [`MAGIC`].
    Native,
    /// HTTP/1: the byte is an ASCII letter, the start of a method's name.
    Http,
    /// Everything else is a Lars frame, whose first byte is part of a number.
    Lars,
}

/// Tells which protocol a connection speaks, on a port that serves several.
///
/// Total: every byte belongs to exactly one protocol.
pub const fn classify(first: u8) -> FirstByte {
    match first {
        MAGIC => FirstByte::Native,
        b'A'..=b'Z' | b'a'..=b'z' => FirstByte::Http,
        _ => FirstByte::Lars,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_one_protocol() {
        let count = |wanted| {
            (0..=u8::MAX)
                .filter(|byte| classify(*byte) == wanted)
                .count()
        };
        assert_eq!(count(FirstByte::Native), 1);
        assert_eq!(count(FirstByte::Http), 52);
        assert_eq!(count(FirstByte::Lars), 203);
        assert_eq!(classify(0xF7), FirstByte::Native);
        assert_eq!(classify(b'G'), FirstByte::Http);
        assert_eq!(classify(b'p'), FirstByte::Http);
        assert_eq!(classify(0), FirstByte::Lars);
        assert_eq!(classify(b'@'), FirstByte::Lars);
        assert_eq!(classify(b'['), FirstByte::Lars);
        assert_eq!(classify(b'`'), FirstByte::Lars);
        assert_eq!(classify(b'{'), FirstByte::Lars);
    }
}
