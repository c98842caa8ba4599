//! The log: one line an event on standard error.

use std::fmt;
use std::io::{self, IsTerminal};

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
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .event_format(Named {
            process,
            format: Format::default(),
        })
        .init();
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
