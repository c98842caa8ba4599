//! What operators ask a hub: status, proof, trim, rights.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_sync::client::{ClientError, HubClient};
use waystation_sync::hub::{Operation, SiteProof, SiteReport};

use crate::cli::{HubArg, SiteArgs, VerifyArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::table;

/// For how long an answer is waited for.
const WAIT: Duration = Duration::from_secs(10);

/// A hub to ask.
struct Asked {
    client: HubClient,
    address: SocketAddr,
}

impl Asked {
    fn of(args: &HubArg, config: &Config) -> Result<Self, Failure> {
        let address = args.address(config);
        let client = HubClient::start(address.into()).context("cannot start")?;
        Ok(Self { client, address })
    }

    /// Says what was not done, and by whom.
    fn done<T>(&self, what: &str, answer: Result<T, ClientError>) -> Result<T, Failure> {
        let said = || format!("{what} the hub at {}", self.address);
        Ok(answer.with_context(said)?)
    }
}

/// Prints all sites.
///
/// # Errors
/// There was no answer.
pub(super) fn status(args: &HubArg, config: &Config, as_json: bool) -> Result<(), Failure> {
    let hub = Asked::of(args, config)?;
    let status = hub.done("no status from", hub.client.status(WAIT))?;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let lines = status.sites.iter().map(serde_json::to_string);
        let mut lines = lines.map(|line| line.map_err(io::Error::other));
        lines.try_for_each(|line| writeln!(out, "{}", line?))
    } else {
        let rows: Vec<[String; 12]> = status.sites.iter().map(site_cells).collect();
        writeln!(
            out,
            "history {}, entries {} to {}",
            status.epoch,
            status.start + 1,
            status.end
        )
        .and_then(|()| table::write(&mut out, SITES, &rows))
    };
    Ok(printed.context("cannot print")?)
}

const SITES: [&str; 12] = [
    "site", "phase", "link", "at", "lag", "bytes", "seconds", "per s", "eta", "applier", "notes",
    "error",
];

/// What is not as it is with most sites.
fn notes(site: &SiteReport) -> String {
    let all = [
        (site.may_write, "writes".to_owned()),
        (site.is_capture_stopped, "capture stopped".to_owned()),
        (
            site.unpublished > 0,
            format!("{} not published", site.unpublished),
        ),
        (site.parked > 0, format!("{} parked", site.parked)),
        (site.is_differing, "differs".to_owned()),
    ];
    let said = all
        .into_iter()
        .filter_map(|(is_so, note)| is_so.then_some(note));
    said.collect::<Vec<_>>().join(", ")
}

fn site_cells(site: &SiteReport) -> [String; 12] {
    let link = if site.is_connected { "up" } else { "down" };
    [
        site.name.clone(),
        site.phase.clone(),
        link.to_owned(),
        site.at.to_string(),
        site.lag_entries.to_string(),
        site.lag_bytes.to_string(),
        site.lag_seconds.to_string(),
        site.applied_per_second.to_string(),
        site.eta_seconds
            .map(|eta| eta.to_string())
            .unwrap_or_default(),
        site.applier.clone(),
        notes(site),
        site.error.clone().unwrap_or_default(),
    ]
}

/// Prints what a proof of equality found.
///
/// # Errors
/// There was no answer, or not all copies are equal.
pub(super) fn verify(args: &VerifyArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let hub = Asked::of(&args.hub, config)?;
    // Whether it is there at all is known long before its slowest site has answered.
    hub.done("no status from", hub.client.status(WAIT))?;
    let wait = Duration::from_secs(args.wait);
    let proof = hub.done("no proof from", hub.client.verify(wait))?;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let line = serde_json::to_string(&proof).map_err(io::Error::other);
        line.and_then(|line| writeln!(out, "{line}"))
    } else {
        let rows: Vec<[String; 5]> = proof.sites.iter().map(proof_cells).collect();
        writeln!(out, "at {}/{}", proof.epoch, proof.at)
            .and_then(|()| table::write(&mut out, PROOF, &rows))
    };
    printed.context("cannot print")?;
    if proof.is_equal {
        return Ok(());
    }
    let error = anyhow!("it is not proven that all copies are equal");
    Err(Failure::Operation(error))
}

const PROOF: [&str; 5] = ["site", "result", "rows", "differing", "error"];

fn proof_cells(site: &SiteProof) -> [String; 5] {
    [
        site.site.clone(),
        site.result.clone(),
        site.rows.to_string(),
        site.differing.join(" "),
        site.error.clone().unwrap_or_default(),
    ]
}

/// Has trimmed what all sites have.
///
/// # Errors
/// There was no answer.
pub(super) fn trim(args: &HubArg, config: &Config, as_json: bool) -> Result<(), Failure> {
    let hub = Asked::of(args, config)?;
    let trimmed = hub.done("not trimmed by", hub.client.trim(WAIT))?;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let line = serde_json::to_string(&trimmed).map_err(io::Error::other);
        line.and_then(|line| writeln!(out, "{line}"))
    } else {
        let (through, end) = (trimmed.through, trimmed.end);
        writeln!(out, "entries up to {through} of {end} may go")
    };
    Ok(printed.context("cannot print")?)
}

/// What changes about a site.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Grant,
    Fence,
    Forget,
}

/// Changes what a site may do, or forgets it.
///
/// # Errors
/// There was no answer, or no such site.
pub(super) fn change(args: &SiteArgs, config: &Config, change: Change) -> Result<(), Failure> {
    let site = args.site.clone();
    let operation = match change {
        Change::Grant => Operation::Grant { site },
        Change::Fence => Operation::Fence { site },
        Change::Forget => Operation::Forget { site },
    };
    let hub = Asked::of(&args.hub, config)?;
    let done = hub.client.operate::<serde_json::Value>(operation, WAIT);
    hub.done("not changed by", done)?;
    if let Change::Grant = change {
        warn_of_others(&hub.client, &args.site);
    }
    Ok(())
}

/// Nothing decides between two sites that write one row at the same time.
fn warn_of_others(client: &HubClient, site: &str) {
    let Ok(status) = client.status(WAIT) else {
        return;
    };
    let others = status.sites.iter();
    let others = others.filter(|one| one.may_write && one.name != site);
    let others: Vec<&str> = others.map(|one| one.name.as_str()).collect();
    if !others.is_empty() {
        let others = others.join(", ");
        // Whoever does not read it does not want it.
        let _ = writeln!(
            io::stderr(),
            "warning: {others} may write, too. Each must write rows of its own: of two writes to \
             one row, or to one unique value, at the same time each site keeps the other's, and \
             only `sync verify` tells"
        );
    }
}
