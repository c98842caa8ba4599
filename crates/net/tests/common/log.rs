//! Counts the lines that this process logs.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The lines so far, fields included, in their order.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    said: Arc<Mutex<Vec<String>>>,
}

impl Lines {
    /// Collects the lines of all threads from now on.
    pub(crate) fn of_this_process() -> Self {
        let lines = Self::default();
        tracing::subscriber::set_global_default(lines.clone()).unwrap();
        lines
    }

    /// Those that have `text` in them.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let with = said.iter().filter(|line| line.contains(text));
        with.cloned().collect()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.said.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
