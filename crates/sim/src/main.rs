//! Seeded worlds in virtual time.
//!
//! `cargo xtask sim membership --seeds 10000` runs many worlds, `--seed 7` one;
//! a failure prints the command that replays it. `cargo xtask sim balance`
//! compares policies and prints tables.

mod balance;
mod membership;

use std::ops::Range;
use std::process::ExitCode;

const USAGE: &str = "usage: waystation-sim membership [--seeds COUNT | --seed SEED]";
const SEEDS_DEFAULT: u64 = 1000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("balance", rest)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        return balance::main(rest);
    }
    let Some(seeds) = parse(&arguments) else {
        eprintln!("{USAGE}\n       waystation-sim {}", balance::USAGE);
        return ExitCode::from(2);
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        if std::panic::catch_unwind(|| membership::run(seed)).is_err() {
            eprintln!("replay: cargo run -p waystation-sim -- membership --seed {seed}");
            return ExitCode::FAILURE;
        }
    }
    println!("membership: {count} seeds passed");
    ExitCode::SUCCESS
}

/// The seeds to run; `None` when the arguments make no sense.
fn parse(arguments: &[String]) -> Option<Range<u64>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["membership"] => Some(0..SEEDS_DEFAULT),
        ["membership", "--seeds", count] => Some(0..count.parse().ok()?),
        ["membership", "--seed", seed] => {
            let seed: u64 = seed.parse().ok()?;
            Some(seed..seed.checked_add(1)?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_seeds() {
        let parse = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            parse(&words)
        };
        assert_eq!(parse("membership"), Some(0..SEEDS_DEFAULT));
        assert_eq!(parse("membership --seeds 7"), Some(0..7));
        assert_eq!(parse("membership --seed 7"), Some(7..8));
        assert_eq!(parse("membership --seed x"), None);
        assert_eq!(parse("other"), None);
    }
}
