//! Where a registry is.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where a registry is, as `embedded://HOST:PORT` or `file://PATH`.
///
/// ```
/// use waystation_registry::RegistryUrl;
///
/// let url: RegistryUrl = "embedded://127.0.0.1:7071".parse().unwrap();
/// assert_eq!(url.to_string(), "embedded://127.0.0.1:7071");
/// assert!("ftp://x".parse::<RegistryUrl>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistryUrl {
    /// An embedded registry: `waystation registry serve`.
    Embedded {
        /// Its host, a name or an address, and its port.
        host: String,
    },
    /// A static list of instances, one JSON object a line.
    File {
        /// The list.
        path: PathBuf,
    },
}

/// Why a text is not the URL of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The scheme is none that this version knows.
    #[error("`{text}` is not embedded://HOST:PORT or file://PATH")]
    Scheme {
        /// The whole text.
        text: String,
    },
    /// What follows `embedded://` is not a host and a port.
    #[error("`{text}`: an embedded registry is at HOST:PORT")]
    HostPort {
        /// The whole text.
        text: String,
    },
    /// Nothing follows `file://`.
    #[error("`{text}`: a path is missing")]
    Path {
        /// The whole text.
        text: String,
    },
}

impl FromStr for RegistryUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let whole = || text.to_owned();
        if let Some(host) = text.strip_prefix("embedded://") {
            let parts = host.rsplit_once(':');
            let is_good = parts.is_some_and(|(name, port)| {
                let is_plain = !name.contains(['/', '@', '?', '#']) && !name.is_empty();
                is_plain && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !is_good {
                return Err(UrlError::HostPort { text: whole() });
            }
            return Ok(Self::Embedded {
                host: host.to_owned(),
            });
        }
        if let Some(path) = text.strip_prefix("file://") {
            if path.is_empty() || path.contains('\0') {
                return Err(UrlError::Path { text: whole() });
            }
            return Ok(Self::File {
                path: PathBuf::from(path),
            });
        }
        Err(UrlError::Scheme { text: whole() })
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { host } => write!(f, "embedded://{host}"),
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

/// The first address of `host`. Blocks while a name is looked up.
pub(crate) fn resolve(host: &str) -> std::io::Result<SocketAddr> {
    let mut addresses = host.to_socket_addrs()?;
    addresses
        .next()
        .ok_or_else(|| std::io::Error::other("the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_print_as_they_parse() {
        for text in [
            "embedded://127.0.0.1:7071",
            "embedded://[::1]:7071",
            "embedded://registry.local:1",
            "file:///etc/nodes",
            "file://nodes.jsonl",
        ] {
            assert_eq!(text.parse::<RegistryUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn faults_are_told_by_kind() {
        let refuse = |text: &str| text.parse::<RegistryUrl>().unwrap_err();
        assert!(matches!(refuse("127.0.0.1:7071"), UrlError::Scheme { .. }));
        for text in [
            "embedded://",
            "embedded://a",
            "embedded://a:0",
            "embedded://a:1/x",
            "embedded://:1",
        ] {
            assert!(matches!(refuse(text), UrlError::HostPort { .. }), "{text}");
        }
        assert!(matches!(refuse("file://"), UrlError::Path { .. }));
    }
}
