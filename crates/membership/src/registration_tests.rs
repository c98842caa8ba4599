use proptest::prelude::*;

use super::*;
use crate::lease::{GrantError, Lease};
use crate::test_support::{instance, owner, seconds};

fn registration() -> Registration {
    Registration::new(instance("a", 1), RegistrationConfig::default(), 7)
}

fn granted(token: u64) -> Granted {
    Granted {
        token: FencingToken(token),
        ttl: Duration::from_secs(6),
        state: State::Serving,
    }
}

fn renewed(drain: Option<DrainStep>) -> Renewed {
    Renewed {
        ttl: Duration::from_secs(6),
        state: State::Serving,
        drain,
    }
}

fn commands(registration: &mut Registration) -> Vec<Command> {
    std::iter::from_fn(|| registration.poll_output()).collect()
}

fn registered() -> Registration {
    let mut one = registration();
    one.handle_connected(seconds(0));
    one.handle_granted(seconds(0), one.attempt, granted(1));
    commands(&mut one);
    one
}

fn renew(attempt: u64) -> Command {
    Command::Renew {
        attempt: Attempt(attempt),
        token: FencingToken(1),
    }
}

#[test]
fn a_late_answer_is_not_taken_for_the_present_attempts() {
    let mut one = registration();
    one.handle_connected(seconds(0));
    let first = one.attempt;
    for _ in 0..2 {
        let next = one.poll_timeout().unwrap();
        one.handle_timeout(next);
    }
    assert!(one.attempt > first);
    one.handle_granted(seconds(3), first, granted(1));
    assert!(!one.may_serve(seconds(3)));
}

#[test]
fn a_registration_starts_while_the_registry_is_down() {
    let mut one = registration();
    assert_eq!(one.poll_timeout(), None);
    one.handle_timeout(seconds(100));
    assert_eq!(commands(&mut one), []);
    one.handle_connected(seconds(200));
    assert!(matches!(commands(&mut one)[..], [Command::Register { .. }]));
    one.handle_granted(seconds(200), one.attempt, granted(1));
    let token = FencingToken(1);
    assert_eq!(commands(&mut one), [Command::Registered { token }]);
    assert!(one.may_serve(seconds(200)));
}

#[test]
fn a_lease_is_renewed_at_a_third_and_fenced_before_it_ends() {
    let mut one = registered();
    assert_eq!(one.poll_timeout(), Some(seconds(2)));
    one.handle_timeout(seconds(2));
    assert_eq!(commands(&mut one), [renew(2)]);
    one.handle_renewed(seconds(3), one.attempt, renewed(None));
    // Counted from 2, when it was sent: the registry holds it until 8 at least.
    assert!(one.may_serve(Moment::from_millis(6999)));
    assert!(!one.may_serve(seconds(7)));
    one.handle_disconnected();
    assert_eq!(one.poll_timeout(), Some(seconds(7)));
    one.handle_timeout(seconds(7));
    assert_eq!(commands(&mut one), [Command::Fence]);
}

#[test]
fn a_paused_process_finds_itself_fenced() {
    let mut one = registered();
    assert!(!one.may_serve(seconds(600)));
    one.handle_timeout(seconds(600));
    assert_eq!(commands(&mut one), [Command::Fence, renew(2)]);
    one.handle_unheld(seconds(600), HolderError::Unknown);
    let again = one.poll_timeout().unwrap();
    one.handle_timeout(again);
    assert!(matches!(commands(&mut one)[..], [Command::Register { .. }]));
}

#[test]
fn a_duplicate_is_told_and_asked_again_within_the_back_off() {
    let mut one = registration();
    one.handle_connected(seconds(0));
    let held = Lease {
        owner: owner(2),
        token: FencingToken(9),
        ttl: Duration::from_secs(6),
        deadline: seconds(6),
    };
    let mut now = seconds(0);
    for _ in 0..50 {
        let told = commands(&mut one);
        assert!(
            matches!(told.last(), Some(Command::Register { .. })),
            "{told:?}"
        );
        let refusal = Refusal::Lease {
            error: GrantError::Held { held },
            holder: None,
        };
        one.handle_refused(now, refusal);
        let next = one.poll_timeout().unwrap();
        assert!(next.saturating_since(now) <= BackoffConfig::default().max);
        now = next;
        one.handle_timeout(now);
    }
}

/// A weight that was set while the registration was on its way, or on its way
/// again after a cut, was never told to the registry.
#[test]
fn what_changes_while_a_registration_is_on_its_way_is_told_behind_it() {
    let mut one = registration();
    one.handle_connected(seconds(0));
    commands(&mut one);
    let weight = |weight| Update {
        weight: Some(weight),
        ..Update::default()
    };
    one.handle_update(weight(7));
    one.handle_update(weight(8));
    assert_eq!(commands(&mut one), []);
    one.handle_granted(seconds(0), one.attempt, granted(1));
    let token = FencingToken(1);
    let update = weight(8);
    assert_eq!(
        commands(&mut one),
        [
            Command::Registered { token },
            Command::Update { token, update }
        ]
    );
    one.handle_disconnected();
    one.handle_update(weight(9));
    commands(&mut one);
    one.handle_connected(seconds(1));
    let registered = commands(&mut one);
    let [Command::Register { register, .. }] = &*registered else {
        panic!("{registered:?}")
    };
    assert_eq!(register.instance.weight, 9);
    one.handle_granted(seconds(1), one.attempt, granted(1));
    assert_eq!(commands(&mut one), [], "it said so itself");
}

/// Another node came from another registry with a higher token, and everybody whose
/// own rose with that was fenced.
#[test]
fn a_token_that_rises_fences_nobody() {
    let mut one = registered();
    one.handle_raised(FencingToken(1 << 40));
    one.handle_raised(FencingToken(7));
    assert_eq!(commands(&mut one), []);
    assert!(one.may_serve(seconds(0)));
    let token = FencingToken(1 << 40);
    assert_eq!(one.instance().token, token);
    one.handle_timeout(seconds(2));
    let attempt = Attempt(2);
    assert_eq!(commands(&mut one), [Command::Renew { attempt, token }]);
    one.handle_renewed(seconds(2), attempt, renewed(None));
    assert!(one.may_serve(seconds(6)));
    one.handle_connected(seconds(3));
    let asked = commands(&mut one);
    let [Command::Register { register, .. }] = &*asked else {
        panic!("{asked:?}")
    };
    assert_eq!(register.token_seen, token, "no less is taken");
}

/// A process that was cut off while its successor started was told so when it
/// came back, and served until its own idea of the lease was over.
#[test]
fn who_hears_that_another_has_the_id_is_fenced_at_once() {
    let mut one = registered();
    one.handle_disconnected();
    one.handle_connected(seconds(2));
    commands(&mut one);
    assert!(one.may_serve(seconds(2)));
    let held = Lease {
        owner: owner(1),
        token: FencingToken(2),
        ttl: Duration::from_secs(6),
        deadline: seconds(8),
    };
    let refusal = Refusal::Lease {
        error: GrantError::Superseded { held },
        holder: None,
    };
    one.handle_refused(seconds(2), refusal.clone());
    assert!(!one.may_serve(seconds(2)));
    assert_eq!(
        commands(&mut one),
        [Command::Fence, Command::Refused(refusal)]
    );
}

#[test]
fn an_answer_that_does_not_come_is_given_up() {
    let mut one = registration();
    one.handle_connected(seconds(0));
    commands(&mut one);
    for _ in 0..4 {
        let next = one.poll_timeout().unwrap();
        one.handle_timeout(next);
    }
    assert!(matches!(
        commands(&mut one)[..],
        [Command::Register { .. }, Command::Register { .. }]
    ));
    // One that comes after the lease it grants is over is worth nothing.
    one.handle_granted(seconds(60), one.attempt, granted(1));
    assert!(!one.may_serve(seconds(60)));
}

#[test]
fn a_drain_goes_from_acknowledged_over_idle_to_its_end() {
    let mut one = registered();
    let token = FencingToken(1);
    one.handle_drain();
    one.handle_idle();
    assert_eq!(commands(&mut one), [Command::Drain { token }]);
    one.handle_timeout(seconds(2));
    one.handle_renewed(
        seconds(2),
        one.attempt,
        renewed(Some(DrainStep::Acknowledged)),
    );
    let told = commands(&mut one);
    assert_eq!(told[1..], [Command::Drained, Command::Idle { token }]);
    one.handle_drain_step(DrainStep::Ended);
    assert_eq!(commands(&mut one), [Command::Ended]);
    assert_eq!(one.poll_timeout(), None);
    one.handle_connected(seconds(9));
    assert_eq!(commands(&mut one), []);
}

/// Story: the word that nothing is in flight was lost with a connection, and the
/// registry waited for its deadline.
#[test]
fn that_nothing_is_in_flight_is_told_again_while_the_registry_waits() {
    let mut one = registered();
    let token = FencingToken(1);
    one.handle_drain();
    one.handle_idle();
    one.handle_drain_step(DrainStep::Acknowledged);
    let told = commands(&mut one);
    assert_eq!(told.last(), Some(&Command::Idle { token }));
    one.handle_timeout(seconds(2));
    commands(&mut one);
    let waits = renewed(Some(DrainStep::Acknowledged));
    one.handle_renewed(seconds(2), one.attempt, waits);
    assert_eq!(commands(&mut one), [Command::Idle { token }]);
}

/// A registry that refused the order to drain, on a connection that stayed, was
/// never told again, and the node waited for its drain for ever.
#[test]
fn a_drain_of_which_the_registry_does_not_know_is_told_again() {
    let mut one = registered();
    let token = FencingToken(1);
    one.handle_drain();
    assert_eq!(commands(&mut one), [Command::Drain { token }]);
    one.handle_timeout(seconds(2));
    assert_eq!(commands(&mut one), [renew(2)]);
    one.handle_renewed(seconds(2), one.attempt, renewed(None));
    assert_eq!(commands(&mut one), [Command::Drain { token }]);
    one.handle_timeout(seconds(4));
    assert_eq!(commands(&mut one), [renew(3)]);
    one.handle_renewed(seconds(4), one.attempt, renewed(Some(DrainStep::Waiting)));
    assert_eq!(commands(&mut one), []);
}

#[test]
fn a_drain_that_was_wished_while_disconnected_begins_with_the_registration() {
    let mut one = registration();
    one.handle_drain();
    one.handle_connected(seconds(0));
    one.handle_granted(seconds(0), one.attempt, granted(1));
    let token = FencingToken(1);
    assert_eq!(commands(&mut one)[2..], [Command::Drain { token }]);
    // The end of a drain of which the node did not hear.
    one.handle_connected(seconds(50));
    one.handle_refused(seconds(50), Refusal::Drained);
    assert!(one.has_ended());
}

#[derive(Clone, Debug)]
enum Step {
    Connect,
    Disconnect,
    Grant,
    Refuse,
    Renewed,
    Raised,
    Unheld,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Connect),
        Just(Step::Disconnect),
        Just(Step::Grant),
        Just(Step::Refuse),
        Just(Step::Renewed),
        Just(Step::Raised),
        Just(Step::Unheld),
        (0..9000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Never gives up: while connected there is always a next thing to do, and
    /// from any state a registry that grants what it is asked has the node serving
    /// within the time of an answer and a back-off, on the same connection if there
    /// is one, and for good. Never serves past the lease.
    #[test]
    fn a_registration_never_gives_up(steps in proptest::collection::vec(step(), 0..60)) {
        let mut one = registration();
        let (mut now, mut lease_until) = (seconds(0), seconds(0));
        let (mut asked_at, mut token) = (None, 1);
        for step in steps {
            match step {
                Step::Connect => one.handle_connected(now),
                Step::Disconnect => one.handle_disconnected(),
                Step::Grant => one.handle_granted(now, one.attempt, granted(token)),
                Step::Refuse => one.handle_refused(now, Refusal::ServicesFull),
                Step::Renewed => one.handle_renewed(now, one.attempt, renewed(None)),
                Step::Raised => {
                    token += 1;
                    let could_serve = one.may_serve(now);
                    one.handle_raised(FencingToken(token));
                    prop_assert_eq!(one.may_serve(now), could_serve);
                }
                Step::Unheld => one.handle_unheld(now, HolderError::Unknown),
                Step::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    one.handle_timeout(now);
                }
            }
            if matches!(step, Step::Grant | Step::Renewed)
                && let Some(at) = asked_at
            {
                lease_until = lease_until.max(at + Duration::from_secs(6));
            }
            for command in commands(&mut one) {
                if matches!(command, Command::Register { .. } | Command::Renew { .. }) {
                    asked_at = Some(now);
                }
            }
            prop_assert!(!one.may_serve(lease_until));
            prop_assert!(!one.is_connected || one.poll_timeout().is_some());
        }
        if !one.is_connected {
            one.handle_connected(now);
        }
        let config = RegistrationConfig::default();
        let serves_from = now + config.answer_max + config.backoff.max;
        one.handle_timeout(now);
        // What was asked before may never be answered.
        let until = serves_from + Duration::from_mins(1);
        while now < until {
            for command in commands(&mut one) {
                match command {
                    Command::Register { attempt, .. } => {
                        one.handle_granted(now, attempt, granted(token));
                    }
                    Command::Renew { attempt, .. } => {
                        one.handle_renewed(now, attempt, renewed(None));
                    }
                    _ => {}
                }
            }
            prop_assert!(now < serves_from || one.may_serve(now));
            let next = one.poll_timeout();
            prop_assert!(next.is_some_and(|at| at > now), "{next:?}");
            now = next.unwrap();
            one.handle_timeout(now);
        }
    }
}

/// A token from another registry was shown as one that this registry had granted.
#[test]
fn a_token_from_elsewhere_is_told_apart_from_one_that_was_granted() {
    let mut instance = instance("a", 1);
    instance.token = FencingToken(40);
    let mut one = Registration::new(instance, RegistrationConfig::default(), 7);
    let asked = |one: &mut Registration| {
        let asked = commands(one).into_iter().find_map(|command| match command {
            Command::Register { register, .. } => Some((register.token_seen.0, register.lift.0)),
            _ => None,
        });
        asked.expect("it asks")
    };
    one.handle_connected(seconds(0));
    assert_eq!(asked(&mut one), (0, 40));
    one.handle_granted(seconds(0), one.attempt, granted(30));
    assert!(!one.may_serve(seconds(0)), "that is below what it had");
    let next = one.poll_timeout().unwrap();
    one.handle_timeout(next);
    assert_eq!(asked(&mut one), (30, 40));
    one.handle_granted(next, one.attempt, granted(41));
    assert!(one.may_serve(next));
    one.handle_connected(seconds(1));
    assert_eq!(asked(&mut one), (41, 40));
}

/// A node with two registries had another token in each, and fell to the lower one when
/// the other registry went.
#[test]
fn a_token_of_another_registry_is_lifted_above_while_the_node_serves() {
    let mut one = registered();
    let before = one.instance().token;
    one.handle_lift(seconds(1), before);
    assert_eq!(commands(&mut one), [], "it has that");
    let elsewhere = FencingToken(before.0 + 40);
    one.handle_lift(seconds(1), elsewhere);
    let asked = commands(&mut one);
    let [Command::Register { attempt, register }] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!((register.token_seen, register.lift), (before, elsewhere));
    assert!(one.may_serve(seconds(1)));
    one.handle_lift(seconds(1), elsewhere);
    assert_eq!(commands(&mut one), [], "it is asked for");
    let attempt = *attempt;
    one.handle_granted(seconds(1), attempt, granted(elsewhere.0 + 1));
    assert_eq!(one.instance().token, FencingToken(elsewhere.0 + 1));
    assert!(one.may_serve(seconds(1)));
}
