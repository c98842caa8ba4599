//! `host simulate` and `host rate`: many picks and reports, as callers make them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use waystation_balance::{CallEnd, Load};
use waystation_base::{Rng, hash64};
use waystation_client::{Caller, Error, LarsCaller, PickedHost, machine_now};
use waystation_net::unix_time;

use super::{caller_named, caller_of, failed, no_host_by_udp, pair_of};
use crate::cli::{RateArgs, SimulateArgs};
use crate::failure::Failure;
use crate::table;

/// A caller of either kind.
#[derive(Clone)]
enum Way {
    /// By shared memory, or the agent's socket.
    Named(Box<Caller>),
    /// By UDP, as callers of Lars do.
    Pair(LarsCaller),
}

enum Host {
    Picked(PickedHost),
    Told(SocketAddr),
}

impl Host {
    fn address(&self) -> String {
        match self {
            Self::Picked(picked) => picked.address.to_string(),
            Self::Told(address) => address.to_string(),
        }
    }

    const fn source(&self) -> &'static str {
        match self {
            Self::Picked(picked) => picked.source.name(),
            Self::Told(_) => "udp",
        }
    }
}

impl Way {
    fn of(service: &str, socket: &Path, ports: [u16; 3]) -> Result<Self, Failure> {
        if let Some(pair) = pair_of(service) {
            return Ok(Self::Pair(caller_of(pair, ports)));
        }
        let caller = caller_named(service, socket)?;
        Ok(Self::Named(Box::new(caller)))
    }

    /// Why nothing was picked.
    fn failed(&self, socket: &Path, error: Error) -> Failure {
        match self {
            Self::Named(_) => failed(socket, error),
            Self::Pair(_) => no_host_by_udp(error),
        }
    }

    fn pick(&mut self) -> Result<Host, Error> {
        match self {
            Self::Named(caller) => caller.pick().map(Host::Picked),
            Self::Pair(caller) => caller.get_host().map(Host::Told),
        }
    }

    fn report(&mut self, host: &Host, end: CallEnd, took: Option<Duration>) {
        match (self, host) {
            (Self::Named(caller), Host::Picked(picked)) => {
                caller.report(picked, end, took, Load::default());
            }
            (Self::Pair(caller), Host::Told(address)) => {
                caller.report(*address, end == CallEnd::Ok);
            }
            (Self::Named(_), Host::Told(_)) | (Self::Pair(_), Host::Picked(_)) => {}
        }
    }
}

/// What the simulator counted of a host.
#[derive(Clone, Debug, Default)]
struct Counts {
    ok: u64,
    failed: u64,
    sources: BTreeMap<&'static str, u64>,
}

/// Picks so many hosts, lets some calls fail, and prints what each got.
///
/// # Errors
/// The agent does not answer.
pub(super) fn simulate(
    args: &SimulateArgs,
    socket: &Path,
    ports: [u16; 3],
    as_json: bool,
) -> Result<(), Failure> {
    let mut way = Way::of(&args.service, socket, ports)?;
    let seed = args
        .seed
        .unwrap_or_else(|| hash64(&unix_time().as_nanos().to_le_bytes()));
    let mut rng = Rng::from_seed(seed);
    let mut hosts: BTreeMap<String, Counts> = BTreeMap::new();
    let mut refused = 0_u64;
    let mut last = None;
    for _ in 0..args.calls {
        let host = match way.pick() {
            Ok(host) => host,
            // All hosts are overloaded, or none is there: a caller lives with it.
            Err(error @ (Error::Refused { .. } | Error::Miss(_))) => {
                refused += 1;
                last = Some(error);
                continue;
            }
            Err(error) => return Err(way.failed(socket, error)),
        };
        let address = host.address();
        let own = args.fail.iter().find(|fail| fail.address == address);
        let share = own.map_or(args.error_rate, |fail| fail.share);
        let end = if rng.chance(share) {
            CallEnd::Failed
        } else {
            CallEnd::Ok
        };
        way.report(&host, end, None);
        let counts = hosts.entry(address).or_default();
        match end {
            CallEnd::Ok => counts.ok += 1,
            _ => counts.failed += 1,
        }
        *counts.sources.entry(host.source()).or_default() += 1;
    }
    if let (true, Some(error)) = (hosts.is_empty(), last) {
        return Err(way.failed(socket, error));
    }
    let mut out = io::stdout().lock();
    print_counts(&hosts, refused, as_json, &mut out).context("cannot print")?;
    Ok(())
}

fn print_counts(
    hosts: &BTreeMap<String, Counts>,
    refused: u64,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if as_json {
        for (address, counts) in hosts {
            let line = json!({
                "address": address, "ok": counts.ok, "failed": counts.failed,
                "sources": counts.sources,
            });
            writeln!(out, "{line}")?;
        }
        return writeln!(out, "{}", json!({ "refused": refused }));
    }
    let row = |(address, counts): (&String, &Counts)| {
        let sources: Vec<&str> = counts.sources.keys().copied().collect();
        [
            address.clone(),
            (counts.ok + counts.failed).to_string(),
            counts.ok.to_string(),
            counts.failed.to_string(),
            sources.join(", "),
        ]
    };
    let rows: Vec<[String; 5]> = hosts.iter().map(row).collect();
    table::write(out, ["host", "picked", "ok", "failed", "by"], &rows)?;
    if refused > 0 {
        writeln!(out, "{refused} picks were refused")?;
    }
    Ok(())
}

/// What one thread measured.
#[derive(Debug, Default)]
struct Measured {
    pairs: u64,
    refused: u64,
    /// Why the last pick was refused.
    last: Option<Error>,
    /// Pairs by the time that they took.
    times: Times,
    source: Option<&'static str>,
}

/// Picks and reports as fast as so many threads can, and prints the rate.
///
/// # Errors
/// The agent does not answer, or refused every pick.
pub(super) fn rate(
    args: &RateArgs,
    socket: &Path,
    ports: [u16; 3],
    as_json: bool,
) -> Result<(), Failure> {
    let way = Way::of(&args.service, socket, ports)?;
    let time = Duration::from_secs(args.seconds.into());
    let reports = !args.no_report;
    let began = machine_now();
    let threads: Vec<_> = (0..args.threads)
        .map(|_| {
            let mut way = way.clone();
            std::thread::spawn(move || measure(&mut way, time, reports))
        })
        .collect();
    let (mut all, mut last) = (Measured::default(), None);
    for thread in threads {
        let measured = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        let measured = measured.map_err(|error| way.failed(socket, error))?;
        all.pairs += measured.pairs;
        all.refused += measured.refused;
        all.times.add(&measured.times);
        all.source = all.source.or(measured.source);
        last = last.or(measured.last);
    }
    if let (0, Some(error)) = (all.pairs, last) {
        return Err(way.failed(socket, error));
    }
    let took = machine_now().saturating_since(began);
    let mut out = io::stdout().lock();
    print_rate(args, &all, took, as_json, &mut out).context("cannot print")?;
    Ok(())
}

/// Pairs between two looks at the time to stop.
const PAIRS_A_LOOK: u32 = 64;

fn measure(way: &mut Way, time: Duration, reports: bool) -> Result<Measured, Error> {
    let mut measured = Measured::default();
    let end = machine_now() + time;
    let mut now = machine_now();
    while now < end {
        for _ in 0..PAIRS_A_LOOK {
            match way.pick() {
                Ok(host) => {
                    // One that is not reported would be in flight for ever.
                    let end = if reports {
                        CallEnd::Ok
                    } else {
                        CallEnd::Cancelled
                    };
                    if reports || matches!(host, Host::Picked(_)) {
                        way.report(&host, end, None);
                    }
                    measured.source = Some(host.source());
                    measured.pairs += 1;
                }
                Err(error @ (Error::Refused { .. } | Error::Miss(_))) => {
                    measured.refused += 1;
                    measured.last = Some(error);
                }
                Err(error) => return Err(error),
            }
            let then = machine_now();
            measured.times.take(then.saturating_since(now));
            now = then;
            if now >= end {
                break;
            }
        }
    }
    Ok(measured)
}

fn print_rate(
    args: &RateArgs,
    all: &Measured,
    took: Duration,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let pairs = all.pairs as f64;
    let rate = pairs / took.as_secs_f64();
    let [p50, p99] = [50, 99].map(|percent| all.times.percentile(percent).as_nanos());
    let source = all.source.unwrap_or("-");
    if as_json {
        let line = json!({
            "threads": args.threads, "seconds": took.as_secs_f64(), "pairs": all.pairs,
            "refused": all.refused, "per_second": rate, "p50_ns": p50, "p99_ns": p99,
            "source": source,
        });
        return writeln!(out, "{line}");
    }
    let row = [
        args.threads.to_string(),
        source.to_owned(),
        format!("{rate:.0}"),
        format!("{p50} ns"),
        format!("{p99} ns"),
        all.refused.to_string(),
    ];
    table::write(
        out,
        ["threads", "by", "per second", "p50", "p99", "refused"],
        &[row],
    )
}

/// Times, each known to a sixteenth of itself.
#[derive(Clone, Debug)]
struct Times(Vec<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(vec![0; 64 * 16])
    }
}

impl Times {
    fn take(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0[Self::place(ns)] += 1;
    }

    fn add(&mut self, other: &Self) {
        for (mine, more) in self.0.iter_mut().zip(&other.0) {
            *mine += more;
        }
    }

    /// The upper end of the place below which so many of a hundred are.
    fn percentile(&self, percent: u64) -> Duration {
        let all: u64 = self.0.iter().sum();
        let wanted = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (place, &count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(Self::end(place));
            }
        }
        Duration::ZERO
    }

    /// The power of two, and the next four bits.
    #[expect(clippy::cast_possible_truncation, reason = "below 16, both")]
    const fn place(ns: u64) -> usize {
        if ns < 16 {
            return ns as usize;
        }
        let power = ns.ilog2() as usize;
        let bits = (ns >> (power - 4)) as usize & 15;
        (power - 3) * 16 + bits
    }

    /// The largest time of a place.
    const fn end(place: usize) -> u64 {
        if place < 16 {
            return place as u64;
        }
        let (power, bits) = (place / 16 + 3, place as u64 % 16);
        let width = 1_u64 << (power - 4);
        ((16 + bits) << (power - 4)) + (width - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_known_to_a_sixteenth() {
        for shift in 0..60 {
            for add in [0, 1, 3] {
                let ns = (1_u64 << shift) + add;
                let end = Times::end(Times::place(ns));
                assert!(end >= ns && end - ns <= ns / 16, "{ns} in {end}");
            }
        }
        let mut times = Times::default();
        for us in 1..=100 {
            times.take(Duration::from_micros(us));
        }
        let close = |time: Duration, us: u64| {
            time.as_nanos().abs_diff(u128::from(us) * 1000) <= u128::from(us) * 70
        };
        assert!(close(times.percentile(50), 50) && close(times.percentile(99), 99));
        assert_eq!(Times::default().percentile(50), Duration::ZERO);
    }
}
