//! The command line of multi-site sync: `sync`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use waystation_replica::limits::CLIENT_KEY_BYTES_MAX;

use super::DirArg;
use crate::config::Config;

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
    /// Run a site: it keeps one database equal to all others
    #[command(after_help = "\
The first site is called `master`, and its database is what the others copy; each
other one joins by a copy from a live site, which takes the place of all tables in
its database; with rows in it it must be told so by --replace.
With --capture every write to the database, whichever program makes it, goes to
all sites, once `sync grant NAME` has allowed it; until then it waits. Prints `ready NAME` on a line of its own
once its copy is whole and the hub has welcomed it; a join tells its progress on
standard error. SIGTERM and Ctrl-C end it with 0; it goes on where it stopped.

With --handler entries are POSTed to a URL instead, in order and at least once;
the header idempotency-key is the same whenever the same entry comes. Entries may
be anything; a plain SQL statement is labelled unsafe, and refused if it would do
something else at each site, as NOW() does.

Examples:
  waystation sync site --name master --database sqlite://shop.db --capture
  waystation sync site --name room-2 --database sqlite:///var/lib/shop.db --join master
  waystation sync site --name room-3 --hub 10.0.0.5:7072 --database sqlite://shop.db \\
      --skip sessions --policy park
  waystation sync site --name search --handler http://127.0.0.1:9200/entries")]
    Site(SiteRunArgs),
    /// Publish a file as one entry
    #[command(after_help = "\
Prints the entry's place, HISTORY/SEQUENCE, once it is durable. The same KEY again
is the same entry, so that a publish whose answer was lost may be repeated.

A plain SQL statement is unsafe: what it does depends on the rows it finds at each
site. One that would do something else at each site though the rows are equal, as
NOW() and LIMIT without ORDER BY do, is refused, and so is one that cannot be read.
An entry that is no statement is for sites with a handler; while a site has a database,
which would stand at it, it is refused.
Where one changes a row that a site with --capture changes at the same time, that site
ends with other rows than the rest, and only `sync verify` tells: publish what no such
site writes.

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
Programs that write to a captured database wait for some milliseconds, 2 s at
most, until the log has what was written before. Exits with 1 unless two sites at least took part and all are equal.

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
    /// List the entries that a site on this machine skipped or parked
    #[command(after_help = "\
Needs the site's own --dir. Of more than 10000 entries the oldest are left out.

Examples:
  waystation sync audit room-2
  waystation sync audit room-2 --dir /var/lib/waystation --json")]
    Audit(LocalSiteArgs),
    /// Apply a parked entry of a site on this machine
    #[command(after_help = "\
Entries that were parked later and touch the same rows wait for it; replay them in
order. Exits with 1 when the database still refuses it.

Examples:
  waystation sync replay room-2 1042")]
    Replay(ReplayArgs),
    /// Have a site on this machine leave out the entry at which it stands
    #[command(after_help = "\
The copy differs from then on. `sync status` tells at which entry a site stands.

Examples:
  waystation sync skip room-2 1042")]
    Skip(LocalEntryArgs),
    /// Have a site on this machine put aside the entry at which it stands
    #[command(after_help = "\
Later entries that touch the same rows are put aside too, until `sync replay`.

Examples:
  waystation sync park room-2 1042")]
    Park(LocalEntryArgs),
    /// Have a site on this machine try again the entry at which it stands
    #[command(after_help = "\
Examples:
  waystation sync resume room-2")]
    Resume(LocalSiteArgs),
    /// Have a site on this machine take its copy anew
    #[command(after_help = "\
What its database holds counts for nothing from then on: captured writes that have
not been published are lost, and so is its list of parked entries. The new copy may
publish once `sync grant` has allowed it. The first site is refused: the hub takes no
other copy under its name until `sync forget` has made it forget the site.

Examples:
  waystation sync rejoin room-2")]
    Rejoin(LocalSiteArgs),
    /// Say that the copy of a site on this machine was put right by hand
    #[command(after_help = "\
A copy from which an entry was left out counts as differing, and is nobody's donor,
until it is taken anew, `sync verify` finds all copies equal, or this is said.

Examples:
  waystation sync repaired room-2 && waystation sync verify")]
    Repaired(LocalSiteArgs),
    /// Give a site the right to publish what it captures
    #[command(after_help = "\
Where several sites have it each must write rows of its own, with unique values of
its own. Nothing decides between two writes to one row at the same time: each of the
two sites ends with the other's write, and only `sync verify` tells.

Examples:
  waystation sync grant master")]
    Grant(SiteArgs),
    /// Take a site's right to publish away, from this moment on
    #[command(after_help = "\
What it had captured and not published waits in its database, and its copy stays
ahead of all others by that: `sync grant` sends it after all, `sync rejoin` drops it.
`sync publish` and HTTP ask for no such right.

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
    /// The site that others copy first, and that starts without a copy
    #[arg(long, value_name = "SITE", default_value = "master")]
    pub(crate) first: String,
    /// Threads that serve sites
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// Most of the log that is kept for a slow site
    #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) retain_mib: u64,
    /// For how long a site that is away keeps what it needs in the log; then it must take
    /// a new copy once that is trimmed
    #[arg(long, value_name = "HOURS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=8_760))]
    pub(crate) lease_hours: u64,
    /// For how long the log is kept for a slow site that is connected; counted anew from
    /// each start of the hub
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8_760))]
    pub(crate) retain_hours: u64,
    /// Open a log that begins after this entry, and does not say that it was trimmed:
    /// one that a release trimmed which did not note that
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) accept_start: Option<u64>,
}

/// `sync site`.
#[derive(Debug, Args)]
pub(crate) struct SiteRunArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// The site's name; the first one is `master`
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) hub: HubArg,
    /// What it keeps equal: `sqlite://PATH`
    #[arg(long, value_name = "URL", required_unless_present = "handler")]
    pub(crate) database: Option<String>,
    /// Sends entries to a URL instead of a database: `http://HOST:PORT/PATH`
    #[arg(long, value_name = "URL", conflicts_with_all = ["database", "capture", "skip"])]
    pub(crate) handler: Option<String>,
    /// Hand statements to the handler that would do something else at each site, too
    #[arg(long, requires = "handler")]
    pub(crate) allow_nondeterministic: bool,
    /// Send what any program writes to the database to all sites
    #[arg(long)]
    pub(crate) capture: bool,
    /// From which site to take the first copy; `auto` is the best one by lag,
    /// load and distance
    #[arg(long, value_name = "SITE|auto", default_value = "auto")]
    pub(crate) join: String,
    /// Let the first copy take the place of the rows that are in the database, and of
    /// its tables; `master` keeps its own
    #[arg(long, conflicts_with = "handler")]
    pub(crate) replace: bool,
    /// Where the site is: donors of the same zone are near
    #[arg(long, value_name = "ZONE", default_value = "")]
    pub(crate) zone: String,
    /// Most of its copy that it sends to sites that join, a second; as much as goes
    /// if not given
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) donor_mib_per_second: Option<u64>,
    /// Leave a table alone, whatever other sites write to one of its name; may be given
    /// again. Give the same ones to all sites: `sync verify` compares what each syncs
    #[arg(long, value_name = "TABLE")]
    pub(crate) skip: Vec<String>,
    /// What becomes of an entry that the database refuses, after three tries
    #[arg(long, value_enum, default_value_t = PolicyArg::Stop)]
    pub(crate) policy: PolicyArg,
}

/// `--policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArg {
    /// Try it again for ever
    Retry,
    /// Leave it out, and note it; the copy differs from then on
    Skip,
    /// Put it aside, with later entries that touch the same rows
    Park,
    /// Stand until an operator decides
    Stop,
}

/// The hub that is asked.
#[derive(Debug, Args)]
pub(crate) struct HubArg {
    /// Where the hub listens [default: `up.hub` of the configuration, 127.0.0.1:7072]
    #[arg(long, value_name = "ADDR")]
    pub(crate) hub: Option<SocketAddr>,
}

impl HubArg {
    /// Where the hub listens.
    pub(crate) fn address(&self, config: &Config) -> SocketAddr {
        self.hub.unwrap_or(config.up.hub)
    }
}

/// A key that is empty would be none, and what is published again be another entry.
fn key(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("it is empty".to_owned()),
        1..=CLIENT_KEY_BYTES_MAX => Ok(text.to_owned()),
        long => Err(format!("{long} bytes are more than {CLIENT_KEY_BYTES_MAX}")),
    }
}

/// `sync publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) hub: HubArg,
    /// The same key again is the same entry; 1 to 64 bytes
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) key: Option<String>,
    /// For how long to try
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) wait: u64,
    /// Publish statements that would do something else at each site, or that cannot
    /// be read, and what databases would stand at, too
    #[arg(long)]
    pub(crate) allow_nondeterministic: bool,
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

/// `sync audit`, `sync resume`, `sync rejoin`, `sync repaired`.
#[derive(Debug, Args)]
pub(crate) struct LocalSiteArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// The site's name
    #[arg(value_name = "SITE")]
    pub(crate) site: String,
}

/// `sync skip`, `sync park`.
#[derive(Debug, Args)]
pub(crate) struct LocalEntryArgs {
    #[command(flatten)]
    pub(crate) local: LocalSiteArgs,
    /// The entry's sequence
    #[arg(value_name = "SEQ")]
    pub(crate) seq: u64,
}

/// `sync replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) entry: LocalEntryArgs,
    /// For how long to wait until it is applied
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
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
            Self::Site(args) => Some(&args.dir),
            Self::Audit(args) | Self::Resume(args) | Self::Rejoin(args) | Self::Repaired(args) => {
                Some(&args.dir)
            }
            Self::Skip(args) | Self::Park(args) => Some(&args.local.dir),
            Self::Replay(args) => Some(&args.entry.local.dir),
            _ => None,
        }
    }

    /// Whether it runs until it is told to stop.
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Hub(_) | Self::Site(_))
    }

    /// What a server is called in the log.
    pub(super) fn process_name(&self) -> String {
        match self {
            Self::Hub(_) => "sync-hub".to_owned(),
            Self::Site(args) => format!("sync-site-{}", args.name),
            _ => "waystation".to_owned(),
        }
    }
}
