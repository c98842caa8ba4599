//! The command line of multi-site sync: `sync`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DirArg;

/// `sync`.
#[derive(Debug, Subcommand)]
pub(crate) enum SyncCommand {
    /// Run a hub: it orders writes and brings them to all sites
    #[command(after_help = "\
Prints `ready IP:PORT` on a line of its own once it answers. Its log stands in
DIR/sync and is the only authority over the order of writes; one hub at a time
has it. SIGTERM and Ctrl-C end it with 0.

Examples:
  waystation sync hub
  waystation sync hub --dir /var/lib/waystation --listen 10.0.0.5:7072")]
    Hub(HubArgs),
    /// Publish a file as one entry
    #[command(after_help = "\
Prints the entry's place, HISTORY/SEQUENCE, once it is durable. The same KEY again
is the same entry, so that a publish whose answer was lost may be repeated.

Examples:
  waystation sync publish statement.sql
  echo 'INSERT INTO t VALUES (1)' | waystation sync publish --key order-17 -
  waystation sync publish --hub 10.0.0.5:7072 body.json --json")]
    Publish(PublishArgs),
    /// List all sites: how far each is, and how it fares
    #[command(after_help = "\
Examples:
  waystation sync status
  waystation sync status --hub 10.0.0.5:7072 --json")]
    Status(HubArg),
    /// Prove that all live sites have equal copies
    #[command(after_help = "\
Every live site hashes its copy as it is at one sequence, while writes go on.
Exits with 1 unless two sites at least took part and all are equal.

Examples:
  waystation sync verify
  waystation sync verify --wait 300 --json")]
    Verify(VerifyArgs),
    /// Trim what all sites have, however young it is
    #[command(after_help = "\
The log trims itself as it was told to; this does not wait for the age. What goes
goes by whole segments.

Examples:
  waystation sync trim
  waystation sync trim --hub 10.0.0.5:7072")]
    Trim(HubArg),
    /// Give a site the right to publish what it captures
    #[command(after_help = "\
Examples:
  waystation sync grant master")]
    Grant(SiteArgs),
    /// Take a site's right to publish away, from this moment on
    #[command(after_help = "\
Examples:
  waystation sync fence master")]
    Fence(SiteArgs),
    /// Forget a site, so that the log keeps nothing for it; it must join anew
    #[command(after_help = "\
Examples:
  waystation sync forget room-2")]
    Forget(SiteArgs),
}

/// `sync hub`.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// Where sites and publishers connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072")]
    pub(crate) listen: SocketAddr,
    /// Threads that serve sites
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// Most of the log that is kept for a slow site
    #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) retain_mib: u64,
    /// For how long the log is kept for a slow site
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8_760))]
    pub(crate) retain_hours: u64,
}

/// The hub that is asked.
#[derive(Debug, Args)]
pub(crate) struct HubArg {
    /// Where the hub listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072")]
    pub(crate) hub: SocketAddr,
}

/// `sync publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) hub: HubArg,
    /// The same key again is the same entry; at most 64 bytes
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// For how long to try
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) wait: u64,
    /// What to publish; `-` and nothing are standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `sync verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) hub: HubArg,
    /// For how long to wait for the slowest site
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) wait: u64,
}

/// `sync grant`, `sync fence`, `sync forget`.
#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    #[command(flatten)]
    pub(crate) hub: HubArg,
    /// The site's name
    #[arg(value_name = "SITE")]
    pub(crate) site: String,
}

impl SyncCommand {
    pub(super) fn dir(&self) -> Option<&DirArg> {
        match self {
            Self::Hub(args) => Some(&args.dir),
            _ => None,
        }
    }

    /// Whether it runs until it is told to stop.
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Hub(_))
    }
}
