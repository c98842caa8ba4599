use std::time::Duration;

use super::*;
use crate::lease::GrantError;
use crate::test_support::{id, instance, owner, seconds, service};
use crate::view::ViewAck;
use crate::{ApplyError, HolderError};

const TTL: Duration = Duration::from_secs(4);
const ALICE: SubscriberId = SubscriberId(1);
const BOB: SubscriberId = SubscriberId(2);

fn directory() -> Directory {
    Directory::new(seconds(0), Epoch(1), DirectoryConfig::default())
}

fn register(directory: &mut Directory, now: Moment, name: &str, owner: u128) -> Granted {
    let wish = wish(name, owner);
    directory.handle_register(now, wish).unwrap()
}

fn wish(name: &str, owner: u128) -> Register {
    Register {
        instance: instance(name, owner),
        ttl: TTL,
        token_seen: FencingToken(0),
        lift: FencingToken(0),
    }
}

fn watch() -> Watch {
    Watch::Service(service())
}

fn outputs(directory: &mut Directory) -> Vec<Output> {
    std::iter::from_fn(|| directory.poll_output()).collect()
}

/// Delivers and acknowledges every push to `subscriber`; returns the contents.
fn deliver(directory: &mut Directory, now: Moment, subscriber: SubscriberId) -> Vec<Content> {
    let mut contents = Vec::new();
    for output in outputs(directory) {
        if let Output::Push {
            subscriber: to,
            content,
        } = output
            && to == subscriber
        {
            let ack = ViewAck {
                subscriber,
                service: content.service().clone(),
                at: content.at(),
            };
            directory.handle_ack(now, &ack);
            contents.push(content);
        }
    }
    contents
}

fn steps(outputs: &[Output]) -> Vec<DrainStep> {
    let step = |output: &Output| match output {
        Output::Drain { step, .. } => Some(*step),
        _ => None,
    };
    outputs.iter().filter_map(step).collect()
}

/// The reference never watched a type without a node: a gate that started before
/// the first logic node never saw one.
#[test]
fn a_service_is_watched_before_its_first_instance() {
    for watch in [watch(), Watch::Prefix("lo".into())] {
        let mut directory = directory();
        directory
            .handle_subscribe(seconds(0), ALICE, &watch, None)
            .unwrap();
        deliver(&mut directory, seconds(0), ALICE);
        register(&mut directory, seconds(1), "a", 1);
        let contents = deliver(&mut directory, seconds(1), ALICE);
        assert_eq!(contents.len(), 1, "{watch:?}");
        assert_eq!(directory.view("logic").unwrap().instances.len(), 1);
    }
}

/// The reference sent a restarted worker the asker's own version instead of the
/// list.
#[test]
fn a_subscriber_that_comes_back_gets_the_whole_view() {
    let mut directory = directory();
    register(&mut directory, seconds(0), "a", 1);
    for _ in 0..3 {
        let have = Some(directory.version());
        directory
            .handle_subscribe(seconds(0), ALICE, &watch(), have)
            .unwrap();
        let contents = deliver(&mut directory, seconds(0), ALICE);
        assert!(matches!(&contents[..], [Content::View(view)] if view.instances.len() == 1));
        directory.handle_lost(seconds(0), ALICE);
    }
}

#[test]
fn changes_come_as_deltas_that_fit_and_a_gap_is_resynced() {
    let mut directory = directory();
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), None)
        .unwrap();
    let first = deliver(&mut directory, seconds(0), ALICE);
    let [Content::View(view)] = &first[..] else {
        panic!("{first:?}")
    };
    let mut held = (**view).clone();
    for name in ["a", "b", "c"] {
        register(&mut directory, seconds(1), name, 1);
        let contents = deliver(&mut directory, seconds(1), ALICE);
        let [Content::Delta(delta)] = &contents[..] else {
            panic!("{contents:?}")
        };
        if name == "b" {
            continue; // lost on the way
        }
        let result = held.apply(delta);
        assert_eq!(result.is_ok(), name == "a", "{result:?}");
        assert!(!matches!(result, Err(ApplyError::Contents { .. })));
    }
    directory.handle_resync(seconds(1), ALICE, &service());
    let contents = deliver(&mut directory, seconds(1), ALICE);
    assert!(matches!(&contents[..], [Content::View(view)] if view.instances.len() == 3));
}

#[test]
fn a_slow_subscriber_is_held_back_and_then_gets_the_whole_view() {
    let mut directory = directory();
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), None)
        .unwrap();
    let mut sent = Vec::new();
    for n in 0..100 {
        register(&mut directory, seconds(1), &format!("a{n}"), 1);
        sent.extend(outputs(&mut directory).into_iter().filter_map(|output| {
            let Output::Push { content, .. } = output else {
                return None;
            };
            Some(content.at())
        }));
    }
    assert_eq!(sent.len(), crate::limits::PUSHES_UNACKED_MAX);
    // Half of them are enough: the last word may wait for a view that is not sent.
    let half = crate::limits::PUSHES_UNACKED_MAX / 2;
    for (index, at) in sent.into_iter().take(half).enumerate() {
        assert_eq!(deliver(&mut directory, seconds(1), ALICE), [], "{index}");
        let ack = ViewAck {
            subscriber: ALICE,
            service: service(),
            at,
        };
        directory.handle_ack(seconds(1), &ack);
    }
    let contents = deliver(&mut directory, seconds(1), ALICE);
    assert!(matches!(&contents[..], [Content::View(view)] if view.instances.len() == 100));
}

#[test]
fn a_mass_expiry_is_one_push() {
    let mut directory = directory();
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), None)
        .unwrap();
    for n in 0..50 {
        register(&mut directory, seconds(0), &format!("a{n}"), 1);
    }
    deliver(&mut directory, seconds(0), ALICE);
    let due = directory.poll_timeout().unwrap();
    assert_eq!(due, seconds(4));
    directory.handle_timeout(due);
    let contents = deliver(&mut directory, due, ALICE);
    let [Content::Delta(delta)] = &contents[..] else {
        panic!("{contents:?}")
    };
    assert_eq!(delta.removed.len(), 50);
    assert!(delta.removed.iter().all(|one| one.1 == Removal::Expired));
}

#[test]
fn a_duplicate_id_is_refused_with_the_holders_address() {
    let mut directory = directory();
    register(&mut directory, seconds(0), "a", 1);
    let refusal = directory
        .handle_register(seconds(1), wish("a", 2))
        .unwrap_err();
    assert!(
        refusal.to_string().ends_with("at 10.0.0.1:7000"),
        "{refusal}"
    );
    assert!(matches!(
        refusal,
        Refusal::Lease {
            error: GrantError::Held { .. },
            holder: Some(_)
        }
    ));
}

/// The reference left a node's own stale entry in place after it registered
/// again.
#[test]
fn a_restarted_node_replaces_its_own_stale_entry() {
    let mut directory = directory();
    let old = register(&mut directory, seconds(0), "a", 1);
    let mut again = wish("a", 1);
    again.instance.owner.incarnation = 2;
    let new = directory.handle_register(seconds(1), again).unwrap();
    assert!(new.token > old.token);
    outputs(&mut directory);
    assert_eq!(directory.view("logic").unwrap().instances.len(), 1);
    let late = directory.handle_renew(seconds(1), &id("a"), old.token);
    assert_eq!(late, Err(HolderError::Fenced { current: new.token }));
}

#[test]
fn a_restart_longer_than_the_lease_drops_nobody_and_tokens_rise() {
    let mut before = directory();
    let old = register(&mut before, seconds(0), "a", 1);
    let saved = outputs(&mut before).into_iter().find_map(|output| {
        let Output::Save { instance, ttl } = output else {
            return None;
        };
        Some((instance, ttl))
    });
    let (instance, ttl) = saved.unwrap();
    let mut after = Directory::new(seconds(60), Epoch(2), DirectoryConfig::default());
    after.restore(seconds(60), (*instance).clone(), ttl);
    after.handle_timeout(seconds(61));
    after
        .handle_renew(seconds(61), &id("a"), old.token)
        .unwrap();
    let other = register(&mut after, seconds(61), "b", 2);
    assert!(other.token > old.token);
    assert_eq!(after.version().epoch, Epoch(2));
}

#[test]
fn a_stalled_registry_evicts_nobody_whose_renewal_waits_unread() {
    let mut directory = directory();
    let granted = register(&mut directory, seconds(0), "a", 1);
    directory.handle_timeout(seconds(30));
    assert!(matches!(
        outputs(&mut directory)[..],
        [Output::Save { .. }, Output::Stalled { .. }]
    ));
    directory
        .handle_renew(seconds(31), &id("a"), granted.token)
        .unwrap();
}

#[test]
fn an_old_backup_goes_on_above_what_its_peers_have_seen() {
    let mut directory = directory();
    register(&mut directory, seconds(0), "a", 1);
    let seen = ViewVersion {
        epoch: Epoch(7),
        number: 3,
    };
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), Some(seen))
        .unwrap();
    let outputs = outputs(&mut directory);
    assert!(outputs.contains(&Output::SaveEpoch { epoch: Epoch(8) }));
    assert!(directory.view("logic").unwrap().at > seen);
    // An absurd claim is told and not followed.
    let absurd = ViewVersion {
        epoch: Epoch(u64::MAX),
        number: 0,
    };
    directory
        .handle_subscribe(seconds(0), BOB, &watch(), Some(absurd))
        .unwrap();
    assert_eq!(directory.version().epoch, Epoch(8));
}

/// A node that moved here from another registry had a token of that one, higher
/// than all of ours in the same epoch: what it was granted here was below what it
/// had, and whoever had seen that refused it.
#[test]
fn a_token_of_another_registry_lifts_this_one() {
    let mut directory = directory();
    let low = register(&mut directory, seconds(1), "a-1", 1);
    let mut asked = wish("a-1", 1);
    asked.token_seen = FencingToken(low.token.0 + 1_000_000);
    let granted = directory.handle_register(seconds(2), asked.clone());
    let granted = granted.expect("the same owner");
    assert!(granted.token > asked.token_seen);
    asked.token_seen = granted.token;
    let again = directory.handle_register(seconds(3), asked);
    assert_eq!(again.expect("the same owner").token, granted.token);
    let other = register(&mut directory, seconds(3), "a-2", 2);
    assert!(other.token > granted.token);
}

#[test]
fn a_drain_ends_when_all_acknowledged_and_requests_ended() {
    let mut directory = directory();
    let granted = register(&mut directory, seconds(0), "a", 1);
    for subscriber in [ALICE, BOB] {
        directory
            .handle_subscribe(seconds(0), subscriber, &watch(), None)
            .unwrap();
    }
    deliver(&mut directory, seconds(0), ALICE);
    directory
        .handle_drain(seconds(1), &id("a"), Some(granted.token))
        .unwrap();
    deliver(&mut directory, seconds(1), ALICE);
    // Bob has not acknowledged: an idle owner stays.
    directory
        .handle_idle(seconds(1), &id("a"), granted.token)
        .unwrap();
    assert_eq!(steps(&outputs(&mut directory)), []);
    let at = directory.view("logic").unwrap().at;
    let still = directory
        .holders("logic")
        .filter(|one| one.acked < Some(at));
    assert_eq!(still.map(|one| one.subscriber).collect::<Vec<_>>(), [BOB]);
    let ack = ViewAck {
        subscriber: BOB,
        service: service(),
        at,
    };
    directory.handle_ack(seconds(1), &ack);
    assert_eq!(steps(&outputs(&mut directory)), [DrainStep::Acknowledged]);
    directory
        .handle_idle(seconds(2), &id("a"), granted.token)
        .unwrap();
    assert_eq!(steps(&outputs(&mut directory)), [DrainStep::Ended]);
    assert!(directory.view("logic").unwrap().instances.is_empty());
    // Its registration, which may not have heard, does not bring it back.
    let again = directory.handle_register(seconds(3), wish("a", 1));
    assert_eq!(again, Err(Refusal::Drained));
}

#[test]
fn a_drain_ends_by_its_deadlines_and_names_who_was_missing() {
    let mut directory = directory();
    let granted = register(&mut directory, seconds(0), "a", 1);
    directory
        .handle_subscribe(seconds(0), BOB, &watch(), None)
        .unwrap();
    directory.handle_drain(seconds(0), &id("a"), None).unwrap();
    outputs(&mut directory);
    let mut found = Vec::new();
    for second in 1..=40 {
        let now = seconds(second);
        let _ = directory.handle_renew(now, &id("a"), granted.token);
        directory.handle_timeout(now);
        for output in outputs(&mut directory) {
            if let Output::Drain { step, missing, .. } = output {
                found.push((second, step, missing));
            }
        }
    }
    assert_eq!(
        found,
        [
            (10, DrainStep::Acknowledged, vec![BOB]),
            (40, DrainStep::Ended, vec![])
        ]
    );
}

#[test]
fn a_subscriber_that_is_lost_holds_a_drain_until_it_has_lingered() {
    let config = DirectoryConfig {
        linger: Duration::from_secs(3),
        ..DirectoryConfig::default()
    };
    let mut directory = Directory::new(seconds(0), Epoch(1), config);
    register(&mut directory, seconds(0), "a", 1);
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), None)
        .unwrap();
    deliver(&mut directory, seconds(0), ALICE);
    directory.handle_lost(seconds(0), ALICE);
    directory.handle_drain(seconds(0), &id("a"), None).unwrap();
    assert_eq!(steps(&outputs(&mut directory)), []);
    directory.handle_timeout(seconds(3));
    assert_eq!(steps(&outputs(&mut directory)), [DrainStep::Acknowledged]);
}

/// Story: a registry that was started anew knew of no subscriber yet, and took a
/// drain for acknowledged by all of them.
#[test]
fn after_a_restart_a_drain_waits_for_subscribers_to_come_back() {
    let mut saved = instance("a", 1);
    saved.token = FencingToken(1 << 40 | 1);
    saved.state = State::Draining;
    let restart = || {
        let config = DirectoryConfig {
            linger: Duration::from_secs(3),
            ..DirectoryConfig::default()
        };
        let mut directory = Directory::new(seconds(1), Epoch(2), config);
        directory.restore(seconds(1), saved.clone(), TTL);
        assert_eq!(steps(&outputs(&mut directory)), []);
        directory
    };
    let mut directory = restart();
    directory.handle_timeout(seconds(3));
    assert_eq!(steps(&outputs(&mut directory)), []);
    assert_eq!(directory.poll_timeout(), Some(seconds(4)));
    directory.handle_timeout(seconds(4));
    assert_eq!(steps(&outputs(&mut directory)), [DrainStep::Acknowledged]);
    // One that is back is waited for longer.
    let mut directory = restart();
    directory
        .handle_subscribe(seconds(2), ALICE, &watch(), None)
        .unwrap();
    directory.handle_timeout(seconds(4));
    assert_eq!(steps(&outputs(&mut directory)), []);
    directory.handle_resync(seconds(5), ALICE, &service());
    deliver(&mut directory, seconds(5), ALICE);
    assert_eq!(steps(&outputs(&mut directory)), [DrainStep::Acknowledged]);
}

#[test]
fn registering_again_does_not_undo_a_drain() {
    let mut directory = directory();
    register(&mut directory, seconds(0), "a", 1);
    directory.handle_drain(seconds(0), &id("a"), None).unwrap();
    let again = register(&mut directory, seconds(0), "a", 1);
    assert_eq!(again.state, State::Draining);
    assert_eq!(owner(1), directory.lease(&id("a")).unwrap().owner);
}

#[test]
fn what_a_subscriber_holds_from_before_is_answered_by_an_empty_view() {
    let mut directory = directory();
    let prefix = Watch::Prefix("".into());
    directory
        .handle_subscribe(seconds(0), ALICE, &prefix, None)
        .unwrap();
    assert_eq!(deliver(&mut directory, seconds(0), ALICE), []);
    directory.handle_resync(seconds(0), ALICE, &service());
    let contents = deliver(&mut directory, seconds(0), ALICE);
    assert!(matches!(&contents[..], [Content::View(view)] if view.instances.is_empty()));
    // And the record is not kept.
    assert_eq!(directory.services().count(), 0);
}

#[test]
fn what_is_placed_is_shown_until_it_is_displaced_and_is_never_stored() {
    let mut directory = directory();
    for (subscriber, watch) in [(ALICE, watch()), (BOB, Watch::Prefix("".into()))] {
        directory
            .handle_subscribe(seconds(0), subscriber, &watch, None)
            .unwrap();
    }
    deliver(&mut directory, seconds(0), ALICE);
    directory
        .handle_place(seconds(0), instance("a", 1))
        .unwrap();
    directory
        .handle_place(seconds(0), instance("b", 1))
        .unwrap();
    // It has no lease that could end.
    directory.handle_timeout(seconds(10_000));
    let told = outputs(&mut directory);
    let is_push = |output: &Output| matches!(output, Output::Push { .. });
    assert!(told.iter().all(is_push), "{told:?}");
    assert_eq!(told.len(), 2, "two changes are one version for each");
    assert_eq!(directory.view("logic").unwrap().instances.len(), 2);
    // Placed into another service it is in that one only.
    let mut moved = instance("a", 1);
    moved.service = "das".parse().unwrap();
    directory.handle_place(seconds(1), moved).unwrap();
    directory.handle_displace(seconds(1), &id("b"), Removal::Unknown);
    let told = outputs(&mut directory);
    assert!(told.iter().all(is_push), "{told:?}");
    assert_eq!(directory.view("logic").unwrap().instances.len(), 0);
    assert_eq!(directory.view("das").unwrap().instances.len(), 1);
    let mut bad = instance("c", 1);
    bad.weight = u32::MAX;
    let refused = directory.handle_place(seconds(1), bad);
    assert!(matches!(refused, Err(Refusal::Instance(_))));
}

/// Each new service looked at every subscriber, and each subscriber that left at
/// every service.
#[test]
fn subscribers_of_names_and_of_prefixes_come_and_go_alike() {
    let mut directory = directory();
    for number in 0..100 {
        let name: ServiceName = format!("s{number}").parse().unwrap();
        let subscriber = SubscriberId(100 + number);
        directory
            .handle_subscribe(seconds(0), subscriber, &Watch::Service(name), None)
            .unwrap();
    }
    let prefix = Watch::Prefix("s1".into());
    directory
        .handle_subscribe(seconds(0), ALICE, &prefix, None)
        .unwrap();
    outputs(&mut directory);
    let mut one = instance("a", 1);
    one.service = "s1x".parse().unwrap();
    directory.handle_place(seconds(0), one).unwrap();
    assert_eq!(deliver(&mut directory, seconds(0), ALICE).len(), 1);
    let held = directory.holders("s17").count();
    assert_eq!(held, 2, "by its name and by its prefix");
    assert_eq!(directory.holders("s27").count(), 1);
    for number in 0..100 {
        directory.handle_unsubscribe(seconds(1), SubscriberId(100 + number));
    }
    outputs(&mut directory);
    directory.handle_unsubscribe(seconds(1), ALICE);
    let left: Vec<&str> = directory.services().map(ServiceName::as_str).collect();
    assert_eq!(
        left,
        ["s1x"],
        "records without instances went with their watchers"
    );
}

/// Story: a registry was restored from a backup of the start before the last one,
/// and was in the epoch of the last one again. It gave an id to another node under
/// the token that the holder of before had, whose renewals it took as well: two
/// served under one token.
#[test]
fn an_epoch_that_comes_again_gives_no_number_a_second_time() {
    let start = |base| {
        let mut directory = Directory::new(seconds(0), Epoch(2), DirectoryConfig::default());
        directory.begin_at(base);
        directory
            .handle_subscribe(seconds(0), ALICE, &watch(), None)
            .unwrap();
        directory
    };
    let (mut lost, mut restored) = (start(7_000), start(12));
    let before = register(&mut lost, seconds(1), "a", 1).token;
    outputs(&mut lost);
    let after = register(&mut restored, seconds(1), "a", 2).token;
    outputs(&mut restored);
    assert_ne!(before, after);
    let renewed = restored.handle_renew(seconds(2), &id("a"), before);
    assert_eq!(renewed, Err(HolderError::Fenced { current: after }));
    let shown = [&lost, &restored].map(|one| one.view(service().as_str()).unwrap().at);
    assert_ne!(shown[0], shown[1], "a version is two things");
    // So it is in the epochs after that.
    let seen = Register {
        token_seen: FencingToken(before.0.max(after.0) + 1),
        ..wish("b", 3)
    };
    let tokens = [&mut lost, &mut restored].map(|one| {
        let granted = one.handle_register(seconds(3), seen.clone());
        granted.unwrap().token
    });
    assert_eq!(tokens.map(epoch_of), [Epoch(3); 2]);
    assert_ne!(tokens[0], tokens[1]);
}

/// Story: a node that moved here from another registry brought the token along that
/// it had there. It was taken for one of this registry's own future: operators were
/// told of a restore from an old state, for good, at each ordinary migration.
#[test]
fn a_token_of_another_registry_lifts_and_tells_nothing() {
    let mut directory = directory();
    let elsewhere = FencingToken(5 << 40 | 7);
    let comes = Register {
        lift: elsewhere,
        ..wish("a", 1)
    };
    let is_told = |outputs: &[Output]| {
        let mut outputs = outputs.iter();
        outputs.any(|one| matches!(one, Output::Behind { .. }))
    };
    let granted = directory.handle_register(seconds(1), comes.clone());
    assert!(granted.unwrap().token > elsewhere);
    assert!(!is_told(&outputs(&mut directory)));
    // Again, and with a lease from before that is below it.
    let again = directory.handle_register(seconds(2), comes).unwrap();
    let higher = FencingToken(again.token.0 + 9);
    let back = Register {
        lift: higher,
        ..wish("a", 1)
    };
    let granted = directory.handle_register(seconds(3), back);
    assert!(granted.unwrap().token > higher);
    assert!(!is_told(&outputs(&mut directory)));
    let absurd = Register {
        lift: FencingToken(u64::MAX),
        ..wish("b", 2)
    };
    let refused = directory.handle_register(seconds(4), absurd);
    assert!(matches!(refused, Err(Refusal::Other(_))), "{refused:?}");
    assert!(!is_told(&outputs(&mut directory)), "nothing went back");
}

/// Story: a registry was restored from a backup of the start before the last one. It
/// was in the epoch of the last one again, and with luck drew numbers above all that
/// peers had from then: nobody was told, and what they held was believed.
#[test]
fn a_number_of_this_epoch_that_was_not_given_out_tells_of_a_restore() {
    let start = || {
        let mut directory = Directory::new(seconds(0), Epoch(2), DirectoryConfig::default());
        directory.begin_at(7_000);
        directory
    };
    let behind = |directory: &mut Directory| {
        let all = outputs(directory);
        let behind = all
            .iter()
            .filter(|one| matches!(one, Output::Behind { .. }));
        behind.count()
    };
    let version = |number| {
        let epoch = Epoch(2);
        Some(ViewVersion { epoch, number })
    };
    let mut directory = start();
    let have = version(12);
    directory
        .handle_subscribe(seconds(0), ALICE, &watch(), have)
        .unwrap();
    assert_eq!(behind(&mut directory), 1);
    assert_eq!(directory.version().epoch, Epoch(3));

    let mut directory = start();
    let seen = Register {
        token_seen: FencingToken((2 << 40) + 12),
        ..wish("a", 1)
    };
    let granted = directory.handle_register(seconds(1), seen).unwrap();
    assert_eq!(epoch_of(granted.token), Epoch(3));
    assert_eq!(behind(&mut directory), 1);

    // What it has given out itself proves nothing.
    let mut directory = start();
    let granted = register(&mut directory, seconds(1), "a", 1);
    outputs(&mut directory);
    let at = directory.version();
    let again = Register {
        token_seen: granted.token,
        ..wish("a", 1)
    };
    directory.handle_register(seconds(2), again).unwrap();
    for have in [Some(at), version(7_000)] {
        directory
            .handle_subscribe(seconds(2), ALICE, &watch(), have)
            .unwrap();
    }
    assert_eq!(behind(&mut directory), 0);
    assert_eq!(directory.version().epoch, Epoch(2));
}

/// The answer to a drain was that it could not be stored. Who asked again was told
/// that it was begun, which no restart would have known.
#[test]
fn a_drain_that_is_asked_for_again_is_stored_again() {
    let mut directory = directory();
    register(&mut directory, seconds(0), "a", 1);
    outputs(&mut directory);
    for _ in 0..2 {
        directory.handle_drain(seconds(1), &id("a"), None).unwrap();
        let saved = outputs(&mut directory)
            .into_iter()
            .find_map(|one| match one {
                Output::Save { instance, .. } => Some(instance.state),
                _ => None,
            });
        assert_eq!(saved, Some(State::Draining));
    }
}
