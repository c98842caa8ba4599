//! `waystation node list`.

use std::io::{self, Write};

use anyhow::Context;
use serde_json::json;
use waystation_registry::{ListedService, RegistryUrl, instance_to_json};

use super::{cells, open, tell_skipped, version, watch_of};
use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::table;

const NODES: [&str; 8] = [
    "service", "id", "address", "state", "weight", "site", "zone", "token",
];
const HOLDERS: [&str; 7] = [
    "service",
    "version",
    "subscriber",
    "node",
    "sent",
    "seen",
    "peer",
];

/// Prints what is there, once.
///
/// # Errors
/// There was no answer.
pub(super) fn run(args: &ListArgs, urls: &[RegistryUrl], as_json: bool) -> Result<(), Failure> {
    let watch = watch_of(args.service.as_deref())?;
    let opened = open(urls)?;
    let listing = (opened.registry)
        .list(watch, args.holders)
        .context("cannot ask")?;
    let services = listing
        .wait()
        .map_err(|error| Failure::Operation(error.into()))?;
    // Whoever does not read it does not want it.
    let _ = tell_skipped(&opened.registry.session(), &mut 0);
    let mut out = io::stdout().lock();
    let printed = match (args.holders, as_json) {
        (false, false) => nodes(&services, &mut out),
        (false, true) => nodes_json(&services, &mut out),
        (true, false) => holders(&services, &mut out),
        (true, true) => holders_json(&services, &mut out),
    };
    Ok(printed.context("cannot print")?)
}

fn nodes(services: &[ListedService], out: &mut dyn Write) -> io::Result<()> {
    let all = services.iter().flat_map(|one| one.view.instances.values());
    let rows: Vec<_> = all.map(|instance| cells(instance)).collect();
    table::write(out, NODES, &rows)
}

fn nodes_json(services: &[ListedService], out: &mut dyn Write) -> io::Result<()> {
    let mut all = services.iter().flat_map(|one| one.view.instances.values());
    all.try_for_each(|instance| writeln!(out, "{}", instance_to_json(instance)))
}

fn holders(services: &[ListedService], out: &mut dyn Write) -> io::Result<()> {
    let rows = services.iter().flat_map(|one| {
        one.holders.iter().map(|holder| {
            [
                one.view.service.to_string(),
                one.view.at.to_string(),
                holder.subscriber.to_string(),
                (holder.node.as_ref()).map_or_else(|| "-".to_owned(), ToString::to_string),
                version(holder.sent),
                version(holder.acknowledged),
                holder.peer.clone().unwrap_or_else(|| "lost".to_owned()),
            ]
        })
    });
    table::write(out, HOLDERS, &rows.collect::<Vec<_>>())
}

fn holders_json(services: &[ListedService], out: &mut dyn Write) -> io::Result<()> {
    for one in services {
        for holder in &one.holders {
            let line = json!({
                "service": one.view.service.as_str(),
                "version": one.view.at.to_string(),
                "subscriber": holder.subscriber.to_string(),
                "node": holder.node.as_ref().map(ToString::to_string),
                "sent": holder.sent.map(|at| at.to_string()),
                "seen": holder.acknowledged.map(|at| at.to_string()),
                "peer": holder.peer,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
