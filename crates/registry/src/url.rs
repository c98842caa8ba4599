//! Where a registry is.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::PREFIX_BYTES_MAX;

/// Where a registry is, as `embedded://HOST:PORT`, `route://HOST:PORT`,
/// `etcd://HOST:PORT,…/PREFIX`, `zookeeper://HOST:PORT,…/ROOT` or `file://PATH`.
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
    /// A route server: `waystation route serve`. It shows what registries and
    /// its store have, and registers nothing.
    Route {
        /// Its host, a name or an address, and its port.
        host: String,
    },
    /// A registry in etcd.
    Etcd {
        /// Its members, each a name or an address, and a port.
        hosts: Vec<String>,
        /// Under which its keys stand, without the slashes around it. Default
        /// `waystation`.
        prefix: String,
    },
    /// A registry in `ZooKeeper`.
    ZooKeeper {
        /// Its servers, each a name or an address, and a port.
        hosts: Vec<String>,
        /// Under which its nodes stand, without the slashes around it. Default
        /// `waystation`.
        root: String,
        /// A file with `USER:PASSWORD`, by which to prove who we are: nodes that
        /// are made can then be read and written by this user only. Without it
        /// by anybody.
        digest: Option<PathBuf>,
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
    #[error(
        "`{text}` is not embedded://HOST:PORT, route://HOST:PORT, etcd://HOST:PORT,…/PREFIX, \
         zookeeper://HOST:PORT,…/ROOT or file://PATH"
    )]
    Scheme {
        /// The whole text.
        text: String,
    },
    /// What follows `embedded://` or `route://` is not a host and a port.
    #[error("`{text}`: an embedded registry or route server is at HOST:PORT")]
    HostPort {
        /// The whole text.
        text: String,
    },
    /// What follows `etcd://` is not one or several hosts and ports, and a
    /// prefix.
    #[error(
        "`{text}`: etcd is at HOST:PORT,HOST:PORT…, then perhaps /PREFIX of A-Z a-z 0-9 . _ - /"
    )]
    Etcd {
        /// The whole text.
        text: String,
    },
    /// What follows `zookeeper://` is not one or several hosts and ports, a root,
    /// and perhaps a file that proves who we are.
    #[error(
        "`{text}`: zookeeper is at HOST:PORT,HOST:PORT…, then perhaps /ROOT of A-Z a-z 0-9 . _ - /, \
         then perhaps ?digest=FILE"
    )]
    ZooKeeper {
        /// The whole text.
        text: String,
    },
    /// Several registries are to be used as one, and this one stands there twice.
    #[error("`{text}` stands there twice")]
    Twice {
        /// The URL.
        text: String,
    },
    /// Nothing follows `file://`.
    #[error("`{text}`: a path is missing")]
    Path {
        /// The whole text.
        text: String,
    },
}

/// What URLs of registries begin with.
const SCHEMES: [&str; 5] = [
    "embedded://",
    "route://",
    "etcd://",
    "zookeeper://",
    "file://",
];

impl RegistryUrl {
    /// Several URLs with spaces between them; a path may have spaces too.
    ///
    /// ```
    /// use waystation_registry::RegistryUrl;
    ///
    /// let urls = RegistryUrl::list("embedded://a:7071 etcd://b:2379,c:2379").unwrap();
    /// assert_eq!(urls.len(), 2);
    /// ```
    ///
    /// # Errors
    /// One of them is no URL, or stands there twice; or there is none.
    pub fn list(text: &str) -> Result<Vec<Self>, UrlError> {
        let mut urls = Vec::new();
        let mut rest = text.trim();
        loop {
            let begins_url = |(at, _): &(usize, &str)| {
                let next = &rest[at + 1..];
                SCHEMES.iter().any(|scheme| next.starts_with(scheme))
            };
            let end = rest.match_indices(' ').find(begins_url);
            let (first, others) = match end {
                Some((at, _)) => (&rest[..at], Some(&rest[at + 1..])),
                None => (rest, None),
            };
            let url: Self = first.trim_end().parse()?;
            if urls.contains(&url) {
                let text = url.to_string();
                return Err(UrlError::Twice { text });
            }
            urls.push(url);
            match others {
                Some(others) => rest = others,
                None => return Ok(urls),
            }
        }
    }
}

impl FromStr for RegistryUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let whole = || text.to_owned();
        if let Some(host) = text.strip_prefix("embedded://") {
            if !is_host_and_port(host) {
                return Err(UrlError::HostPort { text: whole() });
            }
            return Ok(Self::Embedded {
                host: host.to_owned(),
            });
        }
        if let Some(host) = text.strip_prefix("route://") {
            if !is_host_and_port(host) {
                return Err(UrlError::HostPort { text: whole() });
            }
            return Ok(Self::Route {
                host: host.to_owned(),
            });
        }
        if let Some(rest) = text.strip_prefix("etcd://") {
            let Some((hosts, prefix)) = hosts_and_prefix(rest) else {
                return Err(UrlError::Etcd { text: whole() });
            };
            return Ok(Self::Etcd { hosts, prefix });
        }
        if let Some(rest) = text.strip_prefix("zookeeper://") {
            let (rest, digest) = match rest.split_once("?digest=") {
                Some((rest, path)) => (rest, Some(path)),
                None => (rest, None),
            };
            let is_path = |path: &str| !path.is_empty() && !path.contains('\0');
            let Some((hosts, root)) = hosts_and_prefix(rest).filter(|_| digest.is_none_or(is_path))
            else {
                return Err(UrlError::ZooKeeper { text: whole() });
            };
            let digest = digest.map(PathBuf::from);
            return Ok(Self::ZooKeeper {
                hosts,
                root,
                digest,
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
            Self::Route { host } => write!(f, "route://{host}"),
            Self::Etcd { hosts, prefix } => write!(f, "etcd://{}/{prefix}", hosts.join(",")),
            Self::ZooKeeper {
                hosts,
                root,
                digest,
            } => {
                write!(f, "zookeeper://{}/{root}", hosts.join(","))?;
                match digest {
                    Some(path) => write!(f, "?digest={}", path.display()),
                    None => Ok(()),
                }
            }
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

/// Hosts with their ports, and the prefix behind them, `waystation` if there is
/// none.
fn hosts_and_prefix(text: &str) -> Option<(Vec<String>, String)> {
    let (hosts, prefix) = text.split_once('/').unwrap_or((text, ""));
    let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    let prefix = if prefix.is_empty() {
        "waystation"
    } else {
        prefix
    };
    let is_good = hosts.iter().all(|host| is_host_and_port(host)) && is_prefix(prefix);
    is_good.then(|| (hosts, prefix.to_owned()))
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(name, port)| {
        let is_plain = !name.contains(['/', '@', '?', '#', ',']) && !name.is_empty();
        is_plain && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Whether keys can stand under `text`: names of a few plain characters with
/// slashes between them.
fn is_prefix(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = |name: &str| {
        // These two mean something else in a path.
        !name.is_empty() && name.chars().all(is_plain) && name != "." && name != ".."
    };
    text.len() <= PREFIX_BYTES_MAX && text.split('/').all(is_name)
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
            "route://10.0.0.1:7778",
            "etcd://127.0.0.1:2379,[::1]:2379,etcd-3:2379/way/station",
            "zookeeper://127.0.0.1:2181,zk-2:2181/way/station",
            "zookeeper://127.0.0.1:2181/w?digest=/etc/way/zk",
            "file:///etc/nodes",
            "file://nodes.jsonl",
        ] {
            assert_eq!(text.parse::<RegistryUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn several_stand_beside_each_other() {
        let list = |text: &str| {
            let urls = RegistryUrl::list(text)?;
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            Ok::<_, UrlError>(urls.join("|"))
        };
        assert_eq!(list("embedded://a:1"), Ok("embedded://a:1".to_owned()));
        assert_eq!(
            list(" embedded://a:1  etcd://b:2,c:3/x "),
            Ok("embedded://a:1|etcd://b:2,c:3/x".to_owned())
        );
        assert_eq!(
            list("file:///a b/c zookeeper://d:4"),
            Ok("file:///a b/c|zookeeper://d:4/waystation".to_owned())
        );
        assert!(matches!(list(""), Err(UrlError::Scheme { .. })));
        // The same one, whose prefix is told once.
        let twice = list("etcd://b:2 etcd://b:2/waystation");
        assert!(matches!(twice, Err(UrlError::Twice { .. })));
        let half = list("embedded://a:1 etcd://b");
        assert!(matches!(half, Err(UrlError::Etcd { .. })));
    }

    #[test]
    fn a_prefix_has_a_default() {
        for text in ["etcd://a:1", "etcd://a:1/"] {
            let url: RegistryUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), "etcd://a:1/waystation");
        }
        let url: RegistryUrl = "zookeeper://a:1".parse().unwrap();
        assert_eq!(url.to_string(), "zookeeper://a:1/waystation");
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
            "route://a",
        ] {
            assert!(matches!(refuse(text), UrlError::HostPort { .. }), "{text}");
        }
        for text in [
            "etcd://",
            "etcd://a",
            "etcd://a:1,/x",
            "etcd://a:1/x//y",
            "etcd://a:1/x/",
            "etcd://a:1/x y",
        ] {
            assert!(matches!(refuse(text), UrlError::Etcd { .. }), "{text}");
        }
        for text in [
            "zookeeper://",
            "zookeeper://a",
            "zookeeper://a:1,/x",
            "zookeeper://a:1/x/../y",
            "zookeeper://user:secret@a:1/x",
            "zookeeper://a:1/x?digest=",
            "zookeeper://a:1/x?session=4",
        ] {
            assert!(matches!(refuse(text), UrlError::ZooKeeper { .. }), "{text}");
        }
        assert!(matches!(refuse("file://"), UrlError::Path { .. }));
    }
}
