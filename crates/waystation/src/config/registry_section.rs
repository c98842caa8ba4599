//! The section of node discovery.

use std::net::SocketAddr;
use std::time::Duration;

use waystation_membership::DirectoryConfig;
use waystation_registry::{DrainWaits, RegistryUrl, UrlError};

use super::field::{Kind, section};

section! {
    /// The registry: where nodes are registered, and the embedded one itself.
    struct Registry as "registry" {
        /// The registry that `waystation node` and roles started by hand use.
        /// Several with spaces between them are used as one, to move between them.
        url: String = Text("embedded://127.0.0.1:7071"), Kind::Registry,
            "none";
        /// Where the embedded registry listens.
        listen: SocketAddr = Text("127.0.0.1:7071"), Kind::Address,
            "an address that is not loopback lets the network register nodes";
        /// Connections to the embedded registry at a time; one more is told so
        /// and closed.
        connections_max: usize = Integer(16_384), Kind::Integer { unit: "connections", min: 1, max: 1_000_000 },
            "a file descriptor and some KiB each";
        /// How much longer leases hold after the embedded registry restarted or
        /// stood still.
        grace_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 0, max: 600_000 },
            "nodes that died meanwhile are listed for longer";
        /// How long a subscriber that was lost is waited for.
        linger_ms: u64 = Integer(10_000), Kind::Integer { unit: "ms", min: 0, max: 600_000 },
            "drains wait for subscribers that died";
        /// How long a drain waits until all subscribers have acknowledged, in
        /// whichever registry: the embedded one goes by what stands here, and roles
        /// and `waystation node register` by what they are started with.
        drain_ack_ms: u64 = Integer(2_000), Kind::Integer { unit: "ms", min: 0, max: 600_000 },
            "a subscriber that hangs delays each drain by so much";
        /// How long a drain then waits for requests in flight.
        drain_requests_ms: u64 = Integer(30_000), Kind::Integer { unit: "ms", min: 0, max: 3_600_000 },
            "a node that never says that it is done stays for longer";
    }
}

impl Registry {
    /// The registries that [`Self::url`] names.
    ///
    /// # Errors
    /// The text makes no sense, which the check of the configuration has told.
    pub(crate) fn urls(&self) -> Result<Vec<RegistryUrl>, UrlError> {
        RegistryUrl::list(&self.url)
    }

    /// How long drains of what is registered by us may take.
    pub(crate) fn drain_waits(&self) -> DrainWaits {
        DrainWaits {
            acknowledged: Duration::from_millis(self.drain_ack_ms),
            requests: Duration::from_millis(self.drain_requests_ms),
        }
    }

    /// How the embedded registry behaves.
    pub(crate) fn directory(&self) -> DirectoryConfig {
        let waits = self.drain_waits();
        DirectoryConfig {
            grace: Duration::from_millis(self.grace_ms),
            linger: Duration::from_millis(self.linger_ms),
            drain_ack_max: waits.acknowledged,
            drain_requests_max: waits.requests,
            ..DirectoryConfig::default()
        }
    }
}
