//! The tables.

use std::fmt::Write as _;

use super::figures::{Figures, Restart};
use super::world::Scale;

/// What the figures mean; opens the file of results.
const ABOUT: &str = "\
# `cargo xtask sim push`

A route server and agents in virtual time: the cores of both as their shells connect them, with the
messages that go between them. One run at each size of the table.

- Services have 100 hosts: every other one has stored routes, the others registered instances. Of
  the hosts 1 % changes each second: one comes, goes, or gets another weight.
- There is an agent for each ten hosts, and an agent follows five services: a service has about 50
  subscribers at each size.
- Bytes are those of the frames that the server sends. Steps are what the cores looked at: instances,
  routes, changes and watchers. Memory is all that was asked for while they worked. A seed has the same
  of each every time. CPU time is that of the cores and of encoding, acknowledgements included, without
  sockets; it differs from run to run, and with the caches that a larger table misses, for which the
  promise leaves room: what looks at the whole table would take a hundred times as long.
- After the changes were measured the server ends twice and is away for a while. *In vain* are
  attempts to connect of each agent meanwhile; *at once* is the largest share of agents that came back
  within the same 100 ms; *back* is when 99 of 100 were; *views* are whole views for each subscription
  in the 10 s from then on, while one in a thousand connections is lost each second.
- In the end every agent has the last view, which is checked.
- A larger service: ten services of more and more hosts, 50 subscribers each. A change of one host
  looks at the others of its service a fixed number of times, to put the view together, to compare it,
  and at each agent to look for losses.
";

/// A promise about the figures.
pub(super) struct Bar {
    name: &'static str,
    wanted: String,
    reached: String,
    pub(super) is_kept: bool,
}

/// Whether the promises are kept.
pub(super) fn bars(rows: &[(Scale, Figures)], services: &[(Scale, Figures)]) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut grows = |name, few: f64, many: f64, most: f64| {
        let reached = many / few;
        bars.push(Bar {
            name,
            wanted: format!("at most {most} times"),
            reached: format!("{reached:.2} times"),
            is_kept: reached <= most,
        });
    };
    if let [(_, few), .., (_, many)] = rows {
        let (few, many) = (few.steady, many.steady);
        let (less, more) = (few.bytes_a_change(), many.bytes_a_change());
        grows("bytes a change, largest table to smallest", less, more, 1.1);
        let (less, more) = (few.server_kib_a_change(), many.server_kib_a_change());
        grows("memory a change, at the server", less, more, 1.1);
        let (less, more) = (few.agent_kib_a_push(), many.agent_kib_a_push());
        grows("memory a push, at an agent", less, more, 1.1);
        let (less, more) = (few.server_steps_a_change(), many.server_steps_a_change());
        grows("steps a change, at the server", less, more, 1.5);
        let (less, more) = (few.agent_steps_a_push(), many.agent_steps_a_push());
        grows("steps a push, at an agent", less, more, 1.5);
        // Steps are counted where somebody thought of it; this is not.
        let (less, more) = (few.server_us_a_change(), many.server_us_a_change());
        grows("CPU a change, at the server", less, more, 3.0);
        let (less, more) = (few.agent_us_a_push(), many.agent_us_a_push());
        grows("CPU a push, at an agent", less, more, 3.0);
    }
    if let [few, .., many] = services {
        let [less, more] = [few, many].map(server_steps_a_host);
        let name =
            "steps a change and host of its service, at the server, largest service to smallest";
        grows(name, less, more, 1.5);
        let [less, more] = [few, many].map(agent_steps_a_host);
        grows("steps a push and host, at an agent", less, more, 1.5);
    }
    let restarts = || rows.iter().flat_map(|(_, figures)| &figures.restarts);
    let largest = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    let at_once = largest(restarts().map(Restart::most_at_once).collect());
    bars.push(Bar {
        name: "agents back within the same 100 ms",
        wanted: "at most 30 %".to_owned(),
        reached: format!("{:.1} %", at_once * 100.0),
        is_kept: at_once <= 0.3,
    });
    let views = largest(restarts().map(Restart::wholes_a_watch).collect());
    bars.push(Bar {
        name: "whole views a subscription, after a restart",
        wanted: "at most 1.05".to_owned(),
        reached: format!("{views:.2}"),
        is_kept: views <= 1.05,
    });
    bars
}

/// Of one service's hosts, how often each is looked at for a change.
fn server_steps_a_host((scale, figures): &(Scale, Figures)) -> f64 {
    figures.steady.server_steps_a_change() / f64::from(scale.per_service)
}

/// The same for a push, at an agent.
fn agent_steps_a_host((scale, figures): &(Scale, Figures)) -> f64 {
    figures.steady.agent_steps_a_push() / f64::from(scale.per_service)
}

/// All of the report.
pub(super) fn text(
    rows: &[(Scale, Figures)],
    services: &[(Scale, Figures)],
    bars: &[Bar],
) -> String {
    let mut text = ABOUT.to_owned();
    changes(&mut text, rows);
    restarts(&mut text, rows);
    larger_services(&mut text, services);
    text.push_str("\n## Promises\n\n| promise | wanted | reached | |\n|---|---:|---:|---|\n");
    for bar in bars {
        let word = if bar.is_kept { "kept" } else { "MISSED" };
        let (name, wanted, reached) = (bar.name, &bar.wanted, &bar.reached);
        let _ = writeln!(text, "| {name} | {wanted} | {reached} | {word} |");
    }
    text
}

fn changes(text: &mut String, rows: &[(Scale, Figures)]) {
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\n## A change\n\n| instances | agents | changes | pushes a change | whole views | bytes a \
         change | server, steps | KiB | µs | agent, steps a push | KiB | µs |\n|---:|---:|---:|---:|\
         ---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for (scale, figures) in rows {
        let steady = &figures.steady;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} |",
            scale.instances,
            scale.agents,
            steady.changes,
            super::ratio(steady.sent.deltas, steady.changes),
            steady.sent.wholes,
            steady.bytes_a_change(),
            steady.server_steps_a_change(),
            steady.server_kib_a_change(),
            steady.server_us_a_change(),
            steady.agent_steps_a_push(),
            steady.agent_kib_a_push(),
            steady.agent_us_a_push(),
        );
    }
}

fn larger_services(text: &mut String, rows: &[(Scale, Figures)]) {
    let _ = writeln!(
        text,
        "\n## A larger service\n\n| hosts of a service | changes | bytes a change | server, steps | \
         a host | KiB | µs | agent, steps a push | a host | KiB | µs |\n|---:|---:|---:|---:|---:|\
         ---:|---:|---:|---:|---:|---:|"
    );
    for row in rows {
        let (scale, steady) = (&row.0, &row.1.steady);
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} | {:.0} | {:.2} | {:.1} | {:.1} |",
            scale.per_service,
            steady.changes,
            steady.bytes_a_change(),
            steady.server_steps_a_change(),
            server_steps_a_host(row),
            steady.server_kib_a_change(),
            steady.server_us_a_change(),
            steady.agent_steps_a_push(),
            agent_steps_a_host(row),
            steady.agent_kib_a_push(),
            steady.agent_us_a_push(),
        );
    }
}

fn restarts(text: &mut String, rows: &[(Scale, Figures)]) {
    let _ = writeln!(
        text,
        "\n## A restart\n\n| instances | agents | away, ms | in vain | at once | back, ms | views | \
         MiB | server, ms |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for (scale, figures) in rows {
        for one in &figures.restarts {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.1} | {:.1} % | {} | {:.2} | {:.1} | {:.0} |",
                scale.instances,
                scale.agents,
                one.outage.as_millis(),
                one.in_vain,
                one.most_at_once() * 100.0,
                one.back_ms(),
                one.wholes_a_watch(),
                super::ratio(one.sent.bytes, 1 << 20),
                super::ratio(one.sent.work.cpu_ns, 1_000_000),
            );
        }
    }
}
