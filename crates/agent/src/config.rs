//! Settings of an agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use waystation_balance::{BalancerConfig, LarsConfig, PolicyKind};
use waystation_registry::RegistryUrl;
use waystation_wire::lars::UDP_PORTS;

/// Settings of an [`Agent`](crate::Agent).
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The Unix socket for callers of this machine. A file of that name is
    /// replaced; its directory must be there.
    pub socket: PathBuf,
    /// Where callers of Lars ask; none leaves them out. The first is for pairs
    /// whose sum is divisible by three. Default: ports 8888 to 8890 of loopback.
    pub udp: Vec<SocketAddr>,
    /// Where routes come from.
    pub registry: RegistryUrl,
    /// How hosts are chosen. Callers pick from shared memory by `fresh` and
    /// `p2c`; other policies they ask the agent for.
    pub policy: PolicyKind,
    /// What stands around the policy.
    pub balancer: BalancerConfig,
    /// How hosts are chosen for callers of Lars.
    pub lars: LarsConfig,
    /// Where randomness starts.
    pub seed: u64,
}

impl AgentConfig {
    /// With routes from `registry`, callers at `socket`, and the defaults.
    pub fn new(socket: impl Into<PathBuf>, registry: RegistryUrl, seed: u64) -> Self {
        Self {
            socket: socket.into(),
            udp: UDP_PORTS
                .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
                .to_vec(),
            registry,
            policy: PolicyKind::default(),
            balancer: BalancerConfig::default(),
            lars: LarsConfig::default(),
            seed,
        }
    }
}
