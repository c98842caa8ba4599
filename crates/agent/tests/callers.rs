//! What callers do beside picks: guards, many threads, forks, sudden ends.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use common::{World, done, tcp};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::Rng;
use waystation_client::{Caller, SharedCaller, Source};
use waystation_membership::Address;

#[test]
fn a_guard_reports_whatever_becomes_of_its_call() {
    let world = World::new(2);
    let mut caller = world.caller();
    let (kept, dropped) = (caller.begin().unwrap(), caller.begin().unwrap());
    assert_eq!(kept.source(), Source::Segment);
    world.until(|world| world.in_flight() == 2);
    drop(dropped);
    world.until(|world| world.in_flight() == 1);
    let loads = |world: &World| -> u32 {
        let hosts = world.list().unwrap();
        hosts.iter().map(|host| host.reported_latency_us).sum()
    };
    assert_eq!(loads(&world), 0, "a call that was given up says nothing");
    let load = Load {
        in_flight: 3,
        latency_us: 700,
    };
    // On another thread, after its caller is gone.
    let call = caller.begin().unwrap();
    drop(caller);
    let thread = std::thread::spawn(move || {
        kept.end(CallEnd::Failed, Load::default());
        call.end(CallEnd::Ok, load);
    });
    thread.join().unwrap();
    world.until(|world| world.in_flight() == 0);
    assert_eq!(loads(&world), 700);
    let failed = |world: &World| {
        let hosts = world.list().unwrap();
        hosts.iter().any(|host| host.error_share > 0.0)
    };
    assert!(failed(&world));
}

/// A call whose thread panicked stayed in flight for as long as the process ran.
#[test]
fn a_call_whose_thread_panics_is_given_up() {
    let world = World::new(1);
    let mut caller = world.caller();
    let call = caller.begin().unwrap();
    world.until(|world| world.in_flight() == 1);
    let thread = std::thread::spawn(move || {
        let _call = call;
        std::panic::resume_unwind(Box::new("of its own"));
    });
    assert!(thread.join().is_err());
    world.until(|world| world.in_flight() == 0);
}

#[test]
fn many_threads_use_one_caller() {
    let world = World::new(3);
    let callers = SharedCaller::new(world.config());
    assert!(callers.try_begin().is_none(), "nobody asked the agent yet");
    callers.attach().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let callers = callers.clone();
            std::thread::spawn(move || {
                let mut seen = BTreeSet::new();
                for _ in 0..200 {
                    let call = callers.begin().unwrap();
                    assert_eq!(call.source(), Source::Segment);
                    seen.insert(call.address().clone());
                    call.end(CallEnd::Ok, Load::default());
                }
                seen
            })
        })
        .collect();
    let seen: BTreeSet<Address> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(seen.len(), 3);
    world.until(|world| world.in_flight() == 0);
    assert_eq!(callers.hosts().unwrap().len(), 3);
}

/// Hosts at Unix sockets were left out of segments, so that roles of one
/// machine were never picked.
#[test]
fn hosts_at_unix_sockets_are_picked_from_shared_memory() {
    let paths = ["unix:/run/one.sock", "unix:/run/a-longer-name/two.sock"];
    let world = World::at(paths.map(|path| path.parse().unwrap()));
    let mut caller = world.caller();
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let call = caller.begin().unwrap();
        assert_eq!(call.source(), Source::Segment);
        seen.insert(call.address().to_string());
        call.end(CallEnd::Ok, Load::default());
    }
    assert_eq!(seen, paths.map(str::to_owned).into());
    let call = caller.begin_at(&paths[1].parse().unwrap()).unwrap();
    world.until(|world| world.list().unwrap()[1].in_flight == 1);
    drop(call);
}

#[test]
fn a_route_is_fetched_before_the_first_pick() {
    let world = World::new(2);
    let mut caller = world.caller();
    let route = caller.reg_init().unwrap();
    let ports: BTreeSet<u16> = route.iter().map(|address| tcp(address).port()).collect();
    assert_eq!(ports, BTreeSet::from([9001, 9002]));
    assert!(caller.try_pick().is_some(), "without a word to the agent");
    let mut config = world.config();
    config.service = "nobody".to_owned();
    assert!(Caller::new(config).reg_init().is_err());
    // By UDP, where there is nothing else.
    let mut config = world.config();
    config.socket = world.folder.path().join("nobody.sock");
    config.lars = Some(world.lars());
    assert_eq!(Caller::new(config).reg_init().unwrap().len(), 2);
}

#[test]
fn a_call_to_a_host_of_ones_own_choice_is_counted() {
    let world = World::new(2);
    let mut caller = world.caller();
    caller.attach().unwrap();
    let hosts = caller.hosts().unwrap();
    assert!(hosts.iter().all(|host| host.may_be_picked));
    assert!(Arc::ptr_eq(&hosts, &caller.hosts().unwrap()), "it is kept");
    let second = hosts.iter().find(|host| tcp(&host.address).port() == 9002);
    let call = caller.begin_at(&second.unwrap().address).unwrap();
    world.until(|world| world.in_flight() == 1);
    assert_eq!(world.list().unwrap()[1].in_flight, 1);
    // Enough failures in a row, and it is out.
    call.end(CallEnd::Refused, Load::default());
    for _ in 0..10 {
        let call = caller.begin_at(&second.unwrap().address).unwrap();
        call.end(CallEnd::Refused, Load::default());
    }
    world.until(|_| {
        let hosts = caller.hosts().unwrap();
        hosts.iter().filter(|host| host.may_be_picked).count() == 1
    });
    assert!(caller.begin_at(&"10.0.0.1:1".parse().unwrap()).is_none());
}

/// A process that was forked from this one.
struct Child(i32);

impl Child {
    /// Runs `work` in it, then ends it, with 0 if `work` says so.
    #[expect(
        unsafe_code,
        clippy::disallowed_methods,
        reason = "a fork is what is tested"
    )]
    fn start(work: impl FnOnce() -> bool) -> Self {
        // SAFETY: the child has this thread only, and uses nothing that others
        // may have held: memory is given by an allocator that minds forks. It ends
        // below, without the destructors of anybody else.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: both are about this process, the child: it ends with its
            // parent, and in any case after a minute.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::alarm(60);
            }
            let went_well = catch_unwind(AssertUnwindSafe(work)).unwrap_or(false);
            // SAFETY: it ends this process, the child.
            unsafe { libc::_exit(i32::from(!went_well)) };
        }
        assert!(pid > 0, "no fork");
        Self(pid)
    }

    /// How it ended.
    #[expect(unsafe_code, reason = "a fork is what is tested")]
    fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: it is a child of this process that nobody else waits for.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(pid, self.0);
        status
    }

    /// Ends it without a chance to clean up.
    #[expect(unsafe_code, reason = "a sudden end is what is tested")]
    fn kill(self) {
        // SAFETY: it is a child of this process that was not waited for yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let status = self.wait();
        assert_eq!(libc::WTERMSIG(status), libc::SIGKILL, "{status}");
    }
}

/// A child that was forked wrote its results into the ledger of its parent,
/// whose calls seemed to have ended.
#[test]
fn a_forked_child_leaves_its_parents_ledger_alone() {
    let world = World::new(2);
    let mut caller = world.caller();
    let mut call = Some(caller.begin().unwrap());
    let picked = caller.pick().unwrap();
    world.until(|world| world.in_flight() == 2);
    let child = Child::start(|| {
        assert!(caller.try_pick().is_none(), "what is there is the parent's");
        caller.report(&picked, CallEnd::Failed, None, Load::default());
        drop(call.take());
        let _own = caller.begin().unwrap();
        assert_eq!(caller.source(), Some(Source::Segment));
        // Both of the parent, and its own.
        world.until(|world| world.in_flight() == 3);
        world
            .list()
            .unwrap()
            .iter()
            .all(|host| host.error_share == 0.0)
    });
    assert_eq!(child.wait(), 0);
    world.until(|world| world.in_flight() == 2);
    caller.report(&picked, CallEnd::Ok, None, Load::default());
    drop(call);
    world.until(|world| world.in_flight() == 0);
    assert_eq!(done(&mut caller).ip().to_string(), "127.0.0.1");
}

#[test]
fn callers_that_are_killed_anywhere_leave_nothing_behind() {
    let world = World::new(3);
    let mut own = world.caller();
    done(&mut own);
    let mut rng = Rng::from_seed(7);
    for round in 0..30 {
        let config = world.config();
        let child = Child::start(|| {
            let mut caller = Caller::new(config);
            // For ever, until it is ended somewhere here.
            loop {
                let open: Vec<_> = (0..4).map(|_| caller.begin().unwrap()).collect();
                for call in open {
                    call.end(CallEnd::Ok, Load::default());
                }
            }
        });
        // Calls of it are seen, so that it is at work.
        world.until(|world| world.in_flight() > 0);
        for _ in 0..rng.below(20_000) {
            std::hint::spin_loop();
        }
        child.kill();
        world.until(|world| world.in_flight() == 0);
        assert_eq!(own.source(), Some(Source::Segment), "round {round}");
        done(&mut own);
    }
    let call = own.begin().unwrap();
    world.until(|world| world.in_flight() == 1);
    drop(call);
}

#[test]
fn a_caller_by_socket_that_is_killed_leaves_nothing_behind() {
    let world = World::with(PolicyKind::RoundRobin, 2);
    let config = world.config();
    let child = Child::start(|| {
        let mut caller = Caller::new(config);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(caller.pick().unwrap());
        }
        assert_eq!(caller.source(), Some(Source::Socket));
        loop {
            let picked = caller.pick().unwrap();
            caller.report(&picked, CallEnd::Ok, None, Load::default());
        }
    });
    world.until(|world| world.in_flight() >= 3);
    child.kill();
    world.until(|world| world.in_flight() == 0);
}

/// Story: what a pick costs was measured, and that it asks nothing of the system was
/// believed. The kernel ends a process in this mode at any call but a few.
#[test]
#[expect(unsafe_code, reason = "what the kernel allows is what is tested")]
fn a_pick_and_its_report_make_no_system_call() {
    const PAIRS: u32 = 100_000;
    let world = World::new(3);
    let config = world.config();
    let child = Child::start(|| {
        let mut caller = Caller::new(config);
        done(&mut caller);
        assert_eq!(caller.source(), Some(Source::Segment));
        // SAFETY: it takes no pointer, and this process was forked with one thread.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        let mut pairs = 0;
        for _ in 0..PAIRS {
            let Ok(picked) = caller.pick() else { break };
            let took = Some(Duration::from_millis(1));
            caller.report(&picked, CallEnd::Ok, took, Load::default());
            pairs += 1;
        }
        let is_good = set == 0 && pairs == PAIRS;
        // SAFETY: it ends this thread, which is the only one. What ends a process
        // as a whole is not among the calls that are left.
        unsafe { libc::syscall(libc::SYS_exit, libc::c_long::from(!is_good)) };
        false
    });
    assert_eq!(child.wait(), 0);
}
