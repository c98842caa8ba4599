//! Asks hosts what they have to do, when a policy wants to know.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use waystation_balance::HostName;
use waystation_base::{Moment, ServiceName};
use waystation_client::machine_now;
use waystation_membership::Address;
use waystation_net::native::{Router, Upstream, UpstreamConfig, UpstreamState};
use waystation_net::{Label, Shard};
use waystation_wire::Load;

use crate::desk::Desk;
use crate::limits::{PROBE_LINK_IDLE, PROBE_LINKS_MAX};

/// Which hosts are asked what they have to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probes {
    /// Those of services of which a reply has told a load: they speak the native
    /// protocol. Others would take a probe for noise.
    #[default]
    WhenTold,
    /// Those of all services that callers use, by the native protocol.
    Always,
    /// None: what is known is what replies tell.
    Never,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// The host says so.
    Told(Load),
    /// Nobody is there.
    Refused,
    /// Nothing was heard. Its time ends in the balancer, too.
    Silent,
}

/// A probe that is due.
pub(crate) struct Due {
    pub(crate) service: ServiceName,
    pub(crate) host: HostName,
    pub(crate) address: Address,
}

/// A connection for probes.
struct Link {
    upstream: Upstream,
    used_at: Moment,
}

/// The connections for probes, one for each host.
pub(crate) struct Prober {
    shard: Shard,
    desk: Rc<RefCell<Desk>>,
    timeout: Duration,
    links: RefCell<HashMap<Address, Link>>,
}

impl Prober {
    pub(crate) fn new(shard: &Shard, desk: &Rc<RefCell<Desk>>) -> Rc<Self> {
        let timeout = desk.borrow().probe_timeout();
        Rc::new(Self {
            shard: shard.clone(),
            desk: Rc::clone(desk),
            timeout,
            links: RefCell::default(),
        })
    }

    /// Sends the probes that are due.
    pub(crate) fn handle_turn(self: &Rc<Self>, now: Moment) {
        let due = self.desk.borrow_mut().poll_probes(now);
        for one in due {
            let upstream = self.link(now, &one.address);
            let this = Rc::clone(self);
            self.shard.spawn(Label::of("probe"), async move {
                let probed = this.ask(&upstream).await;
                let mut desk = this.desk.borrow_mut();
                desk.handle_probed(machine_now(), &one.service, one.host, probed);
            });
        }
    }

    async fn ask(&self, upstream: &Upstream) -> Probed {
        let deadline = self.shard.now() + self.timeout;
        match upstream.probe(deadline).await {
            Ok(Some(load)) => Probed::Told(load),
            Err(error) if error.was_not_sent() && upstream.fault().is_some() => Probed::Refused,
            // Late, or answered in a language that has no probes.
            Ok(None) | Err(_) => Probed::Silent,
        }
    }

    /// The connection to a host, made now if there is none.
    fn link(&self, now: Moment, address: &Address) -> Upstream {
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get_mut(address)
            && link.upstream.state() != UpstreamState::Closed
        {
            link.used_at = now;
            return link.upstream.clone();
        }
        if links.len() >= PROBE_LINKS_MAX
            && let Some(oldest) = links.iter().min_by_key(|(_, link)| link.used_at)
        {
            let oldest = oldest.0.clone();
            links.remove(&oldest);
        }
        let mut config = UpstreamConfig::new(net_address(address));
        // A host that does not connect in this time is not waited for.
        config.connect_wait = config.connect_wait.min(PROBE_LINK_IDLE);
        let upstream = Upstream::new(&self.shard, config, Rc::new(Router::new()));
        let link = Link {
            upstream: upstream.clone(),
            used_at: now,
        };
        links.insert(address.clone(), link);
        upstream
    }

    /// Drops connections that nobody needs any more. Cost: O(connections).
    pub(crate) fn drop_idle(&self, now: Moment) {
        let is_used = |link: &Link| now.saturating_since(link.used_at) < PROBE_LINK_IDLE;
        self.links.borrow_mut().retain(|_, link| is_used(link));
    }
}

fn net_address(address: &Address) -> waystation_net::Address {
    match address {
        Address::V4(at) => waystation_net::Address::Tcp((*at).into()),
        Address::V6(at) => waystation_net::Address::Tcp((*at).into()),
        Address::Unix(path) => waystation_net::Address::Unix(path.as_ref().into()),
    }
}
