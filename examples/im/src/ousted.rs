//! Whether a node has lost its place to another.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use waystation_membership::{GrantError, Refusal};
use waystation_registry::{Place, RegistrationStatus};

/// Whether another node has this one's place, by the registry's word. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ousted(Arc<AtomicBool>);

impl Ousted {
    /// Whether it has.
    pub(crate) fn is_true(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, is_ousted: bool) {
        self.0.store(is_ousted, Ordering::Release);
    }

    /// Keeps it true to what the registry says, for ever.
    pub(crate) async fn follow(&self, place: Option<&Place>) -> Infallible {
        let Some(place) = place else {
            return std::future::pending().await;
        };
        let is_ousted = |status: &RegistrationStatus| {
            let has_id = |error: &GrantError| {
                matches!(
                    error,
                    GrantError::Held { .. } | GrantError::Superseded { .. }
                )
            };
            let refusal = status.refusal.as_ref();
            !status.is_registered
                && refusal.is_some_and(
                    |refusal| matches!(refusal, Refusal::Lease { error, .. } if has_id(error)),
                )
        };
        loop {
            let is_true = self.is_true();
            let registered = place.registered();
            let status = registered.until(|status| is_ousted(status) != is_true);
            let id = status.await.instance.id;
            tracing::warn!(%id, ousted = !is_true, "another node has, or had, this one's place");
            self.set(!is_true);
        }
    }
}
