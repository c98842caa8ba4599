use std::time::Duration;

use waystation_base::BackoffConfig;

use super::*;

const START: Moment = Moment::from_millis(1_000);

fn policy() -> Policy {
    Policy {
        backoff: BackoffConfig {
            base: Duration::from_millis(50),
            max: Duration::from_secs(5),
            jitter: 0.0,
        },
        reset_after: Duration::from_secs(10),
        start_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(4),
    }
}

/// The supervisor of one Das, one Logic and one Entry, its processes numbered
/// in this order, with everything it said so far.
struct World {
    core: Supervisor,
    now: Moment,
    next_pid: u32,
}

const DAS: usize = 0;
const LOGIC: usize = 1;
const ENTRY: usize = 2;

impl World {
    fn new() -> Self {
        let plan = |role: &str, stage| Plan {
            role: role.to_owned(),
            stage,
        };
        let plans = vec![plan("das-1", 2), plan("logic-1", 1), plan("entry-1", 0)];
        Self {
            core: Supervisor::new(START, policy(), plans),
            now: START,
            next_pid: 100,
        }
    }

    /// All serve, and nothing is left to be done.
    fn running() -> Self {
        let mut world = Self::new();
        world.outputs();
        for index in [DAS, LOGIC, ENTRY] {
            world.healthy(index);
        }
        assert_eq!(world.outputs().last(), Some(&Output::Ready));
        world
    }

    /// Performs and returns all outputs; each start succeeds.
    fn outputs(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.core.poll_output() {
            if let Output::Start(index) = output {
                self.next_pid += 1;
                self.core.handle_started(self.now, index, self.next_pid);
            }
            outputs.push(output);
        }
        outputs
    }

    fn healthy(&mut self, index: usize) {
        let pid = self.core.processes()[index].pid.unwrap();
        self.core.handle_health(self.now, index, pid, Ok(()));
    }

    fn exited(&mut self, index: usize, exit: Exit) -> Vec<Output> {
        self.core.handle_exited(self.now, index, exit);
        self.outputs()
    }

    /// Moves to the next timeout and returns how far away it was and what
    /// followed.
    fn timeout(&mut self) -> (Duration, Vec<Output>) {
        let at = self.core.poll_timeout().expect("something is due");
        let waited = at.saturating_since(self.now);
        self.now = at;
        self.core.handle_timeout(at);
        (waited, self.outputs())
    }

    fn state(&self, index: usize) -> &State {
        &self.core.processes()[index].state
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn ready_is_said_once_when_all_serve() {
    let mut world = World::new();
    assert_eq!(world.outputs(), [DAS, LOGIC, ENTRY].map(Output::Start));
    world.healthy(ENTRY);
    world.healthy(DAS);
    assert!(!world.outputs().contains(&Output::Ready));
    world.healthy(LOGIC);
    assert_eq!(world.outputs().last(), Some(&Output::Ready));

    world.exited(LOGIC, Exit::Signal(9));
    world.timeout();
    world.healthy(LOGIC);
    assert_eq!(world.outputs(), [Output::Report(LOGIC, Event::Healthy)]);
}

#[test]
fn without_processes_it_is_ready_at_once_and_stops_at_once() {
    let mut core = Supervisor::new(START, policy(), Vec::new());
    assert_eq!(core.poll_output(), Some(Output::Ready));
    core.handle_stop(START);
    assert_eq!(core.poll_output(), Some(Output::Finished(Outcome::Stopped)));
    assert_eq!(core.poll_output(), None);
}

#[test]
fn pauses_double_to_the_maximum_and_start_over_after_health() {
    let mut world = World::running();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let outputs = world.exited(LOGIC, Exit::Signal(9));
        let (pause, started) = world.timeout();
        assert_eq!(
            outputs,
            [Output::Report(
                LOGIC,
                Event::Died {
                    exit: Exit::Signal(9),
                    restart_in: Some(pause)
                }
            )]
        );
        assert_eq!(started, [Output::Start(LOGIC)]);
        pauses.push(pause.as_millis());
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    assert_eq!(world.core.processes()[LOGIC].restarts, 9);

    // Almost long enough in health: still the long pause.
    world.healthy(LOGIC);
    world.now += policy().reset_after.saturating_sub(millis(1));
    world.exited(LOGIC, Exit::Code(1));
    assert_eq!(world.timeout().0, millis(5_000));

    world.healthy(LOGIC);
    world.now += policy().reset_after;
    world.exited(LOGIC, Exit::Code(1));
    assert_eq!(world.timeout().0, millis(50));
}

#[test]
fn time_out_of_health_does_not_count_as_health() {
    let mut world = World::running();
    world.exited(LOGIC, Exit::Code(1));
    world.timeout();
    world.healthy(LOGIC);
    world.now += millis(9_000);
    let pid = world.core.processes()[LOGIC].pid.unwrap();
    world
        .core
        .handle_health(world.now, LOGIC, pid, Err("no das".to_owned()));
    assert_eq!(world.state(LOGIC), &State::Unhealthy("no das".to_owned()));
    world.healthy(LOGIC);
    world.now += millis(9_000);
    world.exited(LOGIC, Exit::Code(1));
    assert_eq!(world.timeout().0, millis(100));
}

#[test]
fn a_late_report_about_an_earlier_process_is_ignored() {
    let mut world = World::running();
    let old_pid = world.core.processes()[LOGIC].pid.unwrap();
    world.exited(LOGIC, Exit::Signal(9));
    world.timeout();
    world.core.handle_health(world.now, LOGIC, old_pid, Ok(()));
    assert_eq!(world.state(LOGIC), &State::Starting);
}

#[test]
fn a_wrong_configuration_stops_everything_in_order() {
    let mut world = World::running();
    let outputs = world.exited(LOGIC, Exit::Code(2));
    assert_eq!(
        outputs,
        [
            Output::Report(
                LOGIC,
                Event::Died {
                    exit: Exit::Code(2),
                    restart_in: None
                }
            ),
            Output::Terminate(ENTRY),
        ]
    );
    assert_eq!(
        world.exited(ENTRY, Exit::Code(0)).last(),
        Some(&Output::Terminate(DAS))
    );
    let outcome = Outcome::Configuration("logic-1".to_owned());
    assert_eq!(
        world.exited(DAS, Exit::Code(0)).last(),
        Some(&Output::Finished(outcome))
    );
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn a_role_that_never_serves_ends_the_start_after_a_few_tries() {
    let mut world = World::new();
    world.outputs();
    for _ in 1..START_FAILURES_MAX {
        let outputs = world.exited(LOGIC, Exit::Code(1));
        assert_eq!(outputs.len(), 1, "it is started again: {outputs:?}");
        world.timeout();
    }
    let outputs = world.exited(LOGIC, Exit::NotStarted("no such file".to_owned()));
    assert_eq!(outputs.last(), Some(&Output::Terminate(ENTRY)));
    world.exited(ENTRY, Exit::Code(0));
    let outcome = Outcome::StartFailed {
        role: "logic-1".to_owned(),
        exit: Exit::NotStarted("no such file".to_owned()),
    };
    assert_eq!(
        world.exited(DAS, Exit::Code(0)).last(),
        Some(&Output::Finished(outcome))
    );
}

/// Someone who tests robustness kills roles while they start; that is no fault
/// of the roles.
#[test]
fn kills_during_the_start_do_not_end_it() {
    let mut world = World::new();
    world.outputs();
    for _ in 0..=START_FAILURES_MAX {
        world.exited(LOGIC, Exit::Signal(9));
        assert_eq!(world.timeout().1, [Output::Start(LOGIC)]);
    }
}

#[test]
fn a_start_that_takes_too_long_names_who_is_late() {
    let mut world = World::new();
    world.outputs();
    world.healthy(DAS);
    world.exited(LOGIC, Exit::Signal(11));
    world.timeout();
    let (_, outputs) = world.timeout();
    assert_eq!(world.now.saturating_since(START), policy().start_timeout);
    assert_eq!(outputs.last(), Some(&Output::Terminate(ENTRY)));
    world.exited(ENTRY, Exit::Code(0));
    world.exited(LOGIC, Exit::Code(0));
    let late = vec![
        "logic-1 (starting, last signal 11)".to_owned(),
        "entry-1 (starting)".to_owned(),
    ];
    assert_eq!(
        world.exited(DAS, Exit::Code(0)).last(),
        Some(&Output::Finished(Outcome::StartTimedOut(late)))
    );
}

#[test]
fn the_drain_goes_from_entry_to_das() {
    let mut world = World::running();
    world.core.handle_stop(world.now);
    assert_eq!(world.outputs(), [Output::Terminate(ENTRY)]);
    assert_eq!(
        world.exited(ENTRY, Exit::Code(0)),
        [
            Output::Report(ENTRY, Event::Ended(Exit::Code(0))),
            Output::Terminate(LOGIC)
        ]
    );
    assert_eq!(
        world.exited(LOGIC, Exit::Code(0)).last(),
        Some(&Output::Terminate(DAS))
    );
    assert_eq!(
        world.exited(DAS, Exit::Code(0)).last(),
        Some(&Output::Finished(Outcome::Stopped))
    );
}

#[test]
fn a_drain_does_not_wait_for_a_role_that_is_down() {
    let mut world = World::running();
    world.exited(ENTRY, Exit::Signal(9));
    world.core.handle_stop(world.now);
    assert_eq!(world.outputs(), [Output::Terminate(LOGIC)]);
    // Nor is one started again that dies before its turn.
    let outputs = world.exited(DAS, Exit::Signal(9));
    let died = Event::Died {
        exit: Exit::Signal(9),
        restart_in: None,
    };
    assert_eq!(outputs, [Output::Report(DAS, died)]);
    assert_eq!(
        world.exited(LOGIC, Exit::Code(0)).last(),
        Some(&Output::Finished(Outcome::Stopped))
    );
}

#[test]
fn a_role_that_hangs_is_killed_and_one_that_stays_is_given_up() {
    let mut world = World::running();
    world.core.handle_stop(world.now);
    world.outputs();
    let (waited, outputs) = world.timeout();
    assert_eq!(waited, policy().drain_timeout);
    assert_eq!(
        outputs,
        [Output::Report(ENTRY, Event::Overdue), Output::Kill(ENTRY)]
    );
    let (waited, outputs) = world.timeout();
    assert_eq!(waited, KILL_TIMEOUT);
    assert_eq!(
        outputs,
        [
            Output::Report(ENTRY, Event::Abandoned),
            Output::Terminate(LOGIC)
        ]
    );

    // The next stage has its own time again.
    assert_eq!(world.timeout().0, policy().drain_timeout);
}

#[test]
fn a_second_stop_kills_everyone() {
    let mut world = World::running();
    world.core.handle_stop(world.now);
    world.outputs();
    world.core.handle_stop(world.now);
    let kills: Vec<_> = world
        .outputs()
        .into_iter()
        .filter(|output| matches!(output, Output::Kill(_)))
        .collect();
    assert_eq!(kills, [DAS, LOGIC, ENTRY].map(Output::Kill));
    for index in [DAS, ENTRY] {
        world.exited(index, Exit::Signal(9));
    }
    assert_eq!(
        world.exited(LOGIC, Exit::Signal(9)).last(),
        Some(&Output::Finished(Outcome::Stopped))
    );
}

#[test]
fn a_process_started_while_the_drain_begins_is_asked_to_end() {
    let mut world = World::new();
    // The starts are still to be performed when the stop arrives.
    world.core.handle_stop(world.now);
    let outputs = world.outputs();
    assert!(outputs.contains(&Output::Terminate(ENTRY)), "{outputs:?}");
    assert!(!outputs.contains(&Output::Terminate(DAS)), "{outputs:?}");
    world.exited(ENTRY, Exit::Code(0));
    world.exited(LOGIC, Exit::Code(0));
    assert_eq!(
        world.exited(DAS, Exit::Code(0)).last(),
        Some(&Output::Finished(Outcome::Stopped))
    );
}
