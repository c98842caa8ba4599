//! `waystation route`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use waystation_base::hash64;
use waystation_membership::LarsPair;
use waystation_net::unix_time;
use waystation_registry::RegistryUrl;
use waystation_route::{
    AdminClient, AdminError, ListedRoute, PatchForm, RouteConfig, RouteForm, RouteServer,
    StatusReport, StoreUrl,
};

use crate::cli::{
    ListArgs, RegistriesArg, RouteAskArgs, RouteCommand, RouteKeyArgs, RouteListArgs,
    RouteServeArgs,
};
use crate::config::Config;
use crate::dir::check_folder;
use crate::failure::Failure;
use crate::{node, registry, serving, table};

/// Runs one of `waystation route`'s commands.
///
/// # Errors
/// What the server answers, or that it does not; or that it cannot start.
pub(crate) fn run(command: &RouteCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    match command {
        RouteCommand::Serve(args) => serve(args, config, as_json),
        RouteCommand::Add(args) => {
            let form = RouteForm {
                lars: args.lars.clone(),
                weight: args.weight,
                site: args.site.clone(),
                zone: args.zone.clone(),
                metadata: metadata(&args.meta)?,
                ..RouteForm::new(&args.key.service, &args.key.address)
            };
            form.route().map_err(|why| Failure::Usage(anyhow!(why)))?;
            let added = client(&args.ask, config).add(&form).map_err(failed)?;
            print_one(&added, as_json)
        }
        RouteCommand::Set(args) => {
            let none_if_empty = |text: &Option<String>| {
                let text = text.as_ref();
                text.map(|text| Some(text.clone()).filter(|text| !text.is_empty()))
            };
            let form = PatchForm {
                service: args.key.service.clone(),
                address: args.key.address.clone(),
                lars: none_if_empty(&args.lars),
                weight: args.weight,
                site: none_if_empty(&args.site),
                zone: none_if_empty(&args.zone),
                metadata: match args.meta.as_slice() {
                    [] => None,
                    entries => Some(metadata(entries)?),
                },
            };
            form.patch().map_err(|why| Failure::Usage(anyhow!(why)))?;
            let set = client(&args.ask, config).set(&form).map_err(failed)?;
            print_one(&set, as_json)
        }
        RouteCommand::Remove(args) => {
            let RouteKeyArgs { service, address } = &args.key;
            let removed = client(&args.ask, config).remove(service, address);
            removed.map_err(failed)
        }
        RouteCommand::List(args) => {
            let listed = client(&args.ask, config).list(args.service.as_deref());
            print_all(&listed.map_err(failed)?, as_json)
        }
        RouteCommand::Watch(args) => watch(args, config, as_json),
        RouteCommand::Status(args) => {
            let status = client(args, config).status().map_err(failed)?;
            print_status(&status, as_json)
        }
    }
}

fn client(args: &RouteAskArgs, config: &Config) -> AdminClient {
    AdminClient::new(server(args, config))
}

fn server(args: &RouteAskArgs, config: &Config) -> SocketAddr {
    args.server.unwrap_or(config.route_server())
}

fn failed(error: AdminError) -> Failure {
    match error {
        AdminError::Refused { status: 400, text } => Failure::Usage(anyhow!(text)),
        other => Failure::Operation(other.into()),
    }
}

fn metadata(entries: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |entry: &String| {
        let pair = entry.split_once('=');
        let pair = pair.ok_or_else(|| Failure::Usage(anyhow!("--meta {entry}: not KEY=VALUE")))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    };
    entries.iter().map(pair).collect()
}

/// Runs a route server until a signal ends it.
fn serve(args: &RouteServeArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let section = &config.route;
    let dir = config.dir().join("route");
    let store: StoreUrl = if section.store.is_empty() {
        StoreUrl::Sqlite(dir.join("routes.db"))
    } else {
        let wrong = |why: String| Failure::Usage(anyhow!("route.store: {why}"));
        let url = section.store.parse::<StoreUrl>();
        let url = url.map_err(|error| wrong(error.to_string()))?;
        if let StoreUrl::Sqlite(path) = &url {
            check_folder(path).map_err(wrong)?;
        }
        url
    };
    let mut settings = RouteConfig::new(dir, section.listen.into(), store);
    if !args.no_registry {
        settings.registry = registry::urls(config)?;
    }
    settings.io_shards = section.shards.saturating_sub(1);
    settings.connections_max = section.connections_max;
    settings.poll = section.poll();
    settings.reload = section.reload();
    let now = unix_time().as_nanos().to_le_bytes();
    settings.seed = hash64(&now) ^ u64::from(std::process::id());
    tracing::info!(seed = settings.seed, "randomness starts here");
    let server = RouteServer::start(settings).map_err(|error| Failure::Operation(error.into()))?;
    let signals = serving::catch_signals()?;
    let counted = server.registries().map(serving::of_registries);
    let counted = counted.into_iter().collect();
    let attendant = serving::attend_with(config, "route-1", server.server(), counted)?;
    serving::say_ready(&format!("route://{}", server.address()), &[], as_json);
    serving::wait(signals);
    drop(attendant);
    server.drain();
    Ok(())
}

/// Watches it as a registry is watched.
fn watch(args: &RouteListArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let host = server(&args.ask, config).to_string();
    let service = args.service.as_ref().map(|text| {
        let pair = text.parse::<LarsPair>();
        pair.map_or_else(|_| text.clone(), |pair| pair.service().to_string())
    });
    let list = ListArgs {
        service,
        registry: RegistriesArg {
            registry: Vec::new(),
        },
        holders: false,
    };
    node::watch(&list, &[RegistryUrl::Route { host }], as_json)
}

const HOSTS: [&str; 9] = [
    "service", "address", "lars", "weight", "state", "site", "zone", "source", "metadata",
];

fn cells(one: &ListedRoute) -> [String; 9] {
    let metadata = one
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    [
        one.service.clone(),
        one.address.clone(),
        one.lars.clone().unwrap_or_default(),
        one.weight.to_string(),
        one.state.clone(),
        one.site.clone().unwrap_or_default(),
        one.zone.clone().unwrap_or_default(),
        one.source.clone(),
        metadata.collect::<Vec<_>>().join(" "),
    ]
}

fn print_one(one: &ListedRoute, as_json: bool) -> Result<(), Failure> {
    // Nothing to tell to a person: it is as was asked.
    if as_json {
        print_all(std::slice::from_ref(one), true)?;
    }
    Ok(())
}

fn print_all(all: &[ListedRoute], as_json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let printed = if as_json {
        all.iter().try_for_each(|one| {
            let line = serde_json::to_string(one)?;
            writeln!(out, "{line}")
        })
    } else {
        let rows: Vec<[String; 9]> = all.iter().map(cells).collect();
        table::write(&mut out, HOSTS, &rows)
    };
    Ok(printed.context("cannot print")?)
}

fn print_status(status: &StatusReport, as_json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if as_json {
        let line = serde_json::to_string(status).context("cannot print")?;
        return Ok(writeln!(out, "{line}").context("cannot print")?);
    }
    let mut lines = vec![
        format!("store     {} ({})", status.store, status.source),
        format!("routes    {}", status.routes),
        format!(
            "registry  {}",
            status.registry.as_deref().unwrap_or("none is used")
        ),
        format!(
            "lars      {} subscriptions, {} questions, {} pushes",
            status.lars_subscriptions, status.lars_questions, status.lars_pushes
        ),
    ];
    if let Some(fault) = &status.fault {
        lines.push(format!("fault     {fault}"));
    }
    if status.doubted > 0 {
        let doubted = status.doubted;
        lines.push(format!(
            "doubted   {doubted} routes that the store lost at once"
        ));
    }
    if status.skipped > 0 {
        lines.push(format!(
            "skipped   {} rows that are no routes",
            status.skipped
        ));
    }
    for (row, why) in &status.skipped_rows {
        lines.push(format!("          {row}: {why}"));
    }
    let mut printed = lines.iter();
    Ok(printed
        .try_for_each(|line| writeln!(out, "{}", table::clean(line)))
        .context("cannot print")?)
}
