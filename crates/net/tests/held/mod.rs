//! An allocator that counts what the shards and the test hold.
//!
//! Other threads are left out: the monitor keeps megabytes of symbols from the
//! first time that a busy machine stops a shard for long enough.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: isize) {
    // A thread that ends is no longer asked.
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
        MOST.fetch_max(held, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator that counts is an allocator")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From now on, what this thread allocates and frees is counted.
pub(crate) fn count_this_thread() {
    COUNTED.set(true);
}

/// Bytes that are held now, above those of the beginning.
pub(crate) fn held() -> isize {
    HELD.load(Ordering::Relaxed)
}

/// Bytes that were held at once, above what is held now, while `run` ran.
#[allow(dead_code, reason = "not every test asks for it")]
pub(crate) fn most_held(run: impl FnOnce()) -> usize {
    let before = held();
    MOST.store(before, Ordering::Relaxed);
    run();
    (MOST.load(Ordering::Relaxed) - before).unsigned_abs()
}
