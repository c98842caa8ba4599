//! `waystation node`: nodes as a registry has them.

mod drain;
mod list;
mod register;
mod watch;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_base::ServiceName;
use waystation_membership::{Instance, Label, State, View, ViewVersion, Watch};
use waystation_registry::{Registries, Registry, RegistryUrl, Session};

use crate::cli::{ListArgs, NodeCommand};
use crate::config::Config;
use crate::failure::Failure;
use crate::{registry, table};

/// Runs one of `waystation node`'s commands.
///
/// # Errors
/// What the registry answers, or that it does not.
pub(crate) fn run(command: &NodeCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    let urls = registry::urls(config)?;
    match command {
        NodeCommand::Register(args) => {
            let waits = config.registry.drain_waits();
            register::run(args, &urls, waits, as_json)
        }
        NodeCommand::List(args) => list::run(args, &urls, as_json),
        NodeCommand::Watch(args) => watch::run(args, &urls, as_json),
        NodeCommand::Drain(args) => drain::run(args, &urls, as_json),
    }
}

/// Prints what changes there until the process is ended.
///
/// # Errors
/// Output that nobody takes, or a watch that is refused.
pub(crate) fn watch(args: &ListArgs, urls: &[RegistryUrl], as_json: bool) -> Result<(), Failure> {
    watch::run(args, urls, as_json)
}

/// The registry, or several as one.
struct Opened {
    registry: Box<dyn Registry>,
    /// Who holds which version is compared within one registry only.
    is_one: bool,
}

fn open(urls: &[RegistryUrl]) -> Result<Opened, Failure> {
    let registry = Registries::open(urls).context("cannot use the registry")?;
    Ok(Opened {
        registry: Box::new(registry),
        is_one: urls.len() == 1,
    })
}

/// What `SERVICE` on the command line stands for.
fn watch_of(service: Option<&str>) -> Result<Watch, Failure> {
    let Some(text) = service else {
        return Ok(Watch::Prefix("".into()));
    };
    if let Some(prefix) = text.strip_suffix('*') {
        return Ok(Watch::Prefix(prefix.into()));
    }
    let name = ServiceName::new(text);
    name.map(Watch::Service)
        .map_err(|error| Failure::Usage(anyhow!("SERVICE {text:?}: {error}")))
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Serving => "serving",
        State::Draining => "draining",
    }
}

fn label(label: Option<&Label>) -> String {
    label.map_or_else(String::new, ToString::to_string)
}

fn version(at: Option<ViewVersion>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// A node as cells of a table or words of a line.
fn cells(instance: &Instance) -> [String; 8] {
    [
        instance.service.to_string(),
        instance.id.to_string(),
        instance.address.to_string(),
        state_word(instance.state).to_owned(),
        instance.weight.to_string(),
        label(instance.site.as_ref()),
        label(instance.zone.as_ref()),
        instance.token.to_string(),
    ]
}

/// Who has not acknowledged a view, and what each holds.
fn behind(opened: &Opened, view: &View) -> Vec<(String, Option<ViewVersion>)> {
    if !opened.is_one {
        return Vec::new();
    }
    let watch = Watch::Service(view.service.clone());
    let asked = opened.registry.list(watch, true);
    let Some(listed) = asked.ok().and_then(|listing| listing.wait().ok()) else {
        return Vec::new();
    };
    let holders = listed.into_iter().flat_map(|service| service.holders);
    let late = holders.filter(|holder| holder.acknowledged < Some(view.at));
    late.map(|holder| {
        let node = holder.node.map(|id| id.to_string());
        let name = node.or(holder.peer);
        let name = name.unwrap_or_else(|| holder.subscriber.to_string());
        (name, holder.acknowledged)
    })
    .collect()
}

/// Says on standard error which entries of the registry make no sense, of those
/// that were not told yet.
fn tell_skipped(session: &Session, told: &mut u64) -> io::Result<()> {
    let mut err = io::stderr().lock();
    let before = std::mem::replace(told, session.skipped);
    let new = usize::try_from(session.skipped.saturating_sub(before)).unwrap_or(usize::MAX);
    let places = &session.skipped_places;
    for (place, reason) in &places[places.len().saturating_sub(new)..] {
        writeln!(
            err,
            "skipped {}: {}",
            table::clean(place),
            table::clean(reason)
        )?;
    }
    if new > places.len() {
        writeln!(err, "skipped {} others", new - places.len())?;
    }
    Ok(())
}

/// How long a watch is waited for before the session is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// An empty view, before there is another.
fn none(service: &ServiceName) -> Arc<View> {
    Arc::new(View::empty(service.clone(), ViewVersion::default()))
}
