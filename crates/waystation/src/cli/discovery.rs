//! The command line of node discovery: `registry` and `node`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use waystation_base::ServiceName;
use waystation_membership::{Address, InstanceId, Label};

use super::DirArg;

/// `registry`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Run an embedded registry: it knows which nodes there are
    #[command(after_help = "\
Prints `ready embedded://IP:PORT` on a line of its own once it answers. Its state
stands in DIR/registry and survives a kill. SIGTERM and Ctrl-C end it with 0.

Examples:
  waystation registry serve
  waystation registry serve --dir /var/lib/waystation --listen 10.0.0.5:7071")]
    Serve(ServeArgs),
}

/// `registry serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// Where nodes and callers connect [default: 127.0.0.1:7071]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
}

/// `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Keep a node registered until SIGTERM, then drain it
    #[command(after_help = "\
Registers again whatever happens: refused, disconnected, expired. SIGTERM and
Ctrl-C drain the node: every subscriber has acknowledged, or 2 s have passed,
before it is out; then it ends with 0. A second signal ends it at once.

Examples:
  waystation node register im.logic 10.0.0.1:7000
  waystation node register im.logic 10.0.0.1:7000 --id logic-1 --weight 50 --zone hel-1
  waystation node register pay unix:/run/pay.sock --registry embedded://10.0.0.5:7071 --ttl 10
  waystation node register pay 10.0.0.2:9000 --registry etcd://10.0.0.5:2379,10.0.0.6:2379/prod
  waystation node register pay 10.0.0.1:7000 --registry zookeeper://zk-1:2181,zk-2:2181/prod
  waystation node register pay 10.0.0.1:7000 --registry embedded://a:7071 --registry etcd://b:2379")]
    Register(RegisterArgs),
    /// List the nodes that are registered
    #[command(after_help = "\
With --json each line is a node, in the form that file:// registries read.
--holders lists subscribers, and the version that each was sent and has seen: in
etcd and ZooKeeper as of 10 s ago at most, and at once while a node drains.

Examples:
  waystation node list                 all services
  waystation node list im.logic        one service
  waystation node list 'im.*' --json   services whose names begin with `im.`
  waystation node list im.logic --holders")]
    List(ListArgs),
    /// Print nodes as they come, change and go
    #[command(after_help = "\
Begins with what is there. A service may be watched before its first node.

Examples:
  waystation node watch
  waystation node watch im.logic --json
  waystation node watch im.logic --holders")]
    Watch(ListArgs),
    /// Take a node out in order: no new requests, then out
    #[command(after_help = "\
Waits until the node is out: every subscriber has acknowledged (or 2 s have
passed), and its requests in flight have ended (or 30 s have passed).

Examples:
  waystation node drain logic-1
  waystation node drain logic-1 --wait 10 --json")]
    Drain(DrainArgs),
}

/// The registries that are asked.
#[derive(Debug, Args)]
pub(crate) struct RegistriesArg {
    /// `embedded://HOST:PORT`, `etcd://HOST:PORT,…/PREFIX`,
    /// `zookeeper://HOST:PORT,…/ROOT` or `file://PATH`
    /// [default: `embedded://127.0.0.1:7071`]; given twice, both are used as one, to
    /// move from the first to the second
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Vec<String>,
}

/// `node register`.
#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The service it is a copy of: `a-z 0-9 . _ -`
    #[arg(value_name = "SERVICE")]
    pub(crate) service: ServiceName,
    /// Where it is reached: `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) registry: RegistriesArg,
    /// Its id, unique in the registry [default: made of SERVICE and ADDR]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<InstanceId>,
    /// Its share of requests against the others'; 0 takes none
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) weight: u32,
    /// The machine room it stands in
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Option<Label>,
    /// The part of the site it stands in
    #[arg(long, value_name = "Z")]
    pub(crate) zone: Option<Label>,
    /// For how long it is believed alive without a sign of life
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub(crate) ttl: u64,
}

/// `node list` and `node watch`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// A service, or a beginning of names followed by `*`; all without it
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistriesArg,
    /// Which subscriber holds which version
    #[arg(long)]
    pub(crate) holders: bool,
}

/// `node drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node's id
    #[arg(value_name = "ID")]
    pub(crate) id: InstanceId,
    #[command(flatten)]
    pub(crate) registry: RegistriesArg,
    /// How long to wait until it is out
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(crate) wait: u64,
}

impl RegistryCommand {
    pub(super) fn dir(&self) -> &DirArg {
        let Self::Serve(serve) = self;
        &serve.dir
    }
}

impl NodeCommand {
    /// The registries that it names.
    pub(super) fn registries(&self) -> &[String] {
        let arg = match self {
            Self::Register(args) => &args.registry,
            Self::List(args) | Self::Watch(args) => &args.registry,
            Self::Drain(args) => &args.registry,
        };
        &arg.registry
    }
}
