//! The caller's process.

use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use waystation_balance::{CallEnd, Load, Reason};
use waystation_base::Moment;
use waystation_client::{
    Access, Caller, CallerConfig, Error, ForkMark, Mapping, PickedHost, machine_now,
    machine_now_coarse,
};
use waystation_segment::{Chosen, Ledger, Miss, Picker, RouteReader};

use super::Measured;
use super::agent::SERVICE;
use crate::stats::number;

/// Picks that are timed together.
const BATCH: usize = 64;

/// The other side of `bench pick`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CallerArgs {
    /// The agent's socket: picks as programs do, through `client::Caller`
    #[arg(long, conflicts_with_all = ["routes", "ledger"])]
    socket: Option<PathBuf>,
    /// The route segment: picks by `segment::Picker` alone
    #[arg(long, required_unless_present = "socket", requires = "ledger")]
    routes: Option<PathBuf>,
    /// The ledger
    #[arg(long)]
    ledger: Option<PathBuf>,
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
    let measured = match (&args.socket, &args.routes, &args.ledger) {
        (Some(socket), ..) => {
            let caller = Caller::new(CallerConfig::new(SERVICE, socket));
            measure(&mut Whole(caller), args.pairs)?
        }
        (None, Some(routes), Some(ledger)) => {
            let map = |path: &PathBuf, access| -> Result<Arc<Mapping>> {
                let can_write = access == Access::Write;
                let file = OpenOptions::new().read(true).write(can_write).open(path)?;
                Ok(Arc::new(Mapping::attach(file.as_fd(), access)?))
            };
            let routes = RouteReader::attach(map(routes, Access::Read)?)?;
            let ledger = Ledger::attach(map(ledger, Access::Write)?)?;
            let picker = Picker::new(routes, ledger, 3)?;
            let mark = ForkMark::new()?;
            measure(&mut Bare { picker, mark }, args.pairs)?
        }
        _ => anyhow::bail!("neither a socket nor memory"),
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &measured)?;
    writeln!(out).context("nobody reads it")
}

/// A way to pick.
trait Picks {
    type Picked;

    /// A host; nothing while the agent is not heard of. `now` is what was read of
    /// the clock, for who can use it.
    fn pick(&mut self, now: Option<Moment>) -> Result<Option<Self::Picked>>;

    fn report(&mut self, picked: &Self::Picked, took: Duration);

    fn reason(picked: &Self::Picked) -> Option<Reason>;
}

/// By the memory alone, with the look that tells whether this is a forked child.
struct Bare {
    picker: Picker<Arc<Mapping>, Arc<Mapping>>,
    mark: ForkMark,
}

impl Picks for Bare {
    type Picked = Chosen;

    #[inline]
    fn pick(&mut self, now: Option<Moment>) -> Result<Option<Chosen>> {
        if self.mark.is_child() {
            return Ok(None);
        }
        match self.picker.pick(now.unwrap_or_else(machine_now_coarse)) {
            Ok(chosen) => Ok(Some(chosen)),
            Err(Miss::Stale) => Ok(None),
            Err(miss) => Err(miss.into()),
        }
    }

    #[inline]
    fn report(&mut self, picked: &Chosen, took: Duration) {
        let latency_ns = u64::try_from(took.as_nanos()).ok();
        self.picker
            .report(picked, CallEnd::Ok, latency_ns, Load::default());
    }

    fn reason(picked: &Chosen) -> Option<Reason> {
        Some(picked.reason)
    }
}

/// As programs pick.
struct Whole(Caller);

impl Picks for Whole {
    type Picked = PickedHost;

    #[inline]
    fn pick(&mut self, _: Option<Moment>) -> Result<Option<PickedHost>> {
        match self.0.pick() {
            Ok(picked) => Ok(Some(picked)),
            Err(Error::Miss(Miss::Stale)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[inline]
    fn report(&mut self, picked: &PickedHost, took: Duration) {
        self.0
            .report(picked, CallEnd::Ok, Some(took), Load::default());
    }

    fn reason(picked: &PickedHost) -> Option<Reason> {
        picked.reason()
    }
}

fn measure<P: Picks>(side: &mut P, timed: u32) -> Result<Measured> {
    let (mut compared, mut picks) = (0, 0);
    let mut count = |reason: Option<Reason>| {
        compared += u64::from(reason == Some(Reason::LowestReported));
        picks += 1;
    };
    // The first reports come, and pages with them.
    warm_up(side)?;
    let mut each = Vec::new();
    for _ in 0..timed as usize / BATCH {
        let mut chosen: [Option<P::Picked>; BATCH] = [const { None }; BATCH];
        let began = machine_now();
        for one in &mut chosen {
            *one = side.pick(None)?;
        }
        let took = machine_now().saturating_since(began);
        #[expect(clippy::cast_precision_loss, reason = "a batch takes no hours")]
        each.push(took.as_nanos() as f64 / number(BATCH as u64));
        for one in chosen.into_iter().flatten() {
            count(P::reason(&one));
            side.report(&one, Duration::from_millis(1));
        }
    }
    let mut pairs = Vec::with_capacity(timed as usize);
    let first = machine_now();
    let mut began = first;
    for _ in 0..timed {
        let chosen = side.pick(Some(began))?.context("the agent is silent")?;
        let ended = machine_now();
        side.report(&chosen, ended.saturating_since(began));
        count(P::reason(&chosen));
        let next = machine_now();
        pairs.push(next.saturating_since(began).as_nanos());
        began = next;
    }
    let total = began.saturating_since(first).as_nanos();
    each.sort_by(f64::total_cmp);
    pairs.sort_unstable();
    let pair = |share: usize| u64::try_from(pairs[pairs.len() * share / 100]).unwrap_or(u64::MAX);
    Ok(Measured {
        pick_p50: each[each.len() / 2],
        pick_p99: each[each.len() * 99 / 100],
        pair_p50: pair(50),
        pair_p99: pair(99),
        pairs: u64::from(timed),
        total_ns: u64::try_from(total)?,
        compared,
        picks,
    })
}

/// Picks and reports until hosts are compared by their reports.
fn warm_up<P: Picks>(side: &mut P) -> Result<()> {
    let until = machine_now() + Duration::from_secs(10);
    while machine_now() < until {
        if let Some(chosen) = side.pick(None)? {
            side.report(&chosen, Duration::from_millis(1));
            if P::reason(&chosen) == Some(Reason::LowestReported) {
                return Ok(());
            }
        }
    }
    anyhow::bail!("no reports came within 10 s")
}
