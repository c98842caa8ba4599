//! What there is to tell of a running site: that its copy is whole, and how a join
//! goes on.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use waystation_base::Moment;
use waystation_replica::{Holding, Position, SiteView};

/// How often a join tells how far it is.
const TELL: Duration = Duration::from_secs(1);

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The copy is whole for the first time, and the hub has welcomed it.
    Ready(Position),
    /// A copy that was taken anew while the site ran is complete.
    Complete(Position),
    /// How far a copy is.
    Joining(Joining),
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Joining {
    /// Bytes that are there, about.
    pub bytes: u64,
    /// Bytes of all of it, as the donor thinks; never less than what is there.
    pub bytes_total: Option<u64>,
    /// Rows that came since the site was started.
    pub rows: u64,
    /// Rows of all of it, as the donor thinks.
    pub rows_total: Option<u64>,
    /// Bytes a second, since it was told last.
    pub bytes_per_second: u64,
    /// Entries of the log that are applied after the copy.
    pub entries_left: u64,
    /// When it will be complete at this rate.
    pub eta_seconds: Option<u64>,
}

/// Finds what is new in what a site says of itself, for people to read.
///
/// Feed it each [`SiteView`], about ten times a second.
#[derive(Clone, Debug)]
pub struct Progress {
    /// When it was told last how far the copy is.
    at: Moment,
    /// Bytes of a copy, and the sequence that was reached, then.
    bytes: u64,
    seq: u64,
    /// Whether the copy was whole when it was looked at last.
    is_whole: bool,
    /// Whether it was told that the site is ready: once.
    is_ready: bool,
}

impl Progress {
    /// Of a site that was just started.
    pub fn new(now: Moment) -> Self {
        Self {
            at: now,
            bytes: 0,
            seq: 0,
            is_whole: false,
            is_ready: false,
        }
    }

    /// What is new in a view.
    pub fn news(&mut self, view: &SiteView, now: Moment) -> Option<News> {
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
        if past < TELL || view.joined_bytes == 0 {
            return None;
        }
        let joining = self.joining(view, past);
        self.note(view, now);
        Some(News::Joining(joining))
    }

    fn note(&mut self, view: &SiteView, now: Moment) {
        self.at = now;
        self.bytes = view.joined_bytes;
        self.seq = place_of(view).map_or(0, |position| position.seq.0);
    }

    fn joining(&self, view: &SiteView, past: Duration) -> Joining {
        let seq = place_of(view).map_or(0, |position| position.seq.0);
        let rate = per_second(view.joined_bytes.saturating_sub(self.bytes), past);
        let applied = per_second(seq.saturating_sub(self.seq), past);
        let entries_left = view.end.0.saturating_sub(seq);
        // Chunks that are there from before this process have the size of those that
        // came since.
        let each = view.joined_bytes.checked_div(view.joined_chunks);
        let chunks = match &view.holding {
            Holding::Restoring(part) => part.chunks,
            _ => view.joined_chunks,
        };
        let bytes = each.unwrap_or_default().saturating_mul(chunks);
        let size = view.joining_size.unwrap_or_default();
        let known = |count: u64| (count > 0).then_some(count);
        let bytes_total = known(size.bytes).map(|total| total.max(bytes));
        // What is written meanwhile is applied after the copy.
        let eta_seconds = match bytes_total {
            Some(total) if bytes < total => (total - bytes).checked_div(rate),
            _ => entries_left.checked_div(applied),
        };
        Joining {
            bytes,
            bytes_total,
            rows: view.joined_rows,
            rows_total: known(size.rows).map(|total| total.max(view.joined_rows)),
            bytes_per_second: rate,
            entries_left,
            eta_seconds,
        }
    }
}

impl fmt::Display for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", mebibytes(self.bytes))?;
        if let Some(total) = self.bytes_total {
            write!(f, " of about {}", mebibytes(total))?;
        }
        write!(f, " MiB, {}", self.rows)?;
        if let Some(total) = self.rows_total {
            write!(f, " of about {total}")?;
        }
        let (rate, left) = (mebibytes(self.bytes_per_second), self.entries_left);
        write!(f, " rows, {rate} MiB/s, {left} entries behind, eta ")?;
        match self.eta_seconds {
            Some(seconds) => write!(f, "{seconds} s"),
            None => f.write_str("unknown"),
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
            unpublished: 0,
        }
    }

    fn joining(view: &SiteView) -> Joining {
        let mut progress = Progress::new(Moment::ZERO);
        (progress.bytes, progress.seq) = (2 << 20, 5);
        match progress.news(view, Moment::from_millis(1000)) {
            Some(News::Joining(joining)) => joining,
            other => panic!("{other:?}"),
        }
    }

    fn told(view: &SiteView) -> String {
        joining(view).to_string()
    }

    /// How large the donor's copy is nobody knew before its end, and the time that
    /// was told counted what was to be applied after it.
    #[test]
    fn a_join_tells_how_much_is_there_and_when_the_rest_will_be() {
        assert_eq!(
            told(&view(4)),
            "4.0 of about 20.0 MiB, 40 of about 200 rows, 2.0 MiB/s, \
             20 entries behind, eta 8 s"
        );
        // It went on where an earlier process stopped.
        assert!(told(&view(10)).contains("10.0 of about 20.0 MiB"));
        // There was more than the donor thought.
        let larger = view(40);
        assert_eq!(joining(&larger).bytes_total, Some(40 << 20));
        assert!(told(&larger).contains("eta unknown"));
        let mut unknown = view(4);
        unknown.joining_size = None;
        assert!(told(&unknown).starts_with("4.0 MiB, 40 rows, 2.0 MiB/s"));
    }

    /// A copy that was taken anew while its site ran told nothing of itself: whoever
    /// asked for it saw the first word of the site, and that was all.
    #[test]
    fn a_copy_that_is_taken_anew_tells_how_far_it_is_too() {
        let second = |count: u64| Moment::from_millis(1000 * count);
        let mut progress = Progress::new(second(0));
        let mut tells = |view: &SiteView, at| match progress.news(view, second(at)) {
            Some(News::Joining(_)) => "joining".to_owned(),
            Some(News::Ready(position)) => format!("ready {position}"),
            Some(News::Complete(position)) => format!("complete {position}"),
            None => String::new(),
        };
        assert_eq!(tells(&view(4), 0), "");
        assert_eq!(tells(&view(4), 1), "joining");
        let position = Position::new(1, 9);
        let mut whole = view(4);
        whole.is_joining = false;
        let ahead = None;
        whole.holding = Holding::At { position, ahead };
        assert_eq!(tells(&whole, 2), "ready 1/9");
        assert_eq!(tells(&whole, 3), "");
        whole.is_connected = false;
        assert_eq!(tells(&whole, 4), "", "a hub that is away is no news");
        whole.is_connected = true;
        assert_eq!(tells(&whole, 5), "");
        assert_eq!(tells(&view(1), 6), "");
        assert_eq!(tells(&view(1), 7), "joining");
        assert_eq!(tells(&whole, 8), "complete 1/9");
    }

    #[test]
    fn rates_and_sizes_are_rounded_down() {
        assert_eq!(per_second(3, Duration::from_secs(2)), 1);
        assert_eq!(per_second(3, Duration::ZERO), 3000);
        assert_eq!(mebibytes(3 << 19), "1.5");
    }
}
