//! All routes of a store, and what differs from one state to the next.

use std::collections::BTreeMap;

use crate::limits::COLLAPSE_MIN;
use crate::row::{Route, RouteKey};

/// All routes by what tells them apart.
#[derive(Debug, Default)]
pub(crate) struct Table {
    routes: BTreeMap<RouteKey, Route>,
}

/// What turns one state of a table into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Routes that are new or different.
    pub(crate) put: Vec<Route>,
    /// Routes that are gone.
    pub(crate) gone: Vec<RouteKey>,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// What is different in `routes`; the last of several with one key counts.
    /// Cost: O(routes · log routes).
    pub(crate) fn difference(&self, routes: Vec<Route>) -> Difference {
        let new: BTreeMap<RouteKey, Route> =
            routes.into_iter().map(|one| (one.key(), one)).collect();
        let gone = self.routes.keys().filter(|key| !new.contains_key(key));
        let gone = gone.cloned().collect();
        let is_new = |(key, route): &(RouteKey, Route)| self.routes.get(key) != Some(route);
        let put = new.into_iter().filter(is_new).map(|(_, route)| route);
        Difference {
            put: put.collect(),
            gone,
        }
    }

    /// Whether a store that says so may have lost its mind rather than its
    /// routes: more than half are gone at once.
    pub(crate) fn is_collapse(&self, difference: &Difference) -> bool {
        self.len() >= COLLAPSE_MIN && difference.gone.len() * 2 > self.len()
    }

    pub(crate) fn apply(&mut self, difference: &Difference) {
        for key in &difference.gone {
            self.routes.remove(key);
        }
        for route in &difference.put {
            self.routes.insert(route.key(), route.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        let address = format!("10.0.0.1:{port}").parse().unwrap();
        Route::new("pay".parse().unwrap(), address)
    }

    #[test]
    fn a_difference_leads_from_one_state_to_the_next() {
        let mut table = Table::default();
        let first = table.difference((1..=4).map(route).collect());
        assert_eq!((first.put.len(), first.gone.len()), (4, 0));
        table.apply(&first);
        let mut changed = route(2);
        changed.weight = 5;
        let next = vec![route(1), route(2), changed.clone(), route(5)];
        let second = table.difference(next);
        assert_eq!(second.put, [changed.clone(), route(5)]);
        assert_eq!(second.gone, [route(3).key(), route(4).key()]);
        table.apply(&second);
        let same = table.difference(vec![route(5), changed, route(1)]);
        assert!(same.is_empty());
        assert_eq!(table.routes().count(), 3);
    }

    #[test]
    fn a_collapse_is_more_than_half_of_not_too_few() {
        let with = |count: u16| {
            let mut table = Table::default();
            table.apply(&table.difference((1..=count).map(route).collect()));
            table
        };
        let lost = |count, left: u16| {
            let table = with(count);
            table.is_collapse(&table.difference((1..=left).map(route).collect()))
        };
        assert!(lost(4, 1));
        assert!(lost(100, 0));
        assert!(!lost(4, 2));
        assert!(!lost(3, 0));
    }
}
