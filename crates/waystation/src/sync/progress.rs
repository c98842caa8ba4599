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
    /// Whether the copy was whole when it was looked at last.
    is_whole: bool,
    /// Whether it was told that the site is ready: once.
    is_ready: bool,
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// The site is ready for the first time.
    Ready(Position),
    /// A copy that was taken anew while it ran is complete.
    Complete(Position),
    /// How far a copy is, after so long.
    Joining(Duration),
}

impl Told {
    fn new(now: Moment) -> Self {
        Self {
            at: now,
            bytes: 0,
            seq: 0,
            is_whole: false,
            is_ready: false,
        }
    }

    /// What is new in a view.
    fn news(&mut self, view: &SiteView, now: Moment) -> Option<News> {
        if let Some(position) = place_of(view).filter(|_| is_ready(view)) {
            let was_whole = std::mem::replace(&mut self.is_whole, true);
            let was_ready = std::mem::replace(&mut self.is_ready, true);
            let news = if was_ready {
                News::Complete
            } else {
                News::Ready
            };
            return (!was_whole).then(|| news(position));
        }
        let is_joining = view.is_joining || !matches!(view.holding, Holding::At { .. });
        if !is_joining {
            // The hub is away.
            return None;
        }
        if std::mem::replace(&mut self.is_whole, false) {
            self.note(view, now);
            return None;
        }
        let past = now.saturating_since(self.at);
        (past >= TELL && view.joined_bytes > 0).then_some(News::Joining(past))
    }

    fn note(&mut self, view: &SiteView, now: Moment) {
        self.at = now;
        self.bytes = view.joined_bytes;
        self.seq = place_of(view).map_or(0, |position| position.seq.0);
    }
}

/// Tells how the site fares, until `stopped` ends. Nobody has to read it.
pub(super) fn report(
    server: &SiteServer,
    args: &SiteRunArgs,
    as_json: bool,
    stopped: &Receiver<()>,
) {
    let clock = MonotonicClock;
    let mut told = Told::new(clock.now());
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
        let Ok(view) = server.view() else {
            continue;
        };
        let now = clock.now();
        match told.news(&view, now) {
            Some(News::Ready(position)) => {
                if let Err(error) = say_ready(&args.name, position, as_json) {
                    tracing::warn!("cannot say ready: {error}");
                }
                if args.capture && view.token.is_none() {
                    let site = &args.name;
                    tracing::warn!("captured writes wait until `waystation sync grant {site}`");
                }
            }
            // Whoever does not read it does not want it.
            Some(News::Complete(position)) => {
                let _ = say_complete(&mut io::stderr().lock(), position, as_json);
            }
            Some(News::Joining(past)) => {
                let _ = tell(&mut io::stderr().lock(), &view, &told, past, as_json);
                told.note(&view, now);
            }
            None => {}
        }
    }
}

fn say_complete(out: &mut dyn Write, position: Position, as_json: bool) -> io::Result<()> {
    if as_json {
        let (epoch, seq) = (position.epoch.0, position.seq.0);
        let line = serde_json::json!({ "joined": { "epoch": epoch, "seq": seq } });
        return writeln!(out, "{line}");
    }
    writeln!(out, "joined: the copy is complete, at {position}")
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

/// One line about a join.
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
    let behind = view.end.0.saturating_sub(seq);
    let copy = Copied::of(view);
    // What is written meanwhile is applied after the copy.
    let eta = match copy.total {
        Some(total) if copy.done < total => (total - copy.done).checked_div(rate),
        _ => behind.checked_div(applied),
    };
    let rows = view.joined_rows;
    if as_json {
        let line = serde_json::json!({
            "joining": { "bytes": copy.done, "bytes_total": copy.total, "rows": rows,
                "rows_total": copy.rows_total, "bytes_per_second": rate,
                "entries_left": behind, "eta_seconds": eta },
        });
        return writeln!(out, "{line}");
    }
    let of =
        |total: Option<String>| total.map_or_else(String::new, |one| format!(" of about {one}"));
    let (done, speed) = (mebibytes(copy.done), mebibytes(rate));
    let total = of(copy.total.map(mebibytes));
    let rows_total = of(copy.rows_total.map(|rows| rows.to_string()));
    let eta = eta.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds} s"));
    writeln!(
        out,
        "joining: {done}{total} MiB, {rows}{rows_total} rows, {speed} MiB/s, \
         {behind} entries behind, eta {eta}"
    )
}

/// How much of a copy is there, about.
#[derive(Debug, PartialEq, Eq)]
struct Copied {
    done: u64,
    /// What the donor thinks there is; never less than what is there.
    total: Option<u64>,
    rows_total: Option<u64>,
}

impl Copied {
    /// Chunks that are there from before this process have the size of those that
    /// came since.
    fn of(view: &SiteView) -> Self {
        let each = view.joined_bytes.checked_div(view.joined_chunks);
        let chunks = match &view.holding {
            Holding::Restoring(part) => part.chunks,
            _ => view.joined_chunks,
        };
        let done = each.unwrap_or_default().saturating_mul(chunks);
        let size = view.joining_size.unwrap_or_default();
        let known = |count: u64| (count > 0).then_some(count);
        Self {
            done,
            total: known(size.bytes).map(|total| total.max(done)),
            rows_total: known(size.rows).map(|total| total.max(view.joined_rows)),
        }
    }
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
    use waystation_base::Seq;
    use waystation_replica::{ApplyState, Cursor, Restoring, SnapshotSize};

    use super::*;

    fn view(chunks: u64) -> SiteView {
        SiteView {
            site: None,
            is_connected: true,
            is_barred: false,
            holding: Holding::Restoring(Restoring {
                position: Position::new(1, 5),
                chunks,
                cursor: Cursor::new(b"k"),
                ahead: None,
            }),
            end: Seq(25),
            apply: ApplyState::Running,
            error: None,
            is_first: false,
            is_differing: false,
            parked: 0,
            is_joining: true,
            joined_chunks: 4,
            joined_rows: 40,
            joined_bytes: 4 << 20,
            joining_size: Some(SnapshotSize {
                bytes: 20 << 20,
                rows: 200,
            }),
            token: None,
        }
    }

    fn told(view: &SiteView) -> String {
        let mut told = Told::new(Moment::ZERO);
        (told.bytes, told.seq) = (2 << 20, 5);
        let mut out = Vec::new();
        tell(&mut out, view, &told, Duration::from_secs(1), false).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// How large the donor's copy is nobody knew before its end, and the time that
    /// was told counted what was to be applied after it.
    #[test]
    fn a_join_tells_how_much_is_there_and_when_the_rest_will_be() {
        assert_eq!(
            told(&view(4)),
            "joining: 4.0 of about 20.0 MiB, 40 of about 200 rows, 2.0 MiB/s, \
             20 entries behind, eta 8 s\n"
        );
        // It went on where an earlier process stopped.
        assert!(told(&view(10)).contains("10.0 of about 20.0 MiB"));
        // There was more than the donor thought.
        let larger = view(40);
        assert_eq!(Copied::of(&larger).total, Some(40 << 20));
        assert!(told(&larger).contains("eta unknown"));
        let mut unknown = view(4);
        unknown.joining_size = None;
        assert!(told(&unknown).starts_with("joining: 4.0 MiB, 40 rows, 2.0 MiB/s"));
    }

    /// A copy that was taken anew while its site ran told nothing of itself: whoever
    /// asked for it saw the first word of the site, and that was all.
    #[test]
    fn a_copy_that_is_taken_anew_tells_how_far_it_is_too() {
        let second = |count: u64| Moment::from_millis(1000 * count);
        let mut told = Told::new(second(0));
        assert_eq!(told.news(&view(4), second(0)), None);
        let past = Duration::from_secs(1);
        assert_eq!(told.news(&view(4), second(1)), Some(News::Joining(past)));
        told.note(&view(4), second(1));
        let position = Position::new(1, 9);
        let mut whole = view(4);
        whole.is_joining = false;
        let ahead = None;
        whole.holding = Holding::At { position, ahead };
        assert_eq!(told.news(&whole, second(2)), Some(News::Ready(position)));
        assert_eq!(told.news(&whole, second(3)), None);
        whole.is_connected = false;
        assert_eq!(
            told.news(&whole, second(4)),
            None,
            "a hub that is away is no news"
        );
        whole.is_connected = true;
        assert_eq!(told.news(&whole, second(5)), None);
        assert_eq!(told.news(&view(1), second(6)), None);
        assert_eq!(told.news(&view(1), second(7)), Some(News::Joining(past)));
        assert_eq!(told.news(&whole, second(8)), Some(News::Complete(position)));
        let mut out = Vec::new();
        say_complete(&mut out, position, false).unwrap();
        assert_eq!(out, b"joined: the copy is complete, at 1/9\n");
    }

    #[test]
    fn rates_and_sizes_are_rounded_down() {
        assert_eq!(per_second(3, Duration::from_secs(2)), 1);
        assert_eq!(per_second(3, Duration::ZERO), 3000);
        assert_eq!(mebibytes(3 << 19), "1.5");
    }
}
