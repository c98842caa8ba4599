use proptest::prelude::*;

use super::*;
use crate::test_support::{instance, service, version};

/// A view of the instances `a0…` with the given weights; `None` is absent.
fn view(number: u64, weights: &[Option<u32>]) -> View {
    let mut view = View::empty(service(), version(1, number));
    for (n, weight) in weights.iter().enumerate() {
        if let Some(weight) = weight {
            let mut one = instance(&format!("a{n}"), 1);
            one.weight = *weight;
            view.instances.insert(one.id.clone(), Arc::new(one));
        }
    }
    view
}

fn weights() -> impl Strategy<Value = Vec<Option<u32>>> {
    proptest::collection::vec(proptest::option::of(0..3_u32), 0..12)
}

proptest! {
    #[test]
    fn a_delta_turns_the_old_view_into_the_new_one(old in weights(), new in weights()) {
        let (mut held, new) = (view(1, &old), view(2, &new));
        let delta = held.delta_to(&new);
        prop_assert_eq!(held.apply(&delta), Ok(()));
        prop_assert_eq!(&held, &new);
        // Once more is old, and changes nothing.
        let again = held.apply(&delta);
        prop_assert!(matches!(again, Err(ApplyError::Old { .. })), "{again:?}");
        prop_assert_eq!(held, new);
    }

    #[test]
    fn any_order_with_losses_leads_to_the_same_view_or_to_a_gap(
        states in proptest::collection::vec(weights(), 2..8),
        order in proptest::collection::vec(0..8_usize, 0..20),
    ) {
        let views: Vec<View> = (1..).zip(&states).map(|(n, w)| view(n, w)).collect();
        let deltas: Vec<ViewDelta> = views.windows(2).map(|w| w[0].delta_to(&w[1])).collect();
        let mut held = views[0].clone();
        for index in order {
            let delta = &deltas[index % deltas.len()];
            let before = held.clone();
            if held.apply(delta).is_ok() {
                prop_assert_eq!(before.at, delta.from);
            } else {
                prop_assert_eq!(&before, &held);
            }
            let at = usize::try_from(held.at.number).unwrap() - 1;
            prop_assert_eq!(&held, &views[at]);
        }
    }
}

#[test]
fn a_missing_delta_is_a_gap() {
    let mut held = view(1, &[Some(1)]);
    let delta = view(2, &[]).delta_to(&view(3, &[Some(2)]));
    let gap = held.apply(&delta).unwrap_err();
    assert_eq!(
        gap.to_string(),
        "logic is at 1.1, the delta starts from 1.2"
    );
}

#[test]
fn another_epoch_is_a_gap_in_both_directions() {
    for epoch in [0, 2] {
        let mut held = view(5, &[Some(1)]);
        let mut from = held.clone();
        from.at = version(epoch, 5);
        let mut to = view(0, &[]);
        to.at = version(epoch, 6);
        let refused = held.apply(&from.delta_to(&to));
        assert!(
            matches!(refused, Err(ApplyError::Gap { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_delta_that_does_not_fit_changes_nothing() {
    let held = view(1, &[Some(1), None]);
    let fitting = held.delta_to(&view(2, &[None, Some(1)]));
    let breakages: [&dyn Fn(&mut ViewDelta); 4] = [
        &|d| d.added[0] = Arc::new(instance("a0", 1)),
        &|d| d.changed.push(Arc::new(instance("a7", 1))),
        &|d| d.removed[0].0 = instance("a7", 1).id,
        &|d| d.to = d.from,
    ];
    for breakage in breakages {
        let (mut one, mut delta) = (held.clone(), fitting.clone());
        breakage(&mut delta);
        assert!(one.apply(&delta).is_err());
        assert_eq!(one, held);
    }
    let mut other = fitting;
    other.service = ServiceName::new("das").unwrap();
    let refused = held.clone().apply(&other);
    assert!(matches!(refused, Err(ApplyError::Service { .. })));
}
