//! What every command shares that serves until a signal ends it.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value};
use waystation_net::{Address, Server, Termination};
use waystation_registry::Registries;
use waystation_service::Attendant;
use waystation_service::metrics::{self, Source};

use crate::config::Config;
use crate::dir::Sockets;
use crate::failure::Failure;

/// Catches SIGTERM and SIGINT from now on. Before a command says that it is
/// ready: a signal right behind that must not kill it.
///
/// # Errors
/// What the system answers.
pub(crate) fn catch_signals() -> Result<Termination, Failure> {
    let caught = Termination::catch();
    Ok(caught.map_err(|error| anyhow!("cannot wait for signals: {error}"))?)
}

/// Health, metrics and tasks of `server` on `DIR/run/ROLE.sock`.
///
/// # Errors
/// The folder or the socket cannot be used.
pub(crate) fn attend(config: &Config, role: &str, server: &Server) -> Result<Attendant, Failure> {
    attend_with(config, role, server, Vec::new())
}

/// As [`attend`], with metrics of the role's own.
///
/// # Errors
/// As [`attend`].
pub(crate) fn attend_with(
    config: &Config,
    role: &str,
    server: &Server,
    sources: Vec<Source>,
) -> Result<Attendant, Failure> {
    let sockets = Sockets::of(config.dir());
    let run = sockets.run();
    std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
    let attendant =
        Attendant::with_metrics(role, server, Address::Unix(sockets.admin(role)), sources);
    attendant.map_err(|error| Failure::Operation(error.into()))
}

/// How it stands with each of these, as metrics.
pub(crate) fn of_registries(registries: &Registries) -> Source {
    let registries = registries.clone();
    Arc::new(move |page| metrics::families(page, "registry", &registries.samples()))
}

/// Prints the one line that says where this process serves; as JSON with
/// `more` beside it.
pub(crate) fn say_ready(at: &str, more: &[(&str, Value)], as_json: bool) {
    // Whoever started this may have closed its end; that is no reason to stop.
    if let Err(error) = print_ready(at, more, as_json) {
        tracing::warn!("cannot say ready: {error}");
    }
}

fn print_ready(at: &str, more: &[(&str, Value)], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let mut line = Map::from_iter([("ready".to_owned(), Value::from(at))]);
        line.extend(
            more.iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        writeln!(out, "{}", Value::Object(line))?;
    } else {
        writeln!(out, "ready {at}")?;
    }
    out.flush()
}

/// Waits for the first signal.
pub(crate) fn wait(mut signals: Termination) {
    let signal = signals.wait();
    tracing::info!(signal, "stopping");
}
