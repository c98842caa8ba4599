//! The command line of agents and their callers: `agent` and `host`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use waystation_base::ServiceName;
use waystation_membership::LarsPair;

use super::DirArg;

/// `agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// The Unix socket for callers [default: DIR/run/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The first of three UDP ports of loopback for callers of Lars; 0 for any
    /// [default: 8888]
    #[arg(long, value_name = "PORT")]
    pub(crate) udp_port: Option<i64>,
    /// The registry that hosts come from [default: `embedded://127.0.0.1:7071`];
    /// given twice, both are used as one, to move from the first to the second
    #[arg(long, value_name = "URL", conflicts_with = "route")]
    pub(crate) registry: Vec<String>,
    /// The route server that hosts come from, in place of a registry
    /// [default: `agent.route`, where that is set]
    #[arg(long, value_name = "ADDR")]
    pub(crate) route: Option<SocketAddr>,
    /// What the route server speaks: `native`, or `lars` for one of Lars, which
    /// knows pairs only [default: native]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) route_protocol: Option<String>,
    /// The report server, which is told how calls ended [default: 127.0.0.1:7779]
    #[arg(long, value_name = "ADDR")]
    pub(crate) report: Option<SocketAddr>,
}

/// Where the agent is.
#[derive(Debug, Args)]
pub(crate) struct AgentArg {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// The agent's Unix socket [default: DIR/run/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The first of the agent's three UDP ports, for MODID/CMDID
    /// [default: `agent.udp_port` of the configuration, 8888]
    #[arg(long, value_name = "PORT")]
    pub(crate) udp_port: Option<i64>,
}

/// `host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Pick a host for one call, as a caller would
    #[command(after_help = "\
Picks from the agent's shared memory, or asks it where that is not there; --json
tells which. MODID/CMDID asks by UDP, as callers of Lars do. --explain tells
whom the agent would pick, and why; for MODID/CMDID by the rule of Lars.

Examples:
  waystation host get im.logic.a
  waystation host get im.logic.a --explain
  waystation host get 1/1 --explain
  waystation host get 1/1 --json")]
    Get(GetArgs),
    /// List a service's hosts and what the agent knows of them
    #[command(after_help = "\
Examples:
  waystation host list im.logic.a
  waystation host list im.logic.a --json")]
    List(HostArgs),
    /// Tell the agent how a call ended
    #[command(after_help = "\
Examples:
  waystation host report pay 10.0.0.1:7000 ok
  waystation host report pay 10.0.0.1:7000 error")]
    Report(ReportArgs),
    /// Make many calls up, some of which fail, and count what each host got
    #[command(after_help = "\
Picks and reports as a caller would, but calls nobody. MODID/CMDID asks by UDP, as
callers of Lars do. What it reports counts: the agent that runs leaves out hosts whose
calls are said to fail, for all callers of this machine, and `report show` counts the
calls. Use a service that nobody needs, or an agent of your own (--socket, --udp-port).

Examples:
  waystation host simulate pay --calls 10000 --error-rate 0.05
  waystation host simulate 1/1 --fail 10.0.0.1:7000=1")]
    Simulate(SimulateArgs),
    /// Measure how many picks and reports a second this machine makes
    #[command(after_help = "\
What it reports are calls that went well, and they count: `report show` has them.

Examples:
  waystation host rate pay --threads 2
  waystation host rate 1/1 --threads 5 --seconds 10 --json")]
    Rate(RateArgs),
}

/// `host simulate`.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The service, or MODID/CMDID
    #[arg(value_name = "SERVICE", allow_hyphen_values = true, value_parser = service_or_pair)]
    pub(crate) service: String,
    /// Calls
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) calls: u64,
    /// The share of calls that fail, from 0 to 1: reported to the agent that runs,
    /// which leaves such hosts out for real callers, too
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) error_rate: f64,
    /// The share of calls to one host that fail, reported likewise; may be given
    /// several times
    #[arg(long, value_name = "ADDR=SHARE", value_parser = host_fails)]
    pub(crate) fail: Vec<HostFails>,
    /// Where its randomness starts [default: another one each time]
    #[arg(long, value_name = "X")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// `host rate`.
#[derive(Debug, Args)]
pub(crate) struct RateArgs {
    /// The service, or MODID/CMDID
    #[arg(value_name = "SERVICE", allow_hyphen_values = true, value_parser = service_or_pair)]
    pub(crate) service: String,
    /// Threads that pick and report
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// Only pick
    #[arg(long)]
    pub(crate) no_report: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// How often calls to a host fail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostFails {
    /// The host's address.
    pub(crate) address: String,
    /// The share.
    pub(crate) share: f64,
}

fn service_or_pair(text: &str) -> Result<String, String> {
    let is_pair = text.parse::<LarsPair>().is_ok();
    let named = ServiceName::new(text).map(drop);
    let checked = if is_pair { Ok(()) } else { named };
    let checked = checked.map_err(|why| format!("neither a service nor MODID/CMDID: {why}"));
    checked.map(|()| text.to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

fn host_fails(text: &str) -> Result<HostFails, String> {
    let parsed = text.rsplit_once('=').and_then(|(address, share_of_it)| {
        Some(HostFails {
            address: address.to_owned(),
            share: share(share_of_it).ok()?,
        })
    });
    parsed.ok_or_else(|| "not an address, `=` and a number from 0 to 1".to_owned())
}

/// `host get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The service, or MODID/CMDID
    #[arg(value_name = "SERVICE", allow_hyphen_values = true, value_parser = service_or_pair)]
    pub(crate) service: String,
    /// Tell why
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// `host list`.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// The service, or MODID/CMDID for what callers of Lars are given
    #[arg(value_name = "SERVICE", allow_hyphen_values = true, value_parser = service_or_pair)]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// `host report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: ServiceName,
    /// The host
    #[arg(value_name = "ADDR")]
    pub(crate) address: String,
    /// How the call ended
    #[arg(value_name = "END")]
    pub(crate) end: HostEnd,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostEnd {
    /// Well.
    Ok,
    /// It failed.
    Error,
}

impl HostCommand {
    /// Where the agent is.
    pub(crate) fn agent(&self) -> &AgentArg {
        match self {
            Self::Get(args) => &args.agent,
            Self::List(args) => &args.agent,
            Self::Report(args) => &args.agent,
            Self::Simulate(args) => &args.agent,
            Self::Rate(args) => &args.agent,
        }
    }
}
