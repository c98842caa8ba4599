use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TICK_NS: u64 = 1 << WHEEL_TICK_NS_LOG2;

fn at_tick(tick: u64) -> Moment {
    Moment::from_nanos(tick * TICK_NS)
}

fn drain<T>(wheel: &mut Wheel<T>, now: Moment) -> Vec<T> {
    std::iter::from_fn(|| wheel.poll_expired(now)).collect()
}

#[test]
fn an_entry_comes_at_the_end_of_its_tick_and_not_before() {
    let mut wheel = Wheel::new(Moment::ZERO);
    wheel.insert(Moment::from_nanos(TICK_NS + 1), "just into the second tick");
    wheel.insert(at_tick(1), "at the first boundary");
    assert_eq!(wheel.poll_timeout(), Some(at_tick(1)));
    assert_eq!(drain(&mut wheel, Moment::from_nanos(TICK_NS - 1)), [""; 0]);
    assert_eq!(drain(&mut wheel, at_tick(1)), ["at the first boundary"]);
    assert_eq!(
        drain(&mut wheel, Moment::from_nanos(2 * TICK_NS - 1)),
        [""; 0]
    );
    assert_eq!(drain(&mut wheel, at_tick(2)), ["just into the second tick"]);
    assert_eq!(wheel.poll_timeout(), None);
}

#[test]
fn entries_of_one_tick_come_in_the_order_of_their_insertion() {
    // Tick 100 is two levels away at first, one after tick 64 has passed.
    let mut wheel = Wheel::new(Moment::ZERO);
    wheel.insert(at_tick(100), 1);
    assert_eq!(drain(&mut wheel, at_tick(50)), [0; 0]);
    wheel.insert(at_tick(100), 2);
    assert_eq!(drain(&mut wheel, at_tick(70)), [0; 0]);
    wheel.insert(at_tick(100), 3);
    wheel.insert(at_tick(99), 0);
    assert_eq!(drain(&mut wheel, at_tick(4096)), [0, 1, 2, 3]);
}

#[test]
fn a_passed_moment_comes_with_the_next_poll_whatever_the_time() {
    let mut wheel = Wheel::new(at_tick(1000));
    wheel.insert(at_tick(3), "long ago");
    wheel.insert(at_tick(1000), "now");
    assert!(wheel.poll_timeout().unwrap() <= at_tick(1000));
    // Time that runs backwards counts as standing still.
    assert_eq!(drain(&mut wheel, Moment::ZERO), ["long ago", "now"]);
    wheel.insert(at_tick(1001), "next");
    assert_eq!(drain(&mut wheel, at_tick(1005)), ["next"]);
    wheel.insert(at_tick(1003), "passed in the meantime");
    assert_eq!(drain(&mut wheel, at_tick(7)), ["passed in the meantime"]);
}

#[test]
fn what_is_inserted_while_draining_keeps_its_turn() {
    let mut wheel = Wheel::new(Moment::ZERO);
    wheel.insert(at_tick(10), 10);
    wheel.insert(at_tick(30), 30);
    let now = at_tick(40);
    assert_eq!(wheel.poll_expired(now), Some(10));
    wheel.insert(at_tick(20), 20);
    wheel.insert(at_tick(5), 5);
    wheel.insert(at_tick(50), 50);
    assert_eq!(drain(&mut wheel, now), [5, 20, 30]);
    assert_eq!(wheel.len(), 1);
}

#[test]
fn every_level_and_its_edges_yield_in_order() {
    let mut wheel = Wheel::new(Moment::ZERO);
    let mut ticks = Vec::new();
    for level in 0..7 {
        for slot in [1, 2, 63] {
            let start: u64 = slot << (6 * level);
            ticks.extend([start - 1, start, start + 1]);
        }
    }
    ticks.retain(|&tick| tick > 0);
    for &tick in ticks.iter().rev() {
        wheel.insert(at_tick(tick), tick);
    }
    ticks.sort_unstable();
    let mut yielded = Vec::new();
    let mut wakes = 0;
    while let Some(wake_at) = wheel.poll_timeout() {
        for tick in std::iter::from_fn(|| wheel.poll_expired(wake_at)) {
            assert_eq!(at_tick(tick), wake_at);
            yielded.push(tick);
        }
        wakes += 1;
        assert!(wakes <= 8 * ticks.len(), "a wake-up that achieves nothing");
    }
    assert_eq!(yielded, ticks);
}

#[test]
fn the_far_future_is_accepted_and_never_comes() {
    let mut wheel = Wheel::new(Moment::ZERO);
    let never = wheel.insert(Moment::FAR_FUTURE, "never");
    wheel.insert(Moment::from_nanos(u64::MAX - 2 * TICK_NS), "in 584 years");
    assert_eq!(drain(&mut wheel, Moment::FAR_FUTURE), ["in 584 years"]);
    assert_eq!(wheel.poll_timeout(), Some(Moment::FAR_FUTURE));
    assert_eq!(wheel.cancel(never), Some("never"));
    let mut ended = Wheel::new(Moment::FAR_FUTURE);
    ended.insert(Moment::ZERO, "past");
    assert_eq!(drain(&mut ended, Moment::FAR_FUTURE), ["past"]);
}

#[test]
fn a_stale_key_does_nothing() {
    let mut wheel = Wheel::new(Moment::ZERO);
    let cancelled = wheel.insert(at_tick(5), 1);
    assert_eq!(wheel.cancel(cancelled), Some(1));
    let yielded = wheel.insert(at_tick(5), 2);
    assert_ne!(cancelled, yielded);
    assert_eq!(wheel.cancel(cancelled), None);
    assert_eq!(drain(&mut wheel, at_tick(5)), [2]);
    assert_eq!(wheel.cancel(yielded), None);
    assert!(wheel.is_empty());
}

#[test]
fn memory_is_that_of_the_most_pending_at_once() {
    let mut wheel = Wheel::new(Moment::ZERO);
    for round in 0..10_000_u64 {
        let keys = [1, 2, 3].map(|ahead| wheel.insert(at_tick(round + 100 * ahead), round));
        for key in keys {
            assert!(wheel.cancel(key).is_some());
        }
    }
    assert_eq!(wheel.slab.node_count(), 3);
}

#[test]
fn values_left_in_a_dropped_wheel_are_dropped() {
    let value = std::rc::Rc::new(());
    let mut wheel = Wheel::new(Moment::ZERO);
    let key = wheel.insert(at_tick(1), value.clone());
    wheel.insert(at_tick(2), value.clone());
    drop(wheel.cancel(key));
    assert_eq!(std::rc::Rc::strong_count(&value), 2);
    drop(wheel);
    assert_eq!(std::rc::Rc::strong_count(&value), 1);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert {
        after_ns: u64,
    },
    InsertPast {
        before_ns: u64,
    },
    /// Cancels the n-th key ever handed out, stale or not.
    Cancel {
        nth: usize,
    },
    Advance {
        by_ns: u64,
    },
    /// Polls at most n times, so that inserts fall into a half-drained turn.
    PollSome {
        by_ns: u64,
        polls: usize,
    },
    GoBack {
        by_ns: u64,
    },
    /// Advances to exactly what `poll_timeout` asks for.
    Wake,
}

/// Durations of every magnitude, and often on or beside a boundary of a level.
fn any_span() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u32..63, any::<u64>()).prop_map(|(bits, raw)| raw >> (63 - bits) >> 1),
        3 => (0_u32..7, 0_u64..70, -1_i64..=1).prop_map(|(level, slots, off)| {
            ((slots << (6 * level)) * TICK_NS).saturating_add_signed(off)
        }),
        1 => Just(u64::MAX),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_span().prop_map(|after_ns| Step::Insert { after_ns }),
        1 => any_span().prop_map(|before_ns| Step::InsertPast { before_ns }),
        3 => (0_usize..100).prop_map(|nth| Step::Cancel { nth }),
        2 => any_span().prop_map(|by_ns| Step::Advance { by_ns: by_ns >> 8 }),
        2 => (any_span(), 0_usize..4)
            .prop_map(|(by_ns, polls)| Step::PollSome { by_ns: by_ns >> 16, polls }),
        1 => any_span().prop_map(|by_ns| Step::GoBack { by_ns }),
        2 => Just(Step::Wake),
    ]
}

/// What the wheel promises, by the plainest means: a sorted map from (tick,
/// number of the insertion) to the moment asked for.
struct Model {
    pending: BTreeMap<(u64, usize), Moment>,
    keys: Vec<(DeadlineKey, (u64, usize))>,
    /// The tick being drained.
    current: u64,
    now: Moment,
}

impl Model {
    fn poll(&mut self) -> Option<usize> {
        let horizon = self.now.as_nanos() / TICK_NS;
        match self.pending.first_key_value() {
            Some((&(tick, number), &at)) if tick <= horizon => {
                assert!(at <= self.now, "{at} yielded at {}", self.now);
                self.pending.remove(&(tick, number));
                self.current = tick;
                Some(number)
            }
            _ => {
                self.current = horizon;
                None
            }
        }
    }

    fn insert(&mut self, wheel: &mut Wheel<usize>, at: Moment) {
        let number = self.keys.len();
        let id = (at.as_nanos().div_ceil(TICK_NS).max(self.current), number);
        self.pending.insert(id, at);
        self.keys.push((wheel.insert(at, number), id));
    }

    fn poll_both(&mut self, wheel: &mut Wheel<usize>, polls: usize) -> Result<(), TestCaseError> {
        for _ in 0..polls {
            let expected = self.poll();
            prop_assert_eq!(wheel.poll_expired(self.now), expected);
            if expected.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, wheel: &mut Wheel<usize>, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Insert { after_ns } => {
                let at = self.now + Duration::from_nanos(after_ns);
                self.insert(wheel, at);
            }
            Step::InsertPast { before_ns } => {
                let at = Moment::from_nanos(self.now.as_nanos().saturating_sub(before_ns));
                self.insert(wheel, at);
            }
            Step::Cancel { nth } => {
                if let Some(&(key, id)) = self.keys.get(nth) {
                    let expected = self.pending.remove(&id).map(|_| id.1);
                    prop_assert_eq!(wheel.cancel(key), expected);
                }
            }
            Step::Advance { by_ns } => {
                self.now += Duration::from_nanos(by_ns);
                self.poll_both(wheel, usize::MAX)?;
            }
            Step::PollSome { by_ns, polls } => {
                self.now += Duration::from_nanos(by_ns);
                self.poll_both(wheel, polls)?;
            }
            Step::GoBack { by_ns } => {
                let back = Moment::from_nanos(self.now.as_nanos().saturating_sub(by_ns));
                // The wheel has not necessarily seen `now` yet; it has after this.
                self.poll_both(wheel, 1)?;
                let expected = self.poll();
                prop_assert_eq!(wheel.poll_expired(back), expected);
            }
            Step::Wake => {
                if let Some(wake_at) = wheel.poll_timeout() {
                    self.now = self.now.max(wake_at);
                    self.poll_both(wheel, usize::MAX)?;
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_sorted_map(
        origin_ns in any_span(),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let now = Moment::from_nanos(origin_ns >> 1);
        let mut wheel = Wheel::new(now);
        let mut model = Model {
            pending: BTreeMap::new(),
            keys: Vec::new(),
            current: now.as_nanos() / TICK_NS,
            now,
        };
        for step in steps {
            model.step(&mut wheel, step)?;
            prop_assert_eq!(wheel.len(), model.pending.len());
            let timeout = wheel.poll_timeout();
            prop_assert_eq!(timeout.is_none(), model.pending.is_empty());
            if let (Some(wake_at), Some((&(tick, _), _))) = (timeout, model.pending.first_key_value()) {
                prop_assert!(wake_at <= start_of(tick), "wakes at {wake_at} for tick {tick}");
            }
        }
    }

    /// Sleeping until `poll_timeout` and polling then is enough: every entry
    /// comes at most one tick late, and the wake-ups are few.
    #[test]
    fn waking_when_told_is_in_time(spans in prop::collection::vec(any_span(), 1..60)) {
        let mut wheel = Wheel::new(Moment::ZERO);
        for &span in &spans {
            let at = Moment::from_nanos(span >> 1);
            wheel.insert(at, at);
        }
        let mut now = Moment::ZERO;
        let mut wakes = 0;
        while let Some(wake_at) = wheel.poll_timeout() {
            now = now.max(wake_at);
            while let Some(at) = wheel.poll_expired(now) {
                prop_assert!(at <= now);
                prop_assert!(now.saturating_since(at) < Duration::from_nanos(TICK_NS));
            }
            wakes += 1;
            prop_assert!(wakes <= 8 * spans.len(), "wakes without end");
        }
    }
}
