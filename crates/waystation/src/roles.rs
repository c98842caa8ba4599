//! The chat's roles: how `up` starts them, and what `waystation im` runs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use waystation_im as im;
use waystation_net::native::Origins;
use waystation_registry::RegistryUrl;

use crate::cli::{DasArgs, ImCommand, RoleArgs};
use crate::config::{Config, reachable};
use crate::descriptors;
use crate::dir::Sockets;
use crate::failure::Failure;
use crate::registry;
use crate::supervise::ChildSpec;

/// Where the chat of `up` stands.
pub(crate) struct Places<'a> {
    /// The program that its processes run.
    pub(crate) program: &'a Path,
    /// Where their sockets are.
    pub(crate) sockets: &'a Sockets,
    /// Where the Entry of each site listens.
    pub(crate) entries: &'a [SocketAddr],
    /// Where the hub listens; none with one site.
    pub(crate) hub: Option<SocketAddr>,
    /// By which the roles find each other.
    pub(crate) registries: &'a [RegistryUrl],
}

/// What sites of `up` are called, in their order.
const SITES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// What the Entry of a site of `up` is called.
pub(crate) fn entry_name(config: &Config, site: usize) -> String {
    if config.up.sites > 1 {
        return format!("{}-entry-1", SITES[site % SITES.len()]);
    }
    "entry-1".to_owned()
}

/// The processes of the chat example, in the order they are started: each role
/// before those that call it. They drain in the opposite order.
pub(crate) fn chat(config: &Config, places: &Places<'_>) -> Vec<ChildSpec> {
    let mut children = Vec::new();
    if let Some(hub) = places.hub {
        children.push(Child {
            command: &["sync", "hub"],
            role: "hub",
            index: 1,
            stage: 3,
            site: None,
            args: pairs([("--listen", hub.to_string()), ("--first", SITES[0].into())]),
        });
    }
    let sites = SITES.iter().zip(places.entries);
    for (site, entry) in sites {
        let site = places.hub.is_some().then_some(*site);
        children.extend(chat_at(config, places, site, *entry));
    }
    let specs = children.into_iter();
    specs
        .map(|child| child.spec(config, places.program, places.sockets))
        .collect()
}

/// The chat of one site, or the only one.
fn chat_at(
    config: &Config,
    places: &Places<'_>,
    site: Option<&'static str>,
    entry: SocketAddr,
) -> Vec<Child> {
    let registries = places.registries.iter();
    let registered = pairs(registries.map(|url| ("--registry", url.to_string())));
    let mut args = registered.clone();
    if let (Some(site), Some(hub)) = (site, places.hub) {
        let sites = SITES[..places.entries.len()].join(",");
        args.extend(pairs([("--sites", sites), ("--hub", hub.to_string())]));
        // The first site goes on with what a chat of one site has left.
        if site != SITES[0] {
            let file = config.dir().join(site).join("chat.sqlite");
            args.extend(["--file".into(), file.into()]);
        }
    }
    let das = Child {
        command: &["im", "das"],
        role: "das",
        index: 1,
        stage: 2,
        site,
        args,
    };
    let logic = (1..=config.up.logic_processes).map(|index| Child {
        command: &["im", "logic"],
        role: "logic",
        index,
        stage: 1,
        site,
        args: registered.clone(),
    });
    let mut args = registered.clone();
    args.extend(pairs([("--listen", entry.to_string())]));
    let entry = Child {
        command: &["im", "entry"],
        role: "entry",
        index: 1,
        stage: 0,
        site,
        args,
    };
    let children = std::iter::once(das).chain(logic);
    children.chain(std::iter::once(entry)).collect()
}

fn pairs(flags: impl IntoIterator<Item = (&'static str, String)>) -> Vec<OsString> {
    let flags = flags.into_iter();
    flags
        .flat_map(|(flag, value)| [flag.into(), value.into()])
        .collect()
}

/// Where the servers of `up` beside the chat listen.
pub(crate) struct Servers {
    /// The route server.
    pub(crate) route: SocketAddr,
    /// The report server.
    pub(crate) report: SocketAddr,
}

/// The route server, the report server and the agent of this machine, which drain
/// after the chat: the agent first, since it tells the others.
pub(crate) fn servers(config: &Config, places: &Places<'_>, at: &Servers) -> Vec<ChildSpec> {
    let registries = places.registries.iter();
    let registered = registries.map(|url| ("--registry", url.to_string()));
    let mut args = pairs([("--listen", at.route.to_string())]);
    args.extend(pairs(registered));
    let child = |command, role, stage, args| Child {
        command,
        role,
        index: 1,
        stage,
        site: None,
        args,
    };
    let route = child(&["route", "serve"], "route", 4, args);
    let listen = pairs([("--listen", at.report.to_string())]);
    let report = child(&["report", "serve"], "report", 4, listen);
    let args = pairs([
        ("--route", reachable(at.route).to_string()),
        ("--route-protocol", "native".to_owned()),
        ("--report", reachable(at.report).to_string()),
    ]);
    let agent = child(&["agent"], "agent", 3, args);
    let all = [route, report, agent].into_iter();
    all.map(|child| child.spec(config, places.program, places.sockets))
        .collect()
}

/// The registry that the roles use, which drains after all of them.
pub(crate) fn registry(
    config: &Config,
    program: &Path,
    sockets: &Sockets,
    listen: SocketAddr,
) -> ChildSpec {
    let child = Child {
        command: &["registry", "serve"],
        role: "registry",
        index: 1,
        stage: 4,
        site: None,
        args: pairs([("--listen", listen.to_string())]),
    };
    child.spec(config, program, sockets)
}

struct Child {
    command: &'static [&'static str],
    role: &'static str,
    index: u16,
    stage: u8,
    site: Option<&'static str>,
    args: Vec<OsString>,
}

impl Child {
    fn spec(self, config: &Config, program: &Path, sockets: &Sockets) -> ChildSpec {
        let name = match self.site {
            Some(site) => format!("{site}-{}-{}", self.role, self.index),
            None => format!("{}-{}", self.role, self.index),
        };
        let mut args: Vec<OsString> = self.command.iter().map(Into::into).collect();
        args.extend(["--dir".into(), config.dir().into()]);
        if self.command[0] == "im" {
            args.extend(["--index".into(), self.index.to_string().into()]);
            let site = self.site.map(|site| ("--site", site.to_owned()));
            args.extend(pairs(site));
        }
        args.extend(self.args);
        args.extend(["--log".into(), config.log.level.clone().into()]);
        if let Some(file) = config.file_for_children() {
            args.extend(["--config".into(), file.into()]);
        }
        ChildSpec {
            admin_socket: sockets.admin(&name),
            name,
            program: program.to_owned(),
            args,
            stage: self.stage,
        }
    }
}

/// What the sections of all roles have in common.
macro_rules! serving {
    ($config:expr, $section:expr, $shards:expr) => {
        im::Serving {
            shards: $shards,
            io_shards: $config.net.io_shards,
            connection: $config.net.connection(),
            shard_bytes_max: $config.net.shard_bytes_max,
            http_half_close: $config.net.http_half_close,
            requests_max: $section.requests_max,
            deadline_default: Duration::from_millis($section.deadline_default_ms),
            drain: Duration::from_millis($section.drain_ms),
        }
    };
}

/// Runs one of `waystation im`'s commands until it ends.
///
/// # Errors
/// What the role reports.
pub(crate) fn run(command: &ImCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    let result = match command {
        ImCommand::Das(args) => im::das::run(&im::das::Config {
            role: role(
                config,
                &args.role,
                serving!(config, config.das, config.das.shards),
            )?,
            store: im::store::StoreOptions {
                batch_operations_max: config.das.batch_operations_max,
                readers: config.das.readers,
                ..im::store::StoreOptions::default()
            },
            file: args.file.clone(),
            sync: sync(args)?,
        }),
        ImCommand::Logic(args) => im::logic::run(&im::logic::Config {
            role: role(
                config,
                args,
                serving!(config, config.logic, config.logic.shards),
            )?,
        }),
        ImCommand::Entry(args) => {
            descriptors::raise(config.entry.connections_max);
            im::entry::run(&im::entry::Config {
                role: role(
                    config,
                    &args.role,
                    serving!(config, config.entry, config.entry.shards),
                )?,
                origins: Origins::parse(&config.entry.websocket_origins)
                    .map_err(|part| anyhow!("entry.websocket_origins: `{part}` is no origin"))?,
                listen: vec![args.listen.into()],
                connections_max: config.entry.connections_max,
            })
        }
        ImCommand::Load(args) => return crate::clients::load(args, config, as_json),
        ImCommand::Chat(_) if as_json => {
            let error =
                anyhow!("--json: `im chat` prints for people; over HTTP Entry answers JSON");
            return Err(Failure::Usage(error));
        }
        ImCommand::Chat(args) => return crate::clients::chat(args, config),
    };
    result.map_err(|error| Failure::Operation(error.into()))
}

/// How a Das keeps its copy, if its site is one of several.
fn sync(args: &DasArgs) -> Result<Option<im::das::SyncConfig>, Failure> {
    let Some(site) = &args.role.site else {
        return Ok(None);
    };
    if !args.sites.contains(site) {
        let site = site.as_str();
        let error = anyhow!("--sites: {site}, the --site, is not among them");
        return Err(Failure::Usage(error));
    }
    Ok(Some(im::das::SyncConfig {
        hub: args.hub.into(),
        sites: args.sites.clone(),
    }))
}

fn role(config: &Config, args: &RoleArgs, serving: im::Serving) -> Result<im::RoleConfig, Failure> {
    Ok(im::RoleConfig {
        dir: config.dir().to_owned(),
        index: args.index,
        site: args.site.clone(),
        discovery: im::Discovery {
            registries: registry::urls(config)?,
            peers: args.peers,
            advertise: args.advertise,
            agent: Some(crate::host::agent_socket(config)),
            logic_probe: config.health.logic(),
            das_probe: config.health.das(),
            drain: config.registry.drain_waits(),
        },
        serving,
    })
}
