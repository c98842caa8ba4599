//! A process' place among the nodes, from its start to its end in order.

use std::time::Duration;

use tokio::time::timeout;
use waystation_membership::{DrainStep, Instance, State, Update};

use crate::error::Error;
use crate::handle::{Registered, RegistrationStatus};
use crate::limits::{LEAVE_LOOK, PLACE_END_WAIT, PLACE_SPARE};
use crate::registries::Registries;
use crate::registry::{DrainWaits, RegistrationOptions, Registry, SessionState};

/// A node's place among the nodes: registered as starting, then as serving,
/// drained, and out.
///
/// ```no_run
/// # use waystation_membership::Instance;
/// # use waystation_registry::{DrainWaits, Error, Place, Registries};
/// # async fn run(registries: Registries, instance: Instance) -> Result<(), Error> {
/// let place = Place::take(&registries, instance, DrainWaits::default())?;
/// // Listen; wait for what it needs itself.
/// place.serve().await;
/// // Wait for a signal, or until somebody drains it:
/// place.until_drained().await;
/// place.announce_end().await;
/// // Nothing new comes: end what is in flight.
/// place.leave().await;
/// # Ok(())
/// # }
/// ```
pub struct Place {
    registries: Registries,
    registered: Registered,
    waits: DrainWaits,
}

impl Place {
    /// Registers `instance` as starting. It stays registered, whatever becomes
    /// of the registry, until it leaves or the value is dropped. `waits` says how
    /// long it is willing to be drained.
    ///
    /// # Errors
    /// The instance is out of rule, or the registry takes no registrations.
    pub fn take(
        registries: &Registries,
        mut instance: Instance,
        waits: DrainWaits,
    ) -> Result<Self, Error> {
        instance.state = State::Starting;
        let options = RegistrationOptions {
            drain: waits,
            ..RegistrationOptions::default()
        };
        let registered = registries.register(instance, options)?;
        Ok(Self {
            registries: registries.clone(),
            registered,
            waits,
        })
    }

    /// The registration.
    pub fn registered(&self) -> &Registered {
        &self.registered
    }

    /// Says that the node takes requests now, and waits until the registry has
    /// granted its lease. The caller puts a deadline on it, or none: a registry
    /// that is away is waited for.
    pub async fn serve(&self) {
        let update = Update {
            is_serving: true,
            ..Update::default()
        };
        let updated = self.registered.update(update);
        updated.expect("to begin to serve never breaks a rule");
        self.registered.until(|status| status.is_registered).await;
    }

    /// Waits until somebody else has begun to drain the node.
    pub async fn until_drained(&self) {
        self.registered.until(|status| status.drain.is_some()).await;
    }

    /// Begins to drain, and waits until every subscriber has said that its
    /// callers send nothing new here: at most as long as it is willing to, with
    /// [`PLACE_SPARE`] for the registry's word on that, and no longer than the
    /// registry can be talked to.
    pub async fn announce_end(&self) {
        self.registered.drain();
        let wait = self.waits.acknowledged + PLACE_SPARE;
        self.reach(wait, DrainStep::Acknowledged).await;
    }

    /// Says that nothing is in flight any more, and waits until the node is
    /// out: at most [`PLACE_END_WAIT`], and no longer than the registry can be
    /// talked to. What it does not confirm ends with the lease.
    pub async fn leave(self) {
        self.registered.idle();
        self.reach(PLACE_END_WAIT, DrainStep::Ended).await;
        let registries = self.registries.clone();
        drop(self);
        registries.close().await;
    }

    async fn reach(&self, wait: Duration, step: DrainStep) {
        let reached = async {
            let is_there = |status: &RegistrationStatus| status.drain >= Some(step);
            while timeout(LEAVE_LOOK, self.registered.until(is_there))
                .await
                .is_err()
            {
                if self.registries.session().state != SessionState::Connected {
                    return;
                }
            }
        };
        // A subscriber that hangs does not hold the node for ever.
        let _ = timeout(wait, reached).await;
    }
}
