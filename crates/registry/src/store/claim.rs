//! Who may have an id.

use std::time::Duration;

use waystation_base::Moment;
use waystation_membership::{GrantError, HolderError, Instance, Lease, Refusal, Register, State};

/// What stands at an id, seen from who asks for it.
#[derive(Debug, PartialEq)]
pub(crate) enum Claim {
    /// Another's: it stays.
    Refused(Refusal),
    /// Its own, from before: it is to be replaced under a higher token.
    Behind,
    /// Its own, of this start: it keeps its token.
    Same,
}

/// What `register` may do about an id that `held` has.
pub(crate) fn claim(register: &Register, held: &Instance) -> Claim {
    let owner = register.instance.owner;
    let refuse = |error: fn(Lease) -> GrantError| {
        Claim::Refused(Refusal::Lease {
            error: error(Lease {
                owner: held.owner,
                token: held.token,
                // The store does not say.
                ttl: Duration::ZERO,
                deadline: Moment::FAR_FUTURE,
            }),
            holder: Some(held.address.clone()),
        })
    };
    if held.owner.id != owner.id {
        return refuse(|held| GrantError::Held { held });
    }
    if held.owner.incarnation > owner.incarnation {
        return refuse(|held| GrantError::Superseded { held });
    }
    let above = register.token_seen.max(register.lift);
    if held.owner == owner && held.token >= above {
        return Claim::Same;
    }
    Claim::Behind
}

/// Why what was held is held no longer, when this stands in its place.
pub(crate) fn lost_to(instance: Option<&Instance>) -> HolderError {
    instance.map_or(HolderError::Unknown, |instance| HolderError::Fenced {
        current: instance.token,
    })
}

/// What an owner wants, where a drain stays a drain.
pub(crate) fn merged(wanted: &Instance, stands: &Instance) -> Instance {
    let mut instance = wanted.clone();
    instance.token = stands.token;
    if stands.state == State::Draining {
        instance.state = State::Draining;
    }
    instance
}

/// The same instance, draining.
pub(crate) fn draining(stands: &Instance) -> Instance {
    let mut instance = stands.clone();
    instance.state = State::Draining;
    instance
}
