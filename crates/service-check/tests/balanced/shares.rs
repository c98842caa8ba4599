//! Second calls and further tries are a share of all calls, whatever happens.

use futures_util::future::{Either, join_all, select};
use waystation_service::{BalancedCounters, Hedging};

use super::*;

#[test]
pub(super) fn a_call_that_takes_long_is_sent_to_a_second_host() {
    let world = World::new(2);
    let mut config = BalancedConfig::new(world.caller());
    config.hedging = Some(Hedging {
        share_percent: 100,
        ..Hedging::default()
    });
    let hangs: Vec<_> = world.hosts.iter().map(|host| host.hangs.clone()).collect();
    let counters = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        let answers = ask(&shard, &balanced, 64).await;
        // The one that most calls go to: each waits for ever there from now on.
        let of = |host: u32| answers.iter().filter(|answer| **answer == Ok(host)).count();
        let (busy, other) = if of(0) > of(1) { (0, 1) } else { (1, 0) };
        hangs[busy].store(true, Ordering::Release);
        while balanced.counters().hedges_won < 3 {
            let answers = ask(&shard, &balanced, 1).await;
            assert_eq!(answers, [Ok(other)]);
        }
        let counters = balanced.counters();
        // What must not be done twice is not sent twice.
        let ctx = Ctx::background(&shard, "ask", Duration::from_millis(50));
        let _either = balanced.call::<Once>(&ctx, &Name::default()).await;
        assert_eq!(balanced.counters().hedged, counters.hedged);
        counters
    });
    assert!(counters.hedges_won > 0, "{counters:?}");
}

/// When all is slow, second calls double the load that makes it slow.
#[test]
pub(super) fn second_calls_are_a_share_of_all() {
    let world = World::new(2);
    let mut config = BalancedConfig::new(world.caller());
    config.tries = 1;
    config.hedging = Some(Hedging {
        share_percent: 0,
        ..Hedging::default()
    });
    let hangs: Vec<_> = world.hosts.iter().map(|host| host.hangs.clone()).collect();
    let (before, counters) = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        assert!(ask(&shard, &balanced, 64).await.iter().all(Result::is_ok));
        // One may have been sent before any was earned.
        let before = balanced.counters();
        for one in hangs {
            one.store(true, Ordering::Release);
        }
        while balanced.counters().hedges_refused < before.hedges_refused + 2 {
            let ctx = Ctx::background(&shard, "ask", Duration::from_secs(1));
            let answer = balanced.call::<Who>(&ctx, &Name::default()).await;
            assert!(answer.is_err());
        }
        (before, balanced.counters())
    });
    assert!(counters.hedged <= 1, "{counters:?}");
    assert_eq!(counters.hedges_won, before.hedges_won);
}

/// Makes so many calls at once, each of which takes long, until all of them have been
/// sent a second time or were refused that; what was counted by then.
async fn hang_all(shard: &Shard, balanced: &Balanced, calls: u64) -> BalancedCounters {
    let before = balanced.counters();
    let call = async || {
        let ctx = Ctx::background(shard, "ask", PATIENCE);
        balanced.call::<Who>(&ctx, &Name::default()).await
    };
    let calling = std::pin::pin!(join_all((0..calls).map(|_| call())));
    let looking = std::pin::pin!(async {
        loop {
            let now = balanced.counters();
            if now.hedged + now.hedges_refused >= before.hedged + before.hedges_refused + calls {
                return now;
            }
            shard.sleep(Duration::from_millis(2)).await;
        }
    });
    match select(calling, looking).await {
        Either::Left((answers, _)) => panic!("{answers:?}"),
        Either::Right((now, _)) => now,
    }
}

/// Story: only a share of nothing was tested, so that five of a hundred might have been
/// fifty.
#[test]
fn second_calls_are_five_of_a_hundred_and_few_are_saved_up() {
    let world = World::new(2);
    let mut config = BalancedConfig::new(world.caller());
    config.tries = 1;
    config.hedging = Some(Hedging::default());
    let mut generous = config.clone();
    generous.hedging = Some(Hedging {
        share_percent: 100,
        ..Hedging::default()
    });
    let hangs: Vec<_> = world.hosts.iter().map(|host| host.hangs.clone()).collect();
    let (share, burst) = run_on(&world.client, move |shard| async move {
        // Before there are so many answers nobody knows what is long.
        let balanced = Balanced::new(&shard, config);
        let saving = Balanced::new(&shard, generous);
        for of in [&balanced, &saving] {
            assert!(ask(&shard, of, 32).await.iter().all(Result::is_ok));
            assert_eq!(of.counters().hedged, 0);
        }
        for one in hangs {
            one.store(true, Ordering::Release);
        }
        let mut share = Vec::new();
        for _ in 0..4 {
            share.push(hang_all(&shard, &balanced, 20).await.hedged);
        }
        (share, hang_all(&shard, &saving, 40).await)
    });
    // One from the start, and one for each twenty of the 32 calls and these.
    assert_eq!(share, [3, 4, 5, 6]);
    assert_eq!((burst.hedged, burst.hedges_refused), (10, 30));
}

/// Each try was one of a context's retries, and nobody had looked whether their budget
/// holds for calls to picked hosts.
#[test]
pub(super) fn tries_come_out_of_the_budget_of_retries() {
    const CALLS: u64 = 300;
    let world = World::new(2);
    let config = BalancedConfig::new(world.caller());
    let (tries, took) = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        assert!(ask(&shard, &balanced, 1).await[0].is_ok());
        let (before, began) = (balanced.counters().picked, shard.now());
        let call = async || {
            let ctx = Ctx::background(&shard, "ask", PATIENCE);
            balanced.call::<Busy>(&ctx, &Name::default()).await
        };
        let answers = join_all((0..CALLS).map(|_| call())).await;
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        let took = shard.now().saturating_since(began);
        (balanced.counters().picked - before, took)
    });
    // A fifth of all calls, and ten a second of the last ten.
    let again = (CALLS + 1) / 5 + 100;
    let windows = 1 + took.as_secs() / 10;
    assert!(tries >= CALLS + 100, "{tries}");
    assert!(tries <= CALLS + again * windows, "{tries} in {took:?}");
}
