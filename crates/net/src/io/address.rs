//! Where a listener or a peer is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address of this system: `127.0.0.1:7080`, `[::1]:7080`, `unix:/run/x.rpc`
/// or, in tests, `memory:name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket. An empty path is an unnamed peer.
    Unix(PathBuf),
    /// A name in a [`MemoryIo`](crate::MemoryIo).
    Memory(String),
}

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: expected IP:PORT, [IPV6]:PORT or unix:PATH")]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

/// The longest path that fits the kernel's `sockaddr_un`, in bytes.
const UNIX_PATH_MAX: usize = 107;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fault = || AddressError {
            text: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.len() > UNIX_PATH_MAX || path.contains('\0') {
                return Err(fault());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(name) = text.strip_prefix("memory:") {
            return Ok(Self::Memory(name.to_owned()));
        }
        text.parse().map(Self::Tcp).map_err(|_| fault())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix:(unnamed)"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "127.0.0.1:7080",
            "[::1]:7080",
            "unix:/run/a.rpc",
            "memory:logic",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn faults_name_the_text() {
        let long = format!("unix:/{}", "x".repeat(200));
        for text in [
            "",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:99999",
            "unix:",
            long.as_str(),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().text, text);
        }
    }
}
