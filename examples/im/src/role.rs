//! What all roles share: where they keep things and where they answer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use waystation_base::hash64;
use waystation_net::{Address, ConnectionLimits, NetConfig, SlowReader, unix_time};
use waystation_registry::{DrainWaits, RegistryUrl};
use waystation_service::limits::CONCURRENCY;
use waystation_service::{ProbeConfig, Router};

use crate::error::Error;
use crate::store::limits::{BODY_BYTES_MAX, HISTORY_PAGE_BYTES, HISTORY_PAGE_MAX};

/// Bytes of answers that may wait on a connection between roles: a full page
/// of history for each request that is handled at once, so that none of a user
/// is refused because others read much.
const PEER_ANSWERS_BYTES: usize =
    CONCURRENCY as usize * (HISTORY_PAGE_BYTES + BODY_BYTES_MAX + HISTORY_PAGE_MAX * 256);

/// Where a role's process stands.
#[derive(Debug, Clone)]
pub struct RoleConfig {
    /// What all roles of one system share: stores, and sockets below `run`.
    pub dir: PathBuf,
    /// Its number among the processes of its role, from 1.
    pub index: u16,
    /// The site it stands at, where several keep copies of the chat. Roles of one
    /// site find each other; their names in lists begin with the site's.
    pub site: Option<SiteName>,
    /// How it finds other roles, and is found.
    pub discovery: Discovery,
    /// How it serves.
    pub serving: Serving,
}

/// How a role finds others, and is found.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The registry, or several that are used as one, to move between them.
    pub registries: Vec<RegistryUrl>,
    /// Where other roles connect; none for a Unix socket below `run`, which
    /// roles on other machines cannot reach.
    pub peers: Option<SocketAddr>,
    /// What is registered instead of the address that it listens on: for
    /// listeners on all interfaces, or behind a translation of addresses.
    pub advertise: Option<SocketAddr>,
    /// The Unix socket of the agent of this machine, which tells callers what
    /// others met and counts what they do; none goes by discovery alone. It need
    /// not be there.
    pub agent: Option<PathBuf>,
    /// How those who call Logics probe them, if they do.
    pub logic_probe: Option<ProbeConfig>,
    /// How those who call Das probe it, if they do.
    pub das_probe: Option<ProbeConfig>,
    /// How long its own drain waits for others.
    pub drain: DrainWaits,
}

/// How a role serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Threads that serve; at least 1.
    pub shards: u16,
    /// Threads that do nothing but I/O for those; 0 for none.
    pub io_shards: u16,
    /// Requests in progress on a thread; one more is refused at once.
    pub requests_max: usize,
    /// The deadline of a request that brings none.
    pub deadline_default: Duration,
    /// How long a drain may take.
    pub drain: Duration,
    /// Bounds of each connection.
    pub connection: ConnectionLimits,
    /// Bytes that all connections of a thread hold together.
    pub shard_bytes_max: usize,
    /// Whether an HTTP caller that closed its side may still be reading.
    pub http_half_close: bool,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            shards: 1,
            io_shards: 0,
            requests_max: waystation_service::limits::REQUESTS_IN_FLIGHT,
            deadline_default: waystation_service::limits::DEADLINE_DEFAULT,
            drain: waystation_net::limits::DRAIN,
            connection: ConnectionLimits::default(),
            shard_bytes_max: waystation_net::limits::SHARD_BYTES_MAX,
            http_half_close: false,
        }
    }
}

/// Longest name of a site, in bytes: names of sockets begin with it.
const SITE_NAME_BYTES_MAX: usize = 16;

/// The name of a site: `a-z` and `0-9`, 1 to 16 of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(String);

impl SiteName {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn new(name: &str) -> Result<Self, String> {
        let is_in_rule = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || name.len() > SITE_NAME_BYTES_MAX || !name.bytes().all(is_in_rule) {
            let most = SITE_NAME_BYTES_MAX;
            return Err(format!("a site's name has 1 to {most} of a-z and 0-9"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RoleConfig {
    /// `ROLE-N`, or `SITE-ROLE-N`.
    pub(crate) fn name(&self, role: &str) -> String {
        self.numbered(role, self.index)
    }

    /// As [`RoleConfig::name`] of the process with that number.
    pub(crate) fn numbered(&self, role: &str, index: u16) -> String {
        match &self.site {
            Some(site) => format!("{}-{role}-{index}", site.as_str()),
            None => format!("{role}-{index}"),
        }
    }

    /// The service that roles of a kind are instances of at this role's site.
    pub(crate) fn registered(&self, service: &str) -> String {
        match &self.site {
            Some(site) => service_at(service, site.as_str()),
            None => service.to_owned(),
        }
    }

    fn socket(&self, role: &str, kind: &str) -> Address {
        let name = format!("{}.{kind}", self.name(role));
        Address::Unix(self.dir.join("run").join(name))
    }

    /// Where the role serves other roles.
    pub fn service(&self, role: &str) -> Address {
        match self.discovery.peers {
            Some(at) => at.into(),
            None => self.socket(role, "rpc"),
        }
    }

    /// Where the role answers admins.
    pub fn admin(&self, role: &str) -> Address {
        self.socket(role, "sock")
    }

    /// Settings of its server. Each process starts its randomness elsewhere.
    pub(crate) fn net(&self) -> NetConfig {
        let now = unix_time().as_nanos().to_le_bytes();
        let seed = hash64(&now) ^ u64::from(std::process::id());
        tracing::info!(seed, "randomness starts here");
        let mut net = NetConfig {
            shards: self.serving.shards,
            io_shards: self.serving.io_shards,
            drain: self.serving.drain,
            connection: self.serving.connection.clone(),
            shard_bytes_max: self.serving.shard_bytes_max,
            http_half_close: self.serving.http_half_close,
            seed,
            ..NetConfig::default()
        };
        // A connection between roles carries everyone's requests, and a user
        // who reads slowly is served from the history: who is slow waits, and
        // only a peer that takes nothing at all is disconnected.
        net.connection.slow_reader = SlowReader::Refuse;
        net
    }

    /// Gives a router the role's bounds.
    pub(crate) fn limit(&self, router: &mut Router) {
        router.limits(self.serving.requests_max, self.serving.deadline_default);
    }

    /// Gives the router of a role that serves other roles its bounds.
    pub(crate) fn limit_within(&self, router: &mut Router) {
        self.limit(router);
        router.answers_waiting(PEER_ANSWERS_BYTES);
    }

    /// Makes the directories.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        let run = self.dir.join("run");
        make(&run)
    }
}

/// The service that roles of a kind are instances of at a site.
pub(crate) fn service_at(service: &str, site: &str) -> String {
    format!("{service}.{site}")
}

/// Makes a directory and those above it.
pub(crate) fn make(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::Directory {
        path: path.to_owned(),
        source,
    })
}
