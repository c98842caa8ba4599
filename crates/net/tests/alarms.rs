//! Timers on shards, and messages to one shard or all.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{Memory, Notes, Setup, echo_router, eventually, on_shard};
use futures_util::future::LocalBoxFuture;
use waystation_net::{Alarm, Label, NetConfig, Shard};

const SECOND: Duration = Duration::from_secs(1);

fn check(test: impl FnOnce(Shard) -> LocalBoxFuture<'static, ()> + Send + 'static) -> Memory {
    let memory = Setup::paused().start(|_| echo_router());
    let baseline = common::figures(&memory.server);
    on_shard(&memory.server, 0, test);
    common::back_at(&memory.server, &baseline);
    memory
}

#[test]
fn a_timer_runs_once_and_never_early() {
    let memory = check(|shard| {
        Box::pin(async move {
            let ran = Rc::new(Cell::new(None));
            let noted = ran.clone();
            let start = shard.now();
            let alarm = shard.after(Label::of("once"), SECOND, move |shard| {
                noted.set(Some(shard.now()));
            });
            assert!(alarm.is_pending());
            shard.sleep(SECOND / 2).await;
            assert_eq!(ran.get(), None);
            shard.sleep(SECOND).await;
            let at = ran.get().expect("it has run");
            assert!(at >= start + SECOND && at < start + SECOND + SECOND / 2);
            assert!(!alarm.is_pending());
        })
    });
    assert_eq!(memory.counters().alarms.get(), 1);
}

/// The owner of a timer went, its timer did not, and worked on what was gone.
#[test]
fn a_timer_ends_with_its_owner() {
    let memory = check(|shard| {
        Box::pin(async move {
            let kept = Rc::new(());
            let held = kept.clone();
            let alarm = shard.every(Label::of("owned"), SECOND, move |_| drop(held.clone()));
            drop(alarm);
            assert_eq!(Rc::strong_count(&kept), 1, "the function is gone, too");
            shard.sleep(3 * SECOND).await;
            shard.after(Label::of("free"), SECOND, |_| {}).detach();
            shard.sleep(3 * SECOND).await;
        })
    });
    assert_eq!(memory.counters().alarms.get(), 1, "only the detached one");
}

/// A timer that was due together with the one that cancelled it ran all the
/// same: both had been taken off the wheel.
#[test]
fn a_timer_that_is_cancelled_when_it_is_due_does_not_run() {
    let memory = check(|shard| {
        Box::pin(async move {
            let second: Rc<RefCell<Option<Alarm>>> = Rc::default();
            let cancels = second.clone();
            let first = shard.after(Label::of("first"), SECOND, move |_| {
                cancels.borrow().as_ref().unwrap().cancel();
            });
            let runs = shard.after(Label::of("second"), SECOND, |_| unreachable!("cancelled"));
            *second.borrow_mut() = Some(runs);
            shard.sleep(2 * SECOND).await;
            assert!(!first.is_pending());
            second.take();
        })
    });
    assert_eq!(memory.counters().alarms.get(), 1);
    assert_eq!(memory.counters().panics.get(), 0);
}

/// A timer that cancels itself while it runs, and one that panics: neither
/// comes again, and all others go on.
#[test]
fn a_timer_may_cancel_itself_and_a_panic_ends_only_its_own() {
    let memory = check(|shard| {
        Box::pin(async move {
            let own: Rc<RefCell<Option<Alarm>>> = Rc::default();
            let ran = Rc::new(Cell::new(0));
            let (cancels, counts) = (own.clone(), ran.clone());
            let alarm = shard.every(Label::of("itself"), SECOND, move |_| {
                counts.set(counts.get() + 1);
                if counts.get() == 3 {
                    cancels.borrow().as_ref().unwrap().cancel();
                }
            });
            *own.borrow_mut() = Some(alarm);
            let faulty = shard.every(Label::of("faulty"), SECOND, |_| panic!("a timer's fault"));
            shard.sleep(10 * SECOND).await;
            assert_eq!(ran.get(), 3);
            assert!(!faulty.is_pending());
            own.take();
        })
    });
    assert_eq!(memory.counters().panics.get(), 1);
}

/// A repeating timer drifted by the time that each run took, and after a
/// pause of the shard all missed runs came at once.
#[test]
fn a_repeating_timer_keeps_its_beat_and_leaves_out_what_it_missed() {
    check(|shard| {
        Box::pin(async move {
            let runs: Rc<RefCell<Vec<Duration>>> = Rc::default();
            let (noted, start) = (runs.clone(), shard.now());
            let alarm = shard.every(Label::of("beat"), SECOND, move |shard| {
                noted.borrow_mut().push(shard.now().saturating_since(start));
            });
            shard.sleep(SECOND * 5 / 2).await;
            // The shard is away for five seconds.
            tokio::time::advance(5 * SECOND).await;
            shard.sleep(SECOND).await;
            alarm.cancel();
            let whole: Vec<u64> = runs.borrow().iter().map(Duration::as_secs).collect();
            assert_eq!(whole, [1, 2, 7, 8]);
        })
    });
}

#[test]
fn a_job_runs_once_on_every_shard() {
    let setup = Setup {
        config: NetConfig {
            shards: 3,
            ..NetConfig::default()
        },
        ..Setup::default()
    };
    let memory = setup.start(|_| echo_router());
    let notes = Notes::default();
    let noted = notes.clone();
    let job = move |shard: &Shard| noted.add(format!("shard {}", shard.id().0));
    memory.server.remote().run_on_all(job).unwrap();
    eventually("each has run it", || notes.list().len() == 3);
    let mut list = notes.list();
    list.sort();
    assert_eq!(list, ["shard 0", "shard 1", "shard 2"]);
    let remote = memory.server.remote().clone();
    memory.server.drain();
    assert!(remote.run_on_all(|_| {}).is_err());
}
