//! The chat's roles: how `up` starts them, and what `waystation im` runs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use waystation_im as im;
use waystation_net::native::Origins;
use waystation_registry::RegistryUrl;

use crate::cli::{ImCommand, RoleArgs};
use crate::config::Config;
use crate::descriptors;
use crate::dir::Sockets;
use crate::failure::Failure;
use crate::supervise::ChildSpec;

/// The processes of the chat example, in the order they are started: each role
/// before those that call it. They drain in the opposite order.
pub(crate) fn chat(
    config: &Config,
    program: &Path,
    sockets: &Sockets,
    entry: SocketAddr,
    registries: &[RegistryUrl],
) -> Vec<ChildSpec> {
    let registered = || -> Vec<OsString> {
        let args = registries.iter();
        let args = args.flat_map(|url| ["--registry".into(), url.to_string().into()]);
        args.collect()
    };
    let das = Child {
        command: &["im", "das"],
        role: "das",
        index: 1,
        stage: 2,
        args: registered(),
    };
    let logic = (1..=config.up.logic_processes).map(|index| Child {
        command: &["im", "logic"],
        role: "logic",
        index,
        stage: 1,
        args: registered(),
    });
    let mut args = registered();
    args.extend(["--listen".into(), entry.to_string().into()]);
    let entry = Child {
        command: &["im", "entry"],
        role: "entry",
        index: 1,
        stage: 0,
        args,
    };
    let children = std::iter::once(das)
        .chain(logic)
        .chain(std::iter::once(entry));
    children
        .map(|child| child.spec(config, program, sockets))
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
        stage: 3,
        args: vec!["--listen".into(), listen.to_string().into()],
    };
    child.spec(config, program, sockets)
}

struct Child {
    command: &'static [&'static str],
    role: &'static str,
    index: u16,
    stage: u8,
    args: Vec<OsString>,
}

impl Child {
    fn spec(self, config: &Config, program: &Path, sockets: &Sockets) -> ChildSpec {
        let name = format!("{}-{}", self.role, self.index);
        let mut args: Vec<OsString> = self.command.iter().map(Into::into).collect();
        args.extend(["--dir".into(), config.dir().into()]);
        if self.command[0] == "im" {
            args.extend(["--index".into(), self.index.to_string().into()]);
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
                args,
                serving!(config, config.das, config.das.shards),
            )?,
            store: im::store::StoreOptions {
                batch_operations_max: config.das.batch_operations_max,
                readers: config.das.readers,
                ..im::store::StoreOptions::default()
            },
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
        ImCommand::Chat(args) => return crate::clients::chat(args, config),
    };
    result.map_err(|error| Failure::Operation(error.into()))
}

fn role(config: &Config, args: &RoleArgs, serving: im::Serving) -> Result<im::RoleConfig, Failure> {
    Ok(im::RoleConfig {
        dir: config.dir().to_owned(),
        index: args.index,
        discovery: im::Discovery {
            registries: config.registry.urls()?,
            peers: args.peers,
            advertise: args.advertise,
            logic_probe: config.health.logic(),
            das_probe: config.health.das(),
        },
        serving,
    })
}
