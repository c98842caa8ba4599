//! Calls to whichever instance of a service is best now.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use waystation_base::{MessageId, Moment};
use waystation_client::{CallGuard, CallerConfig, Source};
use waystation_membership::Address;
use waystation_net::{Shard, WaitsFor, waiting};

use crate::agent::Agent;
use crate::channel::Channel;
use crate::ctx::Ctx;
use crate::group::{Group, dial_address};
use crate::latency::Latency;
use crate::limits::{CHANNELS_MAX, HEDGE_BURST, HEDGE_SAMPLES_MIN, OTHER_PICKS};
use crate::method::Method;
use crate::retry::Retry;
use crate::status::Status;

/// When a call that takes long is sent to a second instance, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// Such calls in each hundred, at most. Above it calls wait for the one
    /// answer. Default 5.
    pub share_percent: u32,
    /// The least that is waited before, however fast others are. Default 1 ms.
    pub wait_min: Duration,
}

impl Default for Hedging {
    fn default() -> Self {
        Self {
            share_percent: 5,
            wait_min: Duration::from_millis(1),
        }
    }
}

/// Settings of a [`Balanced`].
#[derive(Debug, Clone)]
pub struct BalancedConfig {
    /// The service, and where its agent is.
    pub caller: CallerConfig,
    /// How long one try may take; the next one goes to another instance. By
    /// default all that is left.
    pub try_wait: Option<Duration>,
    /// Tries of a call, the first included. Default 3. They come out of the
    /// budget of retries, as those of [`Ctx::retry`] do.
    pub tries: u32,
    /// Second calls for those that take longer than 95 of 100 do; only for
    /// methods that may be asked twice. None by default.
    pub hedging: Option<Hedging>,
}

impl BalancedConfig {
    /// With the defaults.
    pub const fn new(caller: CallerConfig) -> Self {
        Self {
            caller,
            try_wait: None,
            tries: 3,
            hedging: None,
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BalancedCounters {
    /// Tries at an instance that the agent picked.
    pub picked: u64,
    /// Tries at one that discovery alone chose, since no agent was there.
    pub fallen_back: u64,
    /// Second calls that were sent since the first one took long.
    pub hedged: u64,
    /// Of these, the ones whose answer came first.
    pub hedges_won: u64,
    /// Second calls that were not sent, since the share was used up.
    pub hedges_refused: u64,
}

/// Where instances are, and how they are reached.
type Connect = Box<dyn Fn(&Address) -> Channel>;

struct Shared {
    shard: Shard,
    config: BalancedConfig,
    agent: Rc<Agent>,
    /// Discovery's view of the same instances, if there is one.
    group: Option<Group>,
    connect: Connect,
    /// The channels to instances that are in no group.
    channels: RefCell<HashMap<Address, Channel>>,
    latencies: RefCell<HashMap<MessageId, Latency>>,
    /// Second calls that may be sent, in hundredths.
    hedges: Cell<u32>,
    counters: Cell<BalancedCounters>,
}

/// Calls to whichever instance of a service the agent of this machine picks:
/// each try to another one, with the retries of its context, and a second call for
/// one that takes long. How calls end is reported, to the good of every caller on
/// the machine. Clones share it.
///
/// Over a [`Group`] it falls back to what discovery says while no agent is there.
#[derive(Clone)]
pub struct Balanced {
    shared: Rc<Shared>,
}

impl Balanced {
    /// Calls the instances that the agent knows. Without an agent there are
    /// none.
    pub fn new(shard: &Shard, config: BalancedConfig) -> Self {
        let dialling = shard.clone();
        let connect = move |address: &Address| Channel::new(&dialling, dial_address(address));
        Self::with(shard, config, None, Box::new(connect))
    }

    /// Calls the members of `group`, whose connections it uses. From here on all
    /// calls to them are counted by the agent, and picks by key heed what it
    /// knows, see [`Group::follow_agent`].
    pub fn over(shard: &Shard, config: BalancedConfig, group: Group) -> Self {
        let nobody = |_: &Address| unreachable!("members have their channels");
        Self::with(shard, config, Some(group), Box::new(nobody))
    }

    fn with(shard: &Shard, config: BalancedConfig, group: Option<Group>, connect: Connect) -> Self {
        let agent = match &group {
            Some(group) => group.heed_agent(shard, config.caller.clone()),
            None => Agent::new(shard, config.caller.clone()),
        };
        let shared = Shared {
            shard: shard.clone(),
            config,
            agent,
            group,
            connect,
            channels: RefCell::default(),
            latencies: RefCell::default(),
            hedges: Cell::new(100),
            counters: Cell::default(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> BalancedCounters {
        self.shared.counters.get()
    }

    /// Calls a method, at another instance after each failure that another try
    /// may mend, until the deadline of `ctx`.
    ///
    /// # Errors
    /// As [`Ctx::retry`]; `unavailable` when no instance is known.
    pub async fn call<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
    ) -> Result<M::Reply, Status> {
        let retry = if M::IDEMPOTENT {
            Retry::idempotent()
        } else {
            Retry::unsent()
        };
        let failed = RefCell::new(None);
        ctx.retry(&retry.tries(self.shared.config.tries), async || {
            let part = self.shared.config.try_wait.map(|wait| ctx.within(wait));
            let part = part.as_ref().unwrap_or(ctx);
            let before = failed.borrow().clone();
            let way = self.shared.way(part, before.as_ref()).await?;
            *failed.borrow_mut() = way.address();
            self.shared.attempt::<M>(part, request, way).await
        })
        .await
    }
}

/// An instance that was picked, and its call's guard.
struct Way {
    channel: Channel,
    call: Option<CallGuard>,
}

impl Way {
    fn address(&self) -> Option<Address> {
        self.call.as_ref().map(|call| call.address().clone())
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut BalancedCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// The instance for the next try, if it can be another one than `failed`.
    async fn way(&self, ctx: &Ctx, failed: Option<&Address>) -> Result<Way, Status> {
        let mut call = self.pick(failed);
        if call.is_none() && (self.group.is_none() || self.agent.is_attached()) {
            // Another policy than those that pick from shared memory, or nobody
            // who may be picked: the agent says which.
            let asked = self.agent.begin().await;
            call = match (asked, &self.group) {
                // Discovery's hosts are newer than those that were kept.
                (Ok(call), Some(_)) if call.source() == Source::Kept => None,
                (Ok(call), _) => Some(self.or_other(call, failed)),
                (Err(_), Some(_)) => None,
                (Err(status), None) => return Err(status),
            };
        }
        if let Some(call) = call
            && let Some(channel) = self.channel(call.address())
        {
            self.count(|counters| counters.picked += 1);
            let call = Some(call);
            return Ok(Way { channel, call });
        }
        let Some(group) = &self.group else {
            return Err(Status::unavailable("its instance left"));
        };
        self.count(|counters| counters.fallen_back += 1);
        let key = self.shard.random().to_le_bytes();
        let channel = group.wait(ctx, &key).await?.channel;
        // Its member's address may be known to the agent all the same.
        let call = channel.begin_counted();
        Ok(Way { channel, call })
    }

    /// A pick from shared memory, of another instance if there is one, and of one
    /// that is not known here to be away. With a policy that only the agent knows it
    /// is none at first, and any other instance that may be picked after that.
    fn pick(&self, other_than: Option<&Address>) -> Option<CallGuard> {
        let is_other = |address: &Address| other_than != Some(address) && !self.is_away(address);
        for _ in 1..OTHER_PICKS {
            let Some(call) = self.agent.try_begin() else {
                return other_than.and_then(|_| self.agent.begin_other(is_other));
            };
            if is_other(call.address()) {
                return Some(call);
            }
            // It is given up, and counts as such: nobody called.
        }
        let other = self.agent.begin_other(is_other);
        other.or_else(|| self.agent.try_begin())
    }

    /// What the agent picked, or another instance, if that is one which just failed
    /// or is known here to be away.
    fn or_other(&self, call: CallGuard, other_than: Option<&Address>) -> CallGuard {
        let is_other = |address: &Address| other_than != Some(address) && !self.is_away(address);
        if is_other(call.address()) {
            return call;
        }
        // The agent's is given up then, as above.
        self.agent.begin_other(is_other).unwrap_or(call)
    }

    /// Whether who calls this instance now would have to wait until it is found to
    /// be there.
    fn is_away(&self, address: &Address) -> bool {
        let channel = match &self.group {
            Some(group) => group.channel_at(address),
            None => self.channels.borrow().get(address).cloned(),
        };
        channel.is_some_and(|channel| channel.is_away())
    }

    /// The channel to an instance; none to one that discovery does not know.
    fn channel(&self, address: &Address) -> Option<Channel> {
        if let Some(group) = &self.group {
            return group.channel_at(address);
        }
        let mut channels = self.channels.borrow_mut();
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            // Those that the agent does not name any more go by themselves
            // when their last call ends.
            channels.retain(|address, channel| {
                let stays = !self.agent.advises_against(address);
                if !stays {
                    channel.retire();
                }
                stays
            });
        }
        let channel = (self.connect)(address);
        channels.insert(address.clone(), channel.clone());
        Some(channel)
    }

    async fn attempt<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
        way: Way,
    ) -> Result<M::Reply, Status> {
        let began = ctx.shard().now();
        let first_at = way.address();
        let first = way.channel.call_counted::<M>(ctx, request, way.call);
        let result = match self.hedge_after::<M>() {
            None => first.await,
            Some(wait) => self.hedged::<M>(ctx, request, first, first_at, wait).await,
        };
        if result.is_ok() {
            self.note::<M>(began, ctx.shard().now());
        }
        result
    }

    /// Sends a second call when the first one takes long. The first answer
    /// counts; the other call is cancelled.
    async fn hedged<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
        first: impl Future<Output = Result<M::Reply, Status>>,
        first_at: Option<Address>,
        wait: Duration,
    ) -> Result<M::Reply, Status> {
        let first = std::pin::pin!(first);
        let timer = std::pin::pin!(self.shard.sleep(wait));
        let first = match select(first, timer).await {
            Either::Left((result, _)) => return result,
            Either::Right(((), first)) => first,
        };
        let Some(other) = self.hedge_way(first_at.as_ref()) else {
            return first.await;
        };
        self.count(|counters| counters.hedged += 1);
        let second = other.channel.call_counted::<M>(ctx, request, other.call);
        let second = std::pin::pin!(second);
        let both = waiting(WaitsFor::plain("one of two answers"), select(first, second));
        match both.await {
            // One that failed leaves the say to the other.
            Either::Left((Err(_), second)) => second.await.inspect(|_| self.count_won()),
            Either::Left((result, _)) => result,
            Either::Right((Err(_), first)) => first.await,
            Either::Right((result, _)) => {
                self.count_won();
                result
            }
        }
    }

    fn count_won(&self) {
        self.count(|counters| counters.hedges_won += 1);
    }

    /// Another instance, if the share of second calls allows one.
    fn hedge_way(&self, first: Option<&Address>) -> Option<Way> {
        let left = self.hedges.get();
        if left < 100 {
            self.count(|counters| counters.hedges_refused += 1);
            return None;
        }
        let call = self.pick(first)?;
        if first == Some(call.address()) {
            return None;
        }
        let channel = self.channel(call.address())?;
        self.hedges.set(left - 100);
        let call = Some(call);
        Some(Way { channel, call })
    }

    /// How long the first answer is waited for; `None` when there is no second
    /// call whatever comes. Each call earns its share.
    fn hedge_after<M: Method>(&self) -> Option<Duration> {
        let hedging = self.config.hedging.filter(|_| M::IDEMPOTENT)?;
        let earned = self.hedges.get() + hedging.share_percent.min(100);
        self.hedges.set(earned.min(HEDGE_BURST * 100));
        let latencies = self.latencies.borrow();
        let latency = latencies.get(&M::ID)?;
        (latency.len() >= HEDGE_SAMPLES_MIN).then(|| latency.p95().max(hedging.wait_min))
    }

    fn note<M: Method>(&self, began: Moment, ended: Moment) {
        let mut latencies = self.latencies.borrow_mut();
        let latency = latencies.entry(M::ID).or_default();
        latency.add(ended.saturating_since(began));
    }
}
