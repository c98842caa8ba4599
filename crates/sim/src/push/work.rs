//! What work costs: steps, CPU time of this thread, and the memory that it asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

thread_local! {
    /// Counted by thread, since tests run beside each other.
    static ALLOCATED_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts: what is asked for is the same in each run
/// of a seed, whatever the machine does beside it.
struct Counting;

fn count(bytes: usize) {
    ALLOCATED_BYTES.with(|sum| sum.set(sum.get() + bytes as u64));
}

// SAFETY: it does what the system's allocator does, and counts.
#[allow(unsafe_code, reason = "an allocator that counts is an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What work has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// What cores looked at, as they count it; the same in each run.
    pub(super) steps: u64,
    /// CPU time; differs from run to run.
    pub(super) cpu_ns: u64,
    /// Memory that was asked for, freed or not; the same in each run.
    pub(super) allocated_bytes: u64,
}

impl Work {
    /// Does something and adds what it cost. Cost: two system calls.
    pub(super) fn measure<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (cpu, bytes) = (cpu_ns(), ALLOCATED_BYTES.with(Cell::get));
        let result = work();
        self.cpu_ns += cpu_ns() - cpu;
        self.allocated_bytes += ALLOCATED_BYTES.with(Cell::get) - bytes;
        result
    }
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_asked_for_is_counted() {
        let mut work = Work::default();
        let bytes = work.measure(|| Vec::<u8>::with_capacity(1_000));
        assert_eq!((bytes.capacity(), work.allocated_bytes), (1_000, 1_000));
    }
}
