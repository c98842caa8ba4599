//! Changes of an entry in place, each on the condition that nobody else was
//! faster.

use std::sync::Arc;

use waystation_membership::{Instance, InstanceId};

use super::shape::{Entry, Store, StoreFault, Written};
use crate::limits::STORE_TRIES;

/// What became of a change.
#[derive(Debug)]
pub(super) enum Changed<M> {
    /// It stands as it should.
    Done(Arc<Instance>),
    /// There is none, or not the one that was meant.
    Not(Option<Entry<M>>),
}

/// Changes an instance, which goes on living with what it lives with, if `edit`
/// finds that it is the right one.
pub(super) async fn change<S: Store>(
    store: &S,
    wire: &S::Wire,
    id: &InstanceId,
    edit: impl Fn(&Instance, &S::Mark) -> Option<Instance>,
) -> Result<Changed<S::Mark>, S::Fault> {
    // What is known here may be old. A write finds that out; before anything
    // else is said it is asked.
    let mut stand = store.known(id);
    let mut is_sure = false;
    for _ in 0..STORE_TRIES {
        let instance = stand.as_ref().and_then(|entry| {
            let instance = entry.instance.as_deref()?;
            Some((instance, edit(instance, &entry.mark)?))
        });
        let (Some((instance, edited)), Some(entry)) = (instance, &stand) else {
            if is_sure {
                return Ok(Changed::Not(stand));
            }
            stand = store.read(wire, id).await?;
            is_sure = true;
            continue;
        };
        if *instance == edited && is_sure {
            return Ok(Changed::Done(Arc::new(edited)));
        }
        stand = match store.change(wire, entry, &edited).await? {
            Written::Done(_) => return Ok(Changed::Done(Arc::new(edited))),
            Written::Beaten(found) => found,
            Written::Unsure => store.read(wire, id).await?,
        };
        is_sure = true;
    }
    Err(S::Fault::overtaken())
}
