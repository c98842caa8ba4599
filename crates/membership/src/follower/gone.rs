//! What a source takes away.

use super::Instances;
use crate::ids::InstanceId;
use crate::view::Removal;

/// What went between two words of a source.
#[derive(Clone, Copy)]
pub(super) enum Gone<'a> {
    /// Whatever is not there any more, for reasons unknown.
    Any,
    /// These, for these reasons, and nothing else.
    Just(&'a [(InstanceId, Removal)]),
    /// These, for these reasons, and whatever else is not there any more.
    AndMore(&'a [(InstanceId, Removal)]),
}

impl<'a> Gone<'a> {
    /// Something else may be gone, too.
    pub(super) const fn or_more(self) -> Self {
        match self {
            Self::Just(these) => Self::AndMore(these),
            Self::Any | Self::AndMore(_) => self,
        }
    }

    /// What the source said of it.
    pub(super) const fn told(self) -> &'a [(InstanceId, Removal)] {
        match self {
            Self::Any => &[],
            Self::Just(these) | Self::AndMore(these) => these,
        }
    }

    /// How many of `before` are looked at for it.
    pub(super) fn count(self, before: &Instances) -> u64 {
        match self {
            Self::Just(these) => these.len() as u64,
            Self::Any | Self::AndMore(_) => before.len() as u64,
        }
    }

    /// What of `before` may be gone, and why if that was said.
    pub(super) fn of(
        self,
        before: &Instances,
    ) -> impl Iterator<Item = (&InstanceId, Option<Removal>)> {
        let just = match self {
            Self::Just(these) => Some(these),
            Self::Any | Self::AndMore(_) => None,
        };
        let all = just.is_none().then_some(before).into_iter().flatten();
        let why = move |id: &InstanceId| {
            let told = self.told().iter().find(|(one, _)| one == id);
            told.map(|(_, why)| *why)
        };
        let all = all.map(move |(id, _)| (id, why(id)));
        let these = just.into_iter().flatten();
        let these = these.filter_map(|(id, why)| {
            let (id, _) = before.get_key_value(id)?;
            Some((id, Some(*why)))
        });
        all.chain(these)
    }
}
