//! `waystation node watch`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use waystation_base::ServiceName;
use waystation_membership::{Instance, View};
use waystation_registry::{
    Change, RegistryUrl, Session, SessionState, WatchOptions, Watching, instance_to_json,
};

use super::{LOOK, Opened, behind, cells, none, open, tell_skipped, version, watch_of};
use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::table;

/// Prints changes until the process is ended.
///
/// # Errors
/// Output that nobody takes, or a watch that the registry refuses.
pub(super) fn run(args: &ListArgs, urls: &[RegistryUrl], as_json: bool) -> Result<(), Failure> {
    let watch = watch_of(args.service.as_deref())?;
    let opened = open(urls)?;
    if args.holders && !opened.is_one {
        let text = "--holders asks one registry: its versions are its own";
        return Err(Failure::Usage(anyhow::anyhow!(text)));
    }
    let options = WatchOptions::default();
    let watching = opened
        .registry
        .watch(watch, options)
        .context("cannot watch")?;
    let mut printer = Printer {
        opened,
        as_json,
        with_holders: args.holders,
        shown: BTreeMap::new(),
        was_connected: true,
        skipped: 0,
        went_back: 0,
    };
    printer.follow(&watching)
}

struct Printer {
    opened: Opened,
    as_json: bool,
    with_holders: bool,
    shown: BTreeMap<ServiceName, Arc<View>>,
    was_connected: bool,
    /// Of this much was told.
    skipped: u64,
    went_back: u64,
}

impl Printer {
    fn follow(&mut self, watching: &Watching) -> Result<(), Failure> {
        loop {
            for change in watching.wait_changes(LOOK) {
                self.print(&change).context("cannot print")?;
            }
            if let Some(refusal) = watching.refusal() {
                let refusal = anyhow::anyhow!("the registry refuses the watch: {refusal}");
                return Err(Failure::Operation(refusal));
            }
            self.tell_session().context("cannot print")?;
        }
    }

    /// Says on standard error when the registry is lost and when it is back, what
    /// it had been given out before it was restored from an old state, and what in
    /// it makes no sense.
    fn tell_session(&mut self) -> io::Result<()> {
        let session = self.opened.registry.session();
        self.tell_faults(&session)?;
        let is_connected = session.state == SessionState::Connected;
        if std::mem::replace(&mut self.was_connected, is_connected) == is_connected {
            return Ok(());
        }
        let mut err = io::stderr().lock();
        match session.fault {
            Some(fault) if !is_connected => writeln!(err, "the registry is lost: {fault}"),
            _ if is_connected => writeln!(err, "the registry is back"),
            _ => writeln!(err, "the registry cannot be reached; waiting for it"),
        }
    }

    fn tell_faults(&mut self, session: &Session) -> io::Result<()> {
        let mut err = io::stderr().lock();
        let went_back = std::mem::replace(&mut self.went_back, session.went_back_times);
        if let Some(before) = &session.went_back
            && went_back < session.went_back_times
        {
            let before = table::clean(before);
            writeln!(err, "the registry went back to an old state: {before}")?;
        }
        tell_skipped(session, &mut self.skipped)
    }

    fn print(&mut self, change: &Change) -> io::Result<()> {
        let view = &change.view;
        let old = self.shown.insert(view.service.clone(), Arc::clone(view));
        let old = old.unwrap_or_else(|| none(&view.service));
        let delta = old.delta_to(view);
        let mut out = io::stdout().lock();
        for instance in &delta.added {
            self.line(&mut out, '+', "added", view, instance)?;
        }
        for instance in &delta.changed {
            self.line(&mut out, '~', "changed", view, instance)?;
        }
        for (id, _) in &delta.removed {
            self.line(&mut out, '-', "removed", view, &old.instances[id])?;
        }
        for id in &change.kept {
            self.line(&mut out, '?', "doubted", view, &view.instances[id])?;
        }
        if self.with_holders {
            for (peer, seen) in behind(&self.opened, view) {
                self.holder(&mut out, view, &peer, &version(seen))?;
            }
        }
        out.flush()
    }

    fn line(
        &self,
        out: &mut dyn Write,
        sign: char,
        word: &str,
        view: &View,
        instance: &Instance,
    ) -> io::Result<()> {
        if !self.as_json {
            let words = cells(instance).map(|cell| if cell.is_empty() { "-".into() } else { cell });
            return writeln!(out, "{sign} {}", words.join(" "));
        }
        let node: Value = serde_json::from_str(&instance_to_json(instance))?;
        let line = json!({ "change": word, "version": view.at.to_string(), "node": node });
        writeln!(out, "{line}")
    }

    fn holder(&self, out: &mut dyn Write, view: &View, peer: &str, seen: &str) -> io::Result<()> {
        let (service, at) = (view.service.as_str(), view.at.to_string());
        if !self.as_json {
            return writeln!(
                out,
                "! {service} {at} not seen by {peer}, which holds {seen}"
            );
        }
        let line = json!({
            "change": "behind", "version": at, "service": service, "peer": peer, "seen": seen,
        });
        writeln!(out, "{line}")
    }
}
