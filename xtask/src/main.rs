//! The project's own tasks, called as `cargo xtask TASK`.
//!
//! `tidy` proves the rules that no compiler checks, `check` runs every static check, `test` runs
//! every test with the external components it needs, `bench` runs one benchmark, `crash` kills
//! real processes, `fuzz` runs every fuzz target, `miri` the tests of shared memory under Miri, `sim`
//! one simulation. The crate leaves out everything that a plain `cargo` call does already.

mod bench;
mod check;
mod components;
mod crash;
mod environment;
mod fuzz;
mod install;
mod metadata;
mod miri;
mod process;
mod sim;
mod summary;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prove the rules that no compiler checks: layers, file sizes, invariants and their guards.
    Tidy,
    /// Run fmt, clippy, tidy, doc and cargo-deny; all of them, then name the ones that failed.
    #[command(after_help = "Examples:\n  cargo xtask check\n  cargo xtask check --fuzz")]
    Check {
        /// Run each fuzz target for 60 s as well; needs the nightly toolchain and cargo-fuzz.
        #[arg(long)]
        fuzz: bool,
    },
    /// Run all tests, with the external components they need, and the loom models.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test wheel\n\n\
        As root on Debian a missing component is installed. Otherwise each test that needs it is\n\
        named and left out; with CI=true this is a failure."
    )]
    Test {
        /// Longer runs: `WAYSTATION_TEST_LONG=1` and 4,096 cases for each property.
        #[arg(long)]
        long: bool,
        /// Run only tests whose name contains one of these.
        filters: Vec<String>,
    },
    /// Run one benchmark in the release profile.
    #[command(after_help = "Example:\n  cargo xtask bench timers")]
    Bench {
        /// The benchmark's name, then its own arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill real processes at random under load, and check what is left.
    #[command(
        after_help = "Example:\n  cargo xtask crash sync --kills 500 --save bench/results/sync-crashes.md"
    )]
    Crash {
        /// What to run, then its own arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run fuzz targets, one after another, and write `bench/results/fuzz.md`.
    #[command(
        after_help = "Examples:\n  cargo xtask fuzz --seconds 600\n  cargo xtask fuzz lars_frames sync_messages"
    )]
    Fuzz {
        /// How long each runs; needs the nightly toolchain and cargo-fuzz.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
        /// The targets; all when none is named.
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Run the tests of the crates whose memory is shared under Miri.
    #[command(after_help = "Examples:\n  cargo xtask miri\n  cargo xtask miri waystation-segment")]
    Miri {
        /// The packages; all that share memory when none is named. Needs the nightly toolchain.
        #[arg(value_name = "PACKAGE")]
        packages: Vec<String>,
    },
    /// Run one simulation in the release profile.
    #[command(
        after_help = "Examples:\n  cargo xtask sim balance --save bench/results/balance-sim.md\n  \
                      cargo xtask sim membership --seeds 10000"
    )]
    Sim {
        /// The simulation's name, then its own arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Tidy => tidy::run(),
        Task::Check { fuzz } => check::run(fuzz),
        Task::Test { long, filters } => test::run(long, &filters),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Crash { arguments } => crash::run(&arguments),
        Task::Fuzz { seconds, targets } => fuzz::run(seconds, &targets),
        Task::Miri { packages } => miri::run(&packages),
        Task::Sim { arguments } => sim::run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
