//! The drain of an instance: told to every subscriber, then to its owner.

use std::rc::Rc;

use waystation_base::{FencingToken, Moment, ServiceName};
use waystation_membership::{DrainStep, ViewVersion};
use waystation_net::{WaitsFor, waiting};

use super::register::Registrant;
use super::shape::Store;
use super::shared::Shared;
use super::subscribers::Subscriber;
use crate::backend::Event;
use crate::limits::DRAIN_POLL;

/// A drain that stands in the store since a version.
pub(super) struct Drain {
    pub(super) service: ServiceName,
    /// The token that its owner was granted.
    pub(super) since: FencingToken,
    pub(super) at: ViewVersion,
}

/// Waits until every subscriber's callers see the drain, or the time is over;
/// then until nothing is in flight any more, or the time is over.
pub(super) async fn run<S: Store>(
    shared: Rc<Shared<S>>,
    registrant: Rc<Registrant<S>>,
    drain: Drain,
) {
    let waits = registrant.drain_waits;
    tell(&shared, &registrant, &drain, DrainStep::Waiting);
    let deadline = shared.shard.now() + waits.acknowledged;
    while registrant.holds(drain.since) {
        let missing = behind(&shared, &drain, deadline).await;
        if missing == Some(0) {
            break;
        }
        if shared.shard.now() >= deadline {
            let id = &registrant.id;
            tracing::warn!(%id, ?missing, "drained without the word of all subscribers");
            break;
        }
        let pause = shared.shard.sleep(DRAIN_POLL);
        waiting(WaitsFor::plain("registry drain"), pause).await;
    }
    if !registrant.holds(drain.since) {
        return;
    }
    registrant.set_drain(DrainStep::Acknowledged);
    tell(&shared, &registrant, &drain, DrainStep::Acknowledged);
    let pause = shared.shard.sleep(waits.requests);
    tokio::select! {
        () = shared.closed() => return,
        () = waiting(WaitsFor::plain("requests in flight"), pause) => {}
    }
    if registrant.holds(drain.since) {
        registrant.want_idle();
        shared.work(&registrant);
    }
}

/// How many subscribers may not show the drain yet; `None` if that cannot be
/// found out.
async fn behind<S: Store>(shared: &Shared<S>, drain: &Drain, deadline: Moment) -> Option<usize> {
    let wire = shared.wire_until(deadline).await.ok()?;
    let subscribers = shared.holders(&wire).await.ok()?;
    let is_behind = |one: &&Subscriber| one.is_behind(&drain.service, drain.at);
    Some(subscribers.iter().filter(is_behind).count())
}

fn tell<S: Store>(shared: &Shared<S>, registrant: &Registrant<S>, drain: &Drain, step: DrainStep) {
    if let Some(token) = registrant.token(drain.since) {
        let id = registrant.id.clone();
        shared.events.push(Event::Drained(id, token, step));
    }
}
