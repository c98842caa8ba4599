//! What keeps a site from going on beside an entry that failed: each stays until the
//! same thing succeeds, so that operators see it as long as it matters.

use std::sync::Arc;

use crate::limits::ERROR_BYTES_MAX;

/// What may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Captured writes are found.
    Capture,
    /// They are read, to be published.
    Read,
    /// They are published.
    Publish,
    /// They go out as fast as they come.
    Drain,
    /// A chunk of a copy is stored.
    Store,
    /// A copy is found.
    Join,
    /// A copy is read for another site.
    Donate,
}

const TASKS: [(Task, &str); 7] = [
    (Task::Capture, "the capture of writes stands"),
    (Task::Read, "captured writes cannot be read"),
    (Task::Publish, "captured writes are refused"),
    (Task::Drain, "captured writes fill the database"),
    (Task::Store, "a chunk of the copy cannot be stored"),
    (Task::Join, "there is no copy yet"),
    (Task::Donate, "no copy can be read for another site"),
];

/// The last error of each task that does not go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble([Option<Arc<str>>; TASKS.len()]);

impl Trouble {
    pub(super) fn note(&mut self, task: Task, error: &str) {
        self.0[task as usize] = Some(error.into());
    }

    pub(super) fn end(&mut self, task: Task) {
        self.0[task as usize] = None;
    }

    pub(super) fn is_noted(&self, task: Task) -> bool {
        self.0[task as usize].is_some()
    }

    /// Whether captured writes are not found, or cannot be read.
    pub(super) fn is_capture_stopped(&self) -> bool {
        let tasks = [Task::Capture, Task::Read];
        tasks.iter().any(|task| self.0[*task as usize].is_some())
    }

    /// All of it in words, behind what the applier says.
    pub(super) fn text(&self, applier: Option<Arc<str>>) -> Option<Arc<str>> {
        let here = TASKS.iter().zip(&self.0);
        let here =
            here.filter_map(|((_, what), error)| Some(format!("{what}: {}", error.as_ref()?)));
        let here: Vec<_> = here.collect();
        if here.is_empty() {
            return applier;
        }
        let all = applier.iter().map(ToString::to_string).chain(here);
        let mut text = all.collect::<Vec<_>>().join("; ");
        let end = (0..=ERROR_BYTES_MAX.min(text.len())).rev();
        let end = end.into_iter().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_told_until_its_task_goes_on() {
        let mut trouble = Trouble::default();
        assert_eq!(
            trouble.text(Some("entry 7".into())).as_deref(),
            Some("entry 7")
        );
        trouble.note(Task::Join, "no donor");
        trouble.note(Task::Capture, "table t has no primary key");
        assert!(trouble.is_capture_stopped());
        let said = trouble.text(Some("entry 7".into())).unwrap_or_default();
        assert_eq!(
            &*said,
            "entry 7; the capture of writes stands: table t has no primary key; \
             there is no copy yet: no donor"
        );
        trouble.end(Task::Capture);
        assert!(!trouble.is_capture_stopped());
        let said = trouble.text(None).unwrap_or_default();
        assert_eq!(&*said, "there is no copy yet: no donor");
        trouble.end(Task::Join);
        assert_eq!(trouble.text(None), None);
        for (place, (task, _)) in TASKS.iter().enumerate() {
            assert_eq!(*task as usize, place);
        }
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let mut trouble = Trouble::default();
        trouble.note(Task::Store, &"ä".repeat(ERROR_BYTES_MAX));
        let said = trouble.text(None).unwrap_or_default();
        assert!((ERROR_BYTES_MAX - 1..=ERROR_BYTES_MAX).contains(&said.len()));
    }
}
