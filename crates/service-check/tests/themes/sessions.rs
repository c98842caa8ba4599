//! Keyed sessions and their timers; locks by key.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use waystation_base::Moment;
use waystation_net::{Label, Shard};
use waystation_service::limits::LOCK_WAITERS;
use waystation_service::{Code, Locks, Sessions, SessionsFull};
use waystation_service_check::{Event, client, memory, run_on};

const IDLE: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(1000);

/// Keys whose sessions expired, and when.
type Expired = Rc<RefCell<Vec<(&'static str, Moment)>>>;

fn table(
    shard: &Shard,
    capacity: usize,
    idle: Duration,
) -> (Sessions<&'static str, u32>, Expired, Event) {
    let (expired, event) = (Expired::default(), Event::default());
    let (list, raise, clock) = (expired.clone(), event.clone(), shard.clone());
    let sessions = Sessions::new(shard, capacity, idle, move |key, _| {
        list.borrow_mut().push((*key, clock.now()));
        raise.raise();
    });
    (sessions, expired, event)
}

/// Runs work on a shard of its own.
fn on_a_shard<F: Future<Output = ()> + 'static>(work: impl FnOnce(Shard) -> F + Send + 'static) {
    let app = client(&memory());
    run_on(&app, work);
    app.drain();
}

#[test]
fn a_session_ends_when_it_was_not_used_for_its_time() {
    on_a_shard(|shard| async move {
        let (sessions, expired, event) = table(&shard, 10, IDLE);
        let opened = shard.now();
        sessions.open("a", 1).unwrap();
        assert_eq!(sessions.get(&"a").as_deref(), Some(&1));
        event.happened(1).await;
        assert!(sessions.get(&"a").is_none());
        assert!(sessions.is_empty());
        let expired = expired.borrow();
        assert!(expired[0].0 == "a" && expired[0].1 >= opened + IDLE);
    });
}

/// The timer of a session that is used is not moved each time: it must look
/// when it fires, and never end a session early.
#[test]
fn a_session_that_is_used_lives_on() {
    on_a_shard(|shard| async move {
        let (sessions, expired, event) = table(&shard, 10, IDLE);
        sessions.open("a", 1).unwrap();
        let mut used = shard.now();
        for _ in 0..20 {
            shard.sleep(Duration::from_millis(2)).await;
            if sessions.get(&"a").is_some() {
                used = shard.now();
            }
        }
        event.happened(1).await;
        let (key, at) = expired.borrow()[0];
        assert_eq!(key, "a");
        assert!(at >= used + IDLE, "{at:?} {used:?}");
    });
}

#[test]
fn a_session_that_is_replaced_or_closed_expires_no_more() {
    on_a_shard(|shard| async move {
        let (sessions, expired, event) = table(&shard, 10, IDLE);
        sessions.open("a", 1).unwrap();
        let (value, old) = sessions.open("a", 2).unwrap();
        assert_eq!((*value, old.as_deref()), (2, Some(&1)));
        assert_eq!(sessions.len(), 1);
        sessions.open("b", 3).unwrap();
        assert_eq!(sessions.close(&"b").as_deref(), Some(&3));
        assert_eq!(sessions.close(&"b"), None);
        sessions.open("c", 4).unwrap();
        event.happened(2).await;
        shard.sleep(3 * IDLE).await;
        let keys: Vec<_> = expired.borrow().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["a", "c"]);
    });
}

#[test]
fn a_full_table_refuses_new_keys_and_takes_known_ones() {
    on_a_shard(|shard| async move {
        let (sessions, _, event) = table(&shard, 2, IDLE);
        sessions.open("a", 1).unwrap();
        sessions.open("b", 2).unwrap();
        assert_eq!(sessions.open("c", 3).unwrap_err(), SessionsFull(2));
        let (_, old) = sessions.open("b", 4).unwrap();
        assert_eq!(old.as_deref(), Some(&2));
        event.happened(2).await;
        sessions.open("c", 3).unwrap();
        let (none, _, _) = table(&shard, 0, IDLE);
        assert_eq!(none.open("a", 1).unwrap_err(), SessionsFull(0));
    });
}

/// The table was still borrowed while it told of an end, or timers of
/// sessions that were opened there did not run.
#[test]
fn the_end_of_a_session_may_use_the_table() {
    on_a_shard(|shard| async move {
        let again: Rc<RefCell<Option<Sessions<u32, u32>>>> = Rc::default();
        let (own, event) = (again.clone(), Event::default());
        let raise = event.clone();
        let sessions = Sessions::new(&shard, 1, IDLE, move |key, value| {
            let sessions = own.borrow().clone().unwrap();
            assert!(sessions.is_empty() && sessions.get(key).is_none());
            if *key < 3 {
                sessions.open(key + 1, *value).unwrap();
            }
            raise.raise();
        });
        *again.borrow_mut() = Some(sessions.clone());
        sessions.open(1, 7).unwrap();
        event.happened(3).await;
        assert!(sessions.is_empty());
        again.borrow_mut().take();
    });
}

/// A panic in the handler of an expired session ended the timer task: from
/// then on no session of the table ended.
#[test]
fn a_panic_at_the_end_of_a_session_ends_no_other() {
    on_a_shard(|shard| async move {
        let event = Event::default();
        let raise = event.clone();
        let sessions = Sessions::new(&shard, 10, IDLE, move |key: &u32, _: Rc<()>| {
            raise.raise();
            assert!(*key != 1, "as it must");
        });
        sessions.open(1, ()).unwrap();
        event.happened(1).await;
        sessions.open(2, ()).unwrap();
        event.happened(2).await;
        assert!(sessions.is_empty());
    });
}

/// The timer task of a table that nobody uses any more stayed for ever, and
/// with it every value in the table.
#[test]
fn a_table_that_nobody_uses_goes_with_its_task_and_its_sessions() {
    on_a_shard(|shard| async move {
        let tasks = || shard.load_figures().0;
        let before = tasks();
        let value = Rc::new(());
        let sessions = Sessions::new(&shard, 10, LONG, |_: &u32, _: Rc<Rc<()>>| ());
        sessions.open(1, value.clone()).unwrap();
        assert_eq!((tasks(), Rc::strong_count(&value)), (before + 1, 2));
        shard.sleep(Duration::from_millis(2)).await;
        drop(sessions.clone());
        assert_eq!(Rc::strong_count(&value), 2);
        drop(sessions);
        assert_eq!(Rc::strong_count(&value), 1);
        while tasks() > before {
            shard.sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Takes a lock in a task of its own and notes who got it when.
fn queue(shard: &Shard, locks: &Locks<&'static str>, name: u32, order: &Rc<RefCell<Vec<u32>>>) {
    let (locks, order) = (locks.clone(), order.clone());
    shard.spawn(Label::of("waits for the lock"), async move {
        let _guard = locks.lock(&"key").await.unwrap();
        order.borrow_mut().push(name);
    });
}

#[test]
fn a_lock_is_given_in_the_order_in_which_it_was_asked_for() {
    on_a_shard(|shard| async move {
        let (locks, order) = (Locks::default(), Rc::default());
        let guard = locks.lock(&"key").await.unwrap();
        for name in 0..5 {
            queue(&shard, &locks, name, &order);
            shard.sleep(Duration::ZERO).await;
            tokio::task::yield_now().await;
        }
        let other = locks.lock(&"other").await.unwrap();
        assert_eq!(locks.len(), 2);
        drop(other);
        assert!(order.borrow().is_empty());
        drop(guard);
        while !locks.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
    });
}

/// A waiter that gave up kept its place: the lock was given to nobody and the
/// key stayed in the table.
#[test]
fn a_waiter_that_gives_up_leaves_the_queue() {
    on_a_shard(|shard| async move {
        let locks: Locks<&'static str> = Locks::default();
        let guard = locks.lock(&"key").await.unwrap();
        let mut first = Box::pin(locks.lock(&"key"));
        let mut second = Box::pin(locks.lock(&"key"));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(guard);
        let guard = second.now_or_never().expect("it is its turn").unwrap();
        drop(guard);
        assert!(locks.is_empty());
        // One that gives up when it has been given the lock passes it on.
        let guard = locks.lock(&"key").await.unwrap();
        let mut first = Box::pin(locks.lock(&"key"));
        assert!((&mut first).now_or_never().is_none());
        drop(guard);
        drop(first);
        assert!(locks.lock(&"key").now_or_never().is_some());
        assert!(locks.is_empty());
        drop(shard);
    });
}

#[test]
fn waiters_for_a_lock_are_bounded_to_the_number() {
    on_a_shard(|shard| async move {
        let locks: Locks<u8> = Locks::default();
        let guard = locks.lock(&0).await.unwrap();
        let mut waiters: Vec<_> = (0..LOCK_WAITERS)
            .map(|_| Box::pin(locks.lock(&0)))
            .collect();
        for waiter in &mut waiters {
            assert!(waiter.now_or_never().is_none());
        }
        let status = locks.lock(&0).await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Code::Overloaded);
        assert!(locks.lock(&1).await.is_ok(), "other keys are free");
        waiters.pop();
        assert!(
            locks.lock(&0).now_or_never().is_none(),
            "there is room to wait again"
        );
        drop((waiters, guard));
        assert!(locks.is_empty());
        drop(shard);
    });
}

/// A panic of whoever holds a lock must not keep it from the others.
#[test]
fn a_holder_that_panics_lets_go() {
    on_a_shard(|shard| async move {
        let locks: Locks<u8> = Locks::default();
        let held = Rc::new(Cell::new(false));
        let (own, taken) = (locks.clone(), held.clone());
        shard.spawn(Label::of("panics"), async move {
            let _guard = own.lock(&0).await;
            taken.set(true);
            panic!("as it must");
        });
        while !held.get() {
            tokio::task::yield_now().await;
        }
        assert!(locks.lock(&0).await.is_ok());
        assert!(locks.is_empty());
    });
}
