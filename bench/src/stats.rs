//! Summaries of repeated measurements.

/// Median and extremes of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// The middle value; the mean of the middle two of an even number.
    pub(crate) median: f64,
    /// The smallest value.
    pub(crate) min: f64,
    /// The largest value.
    pub(crate) max: f64,
}

impl Summary {
    /// The summary of `values`; `None` without values. Cost: O(n log n).
    ///
    /// # Panics
    /// On a value that is not finite: it comes from a division by a measurement of zero, which
    /// the benchmark must not make.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        assert!(
            values.iter().all(|value| value.is_finite()),
            "a measurement is not a number: {values:?}"
        );
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

/// What each round's `values` are of the same round's `base`. Ratios within a round hold when the
/// machine's speed changes between rounds; a ratio of two medians does not.
///
/// # Panics
/// When the two series do not have the same number of rounds.
pub(crate) fn ratios(values: &[f64], base: &[f64]) -> Vec<f64> {
    assert_eq!(
        values.len(),
        base.len(),
        "ratios need both sides of each round"
    );
    values.iter().zip(base).map(|(one, of)| one / of).collect()
}

/// `part / whole`, and zero of nothing.
pub(crate) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A count as a number to calculate with.
pub(crate) fn number(count: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts stay far below 2^53, up to which a float holds every number"
    )]
    let number = count as f64;
    number
}

/// The order in which `sides` take their turns in `round`: each begins equally often, so that
/// none always runs behind the same other.
pub(crate) fn order(sides: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sides)
        .map(|turn| (turn + round / 2) % sides.max(1))
        .collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(values: &[f64]) -> (f64, f64, f64) {
        let Summary { median, min, max } = Summary::of(values).unwrap();
        (median, min, max)
    }

    #[test]
    fn the_median_is_the_middle_value_whatever_the_order() {
        assert_eq!(summary(&[5.0]), (5.0, 5.0, 5.0));
        assert_eq!(summary(&[9.0, 1.0, 4.0]), (4.0, 1.0, 9.0));
        assert_eq!(summary(&[8.0, 2.0, 4.0, 100.0]), (6.0, 2.0, 100.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    #[should_panic(expected = "a measurement is not a number")]
    fn a_division_by_zero_does_not_become_a_result() {
        Summary::of(&[1.0, f64::INFINITY]);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round ran on a machine ten times slower: the ratio does not see it.
        assert_eq!(ratios(&[2.0, 30.0], &[1.0, 10.0]), [2.0, 3.0]);
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(share(1.0, 4.0).to_bits(), 0.25_f64.to_bits());
        assert_eq!(share(1.0, 0.0).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn every_side_begins_and_ends_equally_often() {
        for sides in 1..6 {
            let rounds: Vec<_> = (0..2 * sides).map(|round| order(sides, round)).collect();
            for side in 0..sides {
                let begins = rounds.iter().filter(|order| order[0] == side).count();
                let ends = rounds
                    .iter()
                    .filter(|order| order[sides - 1] == side)
                    .count();
                assert_eq!((begins, ends), (2, 2), "side {side} of {sides}: {rounds:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn half_of_the_values_lie_on_each_side_of_the_median(
            values in prop::collection::vec(-1e9..1e9_f64, 1..60),
        ) {
            let Summary { median, min, max } = Summary::of(&values).unwrap();
            let below = values.iter().filter(|&&value| value < median).count();
            let above = values.iter().filter(|&&value| value > median).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
            prop_assert!(values.iter().all(|&value| (min..=max).contains(&value)));
            prop_assert!(values.contains(&min) && values.contains(&max));
        }
    }
}
