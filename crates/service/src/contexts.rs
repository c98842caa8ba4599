//! All requests in progress on a shard.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde::Serialize;
use slab::Slab;
use waystation_base::{Moment, Sid, SidSource};
use waystation_net::{LoadPlace, Shard};
use waystation_wire::{Load, Status as Code};

use crate::budget::Budget;
use crate::caller::{Caller, Callers, has_share};
use crate::ctx::Context;
use crate::latency::Latency;
use crate::limits::{
    ANSWERS_WAITING_BYTES, DEADLINE_DEFAULT, LISTED, REQUESTS_IN_FLIGHT, REQUESTS_PER_CALLER,
};
use crate::status::Status;

/// One request in progress, as `waystation ctx` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ContextInfo {
    /// The request's id.
    pub sid: String,
    /// Its method.
    pub method: &'static str,
    /// The step it is at, if its handler says so.
    pub state: &'static str,
    /// What it waits for; empty while it runs.
    pub waiting_for: String,
    /// How long it has been in progress.
    pub age_ms: u64,
    /// How long until it is overdue; negative when it is.
    pub deadline_ms: i64,
    /// Where it came from.
    pub peer: String,
    /// The shard that runs it.
    pub shard: u16,
}

impl ContextInfo {
    /// The requests in progress on this shard, at most
    /// [`LISTED`]. From other threads ask through
    /// [`Remote::run_on`](waystation_net::Remote::run_on). Cost: linear.
    pub fn list(shard: &Shard) -> Vec<Self> {
        Contexts::of(shard).snapshot(shard).0
    }
}

/// What a shard counts of requests. Those started are those answered, failed
/// and cancelled, and those still in progress.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RequestCounts {
    pub(crate) started: u64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    /// Of those refused, the ones whose caller had its share.
    pub(crate) refused_share: u64,
    /// Calls that waited for their turn.
    pub(crate) calls_waited: u64,
    pub(crate) unreadable: u64,
    pub(crate) timeouts: u64,
    pub(crate) cancelled: u64,
    pub(crate) retries: u64,
    pub(crate) retries_refused: u64,
}

/// The requests in progress of one shard, one table for all its listeners.
pub(crate) struct Contexts {
    list: RefCell<Slab<Weak<Context>>>,
    sids: RefCell<SidSource>,
    latency: RefCell<Latency>,
    budget: RefCell<Budget>,
    callers: Rc<Callers>,
    counts: Cell<RequestCounts>,
    most: Cell<usize>,
    share: Cell<usize>,
    deadline_default: Cell<Duration>,
    answers_waiting: Cell<usize>,
    requests: Cell<usize>,
    /// Where others read what this shard has to do.
    told: LoadPlace,
}

impl Contexts {
    /// The shard's table, made on first use.
    pub(crate) fn of(shard: &Shard) -> Rc<Self> {
        if let Some(contexts) = shard.extension::<Self>() {
            return contexts;
        }
        let random = shard.random()
            ^ u64::from(std::process::id()).rotate_left(32)
            ^ u64::try_from(waystation_net::unix_time().as_nanos() & u128::from(u64::MAX))
                .unwrap_or(0);
        let contexts = Rc::new(Self {
            list: RefCell::default(),
            sids: RefCell::new(SidSource::new(waystation_base::hash64(
                &random.to_le_bytes(),
            ))),
            latency: RefCell::default(),
            budget: RefCell::default(),
            callers: Rc::default(),
            counts: Cell::default(),
            most: Cell::new(REQUESTS_IN_FLIGHT),
            share: Cell::new(REQUESTS_PER_CALLER),
            deadline_default: Cell::new(DEADLINE_DEFAULT),
            answers_waiting: Cell::new(ANSWERS_WAITING_BYTES),
            requests: Cell::new(0),
            told: shard.load_place(),
        });
        shard.set_extension(contexts.clone());
        contexts
    }

    pub(crate) fn configure(&self, most: usize, deadline_default: Duration) {
        self.most.set(most);
        self.deadline_default.set(deadline_default);
    }

    /// Requests of one caller that may be in progress.
    pub(crate) fn set_share(&self, requests: usize) {
        self.share.set(requests);
    }

    pub(crate) fn callers(&self) -> &Rc<Callers> {
        &self.callers
    }

    /// Bytes of answers that may wait on one connection.
    pub(crate) fn answers_waiting(&self) -> usize {
        self.answers_waiting.get()
    }

    pub(crate) fn set_answers_waiting(&self, bytes: usize) {
        self.answers_waiting.set(bytes);
    }

    pub(crate) fn deadline_default(&self) -> Duration {
        self.deadline_default.get()
    }

    pub(crate) fn next_sid(&self) -> Sid {
        self.sids.borrow_mut().next()
    }

    pub(crate) fn open(&self, context: &Rc<Context>) {
        let place = self.list.borrow_mut().insert(Rc::downgrade(context));
        context.place.set(place);
    }

    /// Takes a context off the list, unless it is off already.
    pub(crate) fn close(&self, context: &Context) {
        let place = context.place.replace(usize::MAX);
        self.list.borrow_mut().try_remove(place);
    }

    /// Contexts in the table.
    pub(crate) fn len(&self) -> usize {
        self.list.borrow().len()
    }

    /// A place for one more request of this caller.
    ///
    /// # Errors
    /// [`Status`] `overloaded`, which says whether all places are taken or the
    /// caller has its share of them.
    pub(crate) fn admit(self: &Rc<Self>, caller: Rc<Caller>) -> Result<Admitted, Status> {
        let (requests, most, own) = (self.requests.get(), self.most.get(), caller.requests());
        let full = requests >= most;
        if full || !has_share(own, requests, most, self.share.get()) {
            self.count(|counts| {
                counts.refused += 1;
                counts.refused_share += u64::from(!full);
            });
            return Err(Status::overloaded(if full {
                format!("{requests} requests are in progress")
            } else {
                format!("{own} requests of this caller are in progress, which is its share")
            }));
        }
        self.set_requests(requests + 1);
        caller.begin_request();
        self.count(|counts| counts.started += 1);
        Ok(Admitted {
            contexts: self.clone(),
            caller,
        })
    }

    fn set_requests(&self, requests: usize) {
        self.requests.set(requests);
        self.told.tell(self.load());
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.get()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut RequestCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(crate) fn count_timeout(&self) {
        self.count(|counts| counts.timeouts += 1);
    }

    /// A step begins that may be tried again.
    pub(crate) fn begin_step(&self, now: Moment, caller: Option<&Caller>) {
        self.budget.borrow_mut().begin(now);
        if let Some(caller) = caller {
            caller.begin_step(now);
        }
    }

    /// Whether a step may be tried again; it counts as a retry then. Work that
    /// nobody asked for shares what is left.
    pub(crate) fn may_retry(&self, now: Moment, caller: Option<&Caller>) -> bool {
        let mut budget = self.budget.borrow_mut();
        let left = budget.left(now);
        let may = caller.map_or(left > 0, |caller| caller.take_retry(now, left));
        if may {
            budget.count_retry(now);
        }
        self.count(|counts| {
            if may {
                counts.retries += 1;
            } else {
                counts.retries_refused += 1;
            }
        });
        may
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        self.counts.get()
    }

    /// Counts a request that has ended. An error at once says nothing of how
    /// long requests take, and would make a host that fails look fast.
    /// `took` is missing where nobody waited for an answer.
    pub(crate) fn ended(&self, took: Option<Duration>, outcome: Outcome) {
        let (telling, change): (bool, fn(&mut RequestCounts)) = match outcome {
            Outcome::Answered => (true, |counts| counts.answered += 1),
            Outcome::Cancelled => (true, |counts| counts.cancelled += 1),
            Outcome::Failed(Code::DeadlineExceeded) => (true, |counts| counts.failed += 1),
            Outcome::Failed(_) => (false, |counts| counts.failed += 1),
        };
        if let (true, Some(took)) = (telling, took) {
            self.latency.borrow_mut().add(took);
            self.told.tell(self.load());
        }
        self.count(change);
    }

    /// What this shard has to do. Replies tell that of all shards.
    pub(crate) fn load(&self) -> Load {
        Load {
            in_flight: u32::try_from(self.requests.get()).unwrap_or(u32::MAX),
            latency_us: self.latency.borrow().median_us(),
        }
    }

    /// Requests in progress, at most [`LISTED`], and how many more there are.
    /// Cost: linear.
    pub(crate) fn snapshot(&self, shard: &Shard) -> (Vec<ContextInfo>, usize) {
        let now = shard.now();
        let list = self.list.borrow();
        let contexts = list
            .iter()
            .take(LISTED)
            .filter_map(|(_, context)| context.upgrade());
        let infos = contexts.map(|context| info(&context, shard, now)).collect();
        (infos, list.len().saturating_sub(LISTED))
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With its handler's result.
    Answered,
    /// With an error.
    Failed(Code),
    /// Without an answer, since its caller gave up.
    Cancelled,
}

fn info(context: &Rc<Context>, shard: &Shard, now: Moment) -> ContextInfo {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let left = i64::try_from(millis(context.deadline.saturating_since(now))).unwrap_or(i64::MAX);
    let over = i64::try_from(millis(now.saturating_since(context.deadline))).unwrap_or(i64::MAX);
    ContextInfo {
        sid: context.sid.to_string(),
        method: context.method.name(),
        state: context.state.get(),
        waiting_for: context
            .waits_for
            .get()
            .map(|waits| waits.to_string())
            .unwrap_or_default(),
        age_ms: millis(now.saturating_since(context.started)),
        deadline_ms: left - over,
        peer: context
            .conn
            .as_ref()
            .map(|conn| conn.peer().to_string())
            .unwrap_or_default(),
        shard: shard.id().0,
    }
}

/// One admitted request. Dropping it makes room for another.
pub(crate) struct Admitted {
    contexts: Rc<Contexts>,
    caller: Rc<Caller>,
}

impl Admitted {
    /// Whose share it counts in.
    pub(crate) fn caller(&self) -> &Rc<Caller> {
        &self.caller
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.contexts.set_requests(self.contexts.requests.get() - 1);
        self.caller.end_request();
    }
}
