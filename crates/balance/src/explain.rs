//! Why a host was picked.

use std::fmt;

use thiserror::Error;

use crate::limits::EXPLAINED_MAX;

/// What decided a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It is the only candidate.
    Only,
    /// Its turn came.
    Turn,
    /// Its turn by weight came.
    WeightedTurn,
    /// It costs less than another one drawn at random.
    LowerOfTwo,
    /// Of the hosts with a recent report that are not hot, it answers fastest.
    Cold,
    /// All hosts with a recent report are hot; it has the fewest requests.
    AllHot,
    /// It costs least among the hosts with a recent report.
    LowestReported,
    /// Too few hosts have a recent report; it was drawn at random.
    Random,
    /// The key belongs to it.
    Key,
    /// Lars: its turn among the idle hosts.
    IdleTurn,
    /// Lars: its turn to show whether it is still overloaded.
    OverloadedTurn,
}

impl Reason {
    /// Every reason, for counters.
    pub const ALL: [Self; 11] = [
        Self::Only,
        Self::Turn,
        Self::WeightedTurn,
        Self::LowerOfTwo,
        Self::Cold,
        Self::AllHot,
        Self::LowestReported,
        Self::Random,
        Self::Key,
        Self::IdleTurn,
        Self::OverloadedTurn,
    ];

    /// A short name, for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Turn => "turn",
            Self::WeightedTurn => "weighted-turn",
            Self::LowerOfTwo => "lower-of-two",
            Self::Cold => "cold",
            Self::AllHot => "all-hot",
            Self::LowestReported => "lowest-reported",
            Self::Random => "random",
            Self::Key => "key",
            Self::IdleTurn => "idle-turn",
            Self::OverloadedTurn => "overloaded-turn",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A policy's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The slot of the chosen host.
    pub slot: u32,
    /// What decided.
    pub reason: Reason,
}

/// Why nothing was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoPick {
    /// No host takes calls: the service is unknown, empty, or all of it drains.
    #[error("no host takes calls")]
    NoHosts,
    /// All hosts are overloaded, and it is nobody's turn to be tried.
    #[error("all hosts are overloaded")]
    Overloaded,
}

/// A host that a pick looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Considered {
    /// Its slot.
    pub slot: u32,
    /// What picking it costs, in the policy's unit; the lowest wins. `None`
    /// where the policy does not compare.
    pub cost: Option<f64>,
    /// What was found: `cold`, `hot`, `warming up`.
    pub note: &'static str,
}

/// Why a pick went as it did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// The policy.
    pub policy: &'static str,
    /// How many hosts the choice was among.
    pub candidates: usize,
    /// The hosts that were looked at, in order, at most
    /// [`EXPLAINED_MAX`].
    pub considered: Vec<Considered>,
    /// How many more were looked at.
    pub left_out: usize,
    /// What came out; `None` before the end.
    pub result: Option<Result<Pick, NoPick>>,
}

/// Where a pick tells what it looks at; without a listener this costs a branch.
#[derive(Debug, Default)]
pub struct Trace<'a>(Option<&'a mut Explanation>);

impl<'a> Trace<'a> {
    /// Nobody listens.
    pub const fn off() -> Self {
        Self(None)
    }

    /// What is told goes into `explanation`.
    pub const fn into(explanation: &'a mut Explanation) -> Self {
        Self(Some(explanation))
    }

    /// A host was looked at.
    #[inline]
    pub fn consider(&mut self, slot: u32, cost: Option<f64>, note: &'static str) {
        if let Some(explanation) = &mut self.0 {
            explanation.consider(slot, cost, note);
        }
    }

    /// Whether somebody listens.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Explanation {
    #[cold]
    fn consider(&mut self, slot: u32, cost: Option<f64>, note: &'static str) {
        if self.considered.len() < EXPLAINED_MAX {
            self.considered.push(Considered { slot, cost, note });
        } else {
            self.left_out += 1;
        }
    }
}
