//! Policies that only the agent knows: it is asked for each first try.

use super::*;

/// Runs a test whose agent is asked for each first try.
fn asked(test: fn()) {
    let before = POLICY.replace(PolicyKind::RoundRobin);
    test();
    POLICY.set(before);
}

/// Story: calls to picked hosts were tested with the default policy only, under which
/// nobody asks the agent. What is saved up for second calls is not among these: it
/// depends on calls that begin at once, and these begin as the agent answers.
macro_rules! asked {
    ($($test:ident: $of:path,)*) => {
        $(#[test]
        fn $test() {
            asked($of);
        })*
    };
}

asked! {
    calls_and_their_ends: calls_go_to_picked_hosts_and_the_agent_hears_how_they_end,
    a_failure: a_call_that_fails_is_tried_at_another_host,
    a_host_that_is_away: a_host_that_is_known_to_be_away_is_passed_over_without_a_word,
    no_agent: without_an_agent_discovery_says_where_to_call,
    keys: keys_move_from_a_host_at_which_others_failed,
    three_witnesses: what_the_agent_heard_of_callers_is_one_of_three_witnesses,
    counted_keys: calls_by_key_are_counted_by_the_agent,
    a_second_call: shares::a_call_that_takes_long_is_sent_to_a_second_host,
    a_share: shares::second_calls_are_a_share_of_all,
    the_budget: shares::tries_come_out_of_the_budget_of_retries,
}

/// Story: a try after a failure asked the agent again, which named the host that had
/// failed as often as not.
#[test]
fn under_any_policy_a_call_that_fails_is_tried_at_another_host() {
    let mut world = World::without_agent(2);
    world.start_agent_with(|config| config.policy = PolicyKind::Maglev);
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
