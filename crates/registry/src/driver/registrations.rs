//! The registrations of a client.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use waystation_base::{Moment, Rng};
use waystation_membership::{Command, Registration};

use crate::backend::{Ask, Backend, Event, Key, Registering};
use crate::handle::{RegistrationSlot, RegistrationWish};

struct Running {
    slot: Arc<RegistrationSlot>,
    core: Registration,
    /// Whether the owner let go of it.
    is_dropped: bool,
}

/// All registrations of a client.
pub(super) struct Registrations {
    by_key: BTreeMap<Key, Running>,
    rng: Rng,
}

impl Registrations {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            by_key: BTreeMap::new(),
            rng,
        }
    }

    /// When something is due. Cost: O(registrations).
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let due = |running: &Running| running.core.poll_timeout();
        self.by_key.values().filter_map(due).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Moment, backend: &dyn Backend) {
        for running in self.by_key.values_mut() {
            if running.core.poll_timeout().is_some_and(|at| at <= now) {
                running.core.handle_timeout(now);
                running.settle(backend);
            }
        }
    }

    pub(super) fn handle_connected(&mut self, now: Moment, backend: &dyn Backend) {
        for running in self.by_key.values_mut() {
            running.core.handle_connected(now);
            running.settle(backend);
        }
    }

    pub(super) fn handle_disconnected(&mut self, backend: &dyn Backend) {
        for running in self.by_key.values_mut() {
            running.core.handle_disconnected();
            running.settle(backend);
        }
    }

    /// Looks at what an owner wants; true when the registration is over.
    pub(super) fn handle_order(
        &mut self,
        now: Moment,
        slot: &Arc<RegistrationSlot>,
        is_connected: bool,
        backend: &dyn Backend,
    ) -> bool {
        let wish = {
            let mut wish = slot.wish.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *wish)
        };
        let running = (self.by_key.entry(slot.key)).or_insert_with(|| {
            let config = slot.options.config;
            let instance = slot.status.read(|status| status.instance.clone());
            let mut core = Registration::new(instance, config, self.rng.next_u64());
            if is_connected {
                core.handle_connected(now);
            }
            Running {
                slot: Arc::clone(slot),
                core,
                is_dropped: false,
            }
        });
        running.handle_wish(now, wish);
        running.settle(backend);
        if running.is_dropped {
            running.ask(backend, Registering::Deregister);
            self.by_key.remove(&slot.key);
            return true;
        }
        false
    }

    /// An answer about a registration. One that is over is nobody's.
    pub(super) fn handle_event(&mut self, now: Moment, event: Event, backend: &dyn Backend) {
        let running = match &event {
            Event::Granted(key, ..)
            | Event::Renewed(key, ..)
            | Event::Refused(key, _)
            | Event::Unheld(key, _)
            | Event::Raised(key, _) => self.by_key.get_mut(key),
            Event::Drained(id, token, _) => (self.by_key.values_mut()).find(|one| {
                let instance = one.core.instance();
                instance.id == *id && instance.token == *token
            }),
            _ => None,
        };
        let Some(running) = running else { return };
        match event {
            Event::Granted(_, attempt, granted) => {
                running.core.handle_granted(now, attempt, granted);
            }
            Event::Renewed(_, attempt, renewed) => {
                running.core.handle_renewed(now, attempt, renewed);
            }
            Event::Refused(_, refusal) => running.core.handle_refused(now, refusal),
            Event::Unheld(_, error) => running.core.handle_unheld(now, error),
            Event::Raised(_, token) => {
                let id = &running.core.instance().id;
                tracing::info!(%id, %token, "registered on under a higher token");
                running.core.handle_raised(token);
            }
            Event::Drained(_, _, step) => running.core.handle_drain_step(step),
            _ => {}
        }
        running.settle(backend);
    }

    /// Takes everything out.
    pub(super) fn close(&mut self, backend: &dyn Backend) {
        for running in std::mem::take(&mut self.by_key).into_values() {
            running.ask(backend, Registering::Deregister);
            running.slot.set_serves_until(None);
            running
                .slot
                .status
                .update(|status| status.is_registered = false);
        }
    }
}

impl Running {
    fn handle_wish(&mut self, now: Moment, wish: RegistrationWish) {
        if let Some(update) = wish.update {
            self.core.handle_update(update);
        }
        if let Some(token) = wish.lift {
            self.core.handle_lift(now, token);
        }
        if wish.drain {
            self.core.handle_drain();
        }
        if wish.idle {
            self.core.handle_idle();
        }
        self.is_dropped |= wish.dropped;
    }

    /// Carries out what the core wants, and shows how it stands.
    fn settle(&mut self, backend: &dyn Backend) {
        let mut refused = None;
        let mut is_granted = false;
        while let Some(command) = self.core.poll_output() {
            match command {
                Command::Register { attempt, register } => {
                    self.ask(backend, Registering::Register(attempt, register));
                }
                Command::Renew { attempt, .. } => {
                    self.ask(backend, Registering::Renew(attempt));
                }
                Command::Update { update, .. } => self.ask(backend, Registering::Update(update)),
                Command::Drain { .. } => self.ask(backend, Registering::Drain),
                Command::Idle { .. } => self.ask(backend, Registering::Idle),
                Command::Registered { token } => {
                    is_granted = true;
                    let id = &self.core.instance().id;
                    tracing::info!(%id, %token, "registered");
                }
                Command::Fence => {
                    let id = &self.core.instance().id;
                    tracing::warn!(%id, "fenced: peers may soon take this node for gone");
                }
                Command::Refused(refusal) => {
                    let id = &self.core.instance().id;
                    tracing::warn!(%id, %refusal, "the registration is refused");
                    refused = Some(refusal);
                }
                Command::Drained => tracing::info!(id = %self.core.instance().id, "drained"),
                Command::Ended => tracing::info!(id = %self.core.instance().id, "out"),
            }
        }
        let serves_until = self.core.serves_until();
        if !self.is_dropped {
            self.slot.set_serves_until(serves_until);
        }
        self.slot.status.update(|status| {
            status.instance.clone_from(self.core.instance());
            status.is_registered = serves_until.is_some();
            status.drain = self.core.drain();
            if is_granted {
                status.refusal = None;
            }
            if let Some(refusal) = refused {
                status.refusal = Some(refusal);
                status.refusals += 1;
            }
        });
    }

    fn ask(&self, backend: &dyn Backend, what: Registering) {
        backend.handle(Ask::Registration {
            key: self.slot.key,
            instance: Box::new(self.core.instance().clone()),
            drain: self.slot.options.drain,
            what,
        });
    }
}
