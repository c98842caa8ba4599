//! Where an instance is reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::UNIX_PATH_BYTES_MAX;

/// An address that others connect to.
///
/// Printed and parsed as `10.0.0.1:7000`, `[fd00::1]:7000` or
/// `unix:/run/logic.sock`.
///
/// ```
/// use waystation_membership::{Address, AddressError};
///
/// let address: Address = "unix:/run/logic.sock".parse().unwrap();
/// assert_eq!(address.to_string(), "unix:/run/logic.sock");
/// assert_eq!("0.0.0.0:80".parse::<Address>(), Err(AddressError::NotReachable));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IPv4 address and a port.
    V4(SocketAddrV4),
    /// An IPv6 address and a port.
    V6(SocketAddrV6),
    /// The absolute path of a Unix socket; reachable on its own host only.
    Unix(Arc<str>),
}

/// Why an address is not one that others can connect to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is none of the three forms.
    #[error("{text:?} is not IP:PORT, [IPV6]:PORT or unix:/PATH")]
    Form {
        /// The first 64 characters of the text.
        text: String,
    },
    /// The port is 0, which a node may bind but not be reached at.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// The address is unspecified, multicast or broadcast: it names a set of
    /// interfaces or hosts, not one to connect to.
    #[error("an unspecified, multicast or broadcast address cannot be connected to")]
    NotReachable,
    /// The path is not absolute, holds a zero byte or a control character, or is
    /// longer than [`UNIX_PATH_BYTES_MAX`].
    #[error("a socket's path is absolute, printable and has at most {UNIX_PATH_BYTES_MAX} bytes")]
    UnixPath,
}

impl Address {
    /// Checks that others can connect to it.
    ///
    /// # Errors
    /// The first fault; never [`AddressError::Form`].
    pub fn validate(&self) -> Result<(), AddressError> {
        let (ip, port) = match self {
            Self::V4(v4) => (IpAddr::V4(*v4.ip()), v4.port()),
            Self::V6(v6) => (IpAddr::V6(*v6.ip()), v6.port()),
            Self::Unix(path) => {
                let is_good = path.starts_with('/')
                    && path.len() <= UNIX_PATH_BYTES_MAX
                    && !path.chars().any(char::is_control);
                return is_good.then_some(()).ok_or(AddressError::UnixPath);
            }
        };
        if port == 0 {
            return Err(AddressError::PortZero);
        }
        let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || is_broadcast {
            return Err(AddressError::NotReachable);
        }
        Ok(())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(v4),
            SocketAddr::V6(v6) => Self::V6(v6),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => text
                .parse::<SocketAddr>()
                .map_err(|_| AddressError::Form {
                    text: text.chars().take(64).collect(),
                })?
                .into(),
        };
        address.validate()?;
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(v4) => v4.fmt(f),
            Self::V6(v6) => v6.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_print_as_they_parse() {
        for text in ["10.0.0.1:7000", "[fd00::1]:7000", "unix:/run/a.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused_by_reason() {
        let refuse = |text: &str| text.parse::<Address>().unwrap_err();
        assert!(matches!(refuse("host:80"), AddressError::Form { .. }));
        assert_eq!(refuse("10.0.0.1:0"), AddressError::PortZero);
        for text in ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1"] {
            assert_eq!(refuse(text), AddressError::NotReachable, "{text}");
        }
        for path in ["unix:a", "unix:", "unix:/a\0b"] {
            assert_eq!(refuse(path), AddressError::UnixPath);
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        assert_eq!(refuse(&long), AddressError::UnixPath);
    }
}
