//! All that an agent knows: views, services in use, and who asks.

mod inherited;
mod reported;
#[cfg(test)]
mod tests;
mod unheard;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_balance::HostName;
use waystation_base::{Moment, ServiceName};
use waystation_client::protocol::{Answer, Code, Request};
use waystation_membership::{LarsPair, View};
use waystation_registry::Watching;

use crate::config::AgentConfig;
use crate::figures::Figures;
use crate::held::Held;
use crate::lars::Pairs;
use crate::limits::{FORGET_AFTER, FORGET_UNKNOWN_AFTER, PROBES_PER_TURN, SERVICES_MAX};
use crate::probes::{Due, Probed, Probes};
use crate::reports::Totals;
use crate::routes::{Asking, Origin};
use crate::service::Service;

use inherited::Inherited;

/// An answer and what goes with it.
pub(crate) struct Reply {
    /// Nothing for a request without an answer.
    pub(crate) answer: Option<Answer>,
    pub(crate) files: Vec<OwnedFd>,
    /// Whether the route was asked for just now, so that another answer may be
    /// due in a moment.
    pub(crate) is_early: bool,
}

impl Reply {
    fn of(answer: Answer) -> Self {
        Self {
            answer: Some(answer),
            files: Vec::new(),
            is_early: false,
        }
    }

    /// Nothing is answered.
    fn none() -> Self {
        Self {
            answer: None,
            files: Vec::new(),
            is_early: false,
        }
    }

    pub(crate) fn refused(code: Code, text: impl Into<String>) -> Self {
        Self::of(Answer::Refused {
            code,
            text: text.into(),
        })
    }
}

pub(crate) struct Desk {
    config: AgentConfig,
    owner: u64,
    views: BTreeMap<ServiceName, Arc<View>>,
    services: BTreeMap<ServiceName, Service>,
    pub(crate) pairs: Pairs,
    pub(crate) totals: Totals,
    inherited: Inherited,
    /// What is asked for, of a source that is asked for each service.
    asking: Asking,
    /// The watch of a source that tells all it has.
    whole: Option<Rc<Watching>>,
    /// The agent ends, and gives no memory any more.
    is_ending: bool,
    stale_reports: u64,
    /// What services counted that are used no longer.
    past: Figures,
}

impl Desk {
    pub(crate) fn new(config: AgentConfig, owner: u64) -> Self {
        let pairs = Pairs::new(config.lars, config.seed);
        Self {
            config,
            owner,
            views: BTreeMap::new(),
            services: BTreeMap::new(),
            pairs,
            totals: Totals::new(owner),
            inherited: Inherited::default(),
            asking: Asking::default(),
            whole: None,
            is_ending: false,
            stale_reports: 0,
            past: Figures::default(),
        }
    }

    /// The source tells all that it has, by this watch.
    pub(crate) fn set_whole(&mut self, watching: Rc<Watching>) {
        self.whole = Some(watching);
    }

    pub(crate) fn asking(&self) -> &Asking {
        &self.asking
    }

    pub(crate) fn asking_mut(&mut self) -> &mut Asking {
        &mut self.asking
    }

    /// Somebody here wants a service. False when there is no room for another.
    pub(crate) fn want(&mut self, now: Moment, service: &ServiceName) -> bool {
        self.whole.is_some() || self.asking.want(now, service)
    }

    /// All that is known.
    pub(crate) fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// Forgets a service that nobody here wants any more; whether it did.
    pub(crate) fn forget_unwanted(&mut self, now: Moment, service: &ServiceName) -> bool {
        let view = self.views.get(service);
        let after = if view.is_some_and(|view| !view.instances.is_empty()) {
            FORGET_AFTER
        } else {
            FORGET_UNKNOWN_AFTER
        };
        let is_used = self.services.contains_key(service);
        if is_used || !self.asking.is_unwanted(now, service, after) {
            return false;
        }
        self.asking.forget(service);
        self.views.remove(service);
        self.pairs.forget(now, service);
        true
    }

    fn origin(&self, service: &ServiceName) -> Origin {
        let whole = self.whole.as_deref().map(Origin::of);
        let origin = whole.or_else(|| self.asking.origin(service));
        origin.unwrap_or(Origin::Disk)
    }

    /// A datagram of a caller of Lars; the answer is in `out`.
    pub(crate) fn handle_datagram(&mut self, now: Moment, bytes: &[u8], out: &mut Vec<u8>) {
        let wanted = self.pairs.handle(now, bytes, out);
        if let Some(pair) = wanted
            && self.whole.is_none()
        {
            // Without room it is asked for again with the next question.
            let _ = self.asking.want(now, &pair.service());
        }
    }

    /// A view came. Once this returns callers see it.
    ///
    /// Who is in it only since the guard on losses keeps him is a host like the
    /// others, and nobody is told which that are. If the guard is right to doubt
    /// the loss he must carry his share, or the rest carries it for him; if it is
    /// wrong, what callers and probes meet there ejects him before the guard gives
    /// in.
    pub(crate) fn handle_view(&mut self, now: Moment, view: &Arc<View>) {
        self.views.insert(view.service.clone(), Arc::clone(view));
        // A route server shows all hosts of a pair as a service of its own.
        if self.whole.is_some() || LarsPair::of_service(&view.service).is_some() {
            self.pairs.handle_view(now, view);
        }
        self.asking.handle_view();
        if let Some(service) = self.services.get_mut(&view.service) {
            service.handle_view(now, view);
        }
    }

    /// A turn of all services; says whether any is being called.
    pub(crate) fn handle_turn(&mut self, now: Moment) -> bool {
        self.pairs.handle_turn(now);
        let mut is_busy = false;
        let (totals, past) = (&mut self.totals, &mut self.past);
        self.services.retain(|name, service| {
            is_busy |= service.handle_turn(now);
            let is_forgotten = service.is_forgotten(now);
            if is_forgotten {
                past.add_counted(&service.figures());
                totals.collect(now, name, service);
            }
            !is_forgotten
        });
        is_busy
    }

    /// The agent ends: callers let go of the memory that they have of it, and get
    /// none any more. Whether there are any.
    pub(crate) fn retire(&mut self) -> bool {
        self.is_ending = true;
        let mut has_callers = false;
        for service in self.services.values_mut() {
            has_callers |= service.retire();
        }
        if has_callers {
            // Until the next agent they call the hosts that they had.
            if let Some(whole) = &self.whole {
                whole.linger();
            }
            self.asking.linger();
        }
        has_callers
    }

    /// What is counted, and what there is now. Cost: O(services).
    pub(crate) fn figures(&self) -> Figures {
        let mut all = self.pairs.figures();
        all.add_counted(&self.past);
        all.stale_results += self.stale_reports;
        all.uncounted = self.totals.uncounted() + self.pairs.totals.uncounted();
        for (name, service) in &self.services {
            let of = service.figures();
            all.add_counted(&of);
            all.services += of.services;
            all.ledgers += of.ledgers;
            all.panics += of.panics;
            match self.origin(name) {
                Origin::Live => {}
                Origin::Kept => all.routes_kept += 1,
                Origin::Disk => all.routes_from_disk += 1,
            }
        }
        all
    }

    /// Adds what callers did since the last time to the totals.
    pub(crate) fn collect_ends(&mut self, now: Moment) {
        self.handle_turn(now);
        for (name, service) in &mut self.services {
            self.totals.collect(now, name, service);
        }
        self.collect_inherited(now);
    }

    /// Without a report server that takes them, forgets how calls ended: nobody else
    /// does. Cost: O(hosts).
    pub(crate) fn drop_untold(&mut self) {
        if !self.is_reporting() {
            for service in self.services.values_mut() {
                service.drain_ends(|_, _, _, _| ());
            }
        }
    }

    fn is_reporting(&self) -> bool {
        self.config.report.as_ref().is_some_and(|to| to.is_native)
    }

    /// The age at which a route is asked for again at a route server of Lars.
    pub(crate) const fn lars_refresh(&self) -> Duration {
        self.config.lars_refresh
    }

    /// After how long a connection that holds nothing and says nothing is closed.
    pub(crate) const fn silent_max(&self) -> Duration {
        self.config.silent_max
    }

    /// How long the answer to a probe is waited for.
    pub(crate) const fn probe_timeout(&self) -> Duration {
        self.config.balancer.prober.timeout
    }

    /// The probes that are due now, which count as sent. Cost: O(services).
    pub(crate) fn poll_probes(&mut self, now: Moment) -> Vec<Due> {
        let mut due = Vec::new();
        if self.config.probes == Probes::Never {
            return due;
        }
        let always = self.config.probes == Probes::Always;
        for (name, service) in &mut self.services {
            if always || service.tells_load() {
                for _ in 0..PROBES_PER_TURN {
                    let Some((host, address)) = service.poll_probe(now) else {
                        break;
                    };
                    due.push(Due {
                        service: name.clone(),
                        host,
                        address,
                    });
                }
            }
        }
        due
    }

    /// What came of a probe.
    pub(crate) fn handle_probed(
        &mut self,
        now: Moment,
        service: &ServiceName,
        host: HostName,
        probed: Probed,
    ) {
        if let Some(service) = self.services.get_mut(service) {
            service.handle_probed(now, host, probed);
        }
    }

    /// Answers a caller. `held` is what its connection has.
    pub(crate) fn handle(&mut self, now: Moment, request: Request, held: &mut Held) -> Reply {
        let name = match &request {
            Request::ListPair { modid, cmdid, .. } | Request::ExplainPair { modid, cmdid } => {
                let (modid, cmdid) = (*modid, *cmdid);
                return self.handle_pair(now, LarsPair { modid, cmdid }, &request);
            }
            Request::Attach { service }
            | Request::HandOver { service }
            | Request::Pick { service, .. }
            | Request::Report { service, .. }
            | Request::ReportAddress { service, .. }
            | Request::List { service, .. }
            | Request::Explain { service } => service,
        };
        let name = match self.service(now, name) {
            Ok((name, _)) => name,
            Err((code, text)) => {
                let is_early = self.is_early(code);
                if matches!(request, Request::Report { .. }) {
                    return self.stale_report(is_early);
                }
                return Reply {
                    is_early,
                    ..Reply::refused(code, text)
                };
            }
        };
        self.answer(now, request, name, held)
    }

    /// Answers a caller about a service that is kept.
    fn answer(
        &mut self,
        now: Moment,
        request: Request,
        name: ServiceName,
        held: &mut Held,
    ) -> Reply {
        match request {
            Request::HandOver { .. } => return self.inherit(now, name, held),
            Request::Report { .. } | Request::ReportAddress { .. } => {
                return self.report(now, request, &name, held);
            }
            _ => {}
        }
        let Some(service) = self.services.get_mut(&name) else {
            return Reply::none();
        };
        match request {
            Request::Attach { .. } if self.is_ending => {
                Reply::refused(Code::Busy, "this agent ends; another one may come")
            }
            Request::Attach { .. } if held.has_ledger(&name) => {
                Reply::refused(Code::Busy, "this connection has a ledger of it already")
            }
            Request::Attach { .. } => match service.attach(now) {
                Ok((ledger, files)) => {
                    held.add_ledger(name, ledger);
                    Reply {
                        files: files.into(),
                        ..Reply::of(Answer::Attached)
                    }
                }
                Err(error) => Reply::refused(Code::Busy, no_memory(&error)),
            },
            Request::Pick { key, .. } => {
                let answer = service.pick(now, key);
                if let Answer::Picked { host, .. } = answer {
                    held.add_pick(name, host);
                    self.give_up_most(now, held);
                }
                Reply::of(answer)
            }
            Request::List { from, .. } => {
                let origin = self.origin(&name);
                let answer = self.services[&name].list(now, origin, from);
                Reply::of(answer.from(origin.word().to_owned()))
            }
            Request::Explain { .. } => {
                let answer = service.explain(now);
                Reply::of(answer.from(self.origin(&name).word().to_owned()))
            }
            Request::HandOver { .. }
            | Request::Report { .. }
            | Request::ReportAddress { .. }
            | Request::ListPair { .. }
            | Request::ExplainPair { .. } => unreachable!("they are answered above"),
        }
    }

    /// Answers who asks about what callers of Lars are given.
    fn handle_pair(&mut self, now: Moment, pair: LarsPair, request: &Request) -> Reply {
        let name = pair.service();
        if !self.want(now, &name) {
            return Reply::refused(Code::Busy, "too many services are asked for");
        }
        let answer = match request {
            Request::ListPair { from, .. } => self.pairs.list(now, pair, *from),
            _ => self.pairs.explain(now, pair),
        };
        if let Some(answer) = answer {
            return Reply::of(answer.from(self.origin(&name).word().to_owned()));
        }
        let LarsPair { modid, cmdid } = pair;
        let (code, text) = self.unknown(&name, &format!("{modid}/{cmdid}"));
        Reply {
            is_early: self.is_early(code),
            ..Reply::refused(code, text)
        }
    }

    /// Whether a connection is of no use any more: its service outgrew what it was given,
    /// and its process has another one.
    pub(crate) fn is_over(&mut self, now: Moment, held: &Held) -> bool {
        held.is_over(|service, ledger| {
            let service = self.services.get_mut(service);
            service.is_none_or(|service| service.is_over(now, ledger))
        })
    }

    /// A connection ended: what its process left unfinished is given up.
    pub(crate) fn handle_gone(&mut self, now: Moment, mut held: Held) {
        for (service, ledger) in held.take_ledgers() {
            let service = self.services.get_mut(&service);
            if let Some(watch) = service.and_then(|service| service.detach(now, ledger)) {
                self.leave(watch);
            }
        }
        for id in held.take_inherited() {
            self.leave_inherited(now, id);
        }
        for (service, host, count) in held.take_picks() {
            if let Some(service) = self.services.get_mut(&service) {
                service.give_up(now, host, count);
            }
        }
    }

    /// Gives up calls of a connection that has more in flight than is kept.
    fn give_up_most(&mut self, now: Moment, held: &mut Held) {
        if let Some((service, host, count)) = held.take_most()
            && let Some(service) = self.services.get_mut(&service)
        {
            service.give_up(now, host, count);
        }
    }

    /// The service of this name, kept from now on.
    fn service(
        &mut self,
        now: Moment,
        name: &str,
    ) -> Result<(ServiceName, &mut Service), (Code, String)> {
        let name = ServiceName::new(name).map_err(|error| (Code::BadRequest, error.to_string()))?;
        if !self.want(now, &name) {
            return Err((Code::Busy, "too many services are asked for".to_owned()));
        }
        if !self.services.contains_key(&name) {
            let view = self.views.get(&name);
            // A route server tells of a service that it does not know as well.
            let is_some = |view: &&Arc<View>| self.whole.is_some() || !view.instances.is_empty();
            let Some(view) = view.filter(is_some) else {
                return Err(self.unknown(&name, name.as_str()));
            };
            if self.services.len() >= SERVICES_MAX {
                return Err((Code::Busy, "too many services are in use".to_owned()));
            }
            let made = Service::new(now, &self.config, view, self.owner);
            let made = made.map_err(|error| (Code::Busy, no_memory(&error)))?;
            self.services.insert(name.clone(), made);
        }
        let service = self.services.get_mut(&name).expect("it was just put there");
        Ok((name, service))
    }
}

fn no_memory(error: &io::Error) -> String {
    format!("memory cannot be made: {error}")
}
