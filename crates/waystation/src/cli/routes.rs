//! The command line of routes: `route`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use super::DirArg;

/// `route`.
#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Run a route server: it knows which hosts serve what
    #[command(after_help = "\
Shows routes of its store and what is registered as one, to agents of Lars and to
native ones, all on one port. What `route` adds, sets, removes, lists, watches and
shows as its status goes over HTTP, too: POST, PATCH, DELETE and GET of /v1/routes,
GET of /v1/watch and /v1/status. Prints
`ready route://IP:PORT` on a line of its own once it answers. A store that is lost
changes nothing; one that is not there at the start is replaced by a copy on disk,
if there is one. SIGTERM and Ctrl-C end it with 0.

Examples:
  waystation route serve
  waystation route serve --listen 10.0.0.5:7778 --store mysql://lars:secret@10.0.0.3/lars_dns
  waystation route serve --store postgres://routes:secret@10.0.0.3/routes --no-registry")]
    Serve(RouteServeArgs),
    /// Add a host to a service
    #[command(after_help = "\
Whoever is subscribed has been told when this ends. MODID/CMDID in place of a
service is a route of Lars without a name. Without --weight it is 100.

Examples:
  waystation route add pay 10.0.0.1:7000
  waystation route add pay 10.0.0.1:7000 --lars 1/1 --weight 50 --zone hel-1
  waystation route add 1/1 10.0.0.2:7000
  waystation route add pay '[fd00::1]:7000' --meta rack=7")]
    Add(RouteChangeArgs),
    /// Change a host of a service
    #[command(after_help = "\
What is not named stays. An empty text takes a pair, a site or a zone away.

Examples:
  waystation route set pay 10.0.0.1:7000 --weight 0
  waystation route set pay 10.0.0.1:7000 --zone hel-2 --lars ''")]
    Set(RouteChangeArgs),
    /// Remove a host from a service
    #[command(after_help = "\
Examples:
  waystation route remove pay 10.0.0.1:7000
  waystation route remove 1/1 10.0.0.2:7000")]
    Remove(RouteRemoveArgs),
    /// List the hosts of services, stored and registered
    #[command(after_help = "\
Examples:
  waystation route list
  waystation route list pay
  waystation route list 1/1 --json")]
    List(RouteListArgs),
    /// Print hosts as they come, change and go
    #[command(after_help = "\
Begins with what is there. A service may be watched before its first host; a
pair is the service lars.MODID.CMDID. Over HTTP, one JSON object a line:
`curl -N http://ADDR/v1/watch?service=pay`.

Examples:
  waystation route watch
  waystation route watch pay --json
  waystation route watch 'lars.1.*'")]
    Watch(RouteListArgs),
    /// Show how the route server and its store fare
    #[command(after_help = "\
Examples:
  waystation route status
  waystation route status --json")]
    Status(RouteAskArgs),
}

/// Which route server is asked.
#[derive(Debug, Args)]
pub(crate) struct RouteAskArgs {
    /// The route server [default: `agent.route` of the configuration, 127.0.0.1:7778]
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Option<SocketAddr>,
}

/// `route serve`.
#[derive(Debug, Args)]
pub(crate) struct RouteServeArgs {
    #[command(flatten)]
    pub(crate) dir: DirArg,
    /// Where agents and operators connect [default: 127.0.0.1:7778]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where routes are kept: `sqlite://PATH`, `mysql://…` or `postgres://…`
    /// [default: `sqlite://DIR/route/routes.db`]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// A registry whose instances are shown beside the routes
    /// [default: `embedded://127.0.0.1:7071`]; given twice, both are
    #[arg(long, value_name = "URL", conflicts_with = "no_registry")]
    pub(crate) registry: Vec<String>,
    /// Show routes only
    #[arg(long)]
    pub(crate) no_registry: bool,
}

/// A host of a service.
#[derive(Debug, Args)]
pub(crate) struct RouteKeyArgs {
    /// The service, or MODID/CMDID
    #[arg(value_name = "SERVICE", allow_hyphen_values = true)]
    pub(crate) service: String,
    /// Where it is reached: `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`
    #[arg(value_name = "ADDR")]
    pub(crate) address: String,
}

/// `route add` and `route set`.
#[derive(Debug, Args)]
pub(crate) struct RouteChangeArgs {
    #[command(flatten)]
    pub(crate) key: RouteKeyArgs,
    /// The pair by which callers of Lars ask for it
    #[arg(long, value_name = "MODID/CMDID", allow_hyphen_values = true)]
    pub(crate) lars: Option<String>,
    /// Its share of requests against the others'; 0 takes none
    #[arg(long, value_name = "N")]
    pub(crate) weight: Option<u32>,
    /// The machine room it stands in
    #[arg(long, value_name = "S")]
    pub(crate) site: Option<String>,
    /// The part of the site it stands in
    #[arg(long, value_name = "Z")]
    pub(crate) zone: Option<String>,
    /// Anything else, as often as need be: all of it, in place of what there was
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    #[command(flatten)]
    pub(crate) ask: RouteAskArgs,
}

/// `route remove`.
#[derive(Debug, Args)]
pub(crate) struct RouteRemoveArgs {
    #[command(flatten)]
    pub(crate) key: RouteKeyArgs,
    #[command(flatten)]
    pub(crate) ask: RouteAskArgs,
}

/// `route list` and `route watch`.
#[derive(Debug, Args)]
pub(crate) struct RouteListArgs {
    /// The service, or MODID/CMDID; all without it
    #[arg(value_name = "SERVICE", allow_hyphen_values = true)]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) ask: RouteAskArgs,
}

impl RouteCommand {
    pub(super) fn serve(&self) -> Option<&RouteServeArgs> {
        match self {
            Self::Serve(args) => Some(args),
            _ => None,
        }
    }
}
