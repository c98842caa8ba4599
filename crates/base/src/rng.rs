//! Seeded randomness.

use std::ops::Range;

/// A seeded generator: the same seed gives the same sequence on every machine.
///
/// The generator is xoshiro256++ (David Blackman and Sebastiano Vigna,
/// "Scrambled Linear Pseudorandom Number Generators", ACM TOMS 47, 2021), its
/// state filled from the seed by splitmix64 as the authors advise. It is fast
/// and well spread, and it is predictable: never use it for a secret.
///
/// ```
/// use waystation_base::Rng;
///
/// let mut dice = Rng::from_seed(7);
/// let mut same = Rng::from_seed(7);
/// assert_eq!(dice.below(6), same.below(6));
/// ```
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// One step of splitmix64: advances `state` and returns a mixed number.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix64(*state)
}

/// The finaliser of splitmix64: a bijection under which every input bit changes
/// about half of the output bits.
pub(crate) const fn mix64(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Rng {
    /// A generator for `seed`. Log the seed: it is all that a replay needs.
    pub fn from_seed(seed: u64) -> Self {
        let mut mixer = seed;
        Self {
            state: std::array::from_fn(|_| splitmix64(&mut mixer)),
        }
    }

    /// A uniform number of 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        const STEP: f64 = f64::EPSILON / 2.0;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let bits = (self.next_u64() >> 11) as f64;
        bits * STEP
    }

    /// A uniform number in `[0, n)`, without bias: the multiplication method of
    /// Daniel Lemire, "Fast Random Integer Generation in an Interval", ACM TOMACS
    /// 29, 2019, algorithm 5. Draws again with probability below `n / 2^64`.
    ///
    /// # Panics
    /// When `n` is zero: there is no number to return.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below zero");
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if low(product) < n {
            let threshold = n.wrapping_neg() % n;
            while low(product) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// A uniform number in `range`.
    ///
    /// # Panics
    /// When `range` is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "the range {range:?} is empty");
        range.start + self.below(range.end - range.start)
    }

    /// True with the given probability; at 0 and below never, at 1 and above
    /// always.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.next_f64() < probability
    }

    /// Brings `items` into a uniformly random order (Fisher and Yates, in
    /// Durstenfeld's form). Cost: O(n).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// One of `items`, each equally likely; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            return None;
        }
        items.get(self.index(items.len()))
    }

    /// An independent generator, seeded from this one: what its owner draws no
    /// longer shifts what others draw.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.next_u64())
    }

    /// A number of the exponential distribution with the given mean: the gaps
    /// between arrivals of an open-loop load. Never negative, never infinite
    /// for a finite mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // 1 - [0, 1) is (0, 1], so that the logarithm stays finite.
        -(1.0 - self.next_f64()).ln() * mean
    }

    /// A uniform index below `len`, which must not be zero.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the result is below a usize"
    )]
    fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low(product: u128) -> u64 {
    product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_is_fixed() {
        // splitmix64's published first outputs for seed 1234567.
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
        // xoshiro256++'s first outputs from the state (1, 2, 3, 4).
        let mut rng = Rng {
            state: [1, 2, 3, 4],
        };
        assert_eq!(rng.next_u64(), 41_943_041);
        assert_eq!(rng.next_u64(), 58_720_359);
    }

    #[test]
    fn below_reaches_every_number_evenly() {
        let mut rng = Rng::from_seed(1);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[rng.index(7)] += 1;
        }
        // Six standard deviations around 10,000, for a fixed seed.
        assert!(
            counts.iter().all(|n| (9_440..10_560).contains(n)),
            "{counts:?}"
        );
        assert!((0..100).all(|_| rng.below(1) == 0));
        assert!((0..100).all(|_| rng.below(u64::MAX) < u64::MAX));
    }

    #[test]
    fn fractions_and_chances_stay_in_their_bounds() {
        let mut rng = Rng::from_seed(2);
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&rng.next_f64())));
        assert!((0..100).all(|_| !rng.chance(0.0) && rng.chance(1.0)));
        let hits = (0..10_000).filter(|_| rng.chance(0.25)).count();
        assert!((2_240..2_760).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| (5..8).contains(&rng.range(5..8))));
    }

    #[test]
    fn exponential_has_its_mean() {
        let mut rng = Rng::from_seed(3);
        let sum: f64 = (0..100_000).map(|_| rng.exponential(20.0)).sum();
        assert!((1_962_000.0..2_038_000.0).contains(&sum), "{sum}");
    }

    #[test]
    fn shuffle_and_pick_keep_the_items() {
        let mut rng = Rng::from_seed(4);
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        assert!(items.contains(rng.pick(&items).unwrap()));
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        assert_eq!(rng.pick::<u8>(&[]), None);
    }

    #[test]
    fn a_fork_is_independent_of_its_parent() {
        let mut parent = Rng::from_seed(5);
        let mut child = parent.fork();
        let drawn: Vec<u64> = (0..4).map(|_| child.next_u64()).collect();
        let mut other = Rng::from_seed(5);
        let mut twin = other.fork();
        other.next_u64();
        assert_eq!(drawn, (0..4).map(|_| twin.next_u64()).collect::<Vec<_>>());
        assert_ne!(drawn[0], parent.next_u64());
    }
}
