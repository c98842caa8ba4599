//! The command line of agents and their callers: `agent` and `host`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
    pub(crate) udp_port: Option<u16>,
    /// Where routes come from [default: `embedded://127.0.0.1:7071`]
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Option<String>,
}

/// Where the agent is.
#[derive(Debug, Args)]
pub(crate) struct AgentArg {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// The agent's Unix socket [default: DIR/run/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The first of the agent's three UDP ports, for MODID/CMDID [default: 8888]
    #[arg(long, value_name = "PORT")]
    pub(crate) udp_port: Option<u16>,
}

/// `host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Pick a host for one call, as a caller would
    #[command(after_help = "\
Picks from the agent's shared memory, or asks it where that is not there; --json
tells which. MODID/CMDID asks by UDP, as callers of Lars do. --explain tells
whom the agent would pick, and why.

Examples:
  waystation host get im.logic
  waystation host get im.logic --explain
  waystation host get 1/1 --json")]
    Get(GetArgs),
    /// List a service's hosts and what the agent knows of them
    #[command(after_help = "\
Examples:
  waystation host list im.logic
  waystation host list im.logic --json")]
    List(HostArgs),
    /// Tell the agent how a call ended
    #[command(after_help = "\
Examples:
  waystation host report im.logic 10.0.0.1:7000 ok
  waystation host report im.logic 10.0.0.1:7000 error")]
    Report(ReportArgs),
}

/// `host get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The service, or MODID/CMDID
    #[arg(value_name = "SERVICE", allow_hyphen_values = true)]
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
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) agent: AgentArg,
}

/// `host report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: String,
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
        }
    }
}
