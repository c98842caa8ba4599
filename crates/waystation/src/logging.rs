//! The log: one line an event on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Logs from here on. Each line begins with `process`, because the roles share
/// the supervisor's standard error.
pub(crate) fn start(level: &str, process: String) {
    // The configuration has checked the word.
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Lines)
        // They would go to standard error by a macro that panics.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .event_format(Named {
            process,
            format: Format::default(),
        })
        .init();
}

/// Standard error, as far as it takes lines. One that cannot be written is
/// dropped: a full disk or a closed terminal is no reason to end.
struct Lines;

/// Lines that were dropped since the last one that was written.
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_line(&mut io::stderr().lock(), line, &DROPPED);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line, behind one that says how many before it were dropped.
fn write_line(out: &mut impl Write, line: &[u8], dropped: &AtomicU64) {
    let missing = dropped.swap(0, Ordering::Relaxed);
    let told = match missing {
        0 => Ok(()),
        missing => writeln!(out, "{missing} lines of this log could not be written"),
    };
    if told.and_then(|()| out.write_all(line)).is_err() {
        dropped.fetch_add(missing + 1, Ordering::Relaxed);
    }
}

struct Named {
    process: String,
    format: Format,
}

impl<S, N> FormatEvent<S, N> for Named
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.process)?;
        self.format.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full for a while.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_dropped_and_counted() {
        let dropped = AtomicU64::new(0);
        let mut disk = Disk {
            room: 0,
            text: Vec::new(),
        };
        for _ in 0..3 {
            write_line(&mut disk, b"lost\n", &dropped);
        }
        disk.room = 1;
        write_line(&mut disk, b"kept\n", &dropped);
        write_line(&mut disk, b"kept\n", &dropped);
        let text = String::from_utf8(disk.text).unwrap();
        assert_eq!(
            text,
            "3 lines of this log could not be written\nkept\nkept\n"
        );
    }
}
