//! The caller's process.

use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use waystation_balance::{CallEnd, Load, Reason};
use waystation_client::{Access, ForkMark, Mapping, machine_now, machine_now_coarse};
use waystation_segment::{Ledger, Miss, Picker, RouteReader};

use super::Measured;
use crate::stats::number;

/// Picks that are timed together.
const BATCH: usize = 64;

/// The other side of `bench pick`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CallerArgs {
    /// The route segment
    #[arg(long)]
    routes: PathBuf,
    /// The ledger
    #[arg(long)]
    ledger: PathBuf,
    /// Pairs that are timed
    #[arg(long)]
    pairs: u32,
}

/// Measures once told to, and says what it found on a line of JSON.
///
/// # Errors
/// The memory cannot be mapped, or a pick has no result.
pub(crate) fn run(args: &CallerArgs) -> Result<()> {
    std::io::stdin().lock().read_line(&mut String::new())?;
    let map = |path: &PathBuf, access| -> Result<Arc<Mapping>> {
        let can_write = access == Access::Write;
        let file = OpenOptions::new().read(true).write(can_write).open(path)?;
        Ok(Arc::new(Mapping::attach(file.as_fd(), access)?))
    };
    let routes = RouteReader::attach(map(&args.routes, Access::Read)?)?;
    let ledger = Ledger::attach(map(&args.ledger, Access::Write)?)?;
    let mut picker = Picker::new(routes, ledger, 3)?;
    let mark = ForkMark::new()?;
    let (mut compared, mut picks) = (0, 0);
    let mut count = |reason: Reason| {
        compared += u64::from(reason == Reason::LowestReported);
        picks += 1;
    };
    // The first reports come, and pages with them.
    warm_up(&mut picker)?;
    let mut each = Vec::new();
    for _ in 0..args.pairs as usize / BATCH {
        let mut chosen = [None; BATCH];
        let began = machine_now();
        for one in &mut chosen {
            if !mark.is_child() {
                *one = Some(picker.pick(machine_now_coarse())?);
            }
        }
        let took = machine_now().saturating_since(began);
        #[expect(clippy::cast_precision_loss, reason = "a batch takes no hours")]
        each.push(took.as_nanos() as f64 / number(BATCH as u64));
        for one in chosen.into_iter().flatten() {
            count(one.reason);
            picker.report(&one, CallEnd::Ok, Some(1_000_000), Load::default());
        }
    }
    let mut pairs = Vec::with_capacity(args.pairs as usize);
    let first = machine_now();
    let mut began = first;
    for _ in 0..args.pairs {
        let chosen = picker.pick(began)?;
        let ended = machine_now();
        let took = ended.saturating_since(began).as_nanos();
        picker.report(
            &chosen,
            CallEnd::Ok,
            u64::try_from(took).ok(),
            Load::default(),
        );
        count(chosen.reason);
        let next = machine_now();
        pairs.push(next.saturating_since(began).as_nanos());
        began = next;
    }
    let total = began.saturating_since(first).as_nanos();
    each.sort_by(f64::total_cmp);
    pairs.sort_unstable();
    let pair = |share: usize| u64::try_from(pairs[pairs.len() * share / 100]).unwrap_or(u64::MAX);
    let measured = Measured {
        pick_p50: each[each.len() / 2],
        pick_p99: each[each.len() * 99 / 100],
        pair_p50: pair(50),
        pair_p99: pair(99),
        pairs: u64::from(args.pairs),
        total_ns: u64::try_from(total)?,
        compared,
        picks,
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &measured)?;
    writeln!(out).context("nobody reads it")
}

/// Picks and reports until hosts are compared by their reports.
fn warm_up(picker: &mut Picker<Arc<Mapping>, Arc<Mapping>>) -> Result<()> {
    let until = machine_now() + std::time::Duration::from_secs(10);
    while machine_now() < until {
        match picker.pick(machine_now()) {
            Ok(chosen) => {
                picker.report(&chosen, CallEnd::Ok, Some(1_000_000), Load::default());
                if chosen.reason == Reason::LowestReported {
                    return Ok(());
                }
            }
            Err(Miss::Stale) => {}
            Err(miss) => return Err(miss.into()),
        }
    }
    anyhow::bail!("no reports came within 10 s")
}
