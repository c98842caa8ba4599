//! Nodes of one service that must stand in one directory, since they share what
//! is there.

use waystation_base::FencingToken;
use waystation_membership::{Instance, InstanceId, OwnerId, State, View};

/// What a view says of an instance that wants to serve beside others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It is not listed yet.
    Unlisted,
    /// This one of another directory serves, or is to serve first.
    After(&'a Instance),
    /// It may serve.
    Free,
}

/// Whether the instance `id` of the directory `owner` may serve: nobody of
/// another directory does, or was registered before it. Of two that start at the
/// same time one at least sees the other, and the one that was registered first
/// goes on. Nobody knows the directory of what stands in a list.
pub(crate) fn standing<'a>(view: &'a View, id: &InstanceId, owner: OwnerId) -> Standing<'a> {
    let own = view.instances.get(id).filter(|own| own.owner.id == owner);
    let Some(own) = own else {
        return Standing::Unlisted;
    };
    let place = |one: &Instance| (one.token, one.id.clone());
    let is_before = |other: &&Instance| {
        let is_known = other.owner.id != OwnerId::default() && other.token != FencingToken(0);
        let is_first = other.state != State::Starting || place(other) < place(own);
        is_known && other.owner.id != owner && is_first
    };
    let mut others = view.instances.values().map(|other| &**other);
    others
        .find(is_before)
        .map_or(Standing::Free, Standing::After)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use waystation_base::{Epoch, ServiceName};
    use waystation_membership::{Owner, ViewVersion};

    fn das(id: &str, directory: u128, token: u64, state: State) -> Instance {
        let service = ServiceName::new("im.das").unwrap();
        let address = "unix:/run/das.rpc".parse().unwrap();
        let owner = Owner {
            id: OwnerId(directory),
            incarnation: 1,
        };
        let id = InstanceId::new(id).unwrap();
        let mut instance = Instance::new(id, service, address, owner);
        (instance.token, instance.state) = (FencingToken(token), state);
        instance
    }

    /// Whom `das-2` of directory 2, registered fifth, stands behind.
    fn before(others: &[Instance]) -> Option<String> {
        let at = ViewVersion {
            epoch: Epoch(1),
            number: 1,
        };
        let mut view = View::empty(ServiceName::new("im.das").unwrap(), at);
        let own = das("das-2", 2, 5, State::Starting);
        for one in others.iter().chain([&own]) {
            let one = Arc::new(one.clone());
            view.instances.insert(one.id.clone(), one);
        }
        match standing(&view, &own.id, OwnerId(2)) {
            Standing::After(other) => Some(other.id.to_string()),
            Standing::Free => None,
            Standing::Unlisted => panic!("it is listed"),
        }
    }

    /// Two Das with a database each served one chat, a part of it each.
    #[test]
    fn one_of_another_directory_waits_for_those_that_serve_or_were_first() {
        use State::{Draining, Serving, Starting};
        assert_eq!(before(&[]), None);
        assert_eq!(
            before(&[das("das-1", 2, 3, Serving)]),
            None,
            "same database"
        );
        for state in [Serving, Draining] {
            let first = Some("das-1".to_owned());
            assert_eq!(before(&[das("das-1", 1, 9, state)]), first);
        }
        let first = Some("das-1".to_owned());
        assert_eq!(before(&[das("das-1", 1, 4, Starting)]), first);
        assert_eq!(
            before(&[das("das-1", 1, 6, Starting)]),
            None,
            "it came later"
        );
        assert_eq!(before(&[das("das-1", 0, 0, Serving)]), None, "from a list");
    }

    #[test]
    fn who_is_not_listed_or_whose_id_another_has_is_not_free() {
        let at = ViewVersion {
            epoch: Epoch(1),
            number: 1,
        };
        let mut view = View::empty(ServiceName::new("im.das").unwrap(), at);
        let id = InstanceId::new("das-1").unwrap();
        assert_eq!(standing(&view, &id, OwnerId(2)), Standing::Unlisted);
        let other = das("das-1", 1, 1, State::Serving);
        view.instances.insert(id.clone(), other.into());
        assert_eq!(standing(&view, &id, OwnerId(2)), Standing::Unlisted);
    }
}
