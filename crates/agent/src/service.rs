//! One service that callers of this machine use natively.

use std::io;
use std::os::fd::OwnedFd;

use waystation_balance::{Balancer, HostName, Hosts as _, Load, NoPick, Outcome};
use waystation_base::Moment;
use waystation_client::protocol::{Answer, Code, HostRef, ListedHost, PAGE_HOSTS, service_hash};
use waystation_client::{Access, Mapping};
use waystation_membership::{
    Address, CallersWord, InstanceId, LeaseWord, ProbeWord, State, Verdict, View, fuse,
};
use waystation_segment::{Keeper, LedgerId, LedgerWatch, RouteWriter, create_ledger, ledger_words};

use crate::config::AgentConfig;
use crate::explained::explained;
use crate::figures::Figures;
use crate::probes::Probed;
use crate::routes::Origin;
use crate::witnesses::Witnesses;

/// A service with its segment.
pub(crate) struct Service {
    keeper: Keeper<Mapping, Mapping>,
    /// The segment, for reading only.
    routes: OwnedFd,
    /// What tells this agent's segments from those of others.
    owner: u64,
    hash: u64,
    used_at: Moment,
    called_at: Option<Moment>,
    /// Whether callers that ask were told a load.
    tells_load: bool,
    /// What probes say.
    witnesses: Witnesses,
    /// Hosts that probes and callers find dead.
    dead: Vec<InstanceId>,
}

fn segment(hosts: usize, hash: u64, owner: u64) -> io::Result<(RouteWriter<Mapping>, OwnedFd)> {
    let capacity = Keeper::<Mapping, Mapping>::capacity_for(hosts);
    let words = RouteWriter::<Mapping>::words(capacity);
    let (mapping, file) = Mapping::create("waystation-routes", words, Access::Read)?;
    let writer = RouteWriter::create(mapping, capacity, hash, owner).map_err(io::Error::other)?;
    Ok((writer, file))
}

impl Service {
    pub(crate) fn new(
        now: Moment,
        config: &AgentConfig,
        view: &View,
        owner: u64,
    ) -> io::Result<Self> {
        let hash = service_hash(view.service.as_str());
        let (writer, routes) = segment(view.instances.len(), hash, owner)?;
        let seed = config.seed ^ hash;
        let policy = config.policy.build(seed);
        let balancer = Balancer::new(config.balancer.clone(), policy, seed);
        let mut keeper = Keeper::new(balancer, writer);
        keeper.handle_view(now, view);
        Ok(Self {
            keeper,
            routes,
            owner,
            hash,
            used_at: now,
            called_at: None,
            tells_load: false,
            witnesses: Witnesses::default(),
            dead: Vec::new(),
        })
    }

    /// The service's hosts are these. A segment that has become too small is
    /// replaced; its callers attach anew.
    pub(crate) fn handle_view(&mut self, now: Moment, view: &View) {
        self.keeper.handle_view(now, view);
        let table = self.keeper.balancer().table();
        self.witnesses.retain(|name| table.entry(name).is_some());
        let hosts = self.keeper.balancer().table().names().len();
        if hosts <= self.keeper.writer().capacity() as usize {
            return;
        }
        match segment(hosts, self.hash, self.owner) {
            Ok((writer, file)) => {
                self.keeper.handle_moved(now, writer);
                self.routes = file;
            }
            Err(error) => {
                tracing::warn!(service = %view.service, %error, "a larger segment cannot be made");
            }
        }
    }

    /// The agent ends: callers pick from its memory no longer. Whether there are
    /// any.
    pub(crate) fn retire(&mut self) -> bool {
        self.keeper.retire();
        self.keeper.ledgers() > 0
    }

    /// A turn; says whether the service is being called.
    pub(crate) fn handle_turn(&mut self, now: Moment) -> bool {
        if self.keeper.handle_turn(now) {
            self.called_at = Some(now);
        }
        self.judge(now);
        let called_at = self.called_at;
        called_at.is_some_and(|at| now.saturating_since(at) < crate::limits::BUSY_FOR)
    }

    /// Has those left out of whom probes and callers say that they are dead, past
    /// the largest share that ejection may take. They are suspect, not gone: when
    /// few others are left they are used, for the fault may be ours. Cost: O(hosts
    /// that do not answer probes).
    fn judge(&mut self, now: Moment) {
        let mut dead = Vec::new();
        for name in self.witnesses.failed(now) {
            let entry = self.keeper.balancer().table().entry(name);
            let word = self.keeper.callers(now, name);
            if let Some(entry) = entry
                && fuse(LeaseWord::Live, ProbeWord::Failed, word) == Verdict::Gone
            {
                dead.push(entry.instance.id.clone());
            }
        }
        for id in &dead {
            self.keeper.handle_verdict(now, id, Verdict::Suspect);
        }
        for id in std::mem::replace(&mut self.dead, dead) {
            if !self.dead.contains(&id) {
                self.keeper.handle_verdict(now, &id, Verdict::Use);
            }
        }
    }

    /// What is counted of it.
    pub(crate) fn figures(&self) -> Figures {
        let (kept, counted) = (self.keeper.counters(), self.keeper.balancer().counters());
        Figures {
            sent: kept.sent,
            abandoned: kept.abandoned,
            stale_results: kept.stale + counted.stale_results,
            dropped: kept.dropped,
            left_out: kept.left_out,
            picks: counted.picks.iter().sum(),
            no_picks: counted.no_picks,
            panic_picks: counted.panic_picks,
            ejected: counted.ejected,
            not_ejected: counted.not_ejected,
            services: 1,
            ledgers: self.keeper.ledgers() as u64,
            panics: self.keeper.balancer().is_panic().into(),
            ..Figures::default()
        }
    }

    /// Whether nobody uses it any more. Of one with calls under way callers have names of
    /// hosts, which another table would give to others.
    pub(crate) fn is_forgotten(&self, now: Moment) -> bool {
        self.keeper.ledgers() == 0
            && now.saturating_since(self.used_at) > crate::limits::FORGET_AFTER
            && !self.is_called()
    }

    fn is_called(&self) -> bool {
        let table = self.keeper.balancer().table();
        let mut entries = table.entries();
        entries.any(|entry| table.host(entry.name.slot).in_flight > 0)
    }

    /// Whether a ledger is of no use to its caller any more: see [`Keeper::is_over`].
    pub(crate) fn is_over(&mut self, now: Moment, ledger: LedgerId) -> bool {
        self.keeper.is_over(now, ledger)
    }

    /// A ledger for one more caller, and the two descriptors for it.
    pub(crate) fn attach(&mut self, now: Moment) -> io::Result<(LedgerId, [OwnedFd; 2])> {
        self.used_at = now;
        let capacity = self.keeper.writer().capacity();
        let words = ledger_words(capacity);
        let (ledger, file) = Mapping::create("waystation-ledger", words, Access::Write)?;
        create_ledger(&ledger, capacity, (self.hash, self.owner)).map_err(io::Error::other)?;
        let id = self.keeper.attach(ledger).map_err(io::Error::other)?;
        Ok((id, [self.routes.try_clone()?, file]))
    }

    /// A caller is gone. Its ledger, in which all was seen.
    pub(crate) fn detach(&mut self, now: Moment, id: LedgerId) -> Option<LedgerWatch<Mapping>> {
        self.used_at = now;
        self.keeper.detach(now, id)
    }

    /// What was drained by [`Service::drain_ends`] is about to be told.
    pub(crate) fn note_told(&mut self) {
        self.keeper.note_told();
    }

    /// A pick for a caller that asks, of a call about `key`.
    pub(crate) fn pick(&mut self, now: Moment, key: Option<u64>) -> Answer {
        self.used_at = now;
        self.called_at = Some(now);
        match self.keeper.balancer_mut().pick(now, key) {
            Ok(picked) => {
                let entry = self.keeper.balancer().table().entry(picked.name);
                let address = entry.map(|entry| entry.instance.address.to_string());
                Answer::Picked {
                    host: HostRef {
                        slot: picked.name.slot,
                        generation: picked.name.generation,
                    },
                    address: address.unwrap_or_default(),
                    reason: picked.reason.to_string(),
                }
            }
            Err(no_pick) => refused(no_pick),
        }
    }

    /// Whether its hosts tell what they have to do.
    pub(crate) const fn tells_load(&self) -> bool {
        self.tells_load || self.keeper.counters().told > 0
    }

    /// A host to probe now; call until `None`.
    pub(crate) fn poll_probe(&mut self, now: Moment) -> Option<(HostName, Address)> {
        let host = self.keeper.poll_probe(now)?;
        let entry = self.keeper.balancer().table().entry(host)?;
        Some((host, entry.instance.address.clone()))
    }

    /// What came of a probe.
    pub(crate) fn handle_probed(&mut self, now: Moment, host: HostName, probed: Probed) {
        self.witnesses.handle_probed(now, host, probed);
        let balancer = self.keeper.balancer_mut();
        match probed {
            Probed::Told(load) => {
                let load = Load {
                    in_flight: load.in_flight,
                    latency_us: load.latency_us,
                };
                balancer.handle_probe_answered(now, host, load);
            }
            Probed::Refused => balancer.handle_probe_refused(now, host),
            // Its time ends there.
            Probed::Silent => {}
        }
    }

    /// The end of a call that was picked so. For a host that is gone it says
    /// nothing.
    pub(crate) fn report(&mut self, now: Moment, host: HostRef, outcome: &Outcome) -> bool {
        let name = name_of(host);
        self.tells_load |= outcome.load.is_reported();
        self.keeper.report(now, name, outcome).is_ok()
    }

    /// A call to `host` is on its way that was not picked here.
    pub(crate) fn handle_sent(&mut self, now: Moment, host: HostRef) {
        let name = name_of(host);
        self.keeper.balancer_mut().handle_sent(now, name, 1);
    }

    /// Calls to `host` that were picked here will have no end: who sent them is
    /// gone.
    pub(crate) fn give_up(&mut self, now: Moment, host: HostRef, count: u32) {
        self.used_at = now;
        let name = name_of(host);
        self.keeper
            .balancer_mut()
            .handle_abandoned(now, name, count);
    }

    /// Ends of calls since the last time: address, successes, failures, and
    /// whether the host is left out now.
    pub(crate) fn drain_ends(&mut self, mut visit: impl FnMut(&str, u64, u64, bool)) {
        let mut all = Vec::new();
        self.keeper.drain_ends(|ends| all.push(ends.clone()));
        let balancer = self.keeper.balancer();
        for ends in all {
            let is_here = balancer.table().entry(ends.name).is_some();
            let tier = balancer.candidates().tier(ends.name.slot);
            let is_out = !is_here || tier == waystation_balance::NO_TIER;
            visit(
                &ends.instance.address.to_string(),
                ends.ok,
                ends.failed,
                is_out,
            );
        }
    }

    /// The present host at an address.
    pub(crate) fn find(&self, address: &str) -> Option<HostRef> {
        let address: Address = address.parse().ok()?;
        let mut entries = self.keeper.balancer().table().entries();
        let entry = entries.find(|entry| entry.instance.address == address)?;
        Some(HostRef {
            slot: entry.name.slot,
            generation: entry.name.generation,
        })
    }

    /// A page of the hosts, those in slots from `from` on, and what is known of
    /// them, where routes come from `origin`.
    pub(crate) fn list(&self, now: Moment, origin: Origin, from: u32) -> Answer {
        let balancer = self.keeper.balancer();
        // That the source is away says nothing of a host.
        let lease = match origin {
            Origin::Live => LeaseWord::Live,
            Origin::Kept | Origin::Disk => LeaseWord::Unknown,
        };
        let mut entries = (balancer.table().entries())
            .filter(|entry| entry.name.slot >= from)
            .peekable();
        let hosts = entries.by_ref().take(PAGE_HOSTS).map(|entry| {
            let slot = entry.name.slot;
            let host = balancer.table().host(slot);
            let ejection = balancer.ejection();
            let probe = self.witnesses.word(now, entry.name);
            let callers = self.keeper.callers(now, entry.name);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a latency, never negative"
            )]
            let latency_us = (host.latency_ns / 1000.0) as u64;
            ListedHost {
                id: entry.instance.id.to_string(),
                address: entry.instance.address.to_string(),
                state: state_word(entry.instance.state).to_owned(),
                verdict: verdict_word(fuse(lease, probe, callers)).to_owned(),
                probe: probe_word(probe).to_owned(),
                callers: callers_word(callers).to_owned(),
                weight: entry.instance.weight,
                tier: entry.tier,
                ejected: ejection.is_some_and(|ejection| ejection.is_out(slot).is_some()),
                eligible: balancer.candidates().tier(slot) != waystation_balance::NO_TIER,
                in_flight: host.in_flight,
                latency_us,
                error_share: f64::from(host.error_share),
                reported_in_flight: host.load.in_flight,
                reported_latency_us: host.load.latency_us,
            }
        });
        let hosts = hosts.collect();
        Answer::Listed {
            hosts,
            origin: String::new(),
            next: entries.peek().map(|entry| entry.name.slot),
        }
    }

    pub(crate) fn explain(&self, now: Moment) -> Answer {
        explained(now, self.keeper.balancer(), |one| one.note.to_owned())
    }
}

const fn name_of(host: HostRef) -> HostName {
    HostName {
        slot: host.slot,
        generation: host.generation,
    }
}

fn refused(no_pick: NoPick) -> Answer {
    Answer::Refused {
        code: Code::NoHosts,
        text: no_pick.to_string(),
    }
}

pub(crate) const fn state_word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Serving => "serving",
        State::Draining => "draining",
    }
}

const fn probe_word(word: ProbeWord) -> &'static str {
    match word {
        ProbeWord::Ok => "ok",
        ProbeWord::Failed => "failed",
        ProbeWord::None => "none",
    }
}

const fn callers_word(word: CallersWord) -> &'static str {
    match word {
        CallersWord::Ok => "ok",
        CallersWord::Failing => "failing",
        CallersWord::None => "none",
    }
}

const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Use => "use",
        Verdict::Suspect => "suspect",
        Verdict::Gone => "gone",
    }
}
