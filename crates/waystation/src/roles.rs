//! The chat's roles: how `up` starts them, and what `waystation im` runs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use waystation_im as im;
use waystation_net::Address;
use waystation_net::native::Origins;

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
) -> Vec<ChildSpec> {
    let logic_names: Vec<String> = (1..=config.up.logic_processes)
        .map(|index| format!("logic-{index}"))
        .collect();
    let das = Child {
        role: "das",
        index: 1,
        stage: 2,
        args: Vec::new(),
    };
    let logic = (1..=config.up.logic_processes).map(|index| {
        let args = vec!["--das".into(), unix_url(&sockets.service("das-1"))];
        Child {
            role: "logic",
            index,
            stage: 1,
            args,
        }
    });
    let mut args = vec!["--listen".into(), entry.to_string().into()];
    for name in &logic_names {
        args.extend(["--logic".into(), unix_url(&sockets.service(name))]);
    }
    let entry = Child {
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

struct Child {
    role: &'static str,
    index: u16,
    stage: u8,
    args: Vec<OsString>,
}

impl Child {
    fn spec(self, config: &Config, program: &Path, sockets: &Sockets) -> ChildSpec {
        let name = format!("{}-{}", self.role, self.index);
        let mut args: Vec<OsString> = vec![
            "im".into(),
            self.role.into(),
            "--dir".into(),
            config.dir().into(),
            "--index".into(),
            self.index.to_string().into(),
        ];
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

fn unix_url(path: &Path) -> OsString {
    let mut url = OsString::from("unix:");
    url.push(PathBuf::from(path));
    url
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
            ),
            store: im::store::StoreOptions {
                batch_operations_max: config.das.batch_operations_max,
                readers: config.das.readers,
                ..im::store::StoreOptions::default()
            },
        }),
        ImCommand::Logic(args) => im::logic::run(&im::logic::Config {
            role: role(config, &args.role, serving!(config, config.logic, 1)),
            das: address("--das", &args.das)?,
        }),
        ImCommand::Entry(args) => {
            descriptors::raise(config.entry.connections_max);
            im::entry::run(&im::entry::Config {
                role: role(
                    config,
                    &args.role,
                    serving!(config, config.entry, config.entry.shards),
                ),
                origins: Origins::parse(&config.entry.websocket_origins)
                    .map_err(|part| anyhow!("entry.websocket_origins: `{part}` is no origin"))?,
                listen: vec![args.listen.into()],
                logic: addresses("--logic", &args.logic)?,
                connections_max: config.entry.connections_max,
            })
        }
        ImCommand::Load(args) => return crate::clients::load(args, as_json),
        ImCommand::Chat(args) => return crate::clients::chat(args),
    };
    result.map_err(|error| Failure::Operation(error.into()))
}

fn role(config: &Config, args: &RoleArgs, serving: im::Serving) -> im::RoleConfig {
    im::RoleConfig {
        dir: config.dir().to_owned(),
        index: args.index,
        serving,
    }
}

fn address(flag: &str, text: &str) -> Result<Address, Failure> {
    let address = text.parse::<Address>();
    address.map_err(|error| Failure::Usage(anyhow!("{flag}: {error}")))
}

fn addresses(flag: &str, texts: &[String]) -> Result<Vec<Address>, Failure> {
    texts.iter().map(|text| address(flag, text)).collect()
}
