//! `waystation sync hub`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_net::Address;
use waystation_replica::SiteName;
use waystation_service::Attendant;
use waystation_sync::hub::{HubOptions, HubServer};

use crate::cli::HubArgs;
use crate::config::{Config, Fault, Faults, Origin};
use crate::dir::{Sockets, remove_socket};
use crate::failure::Failure;

/// Runs a hub until a signal ends it.
///
/// # Errors
/// The folder or the address cannot be used.
pub(super) fn run(args: &HubArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let first = SiteName::new(&args.first).map_err(|error| {
        let origin = Origin::Flag("--first");
        let message = error.to_string();
        Faults(vec![Fault { origin, message }])
    })?;
    let dir = config.dir().join("sync");
    let mut options = HubOptions::new(dir, args.listen.into());
    options.hub.first = first;
    options.shards = args.shards;
    options.hub.retain_bytes_max = args.retain_mib << 20;
    options.hub.retain_age_max = Duration::from_hours(args.retain_hours);
    let server = HubServer::start(&options).map_err(|error| Failure::Operation(error.into()))?;
    let attendant = attend(config, &server)?;
    // Whoever started this may have closed its end; that is no reason to stop.
    if let Err(error) = print_ready(&server, as_json) {
        tracing::warn!("cannot say ready: {error}");
    }
    let signal = waystation_net::wait_for_termination()
        .map_err(|error| anyhow!("cannot wait for signals: {error}"))?;
    tracing::info!(signal, "stopping");
    drop(attendant);
    server.drain();
    Ok(())
}

/// Health, metrics and tasks on `DIR/run/hub-1.sock`, as of every role.
fn attend(config: &Config, server: &HubServer) -> Result<Option<Attendant>, Failure> {
    let Some(threads) = server.server() else {
        return Ok(None);
    };
    let sockets = Sockets::of(config.dir());
    let run = sockets.run();
    std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
    let path = sockets.admin("hub-1");
    // Its folder is locked, so that whoever had the socket is gone.
    remove_socket(&path).map_err(|error| Failure::Operation(error.into()))?;
    let attendant = Attendant::start("hub-1", threads, Address::Unix(path));
    attendant
        .map_err(|error| Failure::Operation(error.into()))
        .map(Some)
}

fn print_ready(server: &HubServer, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let address = server.address();
    if as_json {
        let address = address.to_string();
        let line = serde_json::json!({ "ready": address, "epoch": server.epoch().0 });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "ready {address}")?;
    }
    out.flush()
}
