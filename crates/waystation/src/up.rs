//! `waystation up`: takes the directory, binds the console, starts the roles,
//! and ends everything in order.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use waystation_base::BackoffConfig;
use waystation_registry::{DrainWaits, RegistryUrl};

use crate::clock::Uptime;
use crate::config::{Config, Up, reachable};
use crate::console::{self, Console, Endpoint};
use crate::dir::{self, DataDir};
use crate::failure::Failure;
use crate::roles;
use crate::supervise::{self, ChildSpec, Event, Events, Outcome, Policy, Snapshot, StopReason};

/// Runs until a signal, until `run_for` after it was ready, or until a role
/// makes it pointless to go on.
///
/// # Errors
/// [`Failure::Operation`] when the directory or a port is taken or a role does
/// not start; [`Failure::Usage`] when a role refuses its configuration.
pub(crate) async fn run(config: &Config, run_for: Option<Duration>) -> Result<(), Failure> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let mut dir = DataDir::acquire(config.dir()).map_err(refusal)?;
    tokio::select! {
        waited = wait_for_predecessors(&mut dir, config) => waited.map_err(refusal)?,
        reason = signals.next() => {
            tracing::info!(%reason, "ended before anything was started");
            return Ok(());
        }
    }
    let (console_listener, console_at) = bind_console(config.console.listen).await?;
    let (specs, chat_url) = plan(config, &dir)?;

    let clock = Uptime::start();
    let (snapshot_sender, snapshots) = watch::channel(Snapshot::default());
    let console = Console {
        snapshots,
        endpoints: specs.iter().map(endpoint).collect(),
        scrape_timeout: config.console.scrape_timeout(),
        chat_url,
        clock,
        counters: console::Counters::default(),
    };
    let (closing, closed) = watch::channel(false);
    let limits = config.console.clone();
    let console = tokio::spawn(console::serve(
        console_listener,
        console.shared(),
        limits,
        closed,
    ));

    let (events, happened) = supervise::events();
    tokio::spawn(forward(signals, events.clone()));
    let on_ready = || {
        say_ready(console_at);
        if let Some(run_for) = run_for {
            tokio::spawn(stop_after(run_for, events.clone()));
        }
    };
    let options = supervise::Options {
        clock,
        policy: policy(&config.up, config.registry.drain_waits()),
        health_interval: config.up.health_interval(),
    };
    let channel = (events.clone(), happened);
    let outcome = supervise::run(
        specs,
        options,
        &mut dir,
        channel,
        &snapshot_sender,
        on_ready,
    )
    .await;
    let _ = closing.send(true);
    let _ = console.await;
    match outcome {
        Outcome::Stopped => Ok(()),
        Outcome::Configuration(_) => Err(Failure::Usage(anyhow!("{outcome}"))),
        outcome => Err(Failure::Operation(anyhow!("{outcome}"))),
    }
}

/// A path that cannot work is a fault of the call, the rest one of the moment.
fn refusal(error: dir::Error) -> Failure {
    match error {
        dir::Error::TooLong { .. } => Failure::Usage(error.into()),
        error => Failure::Operation(error.into()),
    }
}

async fn wait_for_predecessors(dir: &mut DataDir, config: &Config) -> Result<(), dir::Error> {
    dir.wait_for_predecessors(config.up.predecessor_timeout(), |processes| {
        tracing::info!("waiting for roles of an earlier supervisor to drain: {processes}");
    })
    .await
}

async fn bind_console(at: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind(at).await;
    let listener = listener.with_context(|| format!("the console cannot listen on {at}"))?;
    let at = listener
        .local_addr()
        .context("the console has no address")?;
    Ok((listener, at))
}

fn plan(config: &Config, dir: &DataDir) -> Result<(Vec<ChildSpec>, Option<String>), Failure> {
    let named = config.up.registries();
    let named = named.map_err(|error| Failure::Usage(anyhow!("up.registry: {error}")))?;
    // Held until the others are chosen, so that they differ.
    let mut held = Vec::new();
    let mut entries = Vec::new();
    let sites = if config.up.demo {
        config.up.entries()
    } else {
        Vec::new()
    };
    for (index, at) in sites.into_iter().enumerate() {
        let (at, listener) = free_address(&roles::entry_name(config, index), at)?;
        entries.push(at);
        held.push(listener);
    }
    let program = std::env::current_exe().context("cannot find the running program")?;
    let mut specs = Vec::new();
    let mut registries = named.others;
    if named.own {
        let (listen, listener) = free_address("registry-1", config.registry.listen)?;
        held.push(listener);
        specs.push(roles::registry(config, &program, dir.sockets(), listen));
        let host = reachable(listen).to_string();
        registries.insert(0, RegistryUrl::Embedded { host });
    }
    let (route, listener) = free_address("route-1", config.route.listen)?;
    held.push(listener);
    let (report, listener) = free_address("report-1", config.report.listen)?;
    held.push(listener);
    check_udp(config)?;
    let mut hub = None;
    if entries.len() > 1 {
        let (listen, listener) = free_address("hub-1", config.up.hub)?;
        held.push(listener);
        hub = Some(listen);
    }
    drop(held);
    let places = roles::Places {
        program: &program,
        sockets: dir.sockets(),
        entries: &entries,
        hub,
        registries: &registries,
    };
    let servers = roles::Servers { route, report };
    specs.extend(roles::servers(config, &places, &servers));
    specs.extend(roles::chat(config, &places));
    let first = entries.first();
    let url = first.map(|entry| format!("http://{}/", reachable(*entry)));
    Ok((specs, url))
}

/// Makes sure that `role` will be able to listen on `at`, so that a port that
/// is in use is named at once; port 0 is replaced by a free one, which then
/// stays the same over restarts.
fn free_address(role: &str, at: SocketAddr) -> Result<(SocketAddr, StdListener), Failure> {
    let probe = StdListener::bind(at).and_then(|listener| Ok((listener.local_addr()?, listener)));
    Ok(probe.with_context(|| format!("{role} cannot listen on {at}"))?)
}

/// Makes sure that the agent will be able to listen where callers of Lars ask.
fn check_udp(config: &Config) -> Result<(), Failure> {
    for at in config.agent.udp() {
        let probe = UdpSocket::bind(at);
        probe.with_context(|| format!("agent-1 cannot listen on {at}, by UDP"))?;
    }
    Ok(())
}

fn endpoint(spec: &ChildSpec) -> Endpoint {
    Endpoint {
        role: spec.name.clone(),
        socket: spec.admin_socket.clone(),
    }
}

fn policy(up: &Up, waits: DrainWaits) -> Policy {
    Policy {
        backoff: BackoffConfig {
            base: Duration::from_millis(up.restart_delay_min_ms),
            max: Duration::from_millis(up.restart_delay_max_ms),
            // One supervisor on one machine: there is no herd to scatter.
            jitter: 0.0,
        },
        reset_after: Duration::from_millis(up.restart_reset_ms),
        start_timeout: up.start_timeout(),
        drain_timeout: up.drain_timeout(waits),
    }
}

/// The line that scripts wait for. Whoever started this may have closed its
/// end; that is no reason to stop.
fn say_ready(at: SocketAddr) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "ready http://{at}").and_then(|()| out.flush()) {
        tracing::warn!("cannot say ready: {error}");
    }
}

async fn stop_after(run_for: Duration, events: Events) {
    tokio::time::sleep(run_for).await;
    let _ = events.send(Event::Stop(StopReason::TimeOver)).await;
}

/// The signals that end it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> StopReason {
        tokio::select! {
            _ = self.terminate.recv() => StopReason::Terminated,
            _ = self.interrupt.recv() => StopReason::Interrupted,
        }
    }
}

async fn forward(mut signals: Signals, events: Events) {
    loop {
        let reason = signals.next().await;
        if events.send(Event::Stop(reason)).await.is_err() {
            return;
        }
    }
}
