//! What a running site tells: that it is ready, and how a join goes on.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use waystation_base::{Clock, Moment};
use waystation_net::MonotonicClock;
use waystation_replica::{Holding, Position, SiteView};
use waystation_sync::site::SiteServer;

use crate::cli::SiteRunArgs;

/// How often the site is asked.
const LOOK: Duration = Duration::from_millis(100);

/// How often a join tells how far it is.
const TELL: Duration = Duration::from_secs(1);

/// What was told last.
struct Told {
    at: Moment,
    /// Bytes of a copy, and the sequence that was reached.
    bytes: u64,
    seq: u64,
}

/// Tells how the site fares, until `stopped` ends. Nobody has to read it.
pub(super) fn report(
    server: &SiteServer,
    args: &SiteRunArgs,
    as_json: bool,
    stopped: &Receiver<()>,
) {
    let clock = MonotonicClock;
    let mut told = Told {
        at: clock.now(),
        bytes: 0,
        seq: 0,
    };
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
        let Ok(view) = server.view() else {
            continue;
        };
        let now = clock.now();
        let place = place_of(&view);
        if let Some(position) = place.filter(|_| is_ready(&view)) {
            if let Err(error) = say_ready(&args.name, position, as_json) {
                tracing::warn!("cannot say ready: {error}");
            }
            if args.capture && view.token.is_none() {
                let site = &args.name;
                tracing::warn!("captured writes wait until `waystation sync grant {site}`");
            }
            return;
        }
        let past = now.saturating_since(told.at);
        if past >= TELL && view.joined_bytes > 0 {
            // Whoever does not read it does not want it.
            let _ = tell(&mut io::stderr().lock(), &view, &told, past, as_json);
            told = Told {
                at: now,
                bytes: view.joined_bytes,
                seq: place.map_or(0, |position| position.seq.0),
            };
        }
    }
}

fn is_ready(view: &SiteView) -> bool {
    view.is_connected && !view.is_joining && matches!(view.holding, Holding::At { .. })
}

/// How far the copy is in the log.
fn place_of(view: &SiteView) -> Option<Position> {
    match &view.holding {
        Holding::Fresh => None,
        Holding::Restoring(part) => Some(part.position),
        Holding::At { position, .. } => Some(*position),
    }
}

fn say_ready(name: &str, position: Position, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let (epoch, seq) = (position.epoch.0, position.seq.0);
        let line = serde_json::json!({ "ready": name, "epoch": epoch, "seq": seq });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "ready {name}")?;
    }
    out.flush()
}

/// One line about a join. How large the donor's copy is nobody knows before its
/// end, so the time that is left counts what is to be applied of the log.
fn tell(
    out: &mut dyn Write,
    view: &SiteView,
    told: &Told,
    past: Duration,
    as_json: bool,
) -> io::Result<()> {
    let seq = place_of(view).map_or(0, |position| position.seq.0);
    let rate = per_second(view.joined_bytes.saturating_sub(told.bytes), past);
    let applied = per_second(seq.saturating_sub(told.seq), past);
    let left = view.end.0.saturating_sub(seq);
    let eta = left.checked_div(applied);
    let (rows, bytes) = (view.joined_rows, view.joined_bytes);
    if as_json {
        let line = serde_json::json!({
            "joining": { "bytes": bytes, "rows": rows, "bytes_per_second": rate,
                "entries_left": left, "eta_seconds": eta },
        });
        return writeln!(out, "{line}");
    }
    let eta = eta.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds} s"));
    let (done, speed) = (mebibytes(bytes), mebibytes(rate));
    writeln!(
        out,
        "joining: {done} MiB, {rows} rows, {speed} MiB/s, {left} entries behind, eta {eta}"
    )
}

fn per_second(count: u64, past: Duration) -> u64 {
    let per = u128::from(count) * 1000 / past.as_millis().max(1);
    u64::try_from(per).unwrap_or(u64::MAX)
}

/// With one digit after the point.
fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_sizes_are_rounded_down() {
        assert_eq!(per_second(3, Duration::from_secs(2)), 1);
        assert_eq!(per_second(3, Duration::ZERO), 3000);
        assert_eq!(mebibytes(3 << 19), "1.5");
    }
}
