//! Parts of a request on other shards of its process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::Semaphore;
use waystation_base::{ShardId, Sid};
use waystation_net::{NetConfig, Shard};
use waystation_service::{App, Code, ContextInfo, Ctx, Status};
use waystation_service_check::{Event, PATIENCE, config, memory, run_on};

const OTHER: ShardId = ShardId(1);

/// A process with two shards and nobody to serve.
fn two_shards() -> App {
    let config = NetConfig {
        shards: 2,
        drain: PATIENCE,
        ..config(&memory())
    };
    App::builder("pair-1", config).start().unwrap()
}

fn background(shard: &Shard) -> Ctx {
    Ctx::background(shard, "test", PATIENCE)
}

/// Raises when it is dropped.
struct Raise(Event);

impl Drop for Raise {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// What a part answers, and under which id it runs and where.
#[test]
fn a_part_runs_where_it_belongs_under_the_id_of_its_request() {
    let app = two_shards();
    run_on(&app, |shard| async move {
        for place in [ShardId(0), OTHER] {
            let ctx = background(&shard);
            let part = |part: Ctx| async move {
                part.shard().sleep(Duration::from_millis(1)).await;
                Ok((part.sid(), part.shard().id(), part.time_left()))
            };
            let (sid, at, left) = ctx.on_shard(place, part).await.unwrap();
            assert_eq!((sid, at), (ctx.sid(), place));
            assert!(left <= PATIENCE && left > Duration::ZERO);
        }
        let ctx = background(&shard);
        let refused = |_| async { Err::<(), _>(Status::conflict("as it was told").retried()) };
        let refused = ctx.on_shard(OTHER, refused).await.unwrap_err();
        assert_eq!(refused.code(), Code::Conflict);
        assert!(refused.is_retried(), "what was tried is known further up");
        let panics = |_| async { panic!("as it was told") };
        let panicked: Result<(), Status> = ctx.on_shard(OTHER, panics).await;
        assert_eq!(panicked.unwrap_err().code(), Code::Internal);
        let nowhere = |_| async { Ok(()) };
        let nowhere = ctx.on_shard(ShardId(2), nowhere).await.unwrap_err();
        assert_eq!(nowhere.code(), Code::Unavailable);
    });
    app.drain();
}

/// A request that had been given to another thread was seen by nobody there, and
/// went on for ever after its caller had gone.
#[test]
fn a_part_is_listed_and_ends_with_its_request() {
    let app = two_shards();
    let gone = Event::default();
    let raise = gone.clone();
    run_on(&app, move |shard| async move {
        let ctx = background(&shard);
        let begun = Arc::new(Semaphore::new(0));
        let (tell, raise) = (begun.clone(), Raise(raise));
        let sid = ctx.sid();
        let asked = ctx.on_shard(OTHER, move |part| async move {
            let _raise = raise;
            let list = ContextInfo::list(part.shard());
            if list.iter().any(|one| one.sid == sid.to_string()) {
                tell.add_permits(1);
            }
            std::future::pending::<Result<(), Status>>().await
        });
        tokio::select! {
            _ = asked => panic!("it has no end"),
            _ = begun.acquire() => {}
        }
        assert!(!listed(&shard, sid).await, "it was dropped");
    });
    gone.wait(1);
    let overdue = run_on(&app, |shard| async move {
        let ctx = Ctx::background(&shard, "test", Duration::from_millis(20));
        let never = |_| std::future::pending::<Result<(), Status>>();
        ctx.on_shard(OTHER, never).await.unwrap_err().code()
    });
    assert_eq!(overdue, Code::DeadlineExceeded);
    app.drain();
}

/// Whether the other shard lists a context, once it has had its turn.
async fn listed(shard: &Shard, sid: Sid) -> bool {
    let ctx = background(shard);
    let look = move |part: Ctx| async move {
        for _ in 0..100 {
            let list = ContextInfo::list(part.shard());
            if !list.iter().any(|one| one.sid == sid.to_string()) {
                return Ok(false);
            }
            part.shard().sleep(Duration::from_millis(1)).await;
        }
        Ok(true)
    };
    ctx.on_shard(OTHER, look).await.unwrap()
}

/// A shard without connections of its own ended at once when its process
/// drained, and with it what the requests of other shards had there.
#[test]
fn a_drain_waits_for_parts_and_for_those_who_ask_for_more() {
    let app = two_shards();
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Event::default());
    let (tell, answered) = mpsc::channel();
    let (open, told) = (gate.clone(), begun.clone());
    let begin = move |shard: &Shard| {
        // In progress here, as a handler is.
        let guard = shard.work_guard();
        let ctx = background(shard);
        shard.spawn(waystation_net::Label::of("test"), async move {
            let _guard = guard;
            let first = move |_| async move {
                told.raise();
                let permit = open.acquire().await;
                Ok(permit.is_ok())
            };
            let first = ctx.on_shard(OTHER, first).await;
            // It asks for more when the other one has nothing left to do.
            let second = |part: Ctx| async move { Ok(part.shard().is_draining()) };
            let second = ctx.on_shard(OTHER, second).await;
            let _ = tell.send((first, second));
        });
    };
    app.server().remote().run_on(ShardId(0), begin).unwrap();
    begun.wait(1);
    let remote = app.server().remote().clone();
    let ended = std::thread::spawn(move || app.drain());
    let is_draining = || {
        let (tell, told) = mpsc::channel();
        let look = move |shard: &Shard| {
            let _ = tell.send(shard.is_draining());
        };
        remote.run_on(OTHER, look).unwrap();
        told.recv_timeout(PATIENCE).unwrap().then_some(())
    };
    waystation_service_check::eventually(is_draining);
    gate.add_permits(1);
    let answers = answered.recv_timeout(PATIENCE).unwrap();
    assert_eq!(answers, (Ok(true), Ok(true)));
    ended.join().unwrap();
}

/// Parts of one shard overtook each other on their way.
#[test]
fn parts_begin_in_the_order_in_which_they_were_asked_for() {
    let app = two_shards();
    let order = run_on(&app, |shard| async move {
        let next = Arc::new(AtomicU64::new(0));
        let parts = (0..100).map(|number| {
            let (ctx, next) = (background(&shard), next.clone());
            async move {
                let take = move |_| async move { Ok(next.fetch_add(1, Ordering::Relaxed)) };
                (number, ctx.on_shard(OTHER, take).await.unwrap())
            }
        });
        futures_util::future::join_all(parts).await
    });
    assert!(
        order.iter().all(|(asked, begun)| asked == begun),
        "{order:?}"
    );
    app.drain();
}

/// A shard that takes nothing any more let its callers wait for their deadline.
#[test]
fn a_shard_that_takes_nothing_refuses_at_once() {
    let app = two_shards();
    let remote = app.server().remote().clone();
    let (release, gate) = mpsc::channel::<()>();
    let (entered, is_blocked) = mpsc::channel();
    let block = move |_: &Shard| {
        let _ = entered.send(());
        // Until the test lets it go.
        let _ = gate.recv_timeout(PATIENCE);
    };
    remote.run_on(OTHER, block).unwrap();
    is_blocked.recv_timeout(PATIENCE).unwrap();
    while remote.run_on(OTHER, |_| {}).is_ok() {}
    let refused = run_on(&app, |shard| async move {
        let part = |_| async { Ok(()) };
        background(&shard).on_shard(OTHER, part).await.unwrap_err()
    });
    assert_eq!(refused.code(), Code::Overloaded);
    release.send(()).unwrap();
    app.drain();
}
