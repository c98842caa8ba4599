//! The words that a segment lies in.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// A word of a segment: an atomic number of 64 bits.
pub type Word = AtomicU64;

/// Memory that a segment lies in, shared with other processes or not.
///
/// The same words must be there at every call.
pub trait Memory {
    /// All of its words.
    fn words(&self) -> &[Word];
}

impl Memory for Vec<Word> {
    #[inline]
    fn words(&self) -> &[Word] {
        self
    }
}

impl Memory for [Word] {
    #[inline]
    fn words(&self) -> &[Word] {
        self
    }
}

impl<M: Memory + ?Sized> Memory for Arc<M> {
    #[inline]
    fn words(&self) -> &[Word] {
        (**self).words()
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    #[inline]
    fn words(&self) -> &[Word] {
        (**self).words()
    }
}

/// Words of this process, all zero.
pub fn zeroed(words: usize) -> Vec<Word> {
    (0..words).map(|_| Word::new(0)).collect()
}

/// A word, 0 where there is none: what others wrote leads nowhere else.
///
/// Loads are relaxed, since others are not allowed on memory that is mapped for
/// reading only; where order counts a fence stands beside them.
#[inline]
pub(crate) fn get(words: &[Word], at: usize) -> u64 {
    match words.get(at) {
        Some(word) => word.load(Ordering::Relaxed),
        None => 0,
    }
}

/// Sets a word. A place that is not there is our own fault.
#[inline]
pub(crate) fn set(words: &[Word], at: usize, value: u64) {
    store(&words[at], value, Ordering::Relaxed);
}

/// Every store and addition of this crate, so that tests can end a process
/// before each of them.
#[inline]
pub(crate) fn store(word: &Word, value: u64, order: Ordering) {
    #[cfg(all(test, not(loom)))]
    kill::step();
    word.store(value, order);
}

/// As [`store`], for what several threads add to.
#[inline]
pub(crate) fn add(word: &Word, step: u64, order: Ordering) {
    #[cfg(all(test, not(loom)))]
    kill::step();
    word.fetch_add(step, order);
}

/// Ends of processes at any store.
#[cfg(all(test, not(loom)))]
pub(crate) mod kill {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    struct Killed;

    pub(super) fn step() {
        match LEFT.get() {
            Some(0) => resume_unwind(Box::new(Killed)),
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
    }

    /// Runs `work` and ends it before the store number `stores`; false when it
    /// was.
    pub(crate) fn after(stores: usize, work: impl FnOnce()) -> bool {
        LEFT.set(Some(stores));
        let result = catch_unwind(AssertUnwindSafe(work));
        LEFT.set(None);
        match result {
            Ok(()) => true,
            Err(cause) if cause.is::<Killed>() => false,
            Err(cause) => resume_unwind(cause),
        }
    }
}

/// Two numbers in one word.
#[inline]
pub(crate) const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The upper number of a word.
#[inline]
pub(crate) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The lower number of a word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
pub(crate) const fn low(word: u64) -> u32 {
    word as u32
}
