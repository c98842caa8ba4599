//! What registries have in common that are kept in a store of somebody else's:
//! who may have an id, what a registration is to do, who watches what.

mod claim;
mod orders;
mod subscribers;

pub(crate) use claim::{Claim, claim, draining, lost_to, merged};
pub(crate) use orders::{Again, Order, Wanted};
pub(crate) use subscribers::{Subscriber, Subscribers};
