//! Tasks of a shard: each has a name, and says what it waits for.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use waystation_base::{Moment, line_passes};

use super::{Label, Shard};

/// What a suspended task waits for: a kind of wait and its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitsFor {
    /// The kind: `timer`, `answer`, `input`, …
    pub what: &'static str,
    /// Of what: a method, an upstream, a lock.
    pub of: Label,
}

impl WaitsFor {
    /// A wait without an object worth naming.
    pub const fn plain(what: &'static str) -> Self {
        Self {
            what,
            of: Label::IDLE,
        }
    }
}

impl std::fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.of == Label::IDLE {
            return f.write_str(self.what);
        }
        write!(f, "{} {}", self.what, self.of)
    }
}

/// One task, as a dump shows it.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// The task's name.
    pub task: &'static str,
    /// What it works for, such as a connection's name; may be empty.
    pub detail: String,
    /// What it waits for; empty while it runs.
    pub waits_for: String,
    /// When it was started.
    pub started: Moment,
}

pub(crate) struct Task {
    label: Label,
    detail: Cell<Option<Box<str>>>,
    waits_for: Cell<Option<WaitsFor>>,
    started: Moment,
    /// The task's place in the shard's list.
    index: Cell<u32>,
}

impl Task {
    fn detail(&self) -> String {
        let detail = self.detail.take();
        let text = detail.as_deref().unwrap_or_default().to_owned();
        self.detail.set(detail);
        text
    }
}

/// All tasks of a shard.
#[derive(Default)]
pub(crate) struct Tasks {
    list: RefCell<Vec<Rc<Task>>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Task>>> = const { RefCell::new(None) };
}

impl Tasks {
    fn add(&self, label: Label, started: Moment) -> Rc<Task> {
        let mut list = self.list.borrow_mut();
        let task = Rc::new(Task {
            label,
            detail: Cell::new(None),
            waits_for: Cell::new(None),
            started,
            index: Cell::new(place(list.len())),
        });
        list.push(task.clone());
        task
    }

    fn remove(&self, task: &Task) {
        let mut list = self.list.borrow_mut();
        let index = task.index.get();
        list.swap_remove(index as usize);
        if let Some(moved) = list.get(index as usize) {
            moved.index.set(index);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.borrow().len()
    }

    /// Every task. Cost: linear, with an allocation for each.
    pub(crate) fn dump(&self) -> Vec<TaskInfo> {
        let list = self.list.borrow();
        list.iter()
            .map(|task| TaskInfo {
                task: task.label.name(),
                detail: task.detail(),
                waits_for: task
                    .waits_for
                    .get()
                    .map(|w| w.to_string())
                    .unwrap_or_default(),
                started: task.started,
            })
            .collect()
    }
}

/// Every task has its place, so that 4 bytes of it are saved in each.
fn place(index: usize) -> u32 {
    u32::try_from(index).expect("four thousand million tasks do not fit in memory")
}

/// Says for dumps what the current task works for.
pub fn describe_task(detail: impl Into<Box<str>>) {
    CURRENT.with_borrow(|task| {
        if let Some(task) = task {
            task.detail.set(Some(detail.into()));
        }
    });
}

/// What the current task waits for, as last said by [`waiting`].
pub fn current_wait() -> Option<WaitsFor> {
    CURRENT.with_borrow(|task| task.as_ref()?.waits_for.get())
}

/// Awaits `future`; while it is pending, dumps show that the current task
/// waits for `reason`.
pub fn waiting<F: Future>(reason: WaitsFor, future: F) -> Waiting<F> {
    Waiting { reason, future }
}

pin_project_lite::pin_project! {
    /// The future of [`waiting`]. It is no `async fn`, which would hold its
    /// argument twice: connections wait most of their lives.
    #[must_use = "futures do nothing unless awaited"]
    pub struct Waiting<F> {
        reason: WaitsFor,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Waiting<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let poll = this.future.poll(cx);
        note_wait(*this.reason, poll)
    }
}

/// Says what the current task waits for where `poll` is pending: [`waiting`]
/// within a poll function.
pub(crate) fn note_wait<T>(reason: WaitsFor, poll: Poll<T>) -> Poll<T> {
    CURRENT.with_borrow(|task| {
        if let Some(task) = task {
            task.waits_for.set(poll.is_pending().then_some(reason));
        }
    });
    poll
}

/// A turn of the shard, ended in whatever way the code in it ends.
pub(crate) struct Turn<'a> {
    shard: &'a Shard,
    before: Option<Rc<Task>>,
}

impl<'a> Turn<'a> {
    pub(crate) fn begin(shard: &'a Shard, label: Label, task: Option<Rc<Task>>) -> Self {
        shard.enter_turn(label);
        let before = CURRENT.with_borrow_mut(|current| std::mem::replace(current, task));
        Self { shard, before }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let before = self.before.take();
        let task = CURRENT.with_borrow_mut(|current| std::mem::replace(current, before));
        drop(task);
        self.shard.leave_turn();
    }
}

pin_project_lite::pin_project! {
    /// A task's future, registered with its shard while it lives. A panic in
    /// it ends it, and nothing else.
    pub(crate) struct Tracked<F> {
        registration: Registration,
        #[pin]
        future: F,
    }
}

struct Registration {
    shard: Shard,
    task: Rc<Task>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shard.tasks().remove(&self.task);
    }
}

impl<F: Future<Output = ()>> Tracked<F> {
    pub(crate) fn new(shard: &Shard, label: Label, future: F) -> Self {
        let task = shard.tasks().add(label, shard.now());
        Self {
            registration: Registration {
                shard: shard.clone(),
                task,
            },
            future,
        }
    }
}

impl<F: Future<Output = ()>> Future for Tracked<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let Registration { shard, task } = this.registration;
        // What it waited for may be gone; what it waits for now says so again.
        task.waits_for.set(None);
        let _turn = Turn::begin(shard, task.label, Some(task.clone()));
        let future = this.future;
        let poll = catch_unwind(AssertUnwindSafe(|| future.poll(cx)));
        poll.unwrap_or_else(|_| {
            shard.counters().panics.add(1);
            if let Some(unsaid) = line_passes!(shard.now()) {
                tracing::error!(task = task.label.name(), unsaid, "a task panicked");
            }
            Poll::Ready(())
        })
    }
}
