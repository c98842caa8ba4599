//! Every pair of layers around every policy, while hosts restart and die.

use std::fmt::Write as _;
use std::time::Duration;

use super::contenders::{LAYERS, policies, with_layers};
use super::server::Condition;
use super::workload::{Fault, Workload};
use super::world;

fn worlds() -> [Workload; 2] {
    let base = Workload {
        hosts: 12,
        callers: 12,
        zones: 3,
        load: 0.5,
        warm: Duration::from_secs(5),
        measured: Duration::from_secs(25),
        ..Workload::base("pairs", "three zones; hosts restart one after the other")
    };
    let dies = Workload {
        about: "three zones; a host dies",
        fault: Fault::One {
            condition: Condition::Dead,
            lasts: Duration::from_secs(1000),
        },
        ..base.clone()
    };
    let rolls = Workload {
        fault: Fault::RollingRestart,
        ..base
    };
    [rolls, dies]
}

/// Runs them all; a broken promise of a layer panics in the world.
pub(crate) fn table(seed: u64) -> String {
    let mut text = "\n## Pairs of layers\n\nEvery policy with every two of the layers that stand \
        around it: 12 hosts in three zones, 12 callers, load 0.5. First all hosts restart, one \
        after the other; then one dies for good at 20 s of 30. Checked in each step: who drains, \
        left or is gone is not picked, no more hosts are ejected than may be, and panic and \
        explanations say what is so. Shown: p99 in ms and failed calls, restart and death.\n\n\
        | policy | layers | restart: p99 | failed | death: p99 | failed |\n\
        |---|---|---:|---:|---:|---:|\n"
        .to_owned();
    for (name, policy) in policies() {
        for (at, first) in LAYERS.iter().enumerate() {
            for second in &LAYERS[at + 1..] {
                let contender = with_layers(name, policy, &[*first, *second]);
                let [rolls, dies] = worlds().map(|one| world::run(&one, &contender, seed));
                let _ = writeln!(
                    text,
                    "| {name} | {first:?}, {second:?} | {:.0} | {} | {:.0} | {} |",
                    rolls.quantile_ms(0.99),
                    rolls.errors(),
                    dies.quantile_ms(0.99),
                    dies.errors(),
                );
            }
        }
    }
    text
}
