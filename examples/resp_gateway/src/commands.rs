//! Which commands may share a connection.
//!
//! On a connection that many clients share, a command may concern nothing but
//! its keys. One that changes what the connection means (`MULTI`, `SELECT`,
//! `SUBSCRIBE`), that waits (`BLPOP`) or that answers more than once would
//! hit everyone. So only what is known to be harmless passes; the rest is
//! refused by name. (With [`Fifo::lease`](waystation_net::fifo::Fifo::lease) a
//! client could get a connection of its own for such commands.)

/// Commands that concern nothing but their keys.
const SHARED: &[&str] = &[
    "APPEND",
    "BITCOUNT",
    "DBSIZE",
    "DECR",
    "DECRBY",
    "DEL",
    "ECHO",
    "EXISTS",
    "EXPIRE",
    "EXPIREAT",
    "GET",
    "GETBIT",
    "GETDEL",
    "GETRANGE",
    "GETSET",
    "HDEL",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HMSET",
    "HSET",
    "HSETNX",
    "HVALS",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "LINDEX",
    "LLEN",
    "LPOP",
    "LPUSH",
    "LRANGE",
    "LREM",
    "LSET",
    "LTRIM",
    "MGET",
    "MSET",
    "MSETNX",
    "PERSIST",
    "PEXPIRE",
    "PFADD",
    "PFCOUNT",
    "PING",
    "PSETEX",
    "PTTL",
    "RENAME",
    "RPOP",
    "RPUSH",
    "SADD",
    "SCARD",
    "SET",
    "SETBIT",
    "SETEX",
    "SETNX",
    "SETRANGE",
    "SISMEMBER",
    "SMEMBERS",
    "SPOP",
    "SREM",
    "STRLEN",
    "TOUCH",
    "TTL",
    "TYPE",
    "UNLINK",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZINCRBY",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZRANGE",
    "ZRANK",
    "ZREM",
    "ZSCORE",
];

/// The longest name in [`SHARED`], in bytes.
const NAME_BYTES_MAX: usize = 12;

/// The commands that may pass. It remembers the last one: a client mostly
/// sends one command many times.
pub(crate) struct Commands {
    last: [u8; NAME_BYTES_MAX],
    last_len: usize,
}

impl Commands {
    pub(crate) const fn new() -> Self {
        Self {
            last: [0; NAME_BYTES_MAX],
            last_len: 0,
        }
    }

    /// Whether a command of this name may share a connection. Letters may be
    /// of either case.
    #[inline]
    pub(crate) fn may_pass(&mut self, name: &[u8]) -> bool {
        // Three letters are compared without a call, which costs more than
        // they: GET and SET are most of what comes.
        let is_last = match (<[u8; 3]>::try_from(name), self.last.first_chunk()) {
            (Ok(name), Some(last)) => self.last_len == 3 && name == *last,
            _ => !name.is_empty() && name == &self.last[..self.last_len],
        };
        is_last || self.look_up(name)
    }

    fn look_up(&mut self, name: &[u8]) -> bool {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return false;
        }
        let shared = SHARED
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if shared {
            self.last[..name.len()].copy_from_slice(name);
            self.last_len = name.len();
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_only_its_keys_passes() {
        let mut commands = Commands::new();
        for name in SHARED {
            assert!(name.len() <= NAME_BYTES_MAX, "{name}");
            assert!(commands.may_pass(name.as_bytes()), "{name}");
            assert!(commands.may_pass(name.to_lowercase().as_bytes()), "{name}");
        }
    }

    /// A name without a letter passed as the first: it is what "no last one"
    /// looks like.
    #[test]
    fn what_concerns_the_connection_does_not() {
        let mut commands = Commands::new();
        assert!(!commands.may_pass(b""));
        assert!(commands.may_pass(b"GET"));
        for name in [
            "",
            "MULTI",
            "EXEC",
            "subscribe",
            "BLPOP",
            "SELECT",
            "CLIENT",
            "HELLO",
            "GE",
            "MONITOR",
            "INCRBYFLOATS",
        ] {
            assert!(!commands.may_pass(name.as_bytes()), "{name}");
        }
    }
}
