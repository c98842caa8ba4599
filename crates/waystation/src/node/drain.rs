//! `waystation node drain`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use waystation_base::Clock;
use waystation_membership::Watch;
use waystation_net::MonotonicClock;
use waystation_registry::{RegistryUrl, WatchOptions};

use super::{LOOK, behind, none, open};
use crate::cli::DrainArgs;
use crate::failure::Failure;

/// Drains a node and waits until it is out.
///
/// # Errors
/// There is no such node, no answer, or it is not out in time.
pub(super) fn run(args: &DrainArgs, urls: &[RegistryUrl], as_json: bool) -> Result<(), Failure> {
    let opened = open(urls)?;
    let id = &args.id;
    let drained = (opened.registry.drain(id.clone()))
        .context("cannot ask")?
        .wait();
    let service = drained.map_err(|error| Failure::Operation(error.into()))?;
    let say = |state: &str, behind: &[String]| -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let printed = if as_json {
            let (id, service) = (id.as_str(), service.as_str());
            let line = json!({ "id": id, "service": service, "state": state, "behind": behind });
            writeln!(out, "{line}")
        } else if behind.is_empty() {
            writeln!(out, "{id} of {service} is {state}")
        } else {
            let behind = behind.join(", ");
            writeln!(
                out,
                "{id} of {service} is {state}; not acknowledged by {behind}"
            )
        };
        Ok(printed.and_then(|()| out.flush()).context("cannot print")?)
    };
    say("draining", &[])?;
    let watch = Watch::Service(service.clone());
    let watching = (opened.registry).watch(watch, WatchOptions::default());
    let watching = watching.context("cannot watch")?;
    let deadline = MonotonicClock.now() + Duration::from_secs(args.wait);
    let mut told: Vec<String> = Vec::new();
    loop {
        let left = deadline.saturating_since(MonotonicClock.now());
        let is_out = |view: &waystation_membership::View| !view.instances.contains_key(id);
        if watching
            .wait_view(service.as_str(), LOOK.min(left), is_out)
            .is_some()
        {
            return say("out", &[]);
        }
        let view = watching.view(service.as_str());
        let view = view.unwrap_or_else(|| none(&service));
        // This watch itself acknowledges at once.
        let late: Vec<String> = behind(&opened, &view)
            .into_iter()
            .map(|(peer, _)| peer)
            .collect();
        if left.is_zero() {
            let who = if late.is_empty() {
                "its requests in flight".to_owned()
            } else {
                late.join(", ")
            };
            let wait = args.wait;
            return Err(anyhow!("{id} is still draining after {wait} s: waiting for {who}").into());
        }
        if late != told {
            say("draining", &late)?;
            told = late;
        }
    }
}
