//! A pick and its report allocate nothing.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{after, bare, ok, policies, view};
use waystation_balance::{Balancer, BalancerConfig, Load};

thread_local! {
    /// Counted by thread, since other tests run beside this one.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: it does what the system's allocator does, and counts.
#[allow(unsafe_code, reason = "an allocator that counts is an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(balancer: &mut Balancer) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    for ms in 0..2000 {
        let now = after(ms);
        let picked = balancer.pick(now, Some(ms)).unwrap();
        while let Some(name) = balancer.poll_probe(now) {
            let load = Load {
                in_flight: 3,
                latency_us: 1000,
            };
            balancer.handle_probe_answered(now, name, load);
        }
        balancer.report(now, picked.name, &ok()).unwrap();
    }
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_pick_with_its_report_and_probes_allocates_nothing() {
    for policy in policies() {
        let label = policy.name();
        let mut whole = Balancer::new(BalancerConfig::default(), policy.boxed(), 1);
        let mut alone = bare(policy);
        for balancer in [&mut whole, &mut alone] {
            balancer.handle_view(after(0), &view(100));
            // The memory of probes that wait for an answer is there from the
            // first ones on.
            allocations(balancer);
            assert_eq!(allocations(balancer), 0, "{label}");
        }
    }
    // The counter counts.
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 1);
}
