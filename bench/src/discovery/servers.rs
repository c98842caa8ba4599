//! The servers of a run.

use std::net::SocketAddr;
use std::path::Path;

use waystation_registry::RegistryUrl;
use waystation_registry_check::{Embedded, Etcd, Fixture, ZooKeeper};

/// A kind of registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Backend {
    /// `waystation registry serve`.
    Embedded,
    /// etcd.
    Etcd,
    /// `ZooKeeper`.
    ZooKeeper,
}

impl Backend {
    /// Its name in tables and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "zookeeper",
        }
    }
}

/// A server that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) backend: Backend,
    /// Where it is, by no proxy.
    pub(crate) address: SocketAddr,
    server: Server,
}

enum Server {
    Embedded(Embedded),
    Etcd(#[expect(dead_code, reason = "kept for its end")] Etcd),
    ZooKeeper(#[expect(dead_code, reason = "kept for its end")] ZooKeeper),
}

impl Running {
    /// Starts a server on a folder of its own. `check` is the program of the conformance suite.
    ///
    /// # Panics
    /// When it does not start.
    pub(crate) fn start(backend: Backend, check: &Path) -> Self {
        let (address, server) = match backend {
            Backend::Embedded => {
                let mut server = Embedded::new(check, true);
                server.start();
                (server.server(), Server::Embedded(server))
            }
            Backend::Etcd => {
                let mut server = Etcd::new(check, true);
                server.start();
                (server.server(), Server::Etcd(server))
            }
            Backend::ZooKeeper => {
                let mut server = ZooKeeper::new(check, true);
                server.start();
                (server.server(), Server::ZooKeeper(server))
            }
        };
        Self {
            backend,
            address,
            server,
        }
    }

    /// Its process, where that is known.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.server {
            Server::Embedded(server) => Some(server.pid()),
            Server::Etcd(_) | Server::ZooKeeper(_) => None,
        }
    }

    /// The registry in it.
    ///
    /// # Panics
    /// Never: it is a URL.
    pub(crate) fn url(&self) -> RegistryUrl {
        let url = match self.backend {
            Backend::Embedded => format!("embedded://{}", self.address),
            Backend::Etcd => format!("etcd://{}/bench", self.address),
            Backend::ZooKeeper => format!("zookeeper://{}/bench", self.address),
        };
        url.parse().expect("it is a URL")
    }
}
