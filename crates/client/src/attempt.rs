//! Words with the agent, of which each kind has one at a time.

use std::time::Duration;

use waystation_base::{Backoff, BackoffConfig, Moment};

use crate::clock::machine_now;
use crate::error::Error;

/// Longest pause after failures, unless the first one is longer. What drains hosts
/// waits for longer than that for agents that are gone.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The part of a pause that is random: all processes of a machine lose their agent
/// at once.
const JITTER: f64 = 0.25;

/// A kind of word with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// For shared memory.
    Attach,
    /// By the socket.
    Ask,
    /// By UDP.
    Udp,
}

/// What came of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer.
    Answered,
    /// An answer that is of no use.
    Useless,
    /// Nothing in time, or nobody is there.
    Silence,
}

impl Outcome {
    /// What came of asking for something that may be refused.
    pub(crate) const fn of<T>(asked: &Result<T, Error>) -> Self {
        match asked {
            Ok(_) | Err(Error::Refused { .. }) => Self::Answered,
            Err(Error::Unreachable(_) | Error::TimedOut) => Self::Silence,
            Err(_) => Self::Useless,
        }
    }
}

/// The attempts of a kind, of which one thread at a time makes one.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) is_under_way: bool,
    rests_until: Option<Moment>,
    pause: Duration,
    backoff: Backoff,
}

impl Attempt {
    /// With this pause after a failure, which each further one doubles.
    pub(crate) fn new(pause: Duration, seed: u64) -> Self {
        let config = BackoffConfig {
            base: pause,
            max: PAUSE_MAX.max(pause),
            jitter: JITTER,
        };
        Self {
            is_under_way: false,
            rests_until: None,
            pause,
            backoff: Backoff::new(config, seed),
        }
    }

    /// Whether the last one failed just now.
    pub(crate) fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| machine_now() < until)
    }

    /// Begins one, unless the last one failed just now.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        if self.rests() {
            return Err(Error::Unreachable(std::io::ErrorKind::NotConnected.into()));
        }
        self.is_under_way = true;
        Ok(())
    }

    /// It is over. The pause is counted from here on: the attempt may have taken
    /// longer than that.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.is_under_way = false;
        self.note(outcome);
    }

    /// Rests for as long as another one at least, which would have gone the same
    /// way.
    pub(crate) fn rest_with(&mut self, other: &Self) {
        self.rests_until = self.rests_until.max(other.rests_until);
    }

    /// What came of one, this or another that would have gone the same way.
    pub(crate) fn note(&mut self, outcome: Outcome) {
        let pause = match outcome {
            Outcome::Answered => {
                self.backoff.reset();
                self.rests_until = None;
                return;
            }
            Outcome::Useless => {
                self.backoff.reset();
                self.pause
            }
            Outcome::Silence => self.backoff.next_delay(),
        };
        self.rests_until = Some(machine_now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(attempt: &Attempt, since: Moment) -> Duration {
        let until = attempt.rests_until.unwrap();
        until.saturating_since(since)
    }

    /// Story: a stopped agent was tried anew five times in seven parts of the time,
    /// for as long as it was stopped.
    #[test]
    fn an_agent_that_stays_silent_is_tried_less_and_less() {
        let pause = Duration::from_secs(100);
        let mut attempt = Attempt::new(pause, 7);
        attempt.backoff = Backoff::new(
            BackoffConfig {
                base: pause,
                max: 8 * pause,
                jitter: 0.0,
            },
            7,
        );
        for factor in [1, 2, 4, 8, 8] {
            let before = machine_now();
            attempt.end(Outcome::Silence);
            assert!(rest(&attempt, before) >= factor * pause);
            assert!(rest(&attempt, machine_now()) <= factor * pause);
            assert!(attempt.begin().is_err());
        }
        // One that answers nonsense is there, and one that answers is well.
        attempt.end(Outcome::Useless);
        assert!(rest(&attempt, machine_now()) <= pause);
        attempt.end(Outcome::Answered);
        assert!(attempt.begin().is_ok() && attempt.is_under_way);
        let before = machine_now();
        attempt.end(Outcome::Silence);
        assert!(rest(&attempt, before) <= 2 * pause, "it began anew");
        assert!(!attempt.is_under_way);
    }

    #[test]
    fn a_pause_that_is_long_from_the_start_stays_so_long() {
        let pause = 3 * PAUSE_MAX;
        let mut attempt = Attempt::new(pause, 7);
        for _ in 0..9 {
            let before = machine_now();
            attempt.end(Outcome::Silence);
            let least = pause.mul_f64(1.0 - JITTER);
            assert!(rest(&attempt, before) >= least);
            assert!(rest(&attempt, machine_now()) <= pause);
        }
    }
}
