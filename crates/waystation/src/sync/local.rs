//! What operators ask a site on this machine.

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use waystation_base::Clock;
use waystation_net::MonotonicClock;
use waystation_sync::control::{AuditLine, Question};

use super::control::ask;
use crate::cli::{LocalEntryArgs, LocalSiteArgs, ReplayArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::limits::REPLAY_LOOK;
use crate::table;

/// Prints what the site skipped or parked.
///
/// # Errors
/// There was no answer.
pub(super) fn audit(args: &LocalSiteArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let audit = ask(config, &args.site, Question::Audit)?.audit;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let lines = audit.iter().map(serde_json::to_string);
        let mut lines = lines.map(|line| line.map_err(io::Error::other));
        lines.try_for_each(|line| writeln!(out, "{}", line?))
    } else {
        let rows: Vec<[String; 6]> = audit.iter().map(audit_cells).collect();
        let head = ["entry", "fate", "by", "unix time", "bytes", "error"];
        table::write(&mut out, head, &rows)
    };
    Ok(printed.context("cannot print")?)
}

fn audit_cells(line: &AuditLine) -> [String; 6] {
    [
        line.seq.to_string(),
        line.fate.clone(),
        line.by.clone(),
        line.at.to_string(),
        line.bytes.to_string(),
        line.error.clone(),
    ]
}

/// Has a parked entry applied, and waits until it is.
///
/// # Errors
/// There was no answer; it is not parked, or must wait for another; or the
/// database refuses it still.
pub(super) fn replay(args: &ReplayArgs, config: &Config) -> Result<(), Failure> {
    let (site, seq) = (&args.entry.local.site, args.entry.seq);
    ask(config, site, Question::Replay { seq })?;
    let clock = MonotonicClock;
    let deadline = clock.now() + Duration::from_secs(args.wait);
    let (_never, pause) = mpsc::channel::<()>();
    while clock.now() < deadline {
        let audit = ask(config, site, Question::Audit)?.audit;
        let is_parked = |line: &AuditLine| line.seq == seq && line.fate == "parked";
        if !audit.iter().any(is_parked) {
            return Ok(());
        }
        let _ = pause.recv_timeout(REPLAY_LOOK);
    }
    let error = anyhow!("entry {seq} is still parked; the log of {site} says why");
    Err(Failure::Operation(error))
}

/// Has the entry at which the site stands left out.
///
/// # Errors
/// There was no answer, or it does not stand there.
pub(super) fn skip(args: &LocalEntryArgs, config: &Config) -> Result<(), Failure> {
    let seq = args.seq;
    ask(config, &args.local.site, Question::Skip { seq })?;
    Ok(())
}

/// Has the entry at which the site stands put aside.
///
/// # Errors
/// There was no answer, or it does not stand there.
pub(super) fn park(args: &LocalEntryArgs, config: &Config) -> Result<(), Failure> {
    let seq = args.seq;
    ask(config, &args.local.site, Question::Park { seq })?;
    Ok(())
}

/// Has the entry at which the site stands tried again.
///
/// # Errors
/// There was no answer.
pub(super) fn resume(args: &LocalSiteArgs, config: &Config) -> Result<(), Failure> {
    ask(config, &args.site, Question::Resume)?;
    Ok(())
}

/// Has the copy taken anew.
///
/// # Errors
/// There was no answer.
pub(super) fn rejoin(args: &LocalSiteArgs, config: &Config) -> Result<(), Failure> {
    ask(config, &args.site, Question::Rejoin)?;
    Ok(())
}

/// Has the copy counted as one that does not differ.
///
/// # Errors
/// There was no answer, or it cannot be stored.
pub(super) fn repaired(args: &LocalSiteArgs, config: &Config) -> Result<(), Failure> {
    ask(config, &args.site, Question::Repaired)?;
    Ok(())
}
