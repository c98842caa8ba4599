//! Seeded worlds in virtual time.
//!
//! `cargo xtask sim sync --seeds 10000` runs many worlds, `--seed 7` one; a
//! failure prints the command that replays it. `cargo xtask sim balance` compares
//! policies, `cargo xtask sim push` measures what a changed route costs, and both
//! print tables.

mod balance;
mod membership;
mod push;
mod sync;

use std::ops::Range;
use std::process::ExitCode;

const USAGE: &str = "membership|sync [--seeds COUNT | --seed SEED]";
const SEEDS_DEFAULT: u64 = 1000;

/// Runs the world of one seed.
type Run = fn(u64);

/// What to run: the world's name, the world, the seeds.
type Wish = (&'static str, Run, Range<u64>);

/// A world that is run over seeds, by its name.
const WORLDS: [(&str, Run); 2] = [("membership", membership::run), ("sync", sync::run)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("balance", rest)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        return balance::main(rest);
    }
    if let Some(("push", rest)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        return push::main(rest);
    }
    let Some((name, run, seeds)) = parse(&arguments) else {
        for usage in [USAGE, balance::USAGE, push::USAGE] {
            eprintln!("usage: waystation-sim {usage}");
        }
        return ExitCode::from(2);
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            eprintln!("replay: cargo xtask sim {name} --seed {seed}");
            return ExitCode::FAILURE;
        }
    }
    println!("{name}: {count} seeds passed");
    ExitCode::SUCCESS
}

/// The world and the seeds to run; `None` when the arguments make no sense.
fn parse(arguments: &[String]) -> Option<Wish> {
    let (name, rest) = arguments.split_first()?;
    let (name, run) = WORLDS.into_iter().find(|(one, _)| one == name)?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let seeds = match rest[..] {
        [] => 0..SEEDS_DEFAULT,
        ["--seeds", count] => 0..count.parse().ok()?,
        ["--seed", seed] => {
            let seed: u64 = seed.parse().ok()?;
            seed..seed.checked_add(1)?
        }
        _ => return None,
    };
    Some((name, run, seeds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_a_world_and_seeds() {
        let parse = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            parse(&words).map(|(name, _, seeds)| (name, seeds))
        };
        assert_eq!(parse("membership"), Some(("membership", 0..SEEDS_DEFAULT)));
        assert_eq!(parse("sync --seeds 7"), Some(("sync", 0..7)));
        assert_eq!(parse("sync --seed 7"), Some(("sync", 7..8)));
        assert_eq!(parse("sync --seed x"), None);
        assert_eq!(parse("other"), None);
    }
}
