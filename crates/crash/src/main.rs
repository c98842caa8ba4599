//! `cargo xtask crash sync`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use waystation_crash::{Options, run};

/// Kills real processes at random, and checks what is left.
#[derive(Parser)]
#[command(name = "cargo xtask crash", bin_name = "cargo xtask crash")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Multi-site sync: the hub, the donor, a joiner, and sites that apply.
    Sync {
        /// How many processes are killed.
        #[arg(long, default_value_t = 500)]
        kills: u32,
        /// What is drawn; without it another one each time.
        #[arg(long)]
        seed: Option<u64>,
        /// Rows of the base data, of about 400 bytes each.
        #[arg(long, default_value_t = 60_000)]
        rows: u32,
        /// The binary under test; without it the one beside this program.
        #[arg(long)]
        binary: Option<PathBuf>,
        /// Where to write what was found, as Markdown.
        #[arg(long)]
        save: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let What::Sync {
        kills,
        seed,
        rows,
        binary,
        save,
    } = Arguments::parse().what;
    let beside = || -> Result<PathBuf> {
        let own = std::env::current_exe().context("where this program is, is not known")?;
        Ok(own.with_file_name("waystation"))
    };
    let options = Options {
        binary: binary.map_or_else(beside, Ok)?,
        kills,
        seed: seed.unwrap_or_else(|| {
            let now = waystation_net::unix_time().as_nanos();
            u64::try_from(now & u128::from(u64::MAX)).unwrap_or_default()
        }),
        rows,
        patience: Duration::from_mins(2),
    };
    println!("seed {}", options.seed);
    let report = run(&options, |line| println!("{line}"))
        .with_context(|| format!("choices: cargo xtask crash sync --seed {}", options.seed))?;
    print!("{}", report.text());
    if let Some(path) = save {
        let written = std::fs::write(&path, report.markdown());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
