//! Several instances of one service, of which a key picks one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use waystation_base::{hash64, rendezvous};
use waystation_client::CallerConfig;
use waystation_membership::{Address as Registered, Instance, InstanceId, View};
use waystation_net::{Address, Label, Shard, WaitsFor, until, waiting};

use crate::agent::Agent;
use crate::channel::Channel;
use crate::ctx::Ctx;
use crate::limits::PROBES_AT_ONCE;
use crate::member::{Followed, Member};
use crate::probe::ProbeConfig;
use crate::status::Status;

/// Makes the channel to an instance.
type Connect = Box<dyn Fn(&Instance) -> Channel>;

/// Which member a key belongs to now.
pub struct Pick {
    /// The channel to it.
    pub channel: Channel,
    /// Its id.
    pub id: String,
    /// Whether the key belongs to it by the view, and not for as long as
    /// another one cannot be reached.
    pub is_home: bool,
}

/// What a view changed in a group.
#[derive(Default)]
pub struct Updated {
    /// Who is new, is back, or has moved to another address.
    pub came: Vec<Rc<Member>>,
    /// Whoever is gone. Calls that were sent to them end; then their
    /// connections close, but those of a last resort
    /// ([`Group::update_lapsed`]), which is here once more when it is gone for good.
    pub went: Vec<Rc<Member>>,
}

struct Shared {
    /// What the members are instances of, for people.
    service: String,
    members: RefCell<Vec<Rc<Member>>>,
    /// Who is gone from the views without a word, and still does its work.
    lapsed: RefCell<Vec<Rc<Member>>>,
    connect: Connect,
    changed: Notify,
    agent: Followed,
}

/// Several instances of one service, of which a key picks one. Clones share
/// them.
///
/// The members are given once ([`Group::new`]), or follow the views of a
/// registry ([`Group::following`], [`Group::update`]): who is added is used,
/// who drains gets nothing new while what was sent to it ends, who is gone is
/// closed. A view that is not updated, since the registry is away, stays good.
#[derive(Clone)]
pub struct Group {
    shared: Rc<Shared>,
}

impl Group {
    /// A group of these channels, for good.
    pub fn new(channels: impl IntoIterator<Item = Channel>) -> Self {
        let agent = Followed::default();
        let channels = channels.into_iter();
        let members = channels.map(|channel| Rc::new(Member::given(channel, &agent)));
        let members = members.collect();
        let connect = |_: &Instance| unreachable!("each member has its channel");
        Self::with("the service", members, agent, Box::new(connect))
    }

    /// A group of instances of `service`, none at first: [`Group::update`]
    /// brings them. `connect` makes the channel to one when the first call
    /// goes there.
    pub fn following(service: &str, connect: impl Fn(&Instance) -> Channel + 'static) -> Self {
        Self::with(service, Vec::new(), Followed::default(), Box::new(connect))
    }

    fn with(service: &str, members: Vec<Rc<Member>>, agent: Followed, connect: Connect) -> Self {
        let shared = Shared {
            service: service.to_owned(),
            members: RefCell::new(members),
            lapsed: RefCell::default(),
            connect,
            changed: Notify::new(),
            agent,
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// Takes over a view; `kept` are those in it that the registry does not
    /// list any more. From its return on no new call goes to anybody who is
    /// not serving by it. Cost: O(n · log n) for n instances.
    pub fn update(&self, view: &View, kept: &[InstanceId]) -> Updated {
        self.update_lapsed(view, kept, &BTreeSet::new())
    }

    /// As [`Group::update`]. Of who is gone, those that have `lapsed` did not say
    /// so themselves: their leases ran out. As long as one of them is connected,
    /// and its verdict is not that it is gone too, it is the last resort of
    /// [`Group::pick`].
    pub fn update_lapsed(
        &self,
        view: &View,
        kept: &[InstanceId],
        lapsed: &BTreeSet<InstanceId>,
    ) -> Updated {
        let mut updated = Updated::default();
        let mut members = self.shared.members.borrow_mut();
        let resorts = self.shared.lapsed.take().into_iter();
        let before = resorts.chain(std::mem::take(&mut *members));
        let mut before: BTreeMap<String, Rc<Member>> = before
            .map(|member| (member.id().to_owned(), member))
            .collect();
        let kept: BTreeSet<&InstanceId> = kept.iter().collect();
        for (id, instance) in &view.instances {
            let is_there = before
                .get(id.as_str())
                .is_some_and(|member| member.is_at(instance));
            let known = is_there.then(|| before.remove(id.as_str())).flatten();
            let member = if let Some(member) = known {
                if member.is_lapsed() {
                    updated.came.push(member.clone());
                }
                member
            } else {
                let member = Rc::new(Member::new(id.to_string(), &self.shared.agent));
                updated.came.push(member.clone());
                member
            };
            member.set(instance, kept.contains(id));
            members.push(member);
        }
        drop(members);
        let mut resorts = Vec::new();
        for member in before.into_values() {
            let was_lapsed = member.is_lapsed();
            let is_resort = lapsed.contains(member.id()) && member.lapse();
            if !(was_lapsed && is_resort) {
                updated.went.push(member.clone());
            }
            if is_resort {
                resorts.push(member);
            } else {
                member.retire();
            }
        }
        *self.shared.lapsed.borrow_mut() = resorts;
        self.shared.changed.notify_waiters();
        updated
    }

    /// Has the agent of this machine count the calls to members, and heeds what
    /// it knows: that it leaves one out, since callers of this machine or its
    /// probes failed there, counts in [`Member::verdict`]. Without an agent
    /// nothing changes.
    pub fn follow_agent(&self, shard: &Shard, config: CallerConfig) {
        self.heed_agent(shard, config);
    }

    pub(crate) fn heed_agent(&self, shard: &Shard, config: CallerConfig) -> Rc<Agent> {
        let agent = self.shared.agent.get_or_init(|| Agent::new(shard, config));
        for member in self.members() {
            member.count();
        }
        agent.clone()
    }

    /// Has every member that takes calls asked for a sign of life, again and
    /// again, for as long as the group is used. What that finds counts in
    /// [`Member::verdict`].
    pub fn probe(&self, shard: &Shard, config: ProbeConfig) {
        let group = Rc::downgrade(&self.shared);
        let own = shard.clone();
        shard.spawn(Label::of("probe"), async move {
            waystation_net::describe_task(config.kind.to_string());
            while let Some(shared) = group.upgrade() {
                Self { shared }.probe_all(&own, &config).await;
                own.sleep(config.interval).await;
            }
        });
    }

    async fn probe_all(&self, shard: &Shard, config: &ProbeConfig) {
        let taking = self.members().into_iter().filter(|member| member.takes());
        let probes = stream::iter(taking).map(|member| async move {
            let Some(address) = member.address() else {
                return false;
            };
            let asked = config.kind.probe(shard, &address, config.wait).await;
            let is_news = member.note_probe(asked.is_ok(), config.failures);
            if is_news {
                let (id, verdict) = (member.id(), member.verdict());
                let error = asked.err().map(tracing::field::display);
                tracing::info!(id, ?verdict, error, "a probe has changed its word");
            }
            is_news
        });
        let news = probes.buffer_unordered(PROBES_AT_ONCE);
        let news = news
            .fold(false, |any, one| std::future::ready(any | one))
            .await;
        if news {
            self.shared.changed.notify_waiters();
        }
    }

    /// The members.
    pub fn members(&self) -> Vec<Rc<Member>> {
        self.shared.members.borrow().clone()
    }

    /// The member of that id.
    pub fn member(&self, id: &str) -> Option<Rc<Member>> {
        let members = self.shared.members.borrow();
        members.iter().find(|member| member.id() == id).cloned()
    }

    /// The members, and whoever lapsed as a last resort, until the next view takes
    /// it away: all that calls may go to. What each of them has to know, and is told
    /// once, is told to all of these. Cost: O(members).
    pub fn callees(&self) -> Vec<Rc<Member>> {
        let mut callees = self.members();
        callees.extend(self.shared.lapsed.borrow().iter().cloned());
        callees
    }

    /// The one of that id of [`Group::callees`].
    pub fn callee(&self, id: &str) -> Option<Rc<Member>> {
        let lapsed = || {
            let lapsed = self.shared.lapsed.borrow();
            lapsed.iter().find(|member| member.id() == id).cloned()
        };
        self.member(id).or_else(lapsed)
    }

    /// The channel to a member, made now if there is none yet.
    pub fn channel(&self, member: &Member) -> Channel {
        member.channel(&self.shared.connect)
    }

    /// The channel to the member at an address that takes new calls.
    pub(crate) fn channel_at(&self, address: &Registered) -> Option<Channel> {
        let member = self.member_at(address)?;
        Some(self.channel(&member))
    }

    /// The member for a call without a key: the one that the agent of this
    /// machine picks ([`Group::follow_agent`]), and where no agent picks any, as
    /// [`Group::wait`] with a key drawn at random.
    ///
    /// # Errors
    /// [`Status`] `unavailable` when nobody serves until the deadline.
    pub async fn best(&self, ctx: &Ctx) -> Result<Pick, Status> {
        if let Some(agent) = self.shared.agent.get()
            // Its guard goes at once: the member's channel counts its calls.
            && let Some(call) = agent.try_begin()
            && let Some(member) = self.member_at(call.address())
        {
            return Ok(Pick {
                channel: self.channel(&member),
                id: member.id().to_owned(),
                is_home: true,
            });
        }
        self.wait(ctx, &ctx.shard().random().to_le_bytes()).await
    }

    fn member_at(&self, address: &Registered) -> Option<Rc<Member>> {
        let members = self.shared.members.borrow();
        let is_there = |member: &&Rc<Member>| member.takes() && member.is_at_address(address);
        members.iter().find(is_there).cloned()
    }

    /// The channels to [`Group::callees`] that are open. Cost: O(members).
    pub fn channels(&self) -> impl Iterator<Item = Channel> {
        let callees = self.callees();
        callees
            .into_iter()
            .filter_map(|member| member.opened().cloned())
    }

    /// The member that a key belongs to: the same one as long as it serves, can
    /// be reached ([`Channel::is_up`]) and is not suspect ([`Member::verdict`]);
    /// otherwise its keys, and no others, go to the members of which that is
    /// true. With none, to one that is suspect; with none of these, to one that
    /// has a connection, or to any that is not gone; with nobody at all, to one whose
    /// lease ran out and that still does its work. A connection that was not
    /// made yet counts as one that answers. Cost: O(members).
    ///
    /// # Errors
    /// [`Status`] `unavailable` when nobody serves.
    pub fn pick(&self, key: &[u8]) -> Result<Pick, Status> {
        let key = hash64(key);
        let members = self.shared.members.borrow();
        let all = || members.iter().filter(|member| member.takes());
        let home = rendezvous(key, all().map(|member| (member, member.hash())));
        let Some(home) = home else {
            return self.last_resort(key);
        };
        let best = all().filter_map(|member| member.rank()).min();
        let ranked = all().filter(|member| best.is_some() && member.rank() == best);
        let picked = rendezvous(key, ranked.map(|member| (member, member.hash())));
        let Some(picked) = picked else {
            return self.last_resort(key);
        };
        let (picked, is_home) = (picked.clone(), Rc::ptr_eq(picked, home));
        drop(members);
        Ok(Pick {
            channel: self.channel(&picked),
            id: picked.id().to_owned(),
            is_home,
        })
    }

    /// One whose lease ran out, and that still does its work.
    fn last_resort(&self, key: u64) -> Result<Pick, Status> {
        let resorts = self.shared.lapsed.borrow();
        // One that is none any more goes with the next view, which tells of it.
        let all = resorts.iter().filter(|member| member.is_last_resort());
        let all = all.map(|member| (member, member.hash()));
        let picked = rendezvous(key, all).ok_or_else(|| self.nobody())?;
        Ok(Pick {
            channel: self.channel(picked),
            id: picked.id().to_owned(),
            is_home: false,
        })
    }

    fn nobody(&self) -> Status {
        let service = &self.shared.service;
        Status::unavailable(format!("no instance of {service} serves"))
    }

    /// Like [`Group::pick`], without the rest.
    ///
    /// # Errors
    /// Like [`Group::pick`].
    pub fn by_key(&self, key: &[u8]) -> Result<Channel, Status> {
        self.pick(key).map(|pick| pick.channel)
    }

    /// Like [`Group::pick`]; while nobody serves it waits for the next view,
    /// until the deadline of `ctx`.
    ///
    /// # Errors
    /// [`Status`] `unavailable` when nobody serves until then.
    pub async fn wait(&self, ctx: &Ctx, key: &[u8]) -> Result<Pick, Status> {
        let picking = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                // From here on no change is missed.
                changed.as_mut().enable();
                if let Ok(pick) = self.pick(key) {
                    return pick;
                }
                changed.await;
            }
        };
        let picking = waiting(WaitsFor::plain("an instance that serves"), picking);
        match until(ctx.shard(), ctx.deadline(), picking).await {
            Ok(pick) => Ok(pick),
            Err(_) => self.pick(key),
        }
    }

    /// The id of the member that a key belongs to by the view, whether it can
    /// be reached or not. Cost: O(members).
    pub fn home(&self, key: &[u8]) -> Option<String> {
        let members = self.shared.members.borrow();
        let taking = members.iter().filter(|member| member.takes());
        let home = rendezvous(hash64(key), taking.map(|member| (member, member.hash())));
        home.map(|member| member.id().to_owned())
    }
}

/// Where to connect to an instance.
pub fn address_of(instance: &Instance) -> Address {
    dial_address(&instance.address)
}

/// Where to connect to an address that was registered.
pub(crate) fn dial_address(address: &Registered) -> Address {
    match address {
        Registered::V4(at) => Address::Tcp((*at).into()),
        Registered::V6(at) => Address::Tcp((*at).into()),
        Registered::Unix(path) => Address::Unix(path.as_ref().into()),
    }
}
