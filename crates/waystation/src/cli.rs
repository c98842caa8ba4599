//! The command line. Its names are a contract with the scripts that use it.

mod discovery;
mod hosts;
mod report;
mod routes;
mod sync;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use toml::Value;
use waystation_im::SiteName;

use crate::config::{Flag, LOG_LEVELS};
pub(crate) use discovery::{
    DrainArgs, ListArgs, NodeCommand, RegisterArgs, RegistriesArg, RegistryCommand,
};
pub(crate) use hosts::{AgentArgs, HostCommand, HostEnd, RateArgs, SimulateArgs};
pub(crate) use report::{ReportAskArgs, ReportCommand, ReportServeArgs, ReportShowArgs};
pub(crate) use routes::{RouteAskArgs, RouteCommand, RouteKeyArgs, RouteListArgs, RouteServeArgs};
pub(crate) use sync::{
    HubArg, HubArgs, LocalEntryArgs, LocalSiteArgs, PolicyArg, PublishArgs, ReplayArgs, SiteArgs,
    SiteRunArgs, SyncCommand, VerifyArgs,
};

/// The service layer for backends that run in more than one machine room.
#[derive(Debug, Parser)]
#[command(
    name = "waystation",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  waystation up                      start everything, with the chat example
  waystation ctx --json              list the requests being handled
  waystation config show             print every setting and who set it

Exit codes: 0 done, 1 the operation failed, 2 the call or the configuration is wrong."
)]
pub(crate) struct Cli {
    /// Configuration file (TOML); docs/configuration.md lists every setting
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Print data as JSON, one object a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// How much is logged to standard error
    #[arg(
        long, global = true, value_name = "LEVEL", help_heading = "Global options",
        value_parser = clap::builder::PossibleValuesParser::new(LOG_LEVELS)
    )]
    pub(crate) log: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine and keep it running
    #[command(after_help = "\
Runs a registry, a route server, this machine's agent, a report server, and the chat
example on them: `route`, `host`, `report` and `node` work beside it as they are.
Prints `ready http://127.0.0.1:7070` on a line of its own once all of it answers.
SIGTERM and Ctrl-C drain all roles and end with 0; a second one kills them.

Examples:
  waystation up
  waystation up --dir /var/lib/waystation --entry 0.0.0.0:7080
  waystation up --registry etcd://10.0.0.5:2379/chat
  waystation up --registry embedded --registry etcd://10.0.0.5:2379/chat
  waystation up --sites 1
  waystation up --for 60 --no-demo")]
    Up(UpArgs),
    /// The chat example: its roles, a terminal client, a load generator
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation im chat --user ada --to bob
  waystation im load --clients 500 --seconds 60
  waystation im logic --index 3 --registry embedded://10.0.0.5:7071 --peers 10.0.0.7:7200"
    )]
    Im(ImCommand),
    /// The registry: it knows which nodes there are
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation registry serve
  waystation registry serve --listen 10.0.0.5:7071"
    )]
    Registry(RegistryCommand),
    /// Nodes: register, list, watch, drain
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation node register pay 10.0.0.1:7000 --id pay-1
  waystation node list pay
  waystation node drain pay-1"
    )]
    Node(NodeCommand),
    /// Routes: which hosts serve what; the route server
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation route serve
  waystation route add pay 10.0.0.1:7000 --lars 1/1
  waystation route list pay"
    )]
    Route(RouteCommand),
    /// Multi-site sync: one ordered stream of writes into every room's database
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation sync hub
  waystation sync status
  waystation sync verify"
    )]
    Sync(SyncCommand),
    /// Run this machine's agent: it knows which hosts there are and how they fare
    #[command(after_help = "\
Prints `ready unix:PATH` on a line of its own once it answers. SIGTERM and Ctrl-C
end it with 0; callers go on by what they know and find the next agent.

Examples:
  waystation agent
  waystation agent --route 10.0.0.5:7778
  waystation agent --route 10.0.0.6:7778 --route-protocol lars
  waystation agent --registry file:///etc/waystation/nodes.jsonl --udp-port 8888
  waystation agent --registry embedded://10.0.0.5:7071 --registry etcd://10.0.0.5:2379/prod")]
    Agent(AgentArgs),
    /// Hosts as this machine's agent knows them: get, list, report, simulate, rate
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation host get pay --explain
  waystation host list pay"
    )]
    Host(HostCommand),
    /// Call statistics: the server that takes them, and what it has
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation report serve
  waystation report show im.logic.a --history 1m"
    )]
    Report(ReportCommand),
    /// List the requests that running roles are handling, and what each waits for
    #[command(after_help = "\
Examples:
  waystation ctx                     all roles below ./waystation-data
  waystation ctx logic --json        every Logic, one object a line
  waystation ctx logic-2 --dir /var/lib/waystation")]
    Ctx(CtxArgs),
    /// Show or check the configuration
    #[command(
        subcommand,
        after_help = "\
Examples:
  waystation config show
  waystation --config waystation.toml config check
  waystation config import-lars lars_lb_agent.conf > waystation.toml"
    )]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  waystation completion bash > /etc/bash_completion.d/waystation
  waystation completion fish > ~/.config/fish/completions/waystation.fish")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// End by itself so long after everything was ready
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub(crate) for_seconds: Option<u64>,
    /// Leave the chat example out: only the servers and the agent run
    #[arg(long)]
    pub(crate) no_demo: bool,
    /// Where the console listens [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub(crate) console: Option<SocketAddr>,
    /// Where the chat's Entry listens [default: 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) entry: Option<SocketAddr>,
    /// How the roles find each other: `embedded` for a registry of its own, or
    /// the URL of another [default: embedded]; given twice, both are used as one,
    /// to move from the first to the second
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Vec<String>,
    /// Sites that keep copies of the chat, each with roles and a database of its
    /// own; the Entry of each further one has the next port [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) sites: Option<i64>,
}

/// The directory that everything shares.
#[derive(Debug, Args)]
pub(crate) struct DirArg {
    /// Where stores, sockets and the lock stand [default: ./waystation-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<String>,
}

/// `ctx`.
#[derive(Debug, Args)]
pub(crate) struct CtxArgs {
    /// A role (`logic`) or one of its processes (`logic-2`); all without it
    #[arg(value_name = "ROLE")]
    pub(crate) role: Option<String>,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// `config`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value and who set it
    #[command(after_help = "\
Examples:
  waystation config show
  WAYSTATION_CONSOLE__LISTEN=127.0.0.1:9070 waystation --config waystation.toml config show --json")]
    Show,
    /// Check the configuration and list all that is wrong with it
    #[command(after_help = "\
Examples:
  waystation --config waystation.toml config check")]
    Check,
    /// Print the configuration that a file of Lars amounts to
    #[command(after_help = "\
Takes the file of a Lars dns, reporter or agent. Settings that mean nothing here
are named in comments; all faults are listed with their lines, with exit code 2.

Examples:
  waystation config import-lars lars_lb_agent.conf > waystation.toml
  waystation config import-lars lars_dns.conf --json")]
    ImportLars {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl Cli {
    /// The flags that set a field of the configuration.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut set = |name, section, key, value: Option<Value>| {
            flags.extend(value.map(|value| Flag {
                name,
                section,
                key,
                value,
            }));
        };
        let text = |value: &Option<String>| value.clone().map(Value::String);
        // A setting takes several with spaces between them.
        let together = |values: &[String]| {
            let is_some = !values.is_empty();
            is_some.then(|| Value::String(values.join(" ")))
        };
        let address = |value: &Option<SocketAddr>| value.map(|at| Value::String(at.to_string()));
        set("--log", "log", "level", text(&self.log));
        if let Some(dir) = self.command.dir() {
            set("--dir", "up", "dir", text(&dir.dir));
        }
        if let Command::Up(up) = &self.command {
            set(
                "--no-demo",
                "up",
                "demo",
                up.no_demo.then_some(Value::Boolean(false)),
            );
            set("--console", "console", "listen", address(&up.console));
            set("--entry", "up", "entry", address(&up.entry));
            set("--registry", "up", "registry", together(&up.registry));
            set("--sites", "up", "sites", up.sites.map(Value::Integer));
        }
        if let Command::Registry(RegistryCommand::Serve(serve)) = &self.command {
            set("--listen", "registry", "listen", address(&serve.listen));
        }
        if let Command::Agent(args) = &self.command {
            set("--route", "agent", "route", address(&args.route));
            let protocol = text(&args.route_protocol);
            set("--route-protocol", "agent", "route_protocol", protocol);
            set("--report", "agent", "report", address(&args.report));
            let udp_port = args.udp_port.map(Value::Integer);
            set("--udp-port", "agent", "udp_port", udp_port);
        }
        if let Command::Host(command) = &self.command {
            let udp_port = command.agent().udp_port.map(Value::Integer);
            set("--udp-port", "agent", "udp_port", udp_port);
        }
        if let Command::Route(RouteCommand::Serve(serve)) = &self.command {
            set("--listen", "route", "listen", address(&serve.listen));
            set("--store", "route", "store", text(&serve.store));
        }
        if let Command::Report(ReportCommand::Serve(serve)) = &self.command {
            set("--listen", "report", "listen", address(&serve.listen));
            set("--store", "report", "store", text(&serve.store));
        }
        let urls = match &self.command {
            Command::Node(node) => node.registries(),
            Command::Im(command) => command.registries(),
            Command::Agent(args) => args.registry.as_slice(),
            Command::Route(command) => command
                .serve()
                .map_or(&[][..], |args| args.registry.as_slice()),
            _ => &[],
        };
        set("--registry", "registry", "url", together(urls));
        flags
    }

    /// How much is logged, where `configured` is what the roles log. Clients
    /// say themselves what their users must know.
    pub(crate) fn log_level<'a>(&self, configured: &'a str) -> &'a str {
        match self.command {
            Command::Im(ImCommand::Load(_) | ImCommand::Chat(_))
            | Command::Node(_)
            | Command::Host(_)
                if self.log.is_none() =>
            {
                "error"
            }
            Command::Route(ref route) if self.log.is_none() && route.serve().is_none() => "error",
            Command::Sync(ref sync) if self.log.is_none() && !sync.is_server() => "error",
            Command::Report(ref report) if self.log.is_none() && !report.is_server() => "error",
            _ => configured,
        }
    }

    /// What this process is called in the log.
    pub(crate) fn process_name(&self) -> String {
        match &self.command {
            Command::Up(_) => "up".to_owned(),
            Command::Im(command) => command.process_name(),
            Command::Registry(_) => "registry".to_owned(),
            Command::Route(command) if command.serve().is_some() => "route".to_owned(),
            Command::Sync(sync) => sync.process_name(),
            Command::Agent(_) => "agent".to_owned(),
            Command::Report(report) if report.is_server() => "report".to_owned(),
            _ => "waystation".to_owned(),
        }
    }
}

impl Command {
    fn dir(&self) -> Option<&DirArg> {
        match self {
            Self::Up(up) => Some(&up.dir),
            Self::Ctx(ctx) => Some(&ctx.dir),
            Self::Im(command) => command.dir(),
            Self::Registry(command) => Some(command.dir()),
            Self::Route(command) => command.serve().map(|args| &args.dir),
            Self::Sync(command) => command.dir(),
            Self::Agent(args) => Some(&args.dir),
            Self::Host(command) => Some(&command.agent().dir),
            Self::Report(command) => command.dir(),
            Self::Node(_) | Self::Config(_) | Self::Completion { .. } => None,
        }
    }
}

/// `im`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImCommand {
    /// Run an Entry: it holds the users' connections
    #[command(after_help = "\
Examples:
  waystation im entry --listen 0.0.0.0:7080 --registry embedded://10.0.0.5:7071
  waystation im entry --listen 127.0.0.1:7080 --registry file://nodes.jsonl")]
    Entry(EntryArgs),
    /// Run a Logic: it holds the chat's rules
    #[command(after_help = "\
Examples:
  waystation im logic --index 3 --registry embedded://10.0.0.5:7071 --peers 10.0.0.7:7200")]
    Logic(RoleArgs),
    /// Run a Das: it holds the chat's data
    #[command(after_help = "\
With --site its database is one of several copies, kept equal by way of the hub: a
conversation is written at its home and read at each site.

A chat has one database at a site. Another Das in the directory of the first one,
with an --index of its own, takes over when that one is gone; one in another
directory does not serve while the first one is there.

Examples:
  waystation im das --dir /var/lib/waystation --registry embedded://10.0.0.5:7071 --peers 10.0.0.8:7300
  waystation im das --dir /var/lib/waystation --index 2 --registry embedded://10.0.0.5:7071
  waystation im das --site b --sites a,b --hub 10.0.0.5:7072")]
    Das(DasArgs),
    /// Send messages at a steady rate and check that each arrives once, in order
    #[command(after_help = "\
Latencies count from the moment at which a message was to be sent. Exits with 1
if anything was lost, doubled, reordered or changed, or nothing was acknowledged.

Examples:
  waystation im load --clients 500 --seconds 60
  waystation im load --clients 50 --seconds 10 --rate 500 --json")]
    Load(LoadArgs),
    /// Chat from this terminal
    #[command(after_help = "\
Each line of input is sent; lines that begin with / are commands, and /help lists
them. The end of the input ends the chat once everything sent is acknowledged.

Examples:
  waystation im chat --user ada
  waystation im chat --user ada --to bob
  echo deployed | waystation im chat --user robot --group team")]
    Chat(ChatArgs),
}

/// What every role needs.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// Its number among the processes of its role
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) index: u16,
    #[command(flatten)]
    pub(crate) registry: RegistriesArg,
    /// Where other roles connect [default: a Unix socket in DIR/run, for this machine only]
    #[arg(long, value_name = "ADDR")]
    pub(crate) peers: Option<SocketAddr>,
    /// The address that is registered [default: the one that it listens on]
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Its site, where several keep copies of the chat: a name of a-z and 0-9
    #[arg(long, value_name = "SITE", value_parser = site_name)]
    pub(crate) site: Option<SiteName>,
}

fn site_name(text: &str) -> Result<SiteName, String> {
    SiteName::new(text)
}

/// `im das`.
#[derive(Debug, Args)]
pub(crate) struct DasArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// All sites, the one that founds the chat first; the hub has it as its --first
    #[arg(long, value_name = "SITE,…", value_delimiter = ',', value_parser = site_name, requires = "site")]
    pub(crate) sites: Vec<SiteName>,
    /// The hub of multi-site sync
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072")]
    pub(crate) hub: SocketAddr,
    /// The database [default: DIR/chat.sqlite]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `im entry`.
#[derive(Debug, Args)]
pub(crate) struct EntryArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Where users connect (WebSocket, HTTP and native)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7080")]
    pub(crate) listen: SocketAddr,
}

/// `im load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Clients that are connected at the same time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) clients: u32,
    /// How long messages are sent
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Messages per second of all clients together
    #[arg(long, value_name = "R", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// How long to wait at the end for what is still missing
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub(crate) settle: u32,
    /// Where its randomness starts [default: another one each time]
    #[arg(long, value_name = "X")]
    pub(crate) seed: Option<u64>,
    /// Length of a message's text in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(17..=32_000))]
    pub(crate) body_bytes: u32,
    /// Threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// The Entries to connect to, over which clients are spread [default: those of
    /// `up` by the configuration, 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',')]
    pub(crate) entry: Vec<SocketAddr>,
}

/// `im chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Who you are
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// Talk to this user first
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub(crate) to: Option<String>,
    /// Talk in this group first; it is made if there is none
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// The Entry to connect to [default: `up.entry` of the configuration, 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) entry: Option<SocketAddr>,
}

impl ImCommand {
    fn role(&self) -> Option<(&'static str, &RoleArgs)> {
        match self {
            Self::Entry(args) => Some(("entry", &args.role)),
            Self::Logic(args) => Some(("logic", args)),
            Self::Das(args) => Some(("das", &args.role)),
            Self::Load(_) | Self::Chat(_) => None,
        }
    }

    fn dir(&self) -> Option<&DirArg> {
        self.role().map(|(_, args)| &args.dir)
    }

    fn registries(&self) -> &[String] {
        self.role().map_or(&[], |(_, args)| &args.registry.registry)
    }

    fn process_name(&self) -> String {
        match self.role() {
            Some((role, args)) => match &args.site {
                Some(site) => format!("{}-{role}-{}", site.as_str(), args.index),
                None => format!("{role}-{}", args.index),
            },
            None => "im".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    /// Every command shows how it is used, groups of commands too: `config`,
    /// `registry` and `node` had nothing to copy.
    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Examples:\n"),
                "{path} --help has no examples"
            );
            command
                .get_subcommands()
                .for_each(|command| check(command, &path));
        }
        check(&Cli::command(), "");
    }
}
