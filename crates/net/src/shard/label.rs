//! Names of tasks and handlers as small numbers, so that a shard can say what
//! it runs with one atomic store.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use crate::limits::LABELS_MAX;

/// The name of a task or handler. Labels are few: methods, loops, roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(u32);

#[derive(Default)]
struct Names {
    by_number: Vec<&'static str>,
    by_name: HashMap<&'static str, u32>,
}

static NAMES: LazyLock<RwLock<Names>> = LazyLock::new(|| {
    let mut names = Names::default();
    for name in ["idle", "other"] {
        let number = u32::try_from(names.by_number.len()).unwrap_or(0);
        names.by_number.push(name);
        names.by_name.insert(name, number);
    }
    RwLock::new(names)
});

impl Label {
    /// What a shard shows between tasks.
    pub const IDLE: Self = Self(0);
    /// What a name becomes when the table is full.
    pub const OTHER: Self = Self(1);

    /// The label of `name`. Interned for the life of the process, so take it
    /// once and keep it. Cost: a lock and a hash.
    pub fn of(name: &str) -> Self {
        if let Some(&number) = NAMES
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_name
            .get(name)
        {
            return Self(number);
        }
        let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = names.by_name.get(name) {
            return Self(number);
        }
        if names.by_number.len() >= LABELS_MAX {
            return Self::OTHER;
        }
        let Ok(number) = u32::try_from(names.by_number.len()) else {
            return Self::OTHER;
        };
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        names.by_number.push(name);
        names.by_name.insert(name, number);
        Self(number)
    }

    /// The name behind the label.
    pub fn name(self) -> &'static str {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        names
            .by_number
            .get(self.0 as usize)
            .copied()
            .unwrap_or("other")
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_label() {
        let label = Label::of("label-test");
        assert_eq!(label, Label::of("label-test"));
        assert_eq!(label.name(), "label-test");
        assert_ne!(label, Label::of("label-test-2"));
        assert_eq!(Label::IDLE.name(), "idle");
    }
}
