//! `waystation sync hub`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_sync::hub::{HubOptions, HubServer};

use crate::cli::HubArgs;
use crate::config::Config;
use crate::failure::Failure;

/// Runs a hub until a signal ends it.
///
/// # Errors
/// The folder or the address cannot be used.
pub(super) fn run(args: &HubArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let dir = config.dir().join("sync");
    let mut options = HubOptions::new(dir, args.listen.into());
    options.shards = args.shards;
    options.hub.retain_bytes_max = args.retain_mib << 20;
    options.hub.retain_age_max = Duration::from_hours(args.retain_hours);
    let server = HubServer::start(&options).map_err(|error| Failure::Operation(error.into()))?;
    print_ready(&server, as_json).context("cannot print")?;
    let signal = waystation_net::wait_for_termination()
        .map_err(|error| anyhow!("cannot wait for signals: {error}"))?;
    tracing::info!(signal, "stopping");
    server.drain();
    Ok(())
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
