//! The recent median latency that replies carry.

use std::time::Duration;

use crate::limits::LATENCY_WINDOW;

/// Additions between two sorts.
const REFRESH: u32 = 16;

/// The last [`LATENCY_WINDOW`] latencies, in µs. Cost of adding: a store, and
/// a sort of 64 numbers each 16th time.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    window: [u32; LATENCY_WINDOW],
    filled: usize,
    next: usize,
    since_sort: u32,
    median_us: u32,
    p95_us: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            window: [0; LATENCY_WINDOW],
            filled: 0,
            next: 0,
            since_sort: 0,
            median_us: 0,
            p95_us: 0,
        }
    }
}

impl Latency {
    pub(crate) fn add(&mut self, took: Duration) {
        self.window[self.next] = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.next = (self.next + 1) % LATENCY_WINDOW;
        self.filled = (self.filled + 1).min(LATENCY_WINDOW);
        self.since_sort += 1;
        if self.since_sort >= REFRESH || self.filled == 1 {
            self.since_sort = 0;
            let mut sorted = self.window;
            let sorted = &mut sorted[..self.filled];
            sorted.sort_unstable();
            self.median_us = sorted[sorted.len() / 2];
            self.p95_us = sorted[sorted.len() * 95 / 100];
        }
    }

    pub(crate) fn median_us(&self) -> u32 {
        self.median_us
    }

    /// What 95 of 100 do not exceed.
    pub(crate) fn p95(&self) -> Duration {
        Duration::from_micros(self.p95_us.into())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_follows_the_window() {
        let mut latency = Latency::default();
        assert_eq!(latency.median_us(), 0);
        for _ in 0..LATENCY_WINDOW {
            latency.add(Duration::from_micros(100));
        }
        assert_eq!(latency.median_us(), 100);
        for _ in 0..LATENCY_WINDOW {
            latency.add(Duration::from_millis(3));
        }
        assert_eq!(latency.median_us(), 3000);
        assert_eq!(latency.p95(), Duration::from_millis(3));
        for _ in 0..LATENCY_WINDOW / 8 {
            latency.add(Duration::from_millis(50));
        }
        for _ in 0..REFRESH {
            latency.add(Duration::from_millis(3));
        }
        assert_eq!(
            (latency.median_us(), latency.p95()),
            (3000, Duration::from_millis(50))
        );
        assert_eq!(latency.len(), LATENCY_WINDOW);
    }
}
