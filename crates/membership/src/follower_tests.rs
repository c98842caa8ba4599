use proptest::prelude::*;

use super::*;
use crate::test_support::{instance, seconds, service, version};

fn follower() -> Follower {
    let watch = Watch::Service(service());
    Follower::new(SubscriberId(1), watch, FollowerConfig::default())
}

fn view(epoch: u64, number: u64, names: &[&str]) -> View {
    let mut view = View::empty(service(), version(epoch, number));
    for name in names {
        let one = instance(name, 1);
        view.instances.insert(one.id.clone(), Arc::new(one));
    }
    view
}

fn push(follower: &mut Follower, now: Moment, view: View) {
    follower.handle_push(now, &Content::View(Arc::new(view)));
}

fn outputs(follower: &mut Follower) -> Vec<FollowerOutput> {
    std::iter::from_fn(|| follower.poll_output()).collect()
}

fn names(follower: &Follower) -> Vec<&str> {
    let view = follower.view("logic").unwrap();
    view.instances.keys().map(InstanceId::as_str).collect()
}

/// A follower past its first suspicion that sees `names`.
fn settled(names: &[&str]) -> Follower {
    let mut follower = follower();
    follower.handle_connected(seconds(0));
    push(&mut follower, seconds(0), view(1, 1, names));
    outputs(&mut follower);
    follower
}

#[test]
fn a_lost_source_changes_nothing_and_a_cold_start_has_the_view_of_before() {
    let mut lost = settled(&["a", "b"]);
    lost.handle_disconnected();
    lost.handle_timeout(seconds(10_000));
    push(&mut lost, seconds(10_000), view(1, 2, &[]));
    assert_eq!(names(&lost), ["a", "b"]);

    let mut cold = follower();
    cold.restore(view(1, 1, &["a"]));
    assert_eq!(names(&cold), ["a"]);
    // What is on disk never replaces what is held.
    cold.restore(view(1, 9, &[]));
    assert_eq!(names(&cold), ["a"]);
}

/// Story: callers kept views of two registries that were joined, which have numbers of
/// their own. Started again they held these against one of the two, which told everybody
/// that it had been restored from an old state.
#[test]
fn what_was_on_disk_says_nothing_of_the_source() {
    let mut cold = follower();
    cold.restore(view(5, 17, &["a"]));
    outputs(&mut cold);
    cold.handle_connected(seconds(1));
    let asked = outputs(&mut cold);
    assert!(
        matches!(&asked[..], [FollowerOutput::Subscribe { have: None, .. }]),
        "{asked:?}"
    );
    push(&mut cold, seconds(1), view(2, 4, &["a", "b"]));
    let told = outputs(&mut cold);
    let is_backwards = |one: &FollowerOutput| matches!(one, FollowerOutput::Backwards { .. });
    assert!(!told.iter().any(is_backwards), "{told:?}");
    assert_eq!(names(&cold), ["a", "b"]);
    cold.handle_disconnected();
    cold.handle_connected(seconds(2));
    let asked = outputs(&mut cold);
    assert!(
        matches!(
            &asked[..],
            [FollowerOutput::Subscribe { have: Some(_), .. }]
        ),
        "{asked:?}"
    );
}

#[test]
fn a_refresh_asks_for_the_whole_and_changes_nothing_meanwhile() {
    let mut follower = settled(&["a", "b"]);
    follower.handle_refresh();
    follower.handle_refresh();
    let asked = outputs(&mut follower);
    assert!(
        matches!(&asked[..], [FollowerOutput::Resync { .. }]),
        "{asked:?}"
    );
    assert_eq!(names(&follower), ["a", "b"]);
    // The same version again, and a delta that comes before it.
    push(&mut follower, seconds(1), view(1, 1, &["a", "b"]));
    assert_eq!(names(&follower), ["a", "b"]);
    follower.handle_disconnected();
    follower.handle_refresh();
    assert!(
        !outputs(&mut follower)
            .iter()
            .any(|one| matches!(one, FollowerOutput::Resync { .. }))
    );
}

/// A registry that restarted empty, or was emptied by hand.
#[test]
fn an_empty_source_is_doubted_and_believed_when_it_insists() {
    let mut follower = settled(&["a", "b"]);
    follower.handle_disconnected();
    follower.handle_connected(seconds(100));
    push(&mut follower, seconds(100), view(2, 1, &[]));
    assert_eq!(names(&follower), ["a", "b"]);
    let told = outputs(&mut follower);
    let is_guard = |one: &FollowerOutput| matches!(one, FollowerOutput::Guard { kept: 2, .. });
    assert!(told.iter().any(is_guard), "{told:?}");
    let until = follower.poll_timeout().unwrap();
    assert_eq!(until, seconds(120));
    follower.handle_timeout(until);
    assert_eq!(names(&follower), [""; 0]);
    assert_eq!(follower.poll_timeout(), None);
}

#[test]
fn the_guard_clears_by_itself_when_the_lost_come_back() {
    let mut follower = settled(&["a", "b", "c", "d"]);
    follower.handle_disconnected();
    follower.handle_connected(seconds(100));
    push(&mut follower, seconds(100), view(2, 1, &["a"]));
    assert_eq!(names(&follower), ["a", "b", "c", "d"]);
    push(&mut follower, seconds(101), view(2, 2, &["a", "b", "e"]));
    assert_eq!(names(&follower), ["a", "b", "e"]);
    assert_eq!(follower.poll_timeout(), None);
}

#[test]
fn losses_one_by_one_within_the_window_count_as_one() {
    let mut follower = settled(&["a", "b", "c", "d", "e"]);
    for (number, rest) in (2..).zip([&["b", "c", "d", "e"][..], &["c", "d", "e"], &["d", "e"]]) {
        push(&mut follower, seconds(60 + number), view(1, number, rest));
    }
    assert_eq!(names(&follower), ["a", "b", "c", "d", "e"]);
    // Far apart they are believed.
    let mut follower = settled(&["a", "b", "c", "d", "e"]);
    for (number, rest) in (2..).zip([&["b", "c", "d", "e"][..], &["c", "d", "e"], &["d", "e"]]) {
        push(&mut follower, seconds(60 * number), view(1, number, rest));
    }
    assert_eq!(names(&follower), ["d", "e"]);
}

#[test]
fn a_trusted_source_is_believed_about_the_last_of_one_or_two() {
    let mut follower = settled(&["a", "b"]);
    push(&mut follower, seconds(60), view(1, 2, &["b"]));
    assert_eq!(names(&follower), ["b"]);
    push(&mut follower, seconds(61), view(1, 3, &[]));
    assert_eq!(names(&follower), [""; 0]);
}

#[test]
fn what_was_deregistered_is_never_kept() {
    let mut follower = settled(&["a", "b", "c"]);
    let mut delta = view(1, 1, &["a", "b", "c"]).delta_to(&view(1, 2, &[]));
    delta.removed[1].1 = Removal::Deregistered;
    follower.handle_push(seconds(60), &Content::Delta(Arc::new(delta.clone())));
    // Two losses of a trusted source: believed.
    assert_eq!(names(&follower), [""; 0]);
    let told = outputs(&mut follower);
    let lapsed = told.iter().find_map(|one| match one {
        FollowerOutput::Changed { lapsed, .. } => Some(lapsed.clone()),
        _ => None,
    });
    assert_eq!(lapsed, Some(vec![instance("a", 1).id, instance("c", 1).id]));
    let mut follower = settled(&["a", "b", "c"]);
    follower.handle_push(seconds(1), &Content::Delta(Arc::new(delta)));
    assert_eq!(names(&follower), ["a", "c"]);
}

#[test]
fn a_gap_is_resynced_once() {
    let mut follower = settled(&["a"]);
    for _ in 0..3 {
        let delta = view(1, 5, &["a"]).delta_to(&view(1, 6, &["a", "b"]));
        follower.handle_push(seconds(1), &Content::Delta(Arc::new(delta)));
    }
    let told = outputs(&mut follower);
    assert_eq!(told, [FollowerOutput::Resync { service: service() }]);
    assert_eq!(names(&follower), ["a"]);
    push(&mut follower, seconds(1), view(1, 6, &["a", "b"]));
    assert_eq!(names(&follower), ["a", "b"]);
}

#[test]
fn versions_that_go_backwards_are_told_resynced_and_suspect() {
    let mut follower = settled(&["a", "b"]);
    // Within one connection an old view was overtaken.
    push(&mut follower, seconds(50), view(0, 9, &[]));
    assert_eq!(outputs(&mut follower), []);
    follower.handle_disconnected();
    follower.handle_connected(seconds(60));
    outputs(&mut follower);
    push(&mut follower, seconds(90), view(0, 9, &["c"]));
    let told = outputs(&mut follower);
    assert!(matches!(told[0], FollowerOutput::Backwards { .. }));
    assert_eq!(names(&follower), ["a", "b", "c"]);
}

#[test]
fn a_source_that_is_lost_again_stops_the_guards_clock() {
    let mut follower = settled(&["a", "b"]);
    follower.handle_disconnected();
    follower.handle_connected(seconds(100));
    push(&mut follower, seconds(100), view(2, 1, &[]));
    follower.handle_disconnected();
    assert_eq!(follower.poll_timeout(), None);
    follower.handle_timeout(seconds(1000));
    assert_eq!(names(&follower), ["a", "b"]);
    follower.handle_connected(seconds(1000));
    push(&mut follower, seconds(1001), view(3, 1, &[]));
    assert_eq!(follower.poll_timeout(), Some(seconds(1021)));
}

#[test]
fn malformed_pushes_are_dropped_by_reason() {
    let mut follower = settled(&["a"]);
    let mut misfiled = view(1, 2, &["b"]);
    let one = misfiled.instances.pop_first().unwrap().1;
    misfiled.instances.insert(crate::test_support::id("c"), one);
    push(&mut follower, seconds(1), misfiled);
    let mut foreign = view(1, 2, &[]);
    foreign.service = ServiceName::new("das").unwrap();
    push(&mut follower, seconds(1), foreign);
    let reason = |one: &FollowerOutput| match one {
        FollowerOutput::Dropped { reason, .. } => Some(*reason),
        _ => None,
    };
    let reasons: Vec<DropReason> = outputs(&mut follower).iter().filter_map(reason).collect();
    assert_eq!(
        reasons,
        [DropReason::InvalidInstance, DropReason::NotWatched]
    );
    assert_eq!(names(&follower), ["a"]);
}

proptest! {
    /// Whatever a suspect source says and however often it is lost, callers see
    /// what it said last or more; and while it has not insisted for the whole
    /// guard time, never nothing, and never less than half of what they saw before.
    #[test]
    fn callers_never_see_nothing_of_a_suspect_source(
        steps in proptest::collection::vec((0..32_u8, 0..9_u64), 1..40),
    ) {
        let all = ["a", "b", "c", "d", "e"];
        let mut follower = settled(&all);
        let (mut now, mut number, mut said) = (seconds(50), 1, all.to_vec());
        for (bits, wait) in steps {
            // Each step reconnects, so the source is always suspect.
            follower.handle_disconnected();
            now += Duration::from_secs(wait);
            follower.handle_timeout(now);
            follower.handle_connected(now);
            number += 1;
            said = (0..all.len()).filter(|n| bits >> n & 1 == 1).map(|n| all[n]).collect();
            let before = names(&follower).len();
            push(&mut follower, now, view(number, 1, &said));
            let seen = names(&follower);
            prop_assert!(!seen.is_empty());
            prop_assert!(seen.len() * 2 >= before, "{seen:?} of {before}");
            prop_assert!(said.iter().all(|one| seen.contains(one)));
        }
        // And it clears by itself.
        while let Some(at) = follower.poll_timeout() {
            follower.handle_timeout(at);
        }
        prop_assert_eq!(names(&follower), said);
    }
}

/// Story: after each connection a source was asked for a view by the subscription
/// and once more by itself, so that a restart of a route server cost twice the
/// bytes of all views.
#[test]
fn a_view_is_asked_for_once_after_a_connection() {
    let watch = |follower: &mut Follower| {
        follower.handle_disconnected();
        follower.handle_connected(seconds(60));
        outputs(follower)
    };
    let told = watch(&mut settled(&["a"]));
    assert!(
        matches!(&told[..], [FollowerOutput::Subscribe { .. }]),
        "{told:?}"
    );
    // Of a prefix it is not known whether the service is still there.
    let watched = Watch::Prefix("".into());
    let mut follower = Follower::new(SubscriberId(1), watched, FollowerConfig::default());
    follower.restore(view(1, 1, &["a"]));
    outputs(&mut follower);
    let told = watch(&mut follower);
    let is_question = |one: &&FollowerOutput| matches!(one, FollowerOutput::Resync { .. });
    assert_eq!(told.iter().filter(is_question).count(), 1, "{told:?}");
}

proptest! {
    /// A view that a source has at hand is as good as the delta that leads to it.
    #[test]
    fn a_step_is_the_delta_that_leads_to_it(
        steps in proptest::collection::vec(
            (proptest::collection::btree_set(0..6_usize, 0..6), any::<bool>(), 0..8_u64),
            1..12,
        ),
    ) {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let mut by_deltas = settled(&NAMES);
        let mut by_steps = settled(&NAMES);
        let mut before = view(1, 1, &NAMES);
        let mut now = seconds(20);
        for (number, (there, is_meant, pause)) in steps.into_iter().enumerate() {
            now += Duration::from_secs(pause);
            let there: Vec<&str> = there.into_iter().map(|index| NAMES[index]).collect();
            let newer = view(1, 2 + number as u64, &there);
            let mut delta = before.delta_to(&newer);
            if is_meant {
                for (_, why) in &mut delta.removed {
                    *why = Removal::Deregistered;
                }
            }
            by_steps.handle_step(now, &delta, &Arc::new(newer.clone()));
            by_deltas.handle_push(now, &Content::Delta(Arc::new(delta)));
            for follower in [&mut by_deltas, &mut by_steps] {
                follower.handle_timeout(now);
            }
            prop_assert_eq!(outputs(&mut by_deltas), outputs(&mut by_steps));
            // What went is told, unless it is kept.
            for name in NAMES {
                let was = before.instances.contains_key(name);
                let shows = names(&by_steps).contains(&name);
                prop_assert!(shows || !there.contains(&name), "{name}");
                prop_assert!(!(is_meant && was && shows && !there.contains(&name)), "{name}");
            }
            before = newer;
        }
    }
}

/// A view that made no sense was the answer to a question for a whole one, and none
/// was asked for any more: the gap stayed until the next connection.
#[test]
fn a_view_that_is_dropped_is_asked_for_again_at_the_next_gap() {
    let mut follower = settled(&["a"]);
    let asks = |follower: &mut Follower, to: u64| {
        let delta = view(1, to - 1, &["a"]).delta_to(&view(1, to, &["a", "b"]));
        follower.handle_push(seconds(1), &Content::Delta(delta.into()));
        let is_ask = |one: &FollowerOutput| matches!(one, FollowerOutput::Resync { .. });
        outputs(follower).iter().any(is_ask)
    };
    assert!(asks(&mut follower, 8), "a gap");
    assert!(!asks(&mut follower, 9), "it is asked for");
    let mut misfiled = view(1, 9, &["b"]);
    let one = misfiled.instances.pop_first().unwrap().1;
    misfiled.instances.insert(crate::test_support::id("c"), one);
    push(&mut follower, seconds(1), misfiled);
    assert!(asks(&mut follower, 10), "what came was no answer");
}
