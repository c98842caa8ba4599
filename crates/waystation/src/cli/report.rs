//! The command line of call statistics: `report`.

use std::net::SocketAddr;

use clap::{Args, Subcommand, ValueEnum};
use waystation_report::Span;

use super::DirArg;

/// `report`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Run a report server: agents tell it how calls ended
    #[command(after_help = "\
Prints `ready IP:PORT` on a line of its own once it takes reports, by Lars'
protocol and natively. The store need not be there: counts wait for it. SIGTERM
and Ctrl-C store what came and end it with 0.

Examples:
  waystation report serve
  waystation report serve --listen 10.0.0.5:7779 --store mysql://lars:pw@10.0.0.6/lars_dns
  waystation report serve --store sqlite:///var/lib/waystation/reports.db")]
    Serve(ReportServeArgs),
    /// Show the counts of calls that a report server has
    #[command(after_help = "\
Without --history: the totals that callers told last. With it: what was counted in
each 10 s, minute or hour, the latest first. SERVICE is MODID/CMDID for Lars. Says
behind the rows what the server was told since its start and did not count, if it
did so; with --json on standard error.

Examples:
  waystation report show
  waystation report show im.logic.a --history 1m --since 3600
  waystation report show 1/2 --json --server 10.0.0.5:7779")]
    Show(ReportShowArgs),
    /// Show how a report server and its store fare, and what was not counted
    #[command(after_help = "\
What was not counted is since the server's start. What agents themselves could not
count they tell in their own metrics, waystation_agent_calls_uncounted and
waystation_agent_calls_dropped, and in their logs.

Examples:
  waystation report status
  waystation report status --json --server 10.0.0.5:7779")]
    Status(ReportAskArgs),
}

/// Which report server is asked.
#[derive(Debug, Args)]
pub(crate) struct ReportAskArgs {
    /// The report server [default: `agent.report` of the configuration, 127.0.0.1:7779]
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Option<SocketAddr>,
}

/// `report serve`.
#[derive(Debug, Args)]
pub(crate) struct ReportServeArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// Where agents report [default: 127.0.0.1:7779]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where counts are stored: `sqlite://PATH` or `mysql://…`
    /// [default: a file below DIR]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
}

/// `report show`.
#[derive(Debug, Args)]
pub(crate) struct ReportShowArgs {
    /// The service, or MODID/CMDID; all without it
    #[arg(value_name = "SERVICE", allow_hyphen_values = true)]
    pub(crate) service: Option<String>,
    /// Show history of this fineness
    #[arg(long, value_name = "SPAN")]
    pub(crate) history: Option<SpanArg>,
    /// Of how many seconds back, with --history
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        requires = "history"
    )]
    pub(crate) since: u64,
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) ask: ReportAskArgs,
}

/// How fine history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpanArg {
    /// 10 s.
    #[value(name = "10s")]
    TenSeconds,
    /// 1 min.
    #[value(name = "1m")]
    Minute,
    /// 1 h.
    #[value(name = "1h")]
    Hour,
}

impl From<SpanArg> for Span {
    fn from(span: SpanArg) -> Self {
        match span {
            SpanArg::TenSeconds => Self::TenSeconds,
            SpanArg::Minute => Self::Minute,
            SpanArg::Hour => Self::Hour,
        }
    }
}

impl ReportCommand {
    /// The directory, for what has one.
    pub(crate) const fn dir(&self) -> Option<&DirArg> {
        match self {
            Self::Serve(args) => Some(&args.dir),
            Self::Show(_) | Self::Status(_) => None,
        }
    }

    /// Whether it serves.
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self, Self::Serve(_))
    }
}
