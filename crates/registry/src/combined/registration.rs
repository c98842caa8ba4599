//! A registration in several sources at once.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waystation_base::{FencingToken, Moment};
use waystation_membership::{DrainStep, GrantError, Refusal, State, Update};

use crate::error::Error;
use crate::handle::{Registered, RegistrationSlot, RegistrationStatus};
use crate::registry::Registry;

/// A registration, and those in the sources that it is made of.
#[derive(Debug)]
pub(crate) struct JoinedRegistration {
    slot: Arc<RegistrationSlot>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    by_source: BTreeMap<u64, Registered>,
    /// Above which token each was asked to grant.
    lifted: BTreeMap<u64, FencingToken>,
    /// What the owner has asked for, for sources that are added.
    update: Update,
    is_draining: bool,
    is_idle: bool,
    is_over: bool,
}

/// How it stands in one source.
struct Look {
    status: RegistrationStatus,
    serves_until_ns: u64,
}

impl JoinedRegistration {
    pub(super) fn new(slot: Arc<RegistrationSlot>) -> Arc<Self> {
        Arc::new(Self {
            slot,
            parts: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot(&self) -> Arc<RegistrationSlot> {
        Arc::clone(&self.slot)
    }

    /// Registers in one more source, which is told the latest token: what it
    /// grants is above that.
    pub(super) fn add(self: &Arc<Self>, source: u64, registry: &dyn Registry) -> Result<(), Error> {
        let mut parts = self.lock();
        let mut instance = self.slot.status.read(|status| status.instance.clone());
        parts.update.apply(&mut instance);
        let registered = registry.register(instance, self.slot.options)?;
        if parts.is_draining {
            registered.drain();
        }
        if parts.is_idle {
            registered.idle();
        }
        let me = Arc::downgrade(self);
        registered.slot().status.on_change(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.refresh();
            }
        }));
        parts.by_source.insert(source, registered);
        drop(parts);
        // How it stood before it was listened to.
        self.refresh();
        Ok(())
    }

    /// Deregisters in a source.
    pub(super) fn remove(&self, source: u64) {
        let removed = self.lock().by_source.remove(&source);
        if removed.is_some() {
            // Others know of it before this source is told that it left.
            self.refresh();
        }
    }

    /// Whether every source has it.
    pub(super) fn is_settled(&self) -> bool {
        let parts = self.lock();
        let mut all = parts.by_source.values();
        parts.is_draining || all.all(|part| part.status().is_registered)
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Takes what the owner wants.
    pub(crate) fn forward(&self) {
        let wish = {
            let mut wish = (self.slot.wish.lock()).unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *wish)
        };
        let mut parts = self.lock();
        if wish.dropped {
            parts.is_over = true;
            let ended = std::mem::take(&mut parts.by_source);
            drop(parts);
            // Each of them tells its own client.
            drop(ended);
            return;
        }
        if let Some(update) = wish.update {
            parts.update.merge(update.clone());
            for part in parts.by_source.values() {
                // It was checked against what it changes.
                let _ = part.update(update.clone());
            }
        }
        parts.is_draining |= wish.drain;
        parts.is_idle |= wish.idle;
        for part in parts.by_source.values() {
            if wish.drain {
                part.drain();
            }
            if wish.idle {
                part.idle();
            }
        }
    }

    /// Shows how it stands in all sources.
    fn refresh(&self) {
        let mut parts = self.lock();
        if parts.is_over {
            return;
        }
        parts.lift();
        let looks: Vec<Look> = parts.by_source.values().map(look).collect();
        if !parts.is_draining && looks.iter().any(|look| look.status.drain.is_some()) {
            // An operator drains it in one source: it drains in all.
            parts.is_draining = true;
            parts.by_source.values().for_each(Registered::drain);
        }
        let serves_until = serves_until(&looks);
        self.slot.set_serves_until(serves_until);
        let update = parts.update.clone();
        self.slot.status.update(|status| {
            update.apply(&mut status.instance);
            for look in &looks {
                let instance = &look.status.instance;
                status.instance.token = status.instance.token.max(instance.token);
                if instance.state == State::Draining {
                    status.instance.state = State::Draining;
                }
            }
            status.is_registered = serves_until.is_some();
            status.drain = drain(&looks);
            status.refusal = looks.iter().find_map(|look| look.status.refusal.clone());
            status.refusals = looks.iter().map(|look| look.status.refusals).sum();
        });
    }
}

impl Parts {
    /// Has each source grant a token above those of the sources before it, one of which
    /// may be the next to go: to callers a node's token never falls.
    fn lift(&mut self) {
        let mut before = FencingToken(0);
        for (source, part) in &self.by_source {
            let token = part.slot().status.read(|status| status.instance.token);
            let lifted = self.lifted.entry(*source).or_default();
            if before > token.max(*lifted) {
                *lifted = before;
                part.lift(before);
            }
            before = before.max(token);
        }
    }
}

fn look(part: &Registered) -> Look {
    let slot = part.slot();
    Look {
        status: part.status(),
        serves_until_ns: slot.serves_until_ns.load(Ordering::Acquire),
    }
}

/// Until when the node may serve: as long as any source says, unless one says
/// that another has the id.
fn serves_until(looks: &[Look]) -> Option<Moment> {
    let is_taken = |look: &Look| {
        let refusal = look.status.refusal.as_ref();
        refusal.is_some_and(|refusal| {
            let Refusal::Lease { error, .. } = refusal else {
                return false;
            };
            matches!(
                error,
                GrantError::Held { .. } | GrantError::Superseded { .. }
            )
        })
    };
    if looks.iter().any(is_taken) {
        return None;
    }
    let until = looks.iter().map(|look| look.serves_until_ns).max();
    until.filter(|until| *until > 0).map(Moment::from_nanos)
}

/// How far its drain is: as far as in the source that is furthest behind, of
/// those that have it.
fn drain(looks: &[Look]) -> Option<DrainStep> {
    if looks.iter().all(|look| look.status.drain.is_none()) {
        return None;
    }
    let is_theirs = |look: &&Look| {
        look.status.is_registered || look.status.drain >= Some(DrainStep::Acknowledged)
    };
    let theirs = looks.iter().filter(is_theirs);
    let step = theirs.map(|look| look.status.drain.unwrap_or(DrainStep::Waiting));
    Some(step.min().unwrap_or(DrainStep::Waiting))
}
