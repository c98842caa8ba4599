//! Bars: what a benchmark promises. One that is missed ends the run with exit code 1,
//! after its results were written.

use anyhow::{Result, ensure};

/// The names of the bars that a run missed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bars {
    missed: Vec<String>,
}

impl Bars {
    /// Judges one bar: the word for it in a table.
    pub(crate) fn word(&mut self, name: impl Into<String>, is_kept: bool) -> &'static str {
        if is_kept {
            return "kept";
        }
        self.missed.push(name.into());
        "MISSED"
    }

    /// Ends the run.
    ///
    /// # Errors
    /// Names each bar that was missed.
    pub(crate) fn finish(self) -> Result<()> {
        ensure!(self.missed.is_empty(), "missed: {}", self.missed.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missed_is_named() {
        let mut bars = Bars::default();
        assert_eq!(bars.word("pick p50", true), "kept");
        assert_eq!(bars, Bars::default());
        assert_eq!(bars.word("pairs/s", false), "MISSED");
        assert_eq!(bars.word("pair p99", false), "MISSED");
        let error = bars.finish().unwrap_err();
        assert_eq!(error.to_string(), "missed: pairs/s; pair p99");
        assert!(Bars::default().finish().is_ok());
    }
}
