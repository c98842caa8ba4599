//! Settings of an agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use waystation_balance::{BalancerConfig, LarsConfig, PolicyKind};
use waystation_registry::RegistryUrl;
use waystation_wire::lars::UDP_PORTS;

use crate::limits::{LARS_REFRESH, SILENT_MAX};
use crate::probes::Probes;

/// Settings of an [`Agent`](crate::Agent).
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The Unix socket for callers of this machine. A file of that name is
    /// replaced; its directory must be there. Beside it is a file with `.lock` at the
    /// end, which one agent has at a time.
    pub socket: PathBuf,
    /// Who of this machine may connect to it. Default: its owner.
    pub access: SocketAccess,
    /// Where callers of Lars ask; none leaves them out. The first is for pairs
    /// whose sum is divisible by three. Default: ports 8888 to 8890 of loopback.
    pub udp: Vec<SocketAddr>,
    /// Where routes come from: a route server, which is asked for what somebody
    /// here uses, or a registry, which tells all it has. Several registries are
    /// used as one, to move between them.
    pub registries: Vec<RegistryUrl>,
    /// A route server of Lars that pairs come from, in place of `registries`.
    pub lars_route: Option<SocketAddr>,
    /// The age at which a route of a pair is asked for again at a route server of
    /// Lars, whose pushes may be lost. Default 15 s.
    pub lars_refresh: Duration,
    /// Where a copy of what is known is kept, for a start without the source;
    /// `None` keeps none.
    pub copy: Option<PathBuf>,
    /// How hosts are chosen. Callers pick from shared memory by `fresh` and
    /// `p2c`; other policies they ask the agent for.
    pub policy: PolicyKind,
    /// What stands around the policy.
    pub balancer: BalancerConfig,
    /// How hosts are chosen for callers of Lars.
    pub lars: LarsConfig,
    /// Whom it tells how calls ended; `None` tells nobody.
    pub report: Option<ReportTo>,
    /// Which hosts are asked what they have to do.
    pub probes: Probes,
    /// After so long without a word a caller's connection that holds nothing is
    /// closed. Default 60 s.
    pub silent_max: Duration,
    /// Where randomness starts.
    pub seed: u64,
}

/// Which users of a machine may connect to a socket, as far as its folder lets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketAccess {
    /// Its owner: mode 0600.
    #[default]
    Owner,
    /// Its owner's group, too: mode 0660.
    Group,
    /// Everybody: mode 0666.
    All,
}

impl SocketAccess {
    /// The mode of the socket's file.
    pub const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
            Self::All => 0o666,
        }
    }
}

/// The report server of an agent, and who the agent is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportTo {
    /// Where it is. It need not be there: counts are running totals, and all of
    /// them are told once it is.
    pub address: SocketAddr,
    /// This machine's name in native counts; no other machine has it. Empty for
    /// the machine's own name.
    pub caller: String,
    /// This machine's address in reports of Lars. By default the one from which
    /// the report server is reached.
    pub caller_ip: Option<Ipv4Addr>,
    /// Whether it takes native counts. Lars' own does not.
    pub is_native: bool,
}

impl ReportTo {
    /// Our own report server at this address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            caller: String::new(),
            caller_ip: None,
            is_native: true,
        }
    }
}

impl AgentConfig {
    /// With routes from `registry`, callers at `socket`, and the defaults.
    pub fn new(socket: impl Into<PathBuf>, registry: RegistryUrl, seed: u64) -> Self {
        Self {
            socket: socket.into(),
            access: SocketAccess::default(),
            udp: UDP_PORTS
                .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
                .to_vec(),
            registries: vec![registry],
            lars_route: None,
            lars_refresh: LARS_REFRESH,
            copy: None,
            policy: PolicyKind::default(),
            balancer: BalancerConfig::default(),
            lars: LarsConfig::default(),
            report: None,
            probes: Probes::default(),
            silent_max: SILENT_MAX,
            seed,
        }
    }
}
