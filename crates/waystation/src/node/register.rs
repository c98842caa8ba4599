//! `waystation node register`.

use std::io::{self, Write};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use waystation_base::{FencingToken, hash64};
use waystation_membership::{DrainStep, Instance, InstanceId, Owner, OwnerId, RegistrationConfig};
use waystation_net::{Termination, unix_time};
use waystation_registry::{
    DrainWaits, Error, Registered, RegistrationOptions, RegistrationStatus, RegistryUrl,
    SessionState,
};

use super::{LOOK, Opened, open};
use crate::cli::RegisterArgs;
use crate::failure::Failure;
use crate::limits::{DRAIN_ACK_SPARE, DRAIN_END_WAIT};
use crate::serving;

/// What ends the wait.
enum End {
    /// A signal came.
    Signal,
    /// Somebody else drains the node.
    Drained,
    /// Nobody takes what is printed.
    Output(io::Error),
}

/// Keeps a node registered until a signal, then drains it.
///
/// # Errors
/// What was asked for is out of rule, or the registry did not confirm the end.
pub(super) fn run(
    args: &RegisterArgs,
    urls: &[RegistryUrl],
    waits: DrainWaits,
    as_json: bool,
) -> Result<(), Failure> {
    let instance = instance(args)?;
    let opened = open(urls)?;
    let config = RegistrationConfig {
        ttl: Duration::from_secs(args.ttl),
        ..RegistrationConfig::default()
    };
    let registered = opened.registry.register(
        instance,
        RegistrationOptions {
            config,
            drain: waits,
        },
    );
    let registered = Arc::new(registered.map_err(|error| match error {
        Error::Instance(_) | Error::ReadOnly { .. } => Failure::Usage(error.into()),
        error => Failure::Operation(error.into()),
    })?);
    let signals = serving::catch_signals()?;
    let (ends, end) = mpsc::channel();
    start_thread("signals", {
        let ends = ends.clone();
        move || wait_for_signals(signals, &ends)
    })?;
    start_thread("status", {
        let registered = Arc::downgrade(&registered);
        move || report(&registered, as_json, &ends)
    })?;
    match end.recv().context("the threads of this process ended")? {
        End::Signal => {
            never_in(&opened, &registered.status())?;
            registered.drain();
        }
        End::Drained => {}
        End::Output(error) => return Err(anyhow::Error::new(error).context("cannot print").into()),
    }
    leave(&opened, &registered, waits)
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).context("cannot start a thread")?;
    Ok(())
}

/// The first signal drains; the second ends the process.
fn wait_for_signals(mut signals: Termination, ends: &Sender<End>) {
    signals.wait();
    // Whoever waits may have ended by itself.
    let _ = ends.send(End::Signal);
    signals.wait();
    std::process::exit(130);
}

/// Says why a node that ends was never registered; there is nothing to drain then.
fn never_in(opened: &Opened, status: &RegistrationStatus) -> Result<(), Failure> {
    let instance = &status.instance;
    if status.is_registered || instance.token != FencingToken::default() {
        return Ok(());
    }
    let refusal = status.refusal.as_ref().map(ToString::to_string);
    let reason = refusal.or_else(|| opened.registry.session().fault);
    let reason = reason.unwrap_or_else(|| "no answer yet".to_owned());
    let (id, service) = (&instance.id, &instance.service);
    Err(anyhow!("{id} of {service} was never registered: {reason}").into())
}

/// Waits until every subscriber has acknowledged, and then until the node is
/// out. This process serves nothing, so nothing is in flight.
fn leave(opened: &Opened, registered: &Registered, waits: DrainWaits) -> Result<(), Failure> {
    let is_past = |step: DrainStep| move |status: &RegistrationStatus| status.drain >= Some(step);
    let wait = waits.acknowledged + DRAIN_ACK_SPARE;
    let mut looks = wait.as_secs() / LOOK.as_secs();
    while registered
        .wait_until(LOOK, is_past(DrainStep::Acknowledged))
        .is_none()
    {
        let session = opened.registry.session();
        looks = looks.saturating_sub(1);
        if looks == 0 || session.state != SessionState::Connected {
            let fault = session
                .fault
                .unwrap_or_else(|| "no answer in time".to_owned());
            return Err(anyhow!(
                "the registry did not confirm the drain ({fault}); the lease ends by itself"
            )
            .into());
        }
    }
    registered.idle();
    let out = registered.wait_until(DRAIN_END_WAIT, is_past(DrainStep::Ended));
    out.map(|_| ()).ok_or_else(|| {
        anyhow!("the registry did not confirm the end; the lease ends by itself").into()
    })
}

/// Prints how the registration stands, whenever that changes.
fn report(registered: &Weak<Registered>, as_json: bool, ends: &Sender<End>) {
    let mut last: Option<RegistrationStatus> = None;
    loop {
        let Some(registered) = registered.upgrade() else {
            return;
        };
        let is_news = |status: &RegistrationStatus| last.as_ref() != Some(status);
        let Some(status) = registered.wait_until(LOOK, is_news) else {
            continue;
        };
        if let Err(error) = print(last.as_ref(), &status, as_json) {
            let _ = ends.send(End::Output(error));
            return;
        }
        if status.drain >= Some(DrainStep::Acknowledged) {
            let _ = ends.send(End::Drained);
        }
        last = Some(status);
    }
}

fn print(
    last: Option<&RegistrationStatus>,
    status: &RegistrationStatus,
    as_json: bool,
) -> io::Result<()> {
    let instance = &status.instance;
    let was_registered = last.is_some_and(|last| last.is_registered);
    let was_draining = last.is_some_and(|last| last.drain.is_some());
    let had = |last: &RegistrationStatus| last.refusal == status.refusal;
    let (event, more) = if status.is_registered && !was_registered {
        (
            "registered",
            format!("at {} under token {}", instance.address, instance.token),
        )
    } else if status.drain == Some(DrainStep::Ended) {
        ("out", String::new())
    } else if status.drain.is_some() && !was_draining {
        ("draining", String::new())
    } else if was_registered && !status.is_registered {
        ("fenced", "until the registry has been heard".to_owned())
    } else if let Some(refusal) = &status.refusal
        && !last.is_some_and(had)
    {
        ("refused", format!("{refusal}; trying again"))
    } else {
        return Ok(());
    };
    let mut out = io::stdout().lock();
    if as_json {
        let line = json!({
            "event": event,
            "id": instance.id.as_str(),
            "service": instance.service.as_str(),
            "address": instance.address.to_string(),
            "token": instance.token.0,
            "reason": (event == "refused").then_some(more),
        });
        writeln!(out, "{line}")?;
    } else {
        let id = &instance.id;
        let event = if event == "refused" {
            "refused:"
        } else {
            event
        };
        writeln!(
            out,
            "{}",
            format!("{id} of {} is {event} {more}", instance.service).trim_end()
        )?;
    }
    out.flush()
}

fn instance(args: &RegisterArgs) -> Result<Instance, Failure> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => default_id(args)?,
    };
    let owner = owner(&id, args);
    let service = args.service.clone();
    let mut instance = Instance::new(id, service, args.address.clone(), owner);
    instance.weight = args.weight;
    instance.site.clone_from(&args.site);
    instance.zone.clone_from(&args.zone);
    Ok(instance)
}

/// Service and address, without what an id may not have.
fn default_id(args: &RegisterArgs) -> Result<InstanceId, Failure> {
    let text = format!("{}:{}", args.service, args.address);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    let text: String = text
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    InstanceId::new(&text).map_err(|error| {
        Failure::Usage(anyhow!(
            "no id can be made of {text:?} ({error}): give --id"
        ))
    })
}

/// The same for each start of one node on one machine, so that a start replaces
/// the entry that a killed one left; and another for each other node.
fn owner(id: &InstanceId, args: &RegisterArgs) -> Owner {
    let machine = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .unwrap_or_default();
    let text = format!("{} {id} {} {}", machine.trim(), args.service, args.address);
    let half = |salt: &str| u128::from(hash64(format!("{salt} {text}").as_bytes()));
    let since_1970 = unix_time().as_millis();
    Owner {
        id: OwnerId(half("a") << 64 | half("b")),
        incarnation: u64::try_from(since_1970).unwrap_or(u64::MAX),
    }
}
