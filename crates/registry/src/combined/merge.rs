//! One view of several sources' views of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_membership::{Instance, InstanceId, State};

use crate::registry::Change;

/// What one source shows of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Nothing before it was heard of the service.
    pub(super) change: Option<&'a Change>,
    /// Whether it is connected, and shows all that it has.
    pub(super) is_fresh: bool,
    /// Every instance of the service that it has shown while it was fresh.
    pub(super) known: &'a BTreeSet<InstanceId>,
}

/// The instances that are shown, and those among them that are doubted: an
/// instance is there as long as a source has it, once, however many do. It is as
/// fresh sources have it. One that only a source has that is not fresh does not
/// count if a fresh one has had it: that one knows better. It is doubted when all
/// who have it doubt it.
pub(super) fn merge(
    sources: &[Seen<'_>],
) -> (BTreeMap<InstanceId, Arc<Instance>>, Vec<InstanceId>) {
    let mut merged: BTreeMap<InstanceId, Arc<Instance>> = BTreeMap::new();
    let mut sure = BTreeSet::new();
    let has = |source: &Seen<'_>, id: &InstanceId| {
        let change = source.change;
        change.is_some_and(|change| change.view.instances.contains_key(id))
    };
    let of = |is_fresh: bool| sources.iter().filter(move |one| one.is_fresh == is_fresh);
    for source in of(true).chain(of(false)) {
        let Some(change) = source.change else {
            continue;
        };
        for (id, instance) in &change.view.instances {
            let is_known_elsewhere = of(true).any(|one| one.known.contains(id) && !has(one, id));
            if !source.is_fresh && is_known_elsewhere {
                continue;
            }
            let is_recalled = !source.is_fresh && of(true).any(|one| has(one, id));
            if !is_recalled && !change.kept.contains(id) {
                sure.insert(id.clone());
            }
            match merged.get_mut(id) {
                Some(fresh) if is_recalled => *fresh = recalled(fresh, instance),
                Some(other) => *other = joined(other, instance),
                None => {
                    merged.insert(id.clone(), Arc::clone(instance));
                }
            }
        }
    }
    let kept = merged.keys().filter(|id| !sure.contains(*id));
    let kept = kept.cloned().collect();
    (merged, kept)
}

/// One instance as two sources have it: the later token counts, and a drain that
/// only one has heard of is a drain.
fn joined(one: &Arc<Instance>, other: &Arc<Instance>) -> Arc<Instance> {
    let (earlier, later) = if one.token > other.token {
        (other, one)
    } else {
        (one, other)
    };
    let is_draining = earlier.owner == later.owner && earlier.state == State::Draining;
    if !is_draining || later.state == State::Draining {
        return Arc::clone(later);
    }
    let mut instance = Instance::clone(later);
    instance.state = State::Draining;
    Arc::new(instance)
}

/// What a fresh source has, and what one that is lost had last said of the same
/// start of the node: its token stays behind none that was shown, and its drain
/// is one.
fn recalled(fresh: &Arc<Instance>, lost: &Instance) -> Arc<Instance> {
    let is_drain = lost.state == State::Draining && fresh.state != State::Draining;
    if fresh.owner != lost.owner || lost.token <= fresh.token && !is_drain {
        return Arc::clone(fresh);
    }
    let mut instance = Instance::clone(fresh);
    instance.token = instance.token.max(lost.token);
    if is_drain {
        instance.state = State::Draining;
    }
    Arc::new(instance)
}

#[cfg(test)]
mod tests {
    use waystation_base::FencingToken;
    use waystation_membership::{View, ViewVersion};

    use super::*;
    use crate::test_support::instance;

    fn change(ids: &[(&str, u64)]) -> Change {
        let mut view = View::empty("a".parse().unwrap(), ViewVersion::default());
        for (id, token) in ids {
            let mut one = instance("a", id);
            one.token = FencingToken(*token);
            view.instances.insert(one.id.clone(), Arc::new(one));
        }
        Change {
            view: Arc::new(view),
            kept: Vec::new(),
            lapsed: BTreeSet::new(),
        }
    }

    fn ids(list: &[&str]) -> BTreeSet<InstanceId> {
        list.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn seen<'a>(change: &'a Change, is_fresh: bool, known: &'a BTreeSet<InstanceId>) -> Seen<'a> {
        let change = Some(change);
        Seen {
            change,
            is_fresh,
            known,
        }
    }

    fn shown(sources: &[Seen<'_>]) -> Vec<(String, u64)> {
        let (merged, _) = merge(sources);
        let shown = merged.values().map(|one| (one.id.to_string(), one.token.0));
        shown.collect()
    }

    fn pairs(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        let pairs = list.iter().map(|(id, token)| ((*id).to_owned(), *token));
        pairs.collect()
    }

    #[test]
    fn who_is_in_two_sources_is_shown_once_by_the_later_token() {
        let (one, other) = (
            change(&[("a-1", 5), ("a-2", 6)]),
            change(&[("a-1", 50), ("a-3", 3)]),
        );
        let known = ids(&[]);
        let sources = [seen(&one, true, &known), seen(&other, true, &known)];
        assert_eq!(
            shown(&sources),
            pairs(&[("a-1", 50), ("a-2", 6), ("a-3", 3)])
        );
    }

    /// The first source died with instances in it that ended since: they were
    /// shown for as long as it was dead.
    #[test]
    fn a_source_that_is_lost_does_not_keep_what_another_knows_to_be_gone() {
        let stale = change(&[("a-1", 5), ("a-2", 6), ("a-3", 7)]);
        let fresh = change(&[("a-2", 60)]);
        let (none, known) = (ids(&[]), ids(&["a-1", "a-2"]));
        let sources = [seen(&stale, false, &none), seen(&fresh, true, &known)];
        // What the other never had stays, since nobody knows better.
        assert_eq!(shown(&sources), pairs(&[("a-2", 60), ("a-3", 7)]));
        let sources = [seen(&stale, false, &none), seen(&fresh, false, &known)];
        assert_eq!(shown(&sources).len(), 3, "nobody is sure");
        let sources = [seen(&stale, true, &none), seen(&fresh, true, &known)];
        assert_eq!(shown(&sources).len(), 3, "one has all of them");
    }

    /// A source that had ended hid what another one said of the same node, and of
    /// its next start, since it had given the later token.
    #[test]
    fn a_source_that_is_lost_hides_nothing_that_another_says() {
        let stale = change(&[("a-1", 50), ("a-2", 60)]);
        let mut fresh = change(&[]);
        let view = Arc::make_mut(&mut fresh.view);
        let mut same = instance("a", "a-1");
        (same.token, same.weight) = (FencingToken(5), 7);
        let mut next = instance("a", "a-2");
        (next.token, next.owner.incarnation) = (FencingToken(6), 2);
        next.address = "10.0.0.2:7000".parse().unwrap();
        for one in [&same, &next] {
            view.instances.insert(one.id.clone(), Arc::new(one.clone()));
        }
        let known = ids(&["a-1", "a-2"]);
        let both = [seen(&stale, false, &known), seen(&fresh, true, &known)];
        for sources in [both, [both[1], both[0]]] {
            let (merged, _) = merge(&sources);
            let of_same = &merged["a-1"];
            assert_eq!((of_same.weight, of_same.token), (7, FencingToken(50)));
            assert_eq!(*merged["a-2"], next, "another start has its own token");
        }
    }

    #[test]
    fn doubts_count_when_all_have_them() {
        let id: InstanceId = "a-1".parse().unwrap();
        let (mut one, mut other) = (change(&[("a-1", 5)]), change(&[("a-1", 6)]));
        one.kept.push(id.clone());
        let known = ids(&[]);
        let kept = |one: &Change, other: &Change| {
            merge(&[seen(one, true, &known), seen(other, true, &known)]).1
        };
        assert_eq!(kept(&one, &other), []);
        other.kept.push(id.clone());
        assert_eq!(kept(&one, &other), [id]);
    }

    #[test]
    fn a_drain_that_one_source_knows_of_is_a_drain() {
        let mut one = instance("a", "a-1");
        one.state = State::Draining;
        let mut other = instance("a", "a-1");
        other.token = FencingToken(9);
        let both = joined(&Arc::new(one.clone()), &Arc::new(other.clone()));
        assert_eq!((both.token, both.state), (FencingToken(9), State::Draining));
        // What another owner before did is not its.
        other.owner.incarnation += 1;
        let both = joined(&Arc::new(one), &Arc::new(other));
        assert_eq!(both.state, State::Serving);
    }
}
