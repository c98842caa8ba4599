//! Policies that only the agent knows: it is asked for each first try.

use waystation_balance::PolicyKind;

use super::*;

fn world(policy: PolicyKind, hosts: u32) -> World {
    let mut world = World::without_agent(hosts);
    world.start_agent_with(|config| config.policy = policy);
    world
}

/// Story: calls to picked hosts were tested with the default policy only, under which
/// nobody asks the agent.
#[test]
fn an_agent_that_is_asked_hears_how_calls_end() {
    let world = world(PolicyKind::RoundRobin, 2);
    let config = BalancedConfig::new(world.caller());
    let (answers, counters) = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        let answers = ask(&shard, &balanced, 100).await;
        (answers, balanced.counters())
    });
    let numbers: Vec<u32> = answers.into_iter().map(Result::unwrap).collect();
    assert!(numbers.contains(&0) && numbers.contains(&1), "{numbers:?}");
    assert_eq!((counters.picked, counters.fallen_back), (100, 0));
    let is_known = |host: &ListedHost| host.in_flight == 0 && host.latency_us > 0;
    until(|| world.list().iter().all(is_known));
    until(|| world.list().iter().any(|host| host.reported_latency_us > 0));
}

/// Story: a try after a failure asked the agent again, which named the host that had
/// failed as often as not.
#[test]
fn under_any_policy_a_call_that_fails_is_tried_at_another_host() {
    let mut world = world(PolicyKind::Maglev, 2);
    let (mut config, view) = (BalancedConfig::new(world.caller()), world.view());
    config.try_wait = Some(Duration::from_millis(500));
    config.tries = 2;
    world.hosts[0].stop();
    let answers = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::over(&shard, config, group(&shard, &view));
        // Which other hosts there are it knows once it is attached.
        while balanced.counters().picked == 0 {
            let _either = ask(&shard, &balanced, 1).await;
        }
        ask(&shard, &balanced, 20).await
    });
    assert!(answers.iter().all(|answer| *answer == Ok(1)), "{answers:?}");
}

/// Story: second calls were sent under the policies only that pick from shared memory,
/// and nobody said so.
#[test]
fn under_any_policy_a_call_that_takes_long_is_sent_to_a_second_host() {
    shares::sends_second_calls(&world(PolicyKind::RoundRobin, 2));
}
