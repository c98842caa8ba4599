//! Policies by name, for configurations.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::host::Hosts;
use crate::policy::{Fresh, Lars, LarsConfig, Maglev, P2c, Policy, Prequal, RoundRobin, Weighted};

/// A policy with its default settings, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// [`Fresh`].
    #[default]
    Fresh,
    /// [`Prequal`].
    Prequal,
    /// [`P2c`].
    P2c,
    /// [`Lars`], with the settings that Lars ships.
    Lars,
    /// [`Weighted`].
    Weighted,
    /// [`RoundRobin`].
    RoundRobin,
    /// [`Maglev`].
    Maglev,
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no policy is named {0:?}; there are fresh, prequal, p2c, lars, weighted, round-robin and maglev"
)]
pub struct UnknownPolicy(pub String);

impl PolicyKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Fresh,
        Self::Prequal,
        Self::P2c,
        Self::Lars,
        Self::Weighted,
        Self::RoundRobin,
        Self::Maglev,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Prequal => "prequal",
            Self::P2c => "p2c",
            Self::Lars => "lars",
            Self::Weighted => "weighted",
            Self::RoundRobin => "round-robin",
            Self::Maglev => "maglev",
        }
    }

    /// The policy. `seed` sets where turns begin, so that callers do not walk in
    /// step.
    pub fn build<H: Hosts + ?Sized + 'static>(self, seed: u64) -> Box<dyn Policy<H>> {
        match self {
            Self::Fresh => Box::new(Fresh::default()),
            Self::Prequal => Box::new(Prequal::default()),
            Self::P2c => Box::new(P2c::default()),
            Self::Lars => Box::new(Lars::new(LarsConfig::default(), seed)),
            Self::Weighted => Box::new(Weighted::new(seed)),
            Self::RoundRobin => Box::new(RoundRobin::new(seed)),
            Self::Maglev => Box::new(Maglev::new()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    #[test]
    fn every_policy_is_built_by_its_own_name() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.build::<Table>(1).name(), kind.name());
        }
        let error = "best".parse::<PolicyKind>().unwrap_err().to_string();
        for kind in PolicyKind::ALL {
            assert!(error.contains(kind.name()), "{error}");
        }
    }
}
