//! `waystation registry serve`.

use std::io::{self, Write};

use anyhow::{Context, anyhow};
use waystation_base::hash64;
use waystation_net::{Address, unix_time};
use waystation_registry::{EmbeddedConfig, EmbeddedServer, ServeError};
use waystation_service::Attendant;

use crate::cli::RegistryCommand;
use crate::config::Config;
use crate::dir::Sockets;
use crate::failure::Failure;

/// Runs an embedded registry until a signal ends it.
///
/// # Errors
/// The directory or the address cannot be used.
pub(crate) fn run(command: &RegistryCommand, config: &Config, json: bool) -> Result<(), Failure> {
    let RegistryCommand::Serve(_) = command;
    let section = &config.registry;
    let mut serve = EmbeddedConfig::new(config.dir().join("registry"), section.listen.into());
    serve.directory = section.directory();
    serve.connections_max = section.connections_max;
    let now = unix_time().as_nanos().to_le_bytes();
    serve.seed = hash64(&now) ^ u64::from(std::process::id());
    tracing::info!(seed = serve.seed, "randomness starts here");
    let server = EmbeddedServer::start(serve).map_err(|error| match error {
        error @ ServeError::Epoch { .. } => Failure::Usage(error.into()),
        error => Failure::Operation(error.into()),
    })?;
    let attendant = attend(config, &server)?;
    let url = format!("embedded://{}", server.address());
    // Whoever started this may have closed its end; that is no reason to stop.
    if let Err(error) = print_ready(&url, &server, json) {
        tracing::warn!("cannot say ready: {error}");
    }
    let signal = waystation_net::wait_for_termination()
        .map_err(|error| anyhow!("cannot wait for signals: {error}"))?;
    tracing::info!(signal, "stopping");
    drop(attendant);
    server.drain();
    Ok(())
}

/// Health, metrics and tasks on `DIR/run/registry-1.sock`, as of every role.
fn attend(config: &Config, server: &EmbeddedServer) -> Result<Attendant, Failure> {
    let sockets = Sockets::of(config.dir());
    let run = sockets.run();
    std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
    let address = Address::Unix(sockets.admin("registry-1"));
    let attendant = Attendant::start("registry-1", server.server(), address);
    attendant.map_err(|error| Failure::Operation(error.into()))
}

fn print_ready(url: &str, server: &EmbeddedServer, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let line = serde_json::json!({
            "ready": url, "epoch": server.epoch().0, "restored": server.restored(),
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "ready {url}")?;
    }
    out.flush()
}
