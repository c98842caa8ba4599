//! Role processes: started, watched, started again, ended in order.
//!
//! [`core`] decides, [`process`] touches the operating system, and [`run`]
//! connects them: it hands what happens to the core and performs what it says.

mod core;
mod process;
mod vocabulary;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use waystation_base::{Clock, Moment};

pub(crate) use self::process::ChildSpec;
pub(crate) use self::vocabulary::{Exit, Outcome, Policy};

use self::core::Supervisor;
use self::process::Handle;
use self::vocabulary::{Event as Happening, Output, Plan, State};
use crate::admin;
use crate::clock::Uptime;
use crate::dir::{DataDir, remove_socket};
use crate::limits::{EVENTS_MAX, HEALTH_RETRY, HEALTH_TIMEOUT};

/// Why everything is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// SIGTERM.
    Terminated,
    /// SIGINT, as Ctrl-C sends it.
    Interrupted,
    /// The time of `--for` is over.
    TimeOver,
}

impl fmt::Display for StopReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Terminated => "SIGTERM",
            Self::Interrupted => "SIGINT",
            Self::TimeOver => "the time of --for is over",
        })
    }
}

/// What the supervisor's loop is woken by.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process ended.
    Exited(usize, Exit),
    /// A process said whether it serves.
    Health {
        /// Which.
        index: usize,
        /// Which incarnation.
        pid: u32,
        /// What it said.
        health: Result<(), String>,
    },
    /// Everything is to end.
    Stop(StopReason),
}

/// The sending end of a supervisor's events.
pub(crate) type Events = mpsc::Sender<Event>;

/// A channel for the events of one supervisor.
pub(crate) fn events() -> (Events, mpsc::Receiver<Event>) {
    mpsc::channel(EVENTS_MAX)
}

/// What the console shows of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessView {
    /// Role and number.
    pub(crate) role: String,
    /// Its process id, while it runs.
    pub(crate) pid: Option<u32>,
    /// Its state in one word.
    pub(crate) state: &'static str,
    /// Whether it serves.
    pub(crate) healthy: bool,
    /// Why it does not serve.
    pub(crate) reason: Option<String>,
    /// When this incarnation was started.
    pub(crate) started_at: Option<Moment>,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// How the last incarnation ended.
    pub(crate) last_exit: Option<String>,
}

/// What the console shows of all processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The processes in the order they are started.
    pub(crate) processes: Vec<ProcessView>,
    /// Whether everything is ending.
    pub(crate) draining: bool,
}

/// How [`run`] goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Where it reads the time; the moments of snapshots are this clock's.
    pub(crate) clock: Uptime,
    /// The times of starts, restarts and drains.
    pub(crate) policy: Policy,
    /// How often a process in health is asked again.
    pub(crate) health_interval: Duration,
}

/// Supervises `specs` until all have ended for good; says why.
///
/// `on_ready` is called once, when all of them serve for the first time.
/// Snapshots go to `snapshots` after each event.
pub(crate) async fn run(
    specs: Vec<ChildSpec>,
    options: Options,
    dir: &mut DataDir,
    (events, mut happened): (Events, mpsc::Receiver<Event>),
    snapshots: &watch::Sender<Snapshot>,
    on_ready: impl FnOnce(),
) -> Outcome {
    let Options {
        clock,
        policy,
        health_interval,
    } = options;
    let plans = specs.iter().map(|spec| Plan {
        role: spec.name.clone(),
        stage: spec.stage,
    });
    let core = Supervisor::new(clock.now(), policy, plans.collect());
    let running = specs.iter().map(|_| None).collect();
    let mut shell = Shell {
        clock,
        specs,
        running,
        core,
        health_interval,
        events,
        dir,
    };
    let mut on_ready = Some(on_ready);
    loop {
        while let Some(output) = shell.core.poll_output() {
            match output {
                Output::Ready => {
                    if let Some(on_ready) = on_ready.take() {
                        on_ready();
                    }
                }
                Output::Finished(outcome) => {
                    shell.publish(snapshots);
                    return outcome;
                }
                output => shell.perform(output),
            }
        }
        shell.publish(snapshots);
        let until_due = shell
            .core
            .poll_timeout()
            .map(|at| at.saturating_since(clock.now()));
        tokio::select! {
            // The shell keeps a sender, so the channel never closes.
            Some(event) = happened.recv() => shell.handle(event),
            () = sleep(until_due) => shell.core.handle_timeout(clock.now()),
        }
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

struct Running {
    handle: Handle,
    health: JoinHandle<()>,
}

struct Shell<'a> {
    clock: Uptime,
    specs: Vec<ChildSpec>,
    running: Vec<Option<Running>>,
    core: Supervisor,
    health_interval: Duration,
    events: Events,
    dir: &'a mut DataDir,
}

impl Shell<'_> {
    fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Exited(index, exit) => {
                if let Some(running) = self.running[index].take() {
                    running.health.abort();
                }
                self.core.handle_exited(now, index, exit);
            }
            Event::Health { index, pid, health } => {
                self.core.handle_health(now, index, pid, health);
            }
            Event::Stop(reason) => {
                tracing::info!(%reason, "ending");
                self.core.handle_stop(now);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Start(index) => self.start(index),
            Output::Terminate(index) => {
                if let Some(running) = &self.running[index] {
                    running.handle.terminate();
                }
            }
            Output::Kill(index) => {
                if let Some(running) = &self.running[index] {
                    running.handle.kill();
                }
            }
            Output::Report(index, happening) => self.report(index, happening),
            Output::Ready | Output::Finished(_) => unreachable!("the loop handles these itself"),
        }
    }

    fn start(&mut self, index: usize) {
        let spec = &self.specs[index];
        let started = remove_socket(&spec.admin_socket)
            .map_err(|error| error.to_string())
            .and_then(|()| self.dir.roles_lock().map_err(|error| error.to_string()))
            .and_then(|lock| process::start(spec, lock).map_err(|error| error.to_string()));
        let (handle, mut child) = match started {
            Ok(started) => started,
            Err(reason) => {
                let reason = format!("{}: {reason}", spec.program.display());
                self.core
                    .handle_exited(self.clock.now(), index, Exit::NotStarted(reason));
                return;
            }
        };
        let pid = handle.pid;
        tracing::debug!(role = spec.name, pid, "started");
        let events = self.events.clone();
        tokio::spawn(async move {
            let exit = process::exit_of(child.wait().await);
            // Without a receiver the supervisor has given this process up.
            let _ = events.send(Event::Exited(index, exit)).await;
        });
        let watch = watch_health(
            index,
            pid,
            spec.admin_socket.clone(),
            self.health_interval,
            self.events.clone(),
        );
        self.running[index] = Some(Running {
            handle,
            health: tokio::spawn(watch),
        });
        self.core.handle_started(self.clock.now(), index, pid);
        let roles = self.core.processes().iter();
        let roles = roles.filter_map(|process| Some((process.role.as_str(), process.pid?)));
        self.dir.note_roles(roles);
    }

    fn report(&self, index: usize, happening: Happening) {
        let role = self.specs[index].name.as_str();
        match happening {
            Happening::Healthy => tracing::info!(role, "serves"),
            Happening::Unhealthy(reason) => tracing::warn!(role, reason, "does not serve"),
            Happening::Died {
                exit,
                restart_in: Some(delay),
            } => {
                tracing::warn!(role, "died: {exit}; starts again in {delay:?}");
            }
            Happening::Died {
                exit,
                restart_in: None,
            } => {
                tracing::error!(role, "died: {exit}; is not started again");
            }
            Happening::Ended(exit) => tracing::info!(role, "ended: {exit}"),
            Happening::Overdue => tracing::error!(role, "did not drain in time and is killed"),
            Happening::Abandoned => tracing::error!(role, "was killed and has still not gone"),
        }
    }

    fn publish(&self, snapshots: &watch::Sender<Snapshot>) {
        let processes = self.core.processes().iter().map(|process| ProcessView {
            role: process.role.clone(),
            pid: process.pid,
            state: process.state.word(),
            healthy: process.state == State::Healthy,
            reason: match &process.state {
                State::Unhealthy(reason) => Some(reason.clone()),
                _ => None,
            },
            started_at: process.started_at,
            restarts: process.restarts,
            last_exit: process.last_exit.as_ref().map(Exit::to_string),
        });
        let snapshot = Snapshot {
            processes: processes.collect(),
            draining: self.core.is_draining(),
        };
        snapshots.send_if_modified(|shown| {
            let changed = *shown != snapshot;
            *shown = snapshot;
            changed
        });
    }
}

/// Asks a process whether it serves, often until it does and now and then
/// afterwards; until it is aborted or nobody listens.
async fn watch_health(
    index: usize,
    pid: u32,
    socket: impl AsRef<Path>,
    interval: Duration,
    events: Events,
) {
    loop {
        let health = admin::get(socket.as_ref(), "/healthz", HEALTH_TIMEOUT).await;
        let health = health.map(drop).map_err(|error| error.to_string());
        let pause = if health.is_ok() {
            interval
        } else {
            HEALTH_RETRY
        };
        if events
            .send(Event::Health { index, pid, health })
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
