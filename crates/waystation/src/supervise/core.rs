//! When a role process is started, restarted, stopped and given up: decisions
//! without processes, sockets or clocks.

use std::collections::VecDeque;

use waystation_base::{Backoff, Moment};

use super::vocabulary::{EXIT_CONFIGURATION, Event, Exit, Outcome, Output, Plan, Policy, State};
use crate::limits::{KILL_TIMEOUT, START_FAILURES_MAX};

/// One supervised process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its role and number.
    pub(crate) role: String,
    /// What it is doing.
    pub(crate) state: State,
    /// Its process id, while there is one.
    pub(crate) pid: Option<u32>,
    /// When this incarnation was started.
    pub(crate) started_at: Option<Moment>,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// How the last incarnation ended.
    pub(crate) last_exit: Option<Exit>,
    stage: u8,
    healthy_since: Option<Moment>,
    was_healthy: bool,
    backoff: Backoff,
}

#[derive(Debug)]
enum Phase {
    Starting {
        deadline: Moment,
    },
    Running,
    Draining {
        stage: u8,
        deadline: Moment,
        killed: bool,
        outcome: Outcome,
    },
    Finished,
}

/// The supervisor's decisions.
///
/// Call a `handle_*` function when something happened and [`handle_timeout`]
/// when [`poll_timeout`] has passed; after each call perform everything that
/// [`poll_output`] returns until it returns none. Bounds: one process a plan,
/// and at most four outputs a process and call.
///
/// [`handle_timeout`]: Self::handle_timeout
/// [`poll_timeout`]: Self::poll_timeout
/// [`poll_output`]: Self::poll_output
#[derive(Debug)]
pub(crate) struct Supervisor {
    policy: Policy,
    processes: Vec<Process>,
    phase: Phase,
    outputs: VecDeque<Output>,
}

impl Supervisor {
    /// Starts every process of `plans`.
    pub(crate) fn new(now: Moment, policy: Policy, plans: Vec<Plan>) -> Self {
        let processes = plans.into_iter().zip(0..).map(|(plan, seed)| Process {
            role: plan.role,
            state: State::Starting,
            pid: None,
            started_at: None,
            restarts: 0,
            last_exit: None,
            stage: plan.stage,
            healthy_since: None,
            was_healthy: false,
            backoff: Backoff::new(policy.backoff, seed),
        });
        let mut supervisor = Self {
            policy,
            processes: processes.collect(),
            phase: Phase::Starting {
                deadline: now + policy.start_timeout,
            },
            outputs: VecDeque::new(),
        };
        supervisor
            .outputs
            .extend((0..supervisor.processes.len()).map(Output::Start));
        supervisor.check_ready();
        supervisor
    }

    /// The processes, in the order of the plans.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether it is ending.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Finished)
    }

    /// The process `index` runs as `pid`.
    pub(crate) fn handle_started(&mut self, now: Moment, index: usize, pid: u32) {
        let process = &mut self.processes[index];
        process.pid = Some(pid);
        process.started_at = Some(now);
        // The drain may have begun while the start was under way.
        match process.state {
            State::Draining | State::Stopped => {
                process.state = State::Draining;
                self.outputs.push_back(Output::Terminate(index));
            }
            State::Killed => self.outputs.push_back(Output::Kill(index)),
            _ => {}
        }
    }

    /// The process `index`, which ran as `pid`, answered whether it serves, or
    /// did not answer. A report about an earlier incarnation is ignored.
    pub(crate) fn handle_health(
        &mut self,
        now: Moment,
        index: usize,
        pid: u32,
        health: Result<(), String>,
    ) {
        let process = &mut self.processes[index];
        if process.pid != Some(pid) {
            return;
        }
        match (&process.state, health) {
            (State::Starting | State::Unhealthy(_), Ok(())) => {
                process.state = State::Healthy;
                process.healthy_since = Some(now);
                process.was_healthy = true;
                self.outputs
                    .push_back(Output::Report(index, Event::Healthy));
                self.check_ready();
            }
            (State::Healthy, Err(reason)) => {
                process.healthy_since = None;
                process.state = State::Unhealthy(reason.clone());
                self.outputs
                    .push_back(Output::Report(index, Event::Unhealthy(reason)));
            }
            (State::Unhealthy(_), Err(reason)) => process.state = State::Unhealthy(reason),
            _ => {}
        }
    }

    /// The process `index` has ended, or could not be started.
    pub(crate) fn handle_exited(&mut self, now: Moment, index: usize, exit: Exit) {
        let reset_after = self.policy.reset_after;
        let process = &mut self.processes[index];
        process.pid = None;
        process.started_at = None;
        process.last_exit = Some(exit.clone());
        let healthy_since = process.healthy_since.take();
        if let Phase::Draining { .. } = self.phase {
            let asked = matches!(process.state, State::Draining | State::Killed);
            process.state = State::Stopped;
            let event = if asked {
                Event::Ended(exit)
            } else {
                Event::Died {
                    exit,
                    restart_in: None,
                }
            };
            self.outputs.push_back(Output::Report(index, event));
            self.advance_drain(now);
            return;
        }
        if healthy_since.is_some_and(|since| now.saturating_since(since) >= reset_after) {
            process.backoff.reset();
        }
        let delay = process.backoff.next_delay();
        let ends_everything = self.fatal(index, &exit);
        let process = &mut self.processes[index];
        process.state = if ends_everything.is_some() {
            State::Stopped
        } else {
            State::Waiting(now + delay)
        };
        let restart_in = ends_everything.is_none().then_some(delay);
        self.outputs
            .push_back(Output::Report(index, Event::Died { exit, restart_in }));
        if let Some(outcome) = ends_everything {
            self.drain(now, outcome);
        }
    }

    /// Everything is to end. A second call kills what has not ended yet.
    pub(crate) fn handle_stop(&mut self, now: Moment) {
        match &mut self.phase {
            Phase::Draining {
                deadline, killed, ..
            } => {
                *killed = true;
                *deadline = now + KILL_TIMEOUT;
                self.kill(|_| true);
                self.advance_drain(now);
            }
            Phase::Finished => {}
            Phase::Starting { .. } | Phase::Running => self.drain(now, Outcome::Stopped),
        }
    }

    /// The moment of [`poll_timeout`](Self::poll_timeout) has come.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        match &self.phase {
            Phase::Starting { deadline } if *deadline <= now => {
                let late = self
                    .processes
                    .iter()
                    .filter(|process| process.state != State::Healthy);
                let late = late.map(Process::status).collect();
                self.drain(now, Outcome::StartTimedOut(late));
            }
            Phase::Draining {
                deadline,
                killed,
                stage,
                ..
            } if *deadline <= now => {
                let (killed, stage) = (*killed, *stage);
                self.drain_overdue(now, stage, killed);
            }
            Phase::Starting { .. } | Phase::Running => self.restart_due(now),
            Phase::Draining { .. } | Phase::Finished => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        let phase = match self.phase {
            Phase::Starting { deadline } | Phase::Draining { deadline, .. } => Some(deadline),
            Phase::Running | Phase::Finished => None,
        };
        let restarts = self
            .processes
            .iter()
            .filter_map(|process| match process.state {
                State::Waiting(until) => Some(until),
                _ => None,
            });
        restarts.chain(phase).min()
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn fatal(&self, index: usize, exit: &Exit) -> Option<Outcome> {
        let process = &self.processes[index];
        let role = process.role.clone();
        if *exit == Exit::Code(EXIT_CONFIGURATION) {
            return Some(Outcome::Configuration(role));
        }
        let starting = matches!(self.phase, Phase::Starting { .. }) && !process.was_healthy;
        let by_itself = !matches!(exit, Exit::Signal(_));
        (starting && by_itself && process.backoff.attempts() >= START_FAILURES_MAX).then(|| {
            Outcome::StartFailed {
                role,
                exit: exit.clone(),
            }
        })
    }

    fn check_ready(&mut self) {
        let all = self
            .processes
            .iter()
            .all(|process| process.state == State::Healthy);
        if all && matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Running;
            self.outputs.push_back(Output::Ready);
        }
    }

    fn restart_due(&mut self, now: Moment) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if matches!(process.state, State::Waiting(until) if until <= now) {
                process.state = State::Starting;
                process.restarts += 1;
                self.outputs.push_back(Output::Start(index));
            }
        }
    }

    fn drain(&mut self, now: Moment, outcome: Outcome) {
        for process in &mut self.processes {
            if matches!(process.state, State::Waiting(_)) {
                process.state = State::Stopped;
            }
        }
        let deadline = now + self.policy.drain_timeout;
        self.phase = Phase::Draining {
            stage: 0,
            deadline,
            killed: false,
            outcome,
        };
        self.terminate_stage(0);
        self.advance_drain(now);
    }

    fn terminate_stage(&mut self, stage: u8) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if process.stage == stage && process.is_alive() && process.state != State::Killed {
                process.state = State::Draining;
                // Without an id it is just being started; see `handle_started`.
                if process.pid.is_some() {
                    self.outputs.push_back(Output::Terminate(index));
                }
            }
        }
    }

    /// Goes to the first stage that still has a process.
    fn advance_drain(&mut self, now: Moment) {
        let Phase::Draining {
            stage: current,
            deadline,
            killed,
            outcome,
        } = &mut self.phase
        else {
            return;
        };
        let alive = self.processes.iter().filter(|process| process.is_alive());
        match alive.map(|process| process.stage).min() {
            None => {
                let outcome = outcome.clone();
                self.phase = Phase::Finished;
                self.outputs.push_back(Output::Finished(outcome));
            }
            Some(stage) if stage > *current => {
                *current = stage;
                *killed = false;
                *deadline = now + self.policy.drain_timeout;
                self.terminate_stage(stage);
            }
            Some(_) => {}
        }
    }

    fn drain_overdue(&mut self, now: Moment, stage: u8, already_killed: bool) {
        if already_killed {
            for (index, process) in self.processes.iter_mut().enumerate() {
                if process.stage == stage && process.is_alive() {
                    process.state = State::Stopped;
                    self.outputs
                        .push_back(Output::Report(index, Event::Abandoned));
                }
            }
            self.advance_drain(now);
            return;
        }
        self.kill(|process| process.stage == stage);
        if let Phase::Draining {
            deadline, killed, ..
        } = &mut self.phase
        {
            *deadline = now + KILL_TIMEOUT;
            *killed = true;
        }
    }

    fn kill(&mut self, which: impl Fn(&Process) -> bool) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if which(process) && process.is_alive() && process.state != State::Killed {
                process.state = State::Killed;
                self.outputs
                    .push_back(Output::Report(index, Event::Overdue));
                self.outputs.push_back(Output::Kill(index));
            }
        }
    }
}

impl Process {
    fn is_alive(&self) -> bool {
        !matches!(self.state, State::Waiting(_) | State::Stopped)
    }

    /// Role and state in a few words.
    fn status(&self) -> String {
        let reason = match (&self.state, &self.last_exit) {
            (State::Unhealthy(reason), _) => format!(": {reason}"),
            (_, Some(exit)) => format!(", last {exit}"),
            _ => String::new(),
        };
        format!("{} ({}{reason})", self.role, self.state.word())
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
