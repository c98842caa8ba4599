//! Picks and reports for one service, by the best way there is.

use std::sync::{Arc, Weak};
use std::time::Duration;

use waystation_balance::{CallEnd, Load, Reason};
use waystation_base::Moment;
use waystation_membership::Address;
use waystation_segment::{Chosen, Miss, Picker, Place, Seat};

use crate::attachment::{Attachment, KnownHost, Memory};
use crate::clock::{machine_now, machine_now_coarse, pause};
use crate::config::{CallerConfig, Source};
use crate::error::Error;
use crate::guard::CallGuard;
use crate::lars::{LarsCaller, REG_INIT_PAUSE, REG_INIT_TRIES};
use crate::protocol::{self, Answer, Code, HostRef, Request};
use crate::shared::{Part, Shared};

/// A host for one call. Report its end with [`Caller::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickedHost {
    /// Where to call it.
    pub address: Address,
    /// Which way the pick went.
    pub source: Source,
    /// In which attachment, for picks from a segment and from what is kept of one;
    /// over which connection, for those by socket.
    pub(crate) attachment: u64,
    pub(crate) host: HostRef,
    /// Of a pick from a segment.
    reason: Option<Reason>,
}

impl PickedHost {
    /// What decided, for a pick from shared memory.
    pub const fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Whether its end is counted in shared memory.
    const fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Segment | Source::Kept)
    }
}

/// Picks hosts of one service.
///
/// From shared memory where the agent gives it, else by its Unix socket, else by
/// UDP, else from what it had last; the better way is tried again by itself. Clones are for other threads:
/// they share what the agent gave to this process. A process that was forked
/// attaches anew, and what its parent picked it does not report. Cost of a pick
/// from shared memory: about 30 ns, no system call.
pub struct Caller {
    shared: Arc<Shared>,
    number: u64,
    /// Weak: one that is used no more must not keep an earlier one alive.
    attachment: Weak<Attachment>,
    picker: Option<Picker<Memory, Memory>>,
    last: Option<Source>,
}

impl Caller {
    /// For the service that `config` says. The agent need not be there yet.
    pub fn new(config: CallerConfig) -> Self {
        Self::over(Shared::new(config))
    }

    fn over(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            number: 0,
            attachment: Weak::new(),
            picker: None,
            last: None,
        }
    }

    /// Which way the last pick went.
    pub const fn source(&self) -> Option<Source> {
        self.last
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.shared.config.service
    }

    /// The host for the next call, which counts as sent from here on. Report its
    /// end, or use [`Caller::begin`].
    ///
    /// # Errors
    /// [`Error`] of the last way that was tried.
    #[inline]
    pub fn pick(&mut self) -> Result<PickedHost, Error> {
        if !self.shared.is_child()
            && self.number == self.shared.number()
            && let Some(picker) = &mut self.picker
            && let Ok(seat) = picker.take_seat(machine_now_coarse())
            && let Some(picked) = self.picked(&seat)
        {
            return Ok(picked);
        }
        self.pick_slowly()
    }

    /// As [`Caller::pick`], for a call that is about `key`: under the policy
    /// `maglev` calls of one key go to one host for as long as that is well. Under
    /// another one, and without an agent, it says nothing. It asks the agent each
    /// time, and takes memory of it for when it is gone.
    ///
    /// # Errors
    /// As [`Caller::pick`].
    pub fn pick_by(&mut self, key: u64) -> Result<PickedHost, Error> {
        self.begin_anew_in_child();
        let until = self.shared.until();
        // Who only picks so knows no hosts otherwise, and gives nobody what was left
        // unfinished. Without memory the agent can be asked all the same.
        let _or_none = self.shared.attach_for_pick(until);
        let asked = self.ask_for_pick(Some(key), until);
        self.or_elsewhere(asked)
    }

    /// As [`Caller::pick`], but only from shared memory that this process has
    /// already: it never waits, and never talks to the agent. `None` says to
    /// pick on another thread, or to fall back.
    pub fn try_pick(&mut self) -> Option<PickedHost> {
        self.adopt()?;
        let seat = self.picker.as_mut()?.take_seat(machine_now_coarse());
        self.picked(&seat.ok()?)
    }

    /// As [`Caller::pick`], with a guard that reports how the call ended.
    ///
    /// # Errors
    /// As [`Caller::pick`].
    pub fn begin(&mut self) -> Result<CallGuard, Error> {
        let picked = self.pick()?;
        Ok(self.guard(picked))
    }

    /// As [`Caller::try_pick`], with a guard that reports how the call ended.
    pub fn try_begin(&mut self) -> Option<CallGuard> {
        let picked = self.try_pick()?;
        Some(self.guard(picked))
    }

    /// Counts a call to a host that was chosen otherwise, by its key or by hand;
    /// `None` when shared memory has no such host. It never waits.
    pub fn begin_at(&mut self, address: &Address) -> Option<CallGuard> {
        self.adopt()?;
        let attachment = self.attachment.upgrade()?;
        if attachment.is_stale() {
            return None;
        }
        let host = attachment.find(address)?;
        attachment.ledger.handle_sent(host.chosen.slot);
        attachment.ledger.mark(host.chosen.slot);
        let place = place_of(&host.chosen);
        let picked = self.picked_in(place, host.chosen.reason, host.address);
        Some(self.guard(picked))
    }

    /// A call ended, after `latency` from its pick if it was timed; `load` is what
    /// the reply told. Any clone may report it. It never waits for the agent: what
    /// that does not take now is sent with what comes next, or by a thread within 3 s
    /// of its being there again.
    #[inline]
    pub fn report(
        &mut self,
        picked: &PickedHost,
        end: CallEnd,
        latency: Option<Duration>,
        load: Load,
    ) {
        if !picked.is_in_memory() {
            return self.shared.report(picked, end, latency, load);
        }
        if self.shared.is_child() {
            // What the parent counts is the parent's.
            return;
        }
        let latency_ns = latency.and_then(|one| u64::try_from(one.as_nanos()).ok());
        if picked.attachment == self.shared.number() {
            if self.number != picked.attachment {
                // Another clone picked it.
                let _not_now = self.adopt();
            }
            if let Some(picker) = &self.picker
                && self.number == picked.attachment
            {
                picker.report_at(picked.host.place(), end, latency_ns, load);
                return;
            }
        }
        let place = picked.host.place();
        self.shared
            .report_late(picked.attachment, place, end, latency_ns, load);
    }

    /// Makes ready: attaches to the agent, unless that is done. It waits for the
    /// agent.
    ///
    /// # Errors
    /// [`Error`] of the agent's socket.
    pub fn attach(&mut self) -> Result<(), Error> {
        self.begin_anew_in_child();
        let part = self.shared.attach(self.shared.until())?;
        self.take(&part)
    }

    /// How many ends of calls that were picked by the agent's socket were lost in
    /// this process: more than 4096 waited for an agent that did not read.
    pub fn ends_lost(&self) -> u64 {
        self.shared.ends_lost()
    }

    /// The hosts that the agent knows, if this process shares its memory. The
    /// same list as long as nothing changed. It never waits. Cost: a load while
    /// nothing changed, else O(hosts).
    pub fn hosts(&mut self) -> Option<Arc<[KnownHost]>> {
        self.adopt()?;
        let attachment = self.attachment.upgrade()?;
        if attachment.is_stale() {
            return None;
        }
        attachment.hosts()
    }

    /// Whether a host may be picked, as the agent knows it; `None` when it knows
    /// no such host, or is not there. It never waits. Cost: as
    /// [`Caller::hosts`], and a look into a table.
    pub fn may_be_picked(&mut self, address: &Address) -> Option<bool> {
        self.adopt()?;
        let attachment = self.attachment.upgrade()?;
        if attachment.is_stale() {
            return None;
        }
        Some(attachment.find(address)?.may_be_picked)
    }

    /// All hosts of the service, by the best way there is, whether they may be
    /// picked or not; without an agent that knows them those that it had last.
    ///
    /// # Errors
    /// [`Error`] of the last way that was tried.
    pub fn get_route(&mut self) -> Result<Vec<Address>, Error> {
        let attached = self.attach();
        if attached.is_ok()
            && let Some(hosts) = self.hosts()
        {
            return Ok(addresses(&hosts));
        }
        let service = &self.shared.config.service;
        let listed = protocol::hosts(service, |request| {
            let asked = self.shared.ask(request, self.shared.until());
            asked.map(|(answer, _)| answer)
        });
        match listed {
            Ok((hosts, _)) => {
                let addresses = hosts.iter().map(|host| host.address.parse());
                Ok(addresses.filter_map(Result::ok).collect())
            }
            Err(error) if error.is_final() => Err(error),
            Err(error) => self.route_elsewhere(error),
        }
    }

    /// The hosts that can be had without the agent's socket, after `error` there.
    fn route_elsewhere(&self, error: Error) -> Result<Vec<Address>, Error> {
        let by_udp = self.shared.config.lars.as_ref().map(LarsCaller::get_route);
        let route = match by_udp {
            Some(Ok(hosts)) if !hosts.is_empty() => {
                return Ok(hosts.into_iter().map(Address::from).collect());
            }
            // By UDP nobody who is heard of is as one who is not heard of yet.
            Some(Ok(_)) if error.is_not_yet() => Err(error),
            Some(asked) => asked.map(|_none| Vec::new()),
            None => Err(error),
        };
        // Hosts that may have gone are better than none for certain.
        self.shared
            .hosts()
            .map_or(route, |hosts| Ok(addresses(&hosts)))
    }

    /// Asks for the route until there is one, three times with pauses of 50 ms,
    /// so that the first pick finds it. Returns its hosts, of which there may be
    /// none.
    ///
    /// # Errors
    /// As [`Caller::get_route`], of the last attempt.
    pub fn reg_init(&mut self) -> Result<Vec<Address>, Error> {
        let mut last = self.get_route();
        for _ in 1..REG_INIT_TRIES {
            if last.as_ref().is_ok_and(|hosts| !hosts.is_empty()) {
                break;
            }
            pause(REG_INIT_PAUSE);
            last = self.get_route();
        }
        last
    }

    fn guard(&self, picked: PickedHost) -> CallGuard {
        let attachment = match picked.source {
            Source::Kept => self.shared.find(picked.attachment),
            Source::Segment => self.attachment.upgrade(),
            Source::Socket | Source::Udp => None,
        };
        CallGuard::new(Arc::clone(&self.shared), picked, attachment)
    }

    #[inline]
    fn picked(&mut self, seat: &Seat) -> Option<PickedHost> {
        let picker = self.picker.as_ref()?;
        let host = HostRef {
            slot: seat.slot,
            generation: seat.generation,
        };
        let address = if let Some(&Place::Ip(address)) = picker.place(seat) {
            Address::from(address)
        } else {
            let found = self.attachment.upgrade();
            let found = found.and_then(|attachment| attachment.path(host.place()));
            if found.is_none() {
                // It left after it was chosen.
                picker.report_at(host.place(), CallEnd::Cancelled, None, Load::default());
            }
            found?
        };
        self.last = Some(Source::Segment);
        Some(self.picked_in(host, seat.reason, address))
    }

    #[inline]
    fn picked_in(&self, host: HostRef, reason: Reason, address: Address) -> PickedHost {
        PickedHost {
            address,
            source: Source::Segment,
            attachment: self.number,
            host,
            reason: Some(reason),
        }
    }

    #[cold]
    fn pick_slowly(&mut self) -> Result<PickedHost, Error> {
        self.begin_anew_in_child();
        let until = self.shared.until();
        for _ in 0..2 {
            let attached = self.shared.attach_for_pick(until);
            if let Err(error) = attached.and_then(|part| self.take(&part)) {
                if matches!(
                    &error,
                    Error::Refused {
                        code: Code::NoHosts,
                        ..
                    }
                ) {
                    return Err(error);
                }
                if error.is_not_yet() {
                    // A pick by the socket would be told the same.
                    return self.or_elsewhere(Err(error));
                }
                break;
            }
            let Some(picker) = &mut self.picker else {
                break;
            };
            match picker.take_seat(machine_now()) {
                Ok(seat) => {
                    if let Some(picked) = self.picked(&seat) {
                        return Ok(picked);
                    }
                }
                Err(miss @ Miss::NoHosts) => return Err(miss.into()),
                Err(Miss::AskAgent) => break,
                Err(_) => self.leave(),
            }
        }
        let asked = self.ask_for_pick(None, until);
        self.or_elsewhere(asked)
    }

    /// What the agent answered, or what can be had without its socket.
    fn or_elsewhere(&mut self, asked: Result<PickedHost, Error>) -> Result<PickedHost, Error> {
        match &asked {
            Ok(_) => return asked,
            Err(error) if error.is_final() => return asked,
            Err(_) => {}
        }
        let by_udp = self.shared.config.lars.clone().map(|lars| {
            let host = self.shared.by_udp(|| lars.get_host())?;
            Ok(self.picked_elsewhere(host.into(), Source::Udp, HostRef::default(), 0))
        });
        match by_udp.unwrap_or(asked) {
            // By UDP nobody who is heard of is as one who is not heard of yet.
            refused @ Err(Error::Refused { code, .. })
                if !matches!(code, Code::NotYet | Code::NoSuchService) =>
            {
                refused
            }
            // A host that may have gone is better than none for certain.
            Err(error) => self.shared.kept().map_or(Err(error), |(number, host)| {
                let place = place_of(&host.chosen);
                Ok(self.picked_elsewhere(host.address, Source::Kept, place, number))
            }),
            picked => picked,
        }
    }

    /// In a child: what the parent has is the parent's.
    fn begin_anew_in_child(&mut self) {
        if self.shared.is_child() {
            // The descriptors of the copy are closed with it; memory that is
            // mapped here stays that of the parent and is let go.
            *self = Self::new(self.shared.config.clone());
        }
    }

    /// Uses what this process has, if it has anything.
    fn adopt(&mut self) -> Option<()> {
        if self.shared.is_child() {
            return None;
        }
        if self.number != self.shared.number() || self.picker.is_none() {
            let part = self.shared.present()?;
            self.take(&part).ok()?;
        }
        Some(())
    }

    fn take(&mut self, part: &Part) -> Result<(), Error> {
        if self.picker.is_some() && self.number == part.attachment.number {
            return Ok(());
        }
        let (routes, ledger) = (
            part.attachment.routes.clone(),
            part.attachment.ledger.clone(),
        );
        self.picker = Some(Picker::new(routes, ledger, part.seed)?);
        self.attachment = Arc::downgrade(&part.attachment);
        self.number = part.attachment.number;
        Ok(())
    }

    /// The segment is of no use any more; the next pick attaches anew.
    fn leave(&mut self) {
        self.shared.leave(self.number);
        self.picker = None;
    }

    fn ask_for_pick(&mut self, key: Option<u64>, until: Moment) -> Result<PickedHost, Error> {
        let service = self.shared.config.service.clone();
        let request = Request::Pick { service, key };
        let (answer, connection) = self.shared.ask(&request, until)?;
        let Answer::Picked { host, address, .. } = answer else {
            return Err(Error::BadAnswer(format!("{answer:?}")));
        };
        let Ok(parsed) = address.parse() else {
            return Err(Error::BadAnswer(address));
        };
        Ok(self.picked_elsewhere(parsed, Source::Socket, host, connection))
    }

    fn picked_elsewhere(
        &mut self,
        address: Address,
        source: Source,
        host: HostRef,
        connection: u64,
    ) -> PickedHost {
        self.last = Some(source);
        PickedHost {
            address,
            source,
            attachment: connection,
            host,
            reason: None,
        }
    }
}

const fn place_of(chosen: &Chosen) -> HostRef {
    HostRef {
        slot: chosen.slot,
        generation: chosen.generation,
    }
}

fn addresses(hosts: &[KnownHost]) -> Vec<Address> {
    hosts.iter().map(|host| host.address.clone()).collect()
}

impl Clone for Caller {
    /// For another thread: with its own randomness, from its first pick on.
    fn clone(&self) -> Self {
        Self {
            last: self.last,
            ..Self::over(Arc::clone(&self.shared))
        }
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("service", &self.shared.config.service)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
