//! Registrations, leases and what is refused.

use std::time::Duration;

use waystation_base::{FencingToken, Moment};
use waystation_membership::{
    DrainStep, GrantError, Granted, HolderError, InstanceId, Lease, Owner, OwnerId, Refusal,
    Register, Renewed, Update,
};

use super::super::proto;
use super::{
    Malformed, instance, instance_id, instance_message, millis, state, state_number, wide,
    wide_bytes,
};

pub(crate) fn register(message: proto::Register) -> Result<Register, Malformed> {
    let asked = message
        .instance
        .ok_or_else(|| Malformed::absent("the instance"))?;
    Ok(Register {
        instance: instance(asked)?,
        ttl: Duration::from_millis(message.ttl_ms),
        token_seen: FencingToken(message.token_seen),
        lift: FencingToken(message.lift),
    })
}

pub(crate) fn register_message(register: &Register) -> proto::Register {
    proto::Register {
        instance: Some(instance_message(&register.instance)),
        ttl_ms: millis(register.ttl),
        token_seen: register.token_seen.0,
        lift: register.lift.0,
    }
}

pub(crate) fn granted_message(granted: Granted) -> proto::Granted {
    proto::Granted {
        token: granted.token.0,
        ttl_ms: millis(granted.ttl),
        state: state_number(granted.state),
    }
}

pub(crate) fn granted(message: proto::Granted) -> Result<Granted, Malformed> {
    Ok(Granted {
        token: FencingToken(message.token),
        ttl: Duration::from_millis(message.ttl_ms),
        state: state(message.state)?,
    })
}

pub(crate) fn renewed_message(renewed: Renewed) -> proto::Renewal {
    proto::Renewal {
        ttl_ms: millis(renewed.ttl),
        state: state_number(renewed.state),
        drain: drain_number(renewed.drain),
    }
}

pub(crate) fn renewed(message: proto::Renewal) -> Result<Renewed, Malformed> {
    Ok(Renewed {
        ttl: Duration::from_millis(message.ttl_ms),
        state: state(message.state)?,
        drain: drain_step(message.drain)?,
    })
}

pub(crate) fn drain_number(step: Option<DrainStep>) -> i32 {
    let step = match step {
        None => proto::DrainStep::None,
        Some(DrainStep::Waiting) => proto::DrainStep::Waiting,
        Some(DrainStep::Acknowledged) => proto::DrainStep::Acknowledged,
        Some(DrainStep::Ended) => proto::DrainStep::Ended,
    };
    step.into()
}

pub(crate) fn drain_step(number: i32) -> Result<Option<DrainStep>, Malformed> {
    match proto::DrainStep::try_from(number) {
        Ok(proto::DrainStep::None) => Ok(None),
        Ok(proto::DrainStep::Waiting) => Ok(Some(DrainStep::Waiting)),
        Ok(proto::DrainStep::Acknowledged) => Ok(Some(DrainStep::Acknowledged)),
        Ok(proto::DrainStep::Ended) => Ok(Some(DrainStep::Ended)),
        Err(_) => Err(Malformed(format!("drain step {number} is not known"))),
    }
}

pub(crate) fn refused_message(refusal: &Refusal) -> proto::Refused {
    use proto::refused::Reason;
    let (reason, held, holder) = match refusal {
        Refusal::Lease { error, holder } => {
            let (reason, held) = match error {
                GrantError::Held { held } => (Reason::Held, Some(held)),
                GrantError::Superseded { held } => (Reason::Superseded, Some(held)),
                GrantError::Full => (Reason::LeasesFull, None),
                GrantError::TokensSpent => (Reason::TokensSpent, None),
                _ => (Reason::Other, None),
            };
            (reason, held.map(lease_message), holder.clone())
        }
        Refusal::Holder(HolderError::Unknown) => (Reason::Unknown, None, None),
        Refusal::Holder(HolderError::Fenced { current }) => {
            let held = proto::Lease {
                token: current.0,
                ..proto::Lease::default()
            };
            (Reason::Fenced, Some(held), None)
        }
        Refusal::Drained => (Reason::Drained, None, None),
        Refusal::ServicesFull => (Reason::ServicesFull, None, None),
        _ => (Reason::Other, None, None),
    };
    proto::Refused {
        reason: reason.into(),
        text: refusal.to_string(),
        held,
        holder_address: holder.map_or_else(String::new, |address| address.to_string()),
    }
}

fn lease_message(lease: &Lease) -> proto::Lease {
    proto::Lease {
        owner: wide_bytes(lease.owner.id.0),
        incarnation: lease.owner.incarnation,
        token: lease.token.0,
        ttl_ms: millis(lease.ttl),
    }
}

/// The lease of somebody else, whose deadline is not told.
fn lease(message: Option<proto::Lease>) -> Result<Lease, Malformed> {
    let message = message.ok_or_else(|| Malformed::absent("the lease"))?;
    Ok(Lease {
        owner: Owner {
            id: OwnerId(wide(&message.owner)?),
            incarnation: message.incarnation,
        },
        token: FencingToken(message.token),
        ttl: Duration::from_millis(message.ttl_ms),
        deadline: Moment::FAR_FUTURE,
    })
}

pub(crate) fn refusal(message: proto::Refused) -> Result<Refusal, Malformed> {
    use proto::refused::Reason;
    let holder = message.holder_address.parse().ok();
    let of_lease = |error| Refusal::Lease { error, holder };
    let reason = Reason::try_from(message.reason).unwrap_or(Reason::Other);
    Ok(match reason {
        Reason::Held => of_lease(GrantError::Held {
            held: lease(message.held)?,
        }),
        Reason::Superseded => of_lease(GrantError::Superseded {
            held: lease(message.held)?,
        }),
        Reason::LeasesFull => of_lease(GrantError::Full),
        Reason::TokensSpent => of_lease(GrantError::TokensSpent),
        Reason::Unknown => Refusal::Holder(HolderError::Unknown),
        Reason::Fenced => Refusal::Holder(HolderError::Fenced {
            current: FencingToken(message.held.map_or(0, |held| held.token)),
        }),
        Reason::Drained => Refusal::Drained,
        Reason::ServicesFull => Refusal::ServicesFull,
        Reason::Other => Refusal::Other(message.text.into()),
    })
}

pub(crate) fn update_message(
    id: &InstanceId,
    token: FencingToken,
    update: &Update,
) -> proto::Update {
    let entries = update.metadata.clone();
    proto::Update {
        held: Some(held_message(id, token)),
        weight: update.weight,
        metadata: entries.map(|entries| proto::Metadata { entries }),
        serving: update.is_serving,
    }
}

pub(crate) fn update(message: proto::Update) -> Result<(proto::Held, Update), Malformed> {
    let held = message
        .held
        .ok_or_else(|| Malformed::absent("the holder"))?;
    let update = Update {
        weight: message.weight,
        metadata: message.metadata.map(|metadata| metadata.entries),
        is_serving: message.serving,
    };
    Ok((held, update))
}

pub(crate) fn held_message(id: &InstanceId, token: FencingToken) -> proto::Held {
    proto::Held {
        id: id.to_string(),
        token: token.0,
    }
}

pub(crate) fn leave_message(id: &InstanceId, owner: Owner) -> proto::Leave {
    proto::Leave {
        id: id.to_string(),
        owner: wide_bytes(owner.id.0),
        incarnation: owner.incarnation,
    }
}

pub(crate) fn leave(message: &proto::Leave) -> Result<(InstanceId, Owner), Malformed> {
    let owner = Owner {
        id: OwnerId(wide(&message.owner)?),
        incarnation: message.incarnation,
    };
    Ok((instance_id(&message.id)?, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_with_the_holders_address() {
        let held = Lease {
            owner: Owner {
                id: OwnerId(u128::MAX),
                incarnation: 3,
            },
            token: FencingToken(9),
            ttl: Duration::from_secs(6),
            deadline: Moment::FAR_FUTURE,
        };
        let holder = Some("10.0.0.1:7000".parse().unwrap());
        let of_lease = |error| Refusal::Lease {
            error,
            holder: holder.clone(),
        };
        let fenced = HolderError::Fenced {
            current: FencingToken(4),
        };
        for one in [
            of_lease(GrantError::Held { held }),
            of_lease(GrantError::Superseded { held }),
            of_lease(GrantError::Full),
            of_lease(GrantError::TokensSpent),
            Refusal::Holder(HolderError::Unknown),
            Refusal::Holder(fenced),
            Refusal::Drained,
            Refusal::ServicesFull,
            Refusal::Other("as it says".into()),
        ] {
            assert_eq!(refusal(refused_message(&one)).unwrap(), one);
        }
    }
}
