//! `waystation registry serve`.

use std::io::{self, Write};

use anyhow::{Context, anyhow};
use waystation_base::hash64;
use waystation_net::unix_time;
use waystation_registry::{EmbeddedConfig, EmbeddedServer, ServeError};

use crate::cli::RegistryCommand;
use crate::config::Config;
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
    let url = format!("embedded://{}", server.address());
    print_ready(&url, &server, json).context("cannot print")?;
    let signal = waystation_net::wait_for_termination()
        .map_err(|error| anyhow!("cannot wait for signals: {error}"))?;
    tracing::info!(signal, "stopping");
    server.drain();
    Ok(())
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
