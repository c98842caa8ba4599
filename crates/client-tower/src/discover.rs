//! The hosts of a service as they come and go.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tower::discover::Change;
use waystation_client::{KnownHost, SharedCaller};
use waystation_membership::Address;

use crate::balance::MakeHost;
use crate::limits::LOOK_EVERY;

/// The hosts of a service that may be picked, as tower's `Discover`: a stream of
/// who comes and who goes. Those that fail, drain or are ejected go; they come back
/// when they may be picked again.
///
/// While the agent is away nothing changes: who is there stays.
///
/// Whoever balances over it by itself tells the agent nothing of its calls. Where
/// that matters [`Balance`](crate::Balance) serves better.
pub struct Hosts<M: MakeHost> {
    caller: SharedCaller,
    make: M,
    looks: Interval,
    attaching: Option<JoinHandle<()>>,
    seen: Option<Arc<[KnownHost]>>,
    present: HashSet<Address>,
    changes: VecDeque<Change<Address, M::Client>>,
}

impl<M: MakeHost> Hosts<M> {
    /// Follows the hosts that `caller` picks from; `make` makes their clients.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time.
    pub fn new(caller: SharedCaller, make: M) -> Self {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            caller,
            make,
            looks,
            attaching: None,
            seen: None,
            present: HashSet::new(),
            changes: VecDeque::new(),
        }
    }

    /// Notes what differs from before, or asks the agent when nothing is known.
    fn look(&mut self) {
        let Some(hosts) = self.caller.hosts() else {
            let is_asking = self
                .attaching
                .as_ref()
                .is_some_and(|one| !one.is_finished());
            if !is_asking {
                let caller = self.caller.clone();
                // Why it fails is of no use here: it is tried again.
                self.attaching = Some(tokio::task::spawn_blocking(move || {
                    let _unheard = caller.attach();
                }));
            }
            return;
        };
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, &hosts))
        {
            return;
        }
        let usable = hosts.iter().filter(|host| host.may_be_picked);
        let now: HashSet<Address> = usable.map(|host| host.address.clone()).collect();
        for gone in self.present.difference(&now) {
            self.changes.push_back(Change::Remove(gone.clone()));
        }
        for new in now.difference(&self.present) {
            let client = self.make.make(new);
            self.changes.push_back(Change::Insert(new.clone(), client));
        }
        self.present = now;
        self.seen = Some(hosts);
    }
}

// It holds nothing that is pinned.
impl<M: MakeHost> Unpin for Hosts<M> {}

impl<M: MakeHost> Stream for Hosts<M> {
    type Item = Result<Change<Address, M::Client>, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(change) = this.changes.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            this.look();
            if !this.changes.is_empty() {
                continue;
            }
            if let Some(attaching) = &mut this.attaching
                && Pin::new(attaching).poll(cx).is_ready()
            {
                this.attaching = None;
            }
            ready!(this.looks.poll_tick(cx));
        }
    }
}

impl<M: MakeHost> fmt::Debug for Hosts<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts")
            .field("caller", &self.caller)
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}
