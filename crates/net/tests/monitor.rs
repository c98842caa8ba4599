//! What a shard says of itself: handlers that block it, tasks that wait, and
//! the pool for work that blocks.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{Memory, NAME, Peer, Setup, answer_to, eventually, on, on_shard, run};
use tokio::sync::Semaphore;
use waystation_base::ShardId;
use waystation_net::limits::{BLOCKED_AFTER, OFFLOAD_QUEUE, OFFLOAD_THREADS};
use waystation_net::native::{Router, reply};
use waystation_net::{BlockedReports, Label, OffloadError, WaitsFor, describe_task, waiting};

/// Spins until it was found out.
#[inline(never)]
fn blocks_on_purpose(found: &AtomicBool) -> u64 {
    let mut spins = 0_u64;
    while !found.load(Ordering::Relaxed) {
        spins = black_box(spins.wrapping_add(1));
        std::hint::spin_loop();
    }
    spins
}

/// Sleeps in a system call until it was found out.
#[inline(never)]
fn sleeps_on_purpose(found: &mpsc::Receiver<()>) {
    found.recv_timeout(common::WAIT).unwrap();
}

/// Whether a handler was found blocking, with its stack.
fn reported(reports: &BlockedReports, handler: &str) -> bool {
    let list = reports.list();
    let mut of_handler = list.iter().filter(|report| report.handler == handler);
    of_handler.any(|report| !report.stack.is_empty())
}

/// A handler that blocked its shard stopped every connection on it, and
/// nobody could tell which handler it was.
#[test]
fn a_handler_that_blocks_is_named_with_its_stack() {
    let found = Arc::new(AtomicBool::new(false));
    let blocked = found.clone();
    let memory = Setup::default().start(move |_| {
        let mut router = common::echo_router();
        let found = blocked.clone();
        on(&mut router, "test/Blocks", move |conn, message| {
            black_box(blocks_on_purpose(&found));
            reply(conn, &answer_to(message.header), b"").unwrap();
            None
        });
        router
    });
    let reports = memory.server.blocked();
    run(async {
        let mut peer = memory.dial();
        // Quick handlers are no news.
        for _ in 0..100 {
            peer.check_echo().await;
        }
        peer.request(1, "test/Blocks", b"").await;
        eventually("it is reported", || reported(reports, "test/Blocks"));
        found.store(true, Ordering::Relaxed);
        assert!(peer.answer().await.is_some());
        peer.check_echo().await;
    });
    // A shard that was slow to get the processor may be reported too; the
    // handler that did block is.
    let list = reports.list();
    let report = list
        .iter()
        .find(|report| report.handler == "test/Blocks")
        .unwrap();
    assert_eq!(report.shard, ShardId(0));
    assert!(report.blocked >= BLOCKED_AFTER);
    let stack = report.stack.join("\n");
    assert!(stack.contains("blocks_on_purpose"), "{stack}");
    assert!(
        stack.contains("a_handler_that_blocks_is_named_with_its_stack"),
        "{stack}"
    );
    assert!(!stack.contains("monitor::signal"), "{stack}");
}

/// The same where a message from another thread blocks, in a system call.
#[test]
fn a_message_that_blocks_is_named_too() {
    let memory = Setup::default().start(|_| common::echo_router());
    let (release, found) = mpsc::channel();
    let found = Mutex::new(found);
    let block = move |_: &waystation_net::Shard| sleeps_on_purpose(&found.lock().unwrap());
    memory.server.remote().run_on(ShardId(0), block).unwrap();
    let reports = memory.server.blocked();
    eventually("it is reported", || reported(reports, "mail"));
    release.send(()).unwrap();
    let list = reports.list();
    let report = list.iter().find(|report| report.handler == "mail").unwrap();
    let stack = report.stack.join("\n");
    assert!(stack.contains("sleeps_on_purpose"), "{stack}");
    run(async { memory.dial().check_echo().await });
}

/// Two servers of one process, blocked at once: each is told its own stack.
#[test]
fn shards_that_block_at_once_get_their_own_stacks() {
    let servers = [
        Setup::default().start(|_| Router::new()),
        Setup::default().start(|_| Router::new()),
    ];
    let (release, found) = mpsc::channel();
    let found = Mutex::new(found);
    let sleeps = move |_: &waystation_net::Shard| sleeps_on_purpose(&found.lock().unwrap());
    let flag = Arc::new(AtomicBool::new(false));
    let spinning = flag.clone();
    let spins = move |_: &waystation_net::Shard| {
        black_box(blocks_on_purpose(&spinning));
    };
    servers[0]
        .server
        .remote()
        .run_on(ShardId(0), sleeps)
        .unwrap();
    servers[1]
        .server
        .remote()
        .run_on(ShardId(0), spins)
        .unwrap();
    for (memory, name) in servers
        .iter()
        .zip(["sleeps_on_purpose", "blocks_on_purpose"])
    {
        let reports = memory.server.blocked();
        eventually("it is reported", || reported(reports, "mail"));
        let stack = reports.list()[0].stack.join("\n");
        assert!(stack.contains(name), "{stack}");
    }
    flag.store(true, Ordering::Relaxed);
    release.send(()).unwrap();
}

#[test]
fn a_dump_says_what_each_task_waits_for() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let Memory { io, server } = Setup::paused().start(move |_| {
        let mut router = common::echo_router();
        router.set_concurrency(4);
        let gate = opened.clone();
        on(&mut router, "test/Wait", move |_, _| {
            let gate = gate.clone();
            Some(Box::pin(async move {
                describe_task("order 7");
                let reason = WaitsFor {
                    what: "answer to",
                    of: Label::of("test/Das"),
                };
                waiting(reason, gate.acquire()).await.unwrap().forget();
            }))
        });
        router
    });
    let dump = on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Wait", b"").await;
            let sleeper = shard.clone();
            shard.spawn(Label::of("sleeper"), async move {
                waiting(
                    WaitsFor::plain("timer"),
                    sleeper.sleep(Duration::from_secs(50)),
                )
                .await;
            });
            peer.check_echo().await;
            let dump = shard.tasks_dump();
            drop(peer);
            dump
        })
    });
    let mut lines: Vec<String> = dump
        .iter()
        .map(|task| format!("{}({}): {}", task.task, task.detail, task.waits_for))
        .collect();
    lines.sort();
    let expected = [
        "accept(memory:server): a connection",
        "connection(): input",
        "sleeper(): timer",
        "test(): ",
        "test/Wait(order 7): answer to test/Das",
    ];
    assert_eq!(lines, expected);
    gate.add_permits(1);
    server.drain();
}

#[test]
fn blocking_work_runs_off_the_shard() {
    let memory = Setup::default().start(|_| common::echo_router());
    let results = on_shard(&memory.server, 0, |shard| {
        Box::pin(async move {
            let here = std::thread::current().id();
            let there = shard
                .offload("thread", || std::thread::current().id())
                .await;
            let panicked = shard
                .offload("faulty", || panic!("a job with a fault"))
                .await;
            let panicked: Result<(), OffloadError> = panicked;
            let left = shard.load_figures().2;
            (there.unwrap() != here, panicked, left)
        })
    });
    assert_eq!(results, (true, Err(OffloadError::Panicked("faulty")), 0));
}

/// The bound on jobs counted those who waited for them: when they gave up,
/// the queue grew without bound.
#[test]
fn a_full_pool_refuses_also_when_nobody_waits() {
    let memory = Setup::default().start(|_| common::echo_router());
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let figures = on_shard(&memory.server, 0, move |shard| {
        Box::pin(async move {
            let mut jobs = tokio::task::JoinSet::new();
            let started = Arc::new(AtomicBool::new(false));
            for _ in 0..OFFLOAD_QUEUE {
                let (shard, gate, started) = (shard.clone(), gate.clone(), started.clone());
                jobs.spawn_local(async move {
                    let job = move || {
                        started.store(true, Ordering::Relaxed);
                        // Poisoned or closed: either way the gate is open.
                        drop(gate.lock().map(|g| g.recv()));
                    };
                    shard.offload("gate", job).await
                });
            }
            while shard.load_figures().2 < OFFLOAD_QUEUE || !started.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            let full = shard.offload("late", || ()).await;
            // Those that run stay; those that nobody waits for never start,
            // and leave when a thread comes to them.
            jobs.shutdown().await;
            let running = shard.load_figures().2;
            drop(release);
            while shard.load_figures().2 > 0 {
                shard.sleep(Duration::from_millis(1)).await;
            }
            (full, running >= 1, shard.offload("next", || 7).await)
        })
    });
    assert_eq!(
        figures,
        (Err(OffloadError::Full(OFFLOAD_QUEUE)), true, Ok(7))
    );
    const { assert!(OFFLOAD_THREADS < OFFLOAD_QUEUE) };
}
