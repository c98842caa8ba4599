//! `waystation sync publish`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_replica::limits::PAYLOAD_BYTES_MAX;
use waystation_sync::client::HubClient;
use waystation_sync::statement;

use crate::cli::PublishArgs;
use crate::config::Config;
use crate::failure::Failure;

/// Publishes one entry and prints its place.
///
/// # Errors
/// The file cannot be read, or the hub refuses.
pub(super) fn run(args: &PublishArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let payload = read(args)?;
    check(args, &payload)?;
    let hub = args.hub.address(config);
    let mut client = HubClient::start(hub.into()).context("cannot start")?;
    if args.allow_nondeterministic {
        client = client.allow_nondeterministic();
    }
    let within = Duration::from_secs(args.wait);
    if !args.allow_nondeterministic && statement::is_opaque(&payload) {
        let status = client.status(within);
        let status = status.with_context(|| format!("no status from the hub at {hub}"))?;
        if let Some(sites) = status.databases() {
            let error = anyhow!(
                "not published: the databases of {sites} would stand at it; see \
                 --allow-nondeterministic"
            );
            return Err(Failure::Operation(error));
        }
    }
    let key = args.key.as_deref().map(str::as_bytes);
    let place = client.publish(key, &payload, within);
    let place = place.with_context(|| format!("not known to be published by the hub at {hub}"))?;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let line = serde_json::json!({ "epoch": place.epoch.0, "seq": place.seq.0 });
        writeln!(out, "{line}")
    } else {
        writeln!(out, "{place}")
    };
    Ok(printed.context("cannot print")?)
}

/// Refuses a statement that would do something else at each site, and says of any
/// other what it is.
fn check(args: &PublishArgs, payload: &[u8]) -> Result<(), Failure> {
    if !args.allow_nondeterministic
        && let Err(fault) = statement::check_entry(payload)
    {
        let error = anyhow!(fault).context("not published; see --allow-nondeterministic");
        return Err(Failure::Operation(error));
    }
    let what = if statement::is_opaque(payload) {
        "opaque: it is no statement, and for sites with a handler only"
    } else {
        "unsafe: what a plain statement does depends on the rows it finds at each site"
    };
    // Whoever does not read it does not want it.
    let _ = writeln!(io::stderr().lock(), "{what}");
    Ok(())
}

/// The whole input, bounded.
fn read(args: &PublishArgs) -> Result<Vec<u8>, Failure> {
    let file = args.file.as_deref().filter(|file| file.as_os_str() != "-");
    let mut input: Box<dyn Read> = match file {
        Some(path) => {
            let opened = File::open(path);
            let named = || format!("cannot read {}", path.display());
            Box::new(opened.with_context(named)?)
        }
        None => Box::new(io::stdin()),
    };
    let mut payload = Vec::new();
    let bound = PAYLOAD_BYTES_MAX as u64 + 1;
    let read = input.by_ref().take(bound).read_to_end(&mut payload);
    read.context("cannot read what is to be published")?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        let error = anyhow!("an entry has at most {PAYLOAD_BYTES_MAX} bytes");
        return Err(Failure::Operation(error));
    }
    Ok(payload)
}
