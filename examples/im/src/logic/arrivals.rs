//! The connection to Das where there are other sites: it tells what they wrote.

use std::rc::{Rc, Weak};

use waystation_membership::Instance;
use waystation_net::native::{Upstream, UpstreamEvents};
use waystation_net::{CloseReason, Conn, Label, Shard};
use waystation_service::{Channel, Ctx, Group, Peer, PushError, Router, Status, address_of};

use super::handlers::Rules;
use super::limits::{WATCH, WATCH_PAUSE};
use crate::im::arrivals::{self, Arrivals};
use crate::im::das::DasClient;
use crate::im::link::method as push;
use crate::im::{ArrivedMessages, MissedRequest, Pushed, WatchRequest};

/// A channel to Das that handles what it pushes.
pub(super) fn das_channel(shard: &Shard, rules: &Weak<Rules>, instance: &Instance) -> Channel {
    let mut pushes = Router::new(shard);
    // One after another, in the order in which they arrived.
    pushes.concurrency(1);
    let handlers = FromDas {
        rules: rules.clone(),
    };
    arrivals::register(&mut pushes, Rc::new(handlers))
        .expect("the methods of one service are distinct");
    let events = Events {
        rules: rules.clone(),
        id: instance.id.to_string(),
        shard: shard.clone(),
    };
    let address = address_of(instance);
    Channel::with_pushes(shard, address, pushes.into_native(), Rc::new(events))
}

impl Rules {
    /// The Das that it follows.
    pub(super) fn das_group(&self) -> &Group {
        &self.das
    }

    /// The connection to the Das with this id, while there is one.
    pub(super) fn das_channel(&self, id: &str) -> Option<Channel> {
        let channel = self.das.callee(id)?.opened().cloned()?;
        channel.is_connected().then_some(channel)
    }

    /// Has every Entry look for messages of which nobody told it, whichever shard it
    /// is connected to.
    pub(super) fn tell_missed(&self) {
        self.tell_missed_here();
        for other in self.siblings.others() {
            self.siblings
                .tell(other, |_, rules| rules.tell_missed_here());
        }
    }

    fn tell_missed_here(&self) {
        let entries: Vec<_> = self.presence.borrow().entries().collect();
        // Those of other shards are not here.
        for conn in entries
            .into_iter()
            .flat_map(|name| self.shard.connection(name))
        {
            let peer = Peer::new(conn);
            if let Err(PushError::Full(_)) = peer.push::<push::Missed>(&MissedRequest {}) {
                // When it is back it looks by itself.
                peer.conn().close(CloseReason::SlowReader);
            }
        }
    }
}

struct FromDas {
    rules: Weak<Rules>,
}

impl Arrivals for FromDas {
    async fn arrived(&self, ctx: &Ctx, request: ArrivedMessages) -> Result<Pushed, Status> {
        if let Some(rules) = self.rules.upgrade() {
            for message in request.messages {
                rules.fan_out(ctx, message, &request.members).await;
            }
        }
        Ok(Pushed {})
    }

    async fn missed(&self, _: &Ctx, _: MissedRequest) -> Result<Pushed, Status> {
        if let Some(rules) = self.rules.upgrade() {
            rules.tell_missed();
        }
        Ok(Pushed {})
    }
}

struct Events {
    rules: Weak<Rules>,
    id: String,
    shard: Shard,
}

impl UpstreamEvents for Events {
    /// Has Das tell what arrives from now on; what came before is looked for.
    fn on_up(&self, _: &Upstream, _: &Conn) {
        let (shard, rules, id) = (self.shard.clone(), self.rules.clone(), self.id.clone());
        self.shard.spawn(Label::of("watch Das"), async move {
            loop {
                let Some(rules) = rules.upgrade() else { return };
                // With the connection lost the next one begins anew.
                let Some(channel) = rules.das_channel(&id) else {
                    return;
                };
                let ctx = Ctx::background(&shard, "watch Das", WATCH);
                let das = DasClient::new(channel);
                match das.watch(&ctx, &WatchRequest {}).await {
                    Ok(_) => return rules.tell_missed(),
                    Err(status) => tracing::warn!(das = id, %status, "does not watch"),
                }
                drop(rules);
                shard.sleep(WATCH_PAUSE).await;
            }
        });
    }
}
