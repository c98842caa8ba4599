//! What was measured, as tables.

use std::time::Duration;

use crate::bars::Bars;
use crate::figures::{count, figure};
use crate::results::Block;
use crate::table::{Align, Table};

/// By how many subscribers how many ms are allowed, for 99 of 100 changes.
const BARS: [(u32, f64); 3] = [(1, 2.0), (100, 5.0), (1_000, 50.0)];

/// How long each change took.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// From the request to the commit.
    pub(super) commit: Vec<Duration>,
    /// From the commit until a caller picks by it from the agent's segment.
    pub(super) segment: Vec<Duration>,
    /// From the commit until the last of the other subscribers has it.
    pub(super) last: Vec<Duration>,
}

/// The tables.
pub(super) fn block(measured: &[(u32, Figures)], judge: &mut Bars) -> Vec<Block> {
    let mut table = Table::new(&[
        ("subscribers", Align::Right),
        ("in the segment, p50 ms", Align::Right),
        ("p99", Align::Right),
        ("most", Align::Right),
        ("at the last subscriber, p50 ms", Align::Right),
        ("p99", Align::Right),
        ("request to commit, p50 ms", Align::Right),
        ("p99", Align::Right),
    ]);
    let mut bars = Table::new(&[
        ("subscribers", Align::Right),
        ("p99 in the segment, at most ms", Align::Right),
        ("reached", Align::Right),
        ("", Align::Left),
    ]);
    for (subscribers, figures) in measured {
        let shown = |all: &[Duration], of_1000| figure(at(all, of_1000));
        table.row([
            count((*subscribers).into()),
            shown(&figures.segment, 500),
            shown(&figures.segment, 990),
            shown(&figures.segment, 1_000),
            shown(&figures.last, 500),
            shown(&figures.last, 990),
            shown(&figures.commit, 500),
            shown(&figures.commit, 990),
        ]);
        let bar = BARS.iter().find(|(count, _)| count == subscribers);
        if let Some((_, most_ms)) = bar {
            let reached = at(&figures.segment, 990);
            let name = format!("p99 with {} subscribers", count((*subscribers).into()));
            let word = judge.word(name, reached <= *most_ms);
            bars.row([
                count((*subscribers).into()),
                figure(*most_ms),
                figure(reached),
                word.to_owned(),
            ]);
        }
    }
    vec![
        Block::Table("From the commit on".to_owned(), table),
        Block::Table("Bars".to_owned(), bars),
    ]
}

/// The value, in ms, that so many of 1,000 do not exceed; 0 of none.
fn at(all: &[Duration], of_1000: usize) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * of_1000).div_ceil(1_000).max(1) - 1;
    let found = sorted.get(place);
    found.map_or(0.0, |one| one.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninety_nine_of_a_hundred_are_below_the_second_largest() {
        let all: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let shown = |of_1000| figure(at(&all, of_1000));
        assert_eq!(shown(500), "50.0");
        assert_eq!(shown(990), "99.0");
        assert_eq!(shown(1_000), "100");
        assert_eq!(figure(at(&[], 990)), "0");
    }
}
