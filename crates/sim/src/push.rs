//! A route server and its agents in virtual time: the cores of both, as their
//! shells connect them, up to 100,000 instances, 10,000 subscribed agents, and one
//! in a hundred instances changed each second.
//!
//! Checked in every world, while connections are lost and the server starts again:
//! - what callers see at a version is what the server published there, and what a
//!   guard keeps;
//! - a view never loses most of its hosts, and its versions never go back;
//! - in the end every agent has the last view, and its segment the same hosts.
//!
//! Measured are bytes, steps, CPU time and memory that a change costs, by the size of
//! the table and by that of a service, and how agents come back to a server that has
//! started again.

mod agent;
mod figures;
mod model;
mod report;
mod server;
mod work;
mod world;

use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use waystation_base::Rng;

use world::Scale;

/// How to call it.
pub(crate) const USAGE: &str =
    "push [--seeds COUNT | --seed SEED | --instances COUNT,…] [--save FILE]";

/// Sizes of the table that are compared.
const SIZES: [u32; 3] = [1_000, 10_000, 100_000];

/// Hosts of a service that are compared.
const SERVICE_SIZES: [u32; 3] = [100, 1_000, 10_000];

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Small worlds with many faults.
    Worlds(Range<u64>),
    /// The tables, for these sizes.
    Figures(Vec<u32>, Option<String>),
}

/// Runs what the arguments behind `push` say.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match parse(arguments) {
        Some(Wish::Worlds(seeds)) => worlds(seeds),
        Some(Wish::Figures(sizes, save)) => figures(&sizes, save.as_deref()),
        None => {
            eprintln!("usage: waystation-sim {USAGE}");
            ExitCode::from(2)
        }
    }
}

fn worlds(seeds: Range<u64>) -> ExitCode {
    let count = seeds.end - seeds.start;
    for seed in seeds {
        if std::panic::catch_unwind(|| world::run(&small(seed), seed)).is_err() {
            eprintln!("replay: cargo xtask sim push --seed {seed}");
            return ExitCode::FAILURE;
        }
    }
    println!("push: {count} seeds passed");
    ExitCode::SUCCESS
}

fn figures(sizes: &[u32], save: Option<&str>) -> ExitCode {
    let run = |scale: Scale| {
        let figures = std::panic::catch_unwind(|| world::run(&scale, 0)).ok()?;
        Some((scale, figures))
    };
    let rows: Option<Vec<_>> = sizes.iter().map(|size| run(full(*size))).collect();
    let services: Option<Vec<_>> = SERVICE_SIZES
        .iter()
        .map(|hosts| run(wide(*hosts)))
        .collect();
    let (Some(rows), Some(services)) = (rows, services) else {
        let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
        eprintln!(
            "replay: cargo xtask sim push --instances {}",
            sizes.join(",")
        );
        return ExitCode::FAILURE;
    };
    let bars = report::bars(&rows, &services);
    let text = report::text(&rows, &services, &bars);
    print!("{text}");
    if let Some(file) = save
        && let Err(error) = std::fs::write(file, text)
    {
        eprintln!("cannot write {file}: {error}");
        return ExitCode::FAILURE;
    }
    if bars.iter().all(|bar| bar.is_kept) {
        ExitCode::SUCCESS
    } else {
        eprintln!("a promise is not kept");
        ExitCode::FAILURE
    }
}

/// A world in which changes are measured. The larger the table, the more agents:
/// each service has as many subscribers.
fn full(instances: u32) -> Scale {
    Scale {
        instances,
        per_service: 100,
        agents: instances / 10,
        watched: 5,
        losses: 0.001,
        delay_ms_max: 20,
        outages: vec![Duration::from_millis(200), Duration::from_secs(5)],
        steady: Duration::from_secs(20),
        segments_every: 100,
        is_watched: false,
    }
}

/// Ten services of so many hosts, in which about 200 changes are measured. Each has
/// as many subscribers as one of [`full`].
fn wide(per_service: u32) -> Scale {
    let instances = per_service * 10;
    Scale {
        per_service,
        agents: 100,
        outages: Vec::new(),
        steady: Duration::from_secs(20_000) / instances,
        ..full(instances)
    }
}

/// A small world with many faults.
fn small(seed: u64) -> Scale {
    let mut rng = Rng::from_seed(seed ^ 0x9e37_79b9);
    let outages = [(); 3].map(|()| Duration::from_millis(rng.range(10..8_000)));
    Scale {
        instances: 400,
        per_service: 20,
        agents: 40,
        watched: 3,
        losses: 0.1,
        delay_ms_max: rng.range(2..400),
        outages: outages.to_vec(),
        steady: Duration::from_secs(5),
        segments_every: 1,
        is_watched: true,
    }
}

/// A share, or an average; 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let ratio = part as f64 / whole.max(1) as f64;
    ratio
}

/// What the arguments mean; `None` when they make no sense.
fn parse(arguments: &[String]) -> Option<Wish> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--seeds", count] => Some(Wish::Worlds(0..count.parse().ok()?)),
        ["--seed", seed] => {
            let seed: u64 = seed.parse().ok()?;
            Some(Wish::Worlds(seed..seed.checked_add(1)?))
        }
        _ => {
            let (mut sizes, mut save) = (SIZES.to_vec(), None);
            let mut words = words.into_iter();
            while let Some(word) = words.next() {
                let value = words.next()?;
                match word {
                    "--instances" => {
                        let all = value.split(',').map(str::parse).collect::<Result<_, _>>();
                        sizes = all.ok()?;
                    }
                    "--save" => save = Some(value.to_owned()),
                    _ => return None,
                }
            }
            // Fewer services than an agent follows, or more leases than there may be.
            let is_possible = |size: &u32| (500..=100_000).contains(size);
            let is_good = !sizes.is_empty() && sizes.iter().all(is_possible);
            is_good.then_some(Wish::Figures(sizes, save))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_worlds_or_sizes() {
        let parse = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            parse(&words)
        };
        assert_eq!(parse(""), Some(Wish::Figures(SIZES.to_vec(), None)));
        assert_eq!(parse("--seeds 7"), Some(Wish::Worlds(0..7)));
        assert_eq!(parse("--seed 7"), Some(Wish::Worlds(7..8)));
        let file = Some("x".to_owned());
        let sized = parse("--instances 1000,2000 --save x");
        assert_eq!(sized, Some(Wish::Figures(vec![1_000, 2_000], file)));
        for wrong in ["--seed x", "--instances 7", "--instances", "x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn promises_hold_for_a_dozen_seeds() {
        for seed in 0..12 {
            world::run(&small(seed), seed);
        }
    }

    /// Bytes, steps, memory and pushes of a change by the size of the table, which is
    /// eight times as large; CPU time is in the tables of `cargo xtask sim push`.
    #[test]
    fn a_change_costs_the_same_in_a_larger_table() {
        let measured = [500, 4_000].map(|instances| {
            let scale = Scale {
                per_service: 20,
                outages: vec![Duration::from_millis(500)],
                ..full(instances)
            };
            world::run(&scale, 1)
        });
        let [few, many] = measured.each_ref().map(|figures| figures.steady);
        let about = |few: f64, many: f64| assert!(many < few * 1.2, "{few} became {many}");
        about(few.bytes_a_change(), many.bytes_a_change());
        about(few.server_steps_a_change(), many.server_steps_a_change());
        about(few.agent_steps_a_push(), many.agent_steps_a_push());
        about(few.server_kib_a_change(), many.server_kib_a_change());
        about(few.agent_kib_a_push(), many.agent_kib_a_push());
        for figures in &measured {
            assert_eq!(figures.steady.sent.wholes, 0, "only what changed is pushed");
        }
        // The server that started again sent each view once, to agents that came
        // one after the other.
        let restart = &measured[1].restarts[0];
        assert!(restart.wholes_a_watch() < 1.1, "{restart:?}");
        assert!(restart.most_at_once() < 0.4, "{restart:?}");
    }

    /// Nobody saw what a change of one host costs that looks at all of its service.
    #[test]
    fn a_change_looks_at_each_host_of_its_service_a_few_times() {
        let measured = [50, 500].map(|hosts| {
            let scale = wide(hosts);
            (world::run(&scale, 1).steady, f64::from(hosts))
        });
        for (steady, hosts) in measured {
            let (server, agent) = (steady.server_steps_a_change(), steady.agent_steps_a_push());
            // Those who are told of it are looked at as well.
            assert!(server < hosts * 5.0 + 200.0, "{server} of {hosts}");
            assert!(agent < hosts * 4.0, "{agent} of {hosts}");
            assert_eq!(steady.sent.wholes, 0, "only what changed is pushed");
        }
    }
}
