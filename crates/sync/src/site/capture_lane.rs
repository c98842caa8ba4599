//! The thread of captured writes: waits for new ones, reads and erases them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use waystation_mailbox::{Receiver as MailReceiver, Sender as MailSender, mailbox};

use crate::adapter::{AdapterError, Capture};
use crate::limits::{LANE_JOBS_MAX, OUTBOX_READ_BYTES};

/// Longest wait for new writes before jobs are looked at.
const SLICE: Duration = Duration::from_millis(20);

/// After this a capture that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread tells.
pub(super) enum Captured {
    /// There are captured writes up to this number, of this generation.
    Through(u64, u64),
    /// Nothing is captured for now, and why.
    Stands(String),
    /// It is again.
    GoesOn,
}

enum Job {
    Read {
        after: u64,
        changes_max: usize,
        answer: oneshot::Sender<Result<Vec<Bytes>, AdapterError>>,
    },
    /// Up to this number, of this generation.
    Erase(u64, u64),
}

/// What the thread is to know at once, whatever waits for it.
#[derive(Debug, Default)]
struct Shared {
    /// How often the copy began anew, and its numbers with it.
    generation: AtomicU64,
    /// Whether writes may be numbered.
    may_number: AtomicBool,
}

/// The way to the thread.
pub(super) struct CaptureLane {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Thread {
    capture: Box<dyn Capture>,
    jobs: Receiver<Job>,
    captured: MailSender<Captured>,
    shared: Arc<Shared>,
    /// Of which what follows is known.
    generation: u64,
    known: u64,
    /// Why it stands, as it was told.
    trouble: Option<String>,
    /// The hub has them; those above `erased` are still to be erased.
    erasable: u64,
    erased: u64,
}

impl CaptureLane {
    /// Starts the thread; the last captured number comes out of the mailbox
    /// whenever it grows, and why there is none.
    pub(super) fn start(capture: Box<dyn Capture>) -> io::Result<(Self, MailReceiver<Captured>)> {
        let (jobs, queue) = sync_channel(LANE_JOBS_MAX);
        let (captured, numbers) = mailbox(LANE_JOBS_MAX);
        let shared = Arc::<Shared>::default();
        let thread = Thread::new(capture, queue, captured, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("sync capture".to_owned())
            .spawn(move || thread.run())?;
        Ok((Self { jobs, shared }, numbers))
    }

    pub(super) fn read(
        &self,
        after: u64,
        changes_max: usize,
    ) -> oneshot::Receiver<Result<Vec<Bytes>, AdapterError>> {
        let (answer, waiter) = oneshot::channel();
        let read = Job::Read {
            after,
            changes_max,
            answer,
        };
        // Without room the waiter hears that nobody answers.
        let _ = self.jobs.try_send(read);
        waiter
    }

    pub(super) fn erase(&self, through: u64) {
        // Without room they stay, and the next one erases them too.
        let _ = self.jobs.try_send(Job::Erase(through, self.generation()));
    }

    /// Writes may be numbered: the hub has agreed to what the file had before. The
    /// numbers that a backup lost must not be given again before that.
    pub(super) fn allow_numbers(&self) {
        self.shared.may_number.store(true, Ordering::Release);
    }

    /// The copy begins anew, and its numbers with it: what the thread tells, or was
    /// told, of a generation before this one counts for nothing.
    pub(super) fn reset(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it was reset.
    pub(super) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }
}

impl Thread {
    fn new(
        capture: Box<dyn Capture>,
        jobs: Receiver<Job>,
        captured: MailSender<Captured>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            capture,
            jobs,
            captured,
            shared,
            generation: 0,
            known: 0,
            trouble: None,
            erasable: 0,
            erased: 0,
        }
    }

    fn run(mut self) {
        loop {
            self.follow();
            // With writes that the hub lacks, jobs are what matters.
            let is_behind = self.known > self.erased;
            let job = if is_behind {
                self.jobs.recv_timeout(SLICE)
            } else {
                self.jobs.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            match job {
                Ok(job) => self.perform(job),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.look(if is_behind { Duration::ZERO } else { SLICE });
                }
            }
        }
    }

    /// Forgets what it knew of numbers that are no more.
    fn follow(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            (self.known, self.erasable, self.erased) = (0, 0, 0);
        }
    }

    fn look(&mut self, wait: Duration) {
        self.follow();
        if !self.shared.may_number.load(Ordering::Acquire) {
            if let Ok(job) = self.jobs.recv_timeout(SLICE) {
                self.perform(job);
            }
            return;
        }
        self.erase();
        let found = self.capture.wait(self.known, wait);
        self.tell(found.as_ref().err().map(ToString::to_string));
        match found {
            Ok(last) if last > self.known => {
                let through = Captured::Through(last, self.generation);
                if self.captured.try_send(through).is_ok() {
                    self.known = last;
                }
            }
            Ok(_) => {}
            Err(_) => {
                if let Ok(job) = self.jobs.recv_timeout(RETRY) {
                    self.perform(job);
                }
            }
        }
    }

    /// Tells why it stands, each reason once. Without room the next look does.
    fn tell(&mut self, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        let told = if let Some(error) = &trouble {
            tracing::error!(error, "the capture of writes stands");
            Captured::Stands(error.clone())
        } else {
            tracing::info!("the capture of writes goes on");
            Captured::GoesOn
        };
        if self.captured.try_send(told).is_ok() {
            self.trouble = trouble;
        }
    }

    fn perform(&mut self, job: Job) {
        self.follow();
        match job {
            Job::Read {
                after,
                changes_max,
                answer,
            } => {
                let read = self.capture.read(after, changes_max, OUTBOX_READ_BYTES);
                // Whoever asked may be gone.
                let _ = answer.send(read);
            }
            Job::Erase(_, generation) if generation != self.generation => {}
            Job::Erase(through, _) => {
                self.erasable = self.erasable.max(through);
                self.erase();
            }
        }
    }

    /// Erases what may go, if there is something; the next look tries again.
    fn erase(&mut self) {
        let through = self.erasable;
        if through <= self.erased {
            return;
        }
        match self.capture.erase(through) {
            Ok(()) => self.erased = through,
            Err(AdapterError::Unavailable(error)) => {
                tracing::debug!(error, "captured writes are erased later");
            }
            Err(error) => tracing::warn!(%error, "cannot erase captured writes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes with these numbers; what was erased is noted.
    struct Numbers {
        last: Arc<AtomicU64>,
        erased: Arc<AtomicU64>,
    }

    impl Capture for Numbers {
        fn wait(&mut self, after: u64, _wait: Duration) -> Result<u64, AdapterError> {
            Ok(self.last.load(Ordering::Relaxed).max(after))
        }

        fn read(
            &mut self,
            _after: u64,
            _changes_max: usize,
            _bytes_max: usize,
        ) -> Result<Vec<Bytes>, AdapterError> {
            Ok(Vec::new())
        }

        fn erase(&mut self, through: u64) -> Result<(), AdapterError> {
            self.erased.store(through, Ordering::Relaxed);
            Ok(())
        }
    }

    struct Rig {
        lane: CaptureLane,
        thread: Thread,
        told: MailReceiver<Captured>,
        last: Arc<AtomicU64>,
        erased: Arc<AtomicU64>,
    }

    impl Rig {
        /// The lane, and its thread as a value: what it would do is done here.
        fn new() -> Self {
            let (jobs, queue) = sync_channel(LANE_JOBS_MAX);
            let (captured, told) = mailbox(LANE_JOBS_MAX);
            let (last, erased) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
            let capture = Box::new(Numbers {
                last: Arc::clone(&last),
                erased: Arc::clone(&erased),
            });
            let shared = Arc::<Shared>::default();
            let thread = Thread::new(capture, queue, captured, Arc::clone(&shared));
            let lane = CaptureLane { jobs, shared };
            Self {
                lane,
                thread,
                told,
                last,
                erased,
            }
        }

        fn told(&mut self) -> Vec<(u64, u64)> {
            self.thread.look(Duration::ZERO);
            let mut told = Vec::new();
            self.told.try_recv_batch(&mut told);
            let numbers = told.into_iter().filter_map(|one| match one {
                Captured::Through(last, generation) => Some((last, generation)),
                _ => None,
            });
            numbers.collect()
        }
    }

    /// The story: a site that was refused, because its file was put back from a backup,
    /// went on numbering. At its next start its numbers were those of writes that the
    /// backup lacked, and it was welcomed.
    #[test]
    fn nothing_is_numbered_before_the_hub_has_agreed() {
        let mut rig = Rig::new();
        rig.last.store(1, Ordering::Relaxed);
        assert_eq!(rig.told(), []);
        rig.lane.allow_numbers();
        assert_eq!(rig.told(), [(1, 0)]);
    }

    /// The story: a copy began anew while the thread had no room for another job. It
    /// never heard of it, and told of no write until there were as many as before.
    #[test]
    fn a_copy_that_begins_anew_is_known_to_whatever_room_there_is() {
        let mut rig = Rig::new();
        rig.lane.allow_numbers();
        rig.last.store(500, Ordering::Relaxed);
        assert_eq!(rig.told(), [(500, 0)]);
        for _ in 0..LANE_JOBS_MAX {
            rig.lane.erase(400);
        }
        rig.lane.reset();
        rig.last.store(1, Ordering::Relaxed);
        assert_eq!(rig.told(), [(1, 1)]);
        // What was to be erased is not what has these numbers now.
        while let Ok(job) = rig.thread.jobs.try_recv() {
            rig.thread.perform(job);
        }
        assert_eq!(rig.erased.load(Ordering::Relaxed), 0);
        rig.lane.erase(1);
        let job = rig.thread.jobs.try_recv().expect("a job");
        rig.thread.perform(job);
        assert_eq!(rig.erased.load(Ordering::Relaxed), 1);
    }
}
