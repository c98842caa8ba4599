//! Changes of an instance's node in place, each on the condition that nobody
//! else was faster.

use std::sync::Arc;

use waystation_membership::{Instance, InstanceId};

use super::backend::Shared;
use super::entry::data_of;
use super::replica::{Entry, entry_of};
use super::wire::{Fault, Wire};
use crate::limits::ZOOKEEPER_TRIES;

/// What became of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// It stands as it should.
    Done(Arc<Instance>),
    /// The node is not there, or not the one that was meant.
    Not(Option<Entry>),
}

/// Changes an instance in the session that it lives with, if `edit` finds that
/// it is the right one.
pub(super) async fn change(
    shared: &Shared,
    wire: &Wire,
    id: &InstanceId,
    edit: impl Fn(&Instance) -> Option<Instance>,
) -> Result<Changed, Fault> {
    let path = shared.paths.instance(id);
    let mut stand = shared.replica.borrow().entry(id).cloned();
    let mut is_sure = false;
    for _ in 0..ZOOKEEPER_TRIES {
        let instance = stand.as_ref().and_then(|entry| entry.instance.as_deref());
        let edited = instance.and_then(&edit);
        let (Some(instance), Some(edited), Some(entry)) = (instance, edited, &stand) else {
            if is_sure {
                return Ok(Changed::Not(stand));
            }
            stand = read(shared, wire, id).await?;
            is_sure = true;
            continue;
        };
        if *instance == edited && is_sure {
            return Ok(Changed::Done(Arc::new(edited)));
        }
        // A node that was made anew counts its versions from zero again, and may
        // be taken for the one that was meant. Its owner sees then that what it
        // holds is another's, and replaces it: see `Registrant::check`.
        let version = Some(entry.version);
        match wire.set(&path, &data_of(&edited), version).await {
            Ok(stat) if stat.czxid == entry.czxid => return Ok(Changed::Done(Arc::new(edited))),
            Ok(_) => {}
            Err(fault) if fault.is_conflict() => {}
            Err(fault) => return Err(fault),
        }
        stand = read(shared, wire, id).await?;
        is_sure = true;
    }
    Err(Fault::Nonsense("others are always faster"))
}

pub(super) async fn read(
    shared: &Shared,
    wire: &Wire,
    id: &InstanceId,
) -> Result<Option<Entry>, Fault> {
    let found = wire.get(&shared.paths.instance(id)).await?;
    let marks = shared.replica.borrow().marks();
    Ok(found.map(|found| entry_of(id.as_str(), &found, &marks).0))
}
