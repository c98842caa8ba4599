//! One instance of a service, and what speaks against it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use waystation_base::{Clock, hash64};
use waystation_membership::{
    Address as Registered, CallersWord, Instance, LeaseWord, ProbeWord, State, Verdict, fuse,
};
use waystation_net::{Address, MonotonicClock};

use crate::agent::Agent;
use crate::channel::Channel;
use crate::group::address_of;

/// The agent that a group follows, if it follows one; its members share it.
pub(crate) type Followed = Rc<OnceCell<Rc<Agent>>>;

/// One instance of a service, as its callers on a shard see it. The connection
/// is made when it is first asked for.
pub struct Member {
    id: String,
    /// By its id: an instance that moves keeps its keys.
    hash: u64,
    /// What the registry says of it; none of a member that was given by hand.
    instance: RefCell<Option<Instance>>,
    takes: Cell<bool>,
    /// The registry does not list it any more, and the guard on losses keeps
    /// it.
    is_kept: Cell<bool>,
    /// The registry does not list it any more, and nobody has said why.
    is_lapsed: Cell<bool>,
    probe: Cell<ProbeWord>,
    /// Probes without an answer in a row.
    unanswered: Cell<u32>,
    channel: OnceCell<Channel>,
    agent: Followed,
}

impl Member {
    /// A member that takes nothing until it is [set](Member::set).
    pub(crate) fn new(id: String, agent: &Followed) -> Self {
        Self {
            hash: hash64(id.as_bytes()),
            id,
            instance: RefCell::default(),
            takes: Cell::new(false),
            is_kept: Cell::default(),
            is_lapsed: Cell::default(),
            probe: Cell::new(ProbeWord::None),
            unanswered: Cell::default(),
            channel: OnceCell::new(),
            agent: agent.clone(),
        }
    }

    /// A member that is given by hand, and takes calls for good.
    pub(crate) fn given(channel: Channel, agent: &Followed) -> Self {
        let id = channel.upstream().address().to_string();
        Self {
            takes: Cell::new(true),
            channel: OnceCell::from(channel),
            ..Self::new(id, agent)
        }
    }

    /// Its id; of a member that was given by hand its address.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it takes new calls: it serves, and does not drain.
    pub fn takes(&self) -> bool {
        self.takes.get()
    }

    /// The channel to it, if anything was ever to be sent.
    pub fn opened(&self) -> Option<&Channel> {
        self.channel.get()
    }

    /// What to do with it, by its lease, its probes and its callers: those here,
    /// and where the group follows an agent all callers of this machine. That the
    /// registry is away says nothing of it.
    pub fn verdict(&self) -> Verdict {
        let lease = if self.is_lapsed.get() {
            LeaseWord::Expired
        } else if self.is_kept.get() {
            LeaseWord::Unknown
        } else {
            LeaseWord::Live
        };
        fuse(lease, self.probe.get(), self.callers())
    }

    /// What callers met. An agent knows of more failures than one caller does, so
    /// its word counts also where calls from here went well.
    fn callers(&self) -> CallersWord {
        let here = self.channel.get().map_or(CallersWord::None, |channel| {
            channel.callers(MonotonicClock.now())
        });
        if here != CallersWord::Failing && self.is_left_out() {
            return CallersWord::Failing;
        }
        here
    }

    /// Whether the agent of this machine leaves it out, since calls to it fail
    /// more than they do elsewhere.
    fn is_left_out(&self) -> bool {
        let agent = self.agent.get().filter(|_| self.takes.get());
        agent.is_some_and(|agent| {
            let instance = self.instance.borrow();
            let address = instance.as_ref().map(|one| &one.address);
            address.is_some_and(|address| agent.advises_against(address))
        })
    }

    /// Whether it takes new calls, and nothing speaks against it.
    pub fn is_well(&self) -> bool {
        self.rank() == Some(0)
    }

    /// How well it can be reached: 0 is best. None for one that is not to be
    /// picked.
    pub(crate) fn rank(&self) -> Option<u8> {
        let verdict = self.verdict();
        if !self.takes.get() || verdict == Verdict::Gone {
            return None;
        }
        let answers = |channel: &Channel| channel.is_up() || channel.is_fresh();
        let channel = self.channel.get();
        Some(match (channel.is_none_or(answers), verdict) {
            (true, Verdict::Use) => 0,
            (true, _) => 1,
            (false, _) if channel.is_some_and(Channel::is_connected) => 2,
            (false, _) => 3,
        })
    }

    /// Takes note of a probe; true when that changes its word.
    pub(crate) fn note_probe(&self, is_answered: bool, failures: u32) -> bool {
        let unanswered = self.unanswered.get().saturating_add(1);
        self.unanswered
            .set(if is_answered { 0 } else { unanswered });
        let word = if is_answered {
            ProbeWord::Ok
        } else if unanswered >= failures {
            ProbeWord::Failed
        } else {
            self.probe.get()
        };
        self.probe.replace(word) != word
    }

    /// What keys are weighed by.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Where it is probed: where calls go.
    pub(crate) fn address(&self) -> Option<Address> {
        let own = self.instance.borrow();
        match self.channel.get() {
            Some(channel) => Some(channel.upstream().address().clone()),
            None => own.as_ref().map(address_of),
        }
    }

    /// Takes over what the registry says of it.
    pub(crate) fn set(&self, instance: &Instance, is_kept: bool) {
        let takes = instance.state == State::Serving && instance.weight > 0;
        self.takes.set(takes);
        self.is_kept.set(is_kept);
        self.is_lapsed.set(false);
        *self.instance.borrow_mut() = Some(instance.clone());
    }

    /// Its lease has run out. Whether it can still be called, when nobody else
    /// can: it was serving, is connected, and its callers or a probe speak well of
    /// it.
    pub(crate) fn lapse(&self) -> bool {
        self.is_lapsed.set(true);
        self.is_last_resort()
    }

    pub(crate) fn is_lapsed(&self) -> bool {
        self.is_lapsed.get()
    }

    pub(crate) fn is_last_resort(&self) -> bool {
        let is_connected = self.channel.get().is_some_and(Channel::is_connected);
        self.takes.get() && is_connected && self.verdict() != Verdict::Gone
    }

    /// It takes no new calls from here on; those that were sent end.
    pub(crate) fn retire(&self) {
        self.takes.set(false);
        if let Some(channel) = self.channel.get() {
            channel.retire();
        }
    }

    /// Whether it stands where this instance does.
    pub(crate) fn is_at(&self, instance: &Instance) -> bool {
        self.is_at_address(&instance.address)
    }

    /// Whether it stands at this address.
    pub(crate) fn is_at_address(&self, address: &Registered) -> bool {
        let own = self.instance.borrow();
        own.as_ref().is_some_and(|own| own.address == *address)
    }

    /// The channel to it, made by `connect` if there is none yet.
    pub(crate) fn channel(&self, connect: impl FnOnce(&Instance) -> Channel) -> Channel {
        let make = || {
            let instance = self.instance.borrow();
            let instance = instance.as_ref();
            connect(instance.expect("a member without a channel has an instance"))
        };
        let is_new = self.channel.get().is_none();
        let channel = self.channel.get_or_init(make).clone();
        if is_new {
            self.count();
        }
        channel
    }

    /// Has the agent that is followed count the calls to it.
    pub(crate) fn count(&self) {
        if let (Some(agent), Some(channel), Some(instance)) = (
            self.agent.get(),
            self.channel.get(),
            &*self.instance.borrow(),
        ) {
            channel.count_by(agent, &instance.address);
        }
    }
}
