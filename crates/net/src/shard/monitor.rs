//! Finds handlers that do not yield, and shows where they are.
//!
//! A shard stores what it runs in one atomic ([`Beat`]): a turn number and
//! the label of the task. A monitor thread looks at it; when the same turn is
//! still running after [`BLOCKED_AFTER`], it interrupts the shard's thread
//! with a signal whose handler writes the return addresses of its stack, and
//! resolves them to names afterwards. The shard itself reads no clock for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use waystation_base::{Clock, Moment, ShardId, line_passes};

use super::Label;
use crate::clock::MonotonicClock;
use crate::limits::{BLOCKED_AFTER, BLOCKED_REPORTS, STACK_FRAMES};

/// What a shard runs now: turn number in the high half, label in the low.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    now: AtomicU64,
    thread: AtomicU64,
}

impl Beat {
    pub(crate) fn set(&self, turn: u32, label: Label) {
        let value = (u64::from(turn) << 32) | u64::from(label.number());
        self.now.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, Label) {
        let value = self.now.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, reason = "the low half is the label")]
        let label = Label::from_number(value as u32);
        (value, label)
    }

    /// Called by the shard's thread, so that the monitor can interrupt it.
    pub(crate) fn enter_thread(&self) {
        self.thread.store(signal::this_thread(), Ordering::Release);
    }

    /// Called by the shard's thread before it ends.
    pub(crate) fn leave_thread(&self) {
        self.thread.store(0, Ordering::Release);
        self.set(0, Label::IDLE);
    }
}

/// A handler that kept its shard from everything else.
#[derive(Debug, Clone)]
pub struct BlockedReport {
    /// The shard it ran on.
    pub shard: ShardId,
    /// The task or handler.
    pub handler: &'static str,
    /// How long it had been running when last seen.
    pub blocked: Duration,
    /// When it was found.
    pub at: Moment,
    /// Its stack when it was found, innermost call first.
    pub stack: Vec<String>,
}

/// The reports so far, newest last. Bounded by
/// [`BLOCKED_REPORTS`].
#[derive(Debug, Clone, Default)]
pub struct BlockedReports {
    shared: Arc<Mutex<VecDeque<BlockedReport>>>,
    total: Arc<AtomicU64>,
}

impl BlockedReports {
    /// The reports that are kept.
    pub fn list(&self) -> Vec<BlockedReport> {
        let reports = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().cloned().collect()
    }

    /// How often a handler was found blocking.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn push(&self, report: BlockedReport) {
        if let Some(unsaid) = line_passes!(MonotonicClock.now()) {
            tracing::warn!(
                shard = report.shard.0,
                handler = report.handler,
                blocked_ms = u64::try_from(report.blocked.as_millis()).unwrap_or(u64::MAX),
                stack = %report.stack.join(" < "),
                unsaid,
                "a handler blocks its shard; move the work to `Shard::offload` or yield"
            );
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut reports = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == BLOCKED_REPORTS {
            reports.pop_front();
        }
        reports.push_back(report);
    }

    /// The newest report of a shard goes on: it blocks still, and its stack is
    /// known if it was not.
    fn go_on(&self, shard: ShardId, blocked: Duration, stack: Vec<String>) {
        let mut reports = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = reports.iter_mut().rev();
        if let Some(report) = newest.find(|report| report.shard == shard) {
            report.blocked = blocked;
            if report.stack.is_empty() {
                report.stack = stack;
            }
        }
    }
}

/// What the monitor remembers of a shard between two looks.
#[derive(Clone, Copy, Default)]
struct Seen {
    value: u64,
    since: Moment,
    reported: bool,
    /// Its stack is known. A thread that got no processor could not show it.
    stacked: bool,
}

/// Watches the beats until `stop` is set.
pub(crate) fn watch(beats: &[Arc<Beat>], reports: &BlockedReports, stop: &AtomicBool) {
    let mut seen = vec![Seen::default(); beats.len()];
    while !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(BLOCKED_AFTER / 4);
        let now = MonotonicClock.now();
        for (index, beat) in beats.iter().enumerate() {
            look(index, beat, &mut seen[index], now, reports);
        }
    }
}

fn look(index: usize, beat: &Beat, seen: &mut Seen, now: Moment, reports: &BlockedReports) {
    let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
    let (value, label) = beat.get();
    if label == Label::IDLE || value != seen.value {
        *seen = Seen {
            value,
            since: now,
            ..Seen::default()
        };
        return;
    }
    let blocked = now.saturating_since(seen.since);
    if blocked < BLOCKED_AFTER {
        return;
    }
    let mut stack = Vec::new();
    if !seen.stacked {
        stack = signal::stack_of(beat.thread.load(Ordering::Acquire));
        if beat.get().0 != value {
            // It ended meanwhile; the stack is that of something else.
            stack.clear();
        }
        seen.stacked = !stack.is_empty();
    }
    if seen.reported {
        reports.go_on(shard, blocked, stack);
        return;
    }
    seen.reported = true;
    reports.push(BlockedReport {
        shard,
        handler: label.name(),
        blocked,
        at: now,
        stack,
    });
}

/// The signal that interrupts a blocked thread, and what its handler does.
#[allow(unsafe_code, reason = "signals and thread handles are the C library's")]
mod signal {
    use super::{
        AtomicPtr, AtomicU64, AtomicUsize, Duration, Mutex, OnceLock, Ordering, PoisonError,
        STACK_FRAMES,
    };

    /// Nothing else uses it: the kernel sends it for out-of-band data only to
    /// owners set by `F_SETOWN`, and its default action is to do nothing.
    const SIGNAL: libc::c_int = libc::SIGURG;

    static FRAMES: [AtomicPtr<libc::c_void>; STACK_FRAMES] =
        [const { AtomicPtr::new(std::ptr::null_mut()) }; STACK_FRAMES];
    /// 0: free. 1: asked, of [`TARGET`]. 2: its handler writes. 3: done,
    /// [`COUNT`] frames are valid.
    static STATE: AtomicUsize = AtomicUsize::new(FREE);
    const FREE: usize = 0;
    const ASKED: usize = 1;
    const WRITING: usize = 2;
    const DONE: usize = 3;
    /// Whose stack is asked for: a signal may be late, and its handler must
    /// not answer a question that was put to another thread.
    static TARGET: AtomicU64 = AtomicU64::new(0);
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static INSTALLED: OnceLock<bool> = OnceLock::new();

    pub(super) fn this_thread() -> u64 {
        // SAFETY: pthread_self has no preconditions.
        unsafe { libc::pthread_self() as u64 }
    }

    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: errno is this thread's own; it is put back below.
        let errno = unsafe { *libc::__errno_location() };
        let asked = STATE.load(Ordering::Acquire) == ASKED
            && TARGET.load(Ordering::Relaxed) == this_thread();
        let claim = || STATE.compare_exchange(ASKED, WRITING, Ordering::AcqRel, Ordering::Relaxed);
        if asked && claim().is_ok() {
            let mut count = 0;
            // SAFETY: only this handler walks a stack: it has claimed the
            // question, and a second one is put only when this is answered.
            // The walk allocates nothing; glibc from 2.35
            // finds unwind tables without a lock.
            unsafe {
                backtrace::trace_unsynchronized(|frame| {
                    FRAMES[count].store(frame.ip(), Ordering::Relaxed);
                    count += 1;
                    count < STACK_FRAMES
                });
            }
            COUNT.store(count, Ordering::Relaxed);
            STATE.store(DONE, Ordering::Release);
        }
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }

    fn install() -> bool {
        *INSTALLED.get_or_init(|| {
            // SAFETY: the action is fully initialised: zeroed, then its
            // handler, flags and (empty) mask are set.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) == 0
            }
        })
    }

    /// The stack of `thread` now; empty when it could not be had in 100 ms.
    pub(super) fn stack_of(thread: u64) -> Vec<String> {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if thread == 0 || !install() {
            return Vec::new();
        }
        TARGET.store(thread, Ordering::Relaxed);
        STATE.store(ASKED, Ordering::Release);
        // SAFETY: the shard clears its handle before its thread ends, and its
        // thread is joined only after the monitor has stopped.
        if unsafe { libc::pthread_kill(thread as libc::pthread_t, SIGNAL) } != 0 {
            STATE.store(FREE, Ordering::Release);
            return Vec::new();
        }
        for _ in 0..100 {
            if STATE.load(Ordering::Acquire) == DONE {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        // A handler that has begun is waited for: it writes where the next
        // question's frames will be.
        let unasked = STATE.compare_exchange(ASKED, FREE, Ordering::AcqRel, Ordering::Acquire);
        if unasked.is_ok() {
            return Vec::new();
        }
        while STATE.load(Ordering::Acquire) != DONE {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let count = COUNT.load(Ordering::Relaxed);
        let frames = &FRAMES[..count];
        let stack = frames
            .iter()
            .flat_map(|frame| names(frame.load(Ordering::Relaxed)))
            .collect();
        STATE.store(FREE, Ordering::Release);
        stack
    }

    /// Symbol names of an address, inlined calls included; the machinery of
    /// the signal itself is left out.
    fn names(address: *mut libc::c_void) -> Vec<String> {
        let mut names = Vec::new();
        backtrace::resolve(address, |symbol| {
            if let Some(name) = symbol.name() {
                let name = format!("{name:#}");
                let noise = ["backtrace::", "net::shard::monitor::signal", "__restore_rt"];
                if !noise.iter().any(|part| name.contains(part)) {
                    names.push(name);
                }
            }
        });
        names
    }
}
