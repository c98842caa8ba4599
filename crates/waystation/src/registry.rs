//! `waystation registry serve`.

use std::sync::Arc;

use anyhow::anyhow;
use waystation_base::hash64;
use waystation_net::unix_time;
use waystation_registry::{EmbeddedConfig, EmbeddedServer, RegistryUrl, ServeError};
use waystation_service::metrics::{self, Source};

use crate::cli::RegistryCommand;
use crate::config::Config;
use crate::failure::Failure;
use crate::serving;

/// The registries that the configuration names.
///
/// # Errors
/// The text makes no sense.
pub(crate) fn urls(config: &Config) -> Result<Vec<RegistryUrl>, Failure> {
    let urls = config.registry.urls();
    urls.map_err(|error| Failure::Usage(anyhow!("registry.url: {error}")))
}

/// Runs an embedded registry until a signal ends it.
///
/// # Errors
/// The directory or the address cannot be used.
pub(crate) fn run(
    command: &RegistryCommand,
    config: &Config,
    as_json: bool,
) -> Result<(), Failure> {
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
    let signals = serving::catch_signals()?;
    let url = format!("embedded://{}", server.address());
    let (named, state) = (url.clone(), server.samples());
    let counted: Source =
        Arc::new(move |page| metrics::families(page, "registry", &[(named.clone(), state())]));
    let attendant = serving::attend_with(config, "registry-1", server.server(), vec![counted])?;
    let more = [
        ("epoch", server.epoch().0.into()),
        ("restored", server.restored().into()),
    ];
    serving::say_ready(&url, &more, as_json);
    serving::wait(signals);
    drop(attendant);
    server.drain();
    Ok(())
}
