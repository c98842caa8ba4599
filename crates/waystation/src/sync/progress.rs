//! What a running site tells: that it is ready, and how a join goes on.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use waystation_base::Clock;
use waystation_net::MonotonicClock;
use waystation_replica::Position;
use waystation_sync::progress::{Joining, News, Progress};
use waystation_sync::site::SiteServer;

use crate::cli::SiteRunArgs;

/// How often the site is asked.
const LOOK: Duration = Duration::from_millis(100);

/// Tells how the site fares, until `stopped` ends. Nobody has to read it.
pub(super) fn report(
    server: &SiteServer,
    args: &SiteRunArgs,
    as_json: bool,
    stopped: &Receiver<()>,
) {
    let clock = MonotonicClock;
    let mut progress = Progress::new(clock.now());
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
        let Ok(view) = server.view() else {
            continue;
        };
        match progress.news(&view, clock.now()) {
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
            Some(News::Joining(joining)) => {
                let _ = say_joining(&mut io::stderr().lock(), &joining, as_json);
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

fn say_joining(out: &mut dyn Write, joining: &Joining, as_json: bool) -> io::Result<()> {
    if as_json {
        let line = serde_json::json!({ "joining": joining });
        return writeln!(out, "{line}");
    }
    writeln!(out, "joining: {joining}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_and_its_end_are_told_in_words_and_in_json() {
        let joining = Joining {
            bytes: 3 << 19,
            bytes_total: Some(4 << 20),
            rows: 7,
            rows_total: None,
            bytes_per_second: 1 << 20,
            entries_left: 5,
            eta_seconds: Some(2),
        };
        let said = |as_json| {
            let mut out = Vec::new();
            say_joining(&mut out, &joining, as_json).unwrap();
            say_complete(&mut out, Position::new(1, 9), as_json).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            said(false),
            "joining: 1.5 of about 4.0 MiB, 7 rows, 1.0 MiB/s, 5 entries behind, eta 2 s\n\
             joined: the copy is complete, at 1/9\n"
        );
        let json = said(true);
        let (first, second) = json.split_once('\n').unwrap();
        let first: serde_json::Value = serde_json::from_str(first).unwrap();
        assert_eq!(first["joining"]["bytes_total"], 4 << 20);
        assert_eq!(first["joining"]["rows_total"], serde_json::Value::Null);
        assert_eq!(second.trim_end(), r#"{"joined":{"epoch":1,"seq":9}}"#);
    }
}
