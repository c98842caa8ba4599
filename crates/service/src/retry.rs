//! Steps that may be tried again.

use std::time::Duration;

use waystation_base::{Backoff, BackoffConfig, Moment};
use waystation_net::{WaitsFor, until, waiting};

use crate::ctx::Ctx;
use crate::limits::{RETRY_MARGIN, RETRY_PAUSE, RETRY_TRIES};
use crate::status::Status;
use waystation_wire::Status as Code;

/// How often a step is tried, and with which pauses.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Tries in all, the first included.
    pub tries: u32,
    /// The first pause; it doubles, with jitter.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Whether the step may be repeated when it may have been done.
    pub idempotent: bool,
}

impl Retry {
    /// For a step that may be repeated freely: at most [`RETRY_TRIES`] times,
    /// and until the deadline.
    pub fn idempotent() -> Self {
        let (pause, pause_max) = RETRY_PAUSE;
        Self {
            tries: RETRY_TRIES,
            pause,
            pause_max,
            idempotent: true,
        }
    }

    /// For a step that may be repeated only when it surely was not done.
    pub fn unsent() -> Self {
        Self {
            idempotent: false,
            ..Self::idempotent()
        }
    }

    /// The same with at most so many tries.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    fn allows(&self, status: &Status) -> bool {
        let code = status.code();
        if status.is_retried() {
            // Each layer that tried again would multiply the tries.
            false
        } else if self.idempotent {
            // A step may have had a shorter deadline than the request.
            code.may_retry_idempotent() || code == Code::DeadlineExceeded
        } else {
            code.may_retry()
        }
    }
}

/// Of two failures of a step the one that says more of why it fails: what the
/// callee answered before what was only missed.
fn telling(before: Option<Status>, now: Status) -> Status {
    match before {
        Some(before) if before.is_answered() && !now.is_answered() => before,
        _ => now,
    }
}

impl Ctx {
    /// Runs a step until it succeeds, fails for good, or the tries, the
    /// deadline or the budget of retries end
    /// ([`RETRY_SHARE_PERCENT`](crate::limits::RETRY_SHARE_PERCENT)). Only
    /// failures that another try may mend are tried again (`Status::code`
    /// says), and none that a callee has tried again already
    /// ([`Status::is_retried`]): one layer tries, the one next to the fault.
    ///
    /// # Errors
    /// The step's last failure. Tries that had less time than the request, and
    /// were all late, are [`Code::OutcomeUnknown`]. Of an idempotent step it is the last one that
    /// the callee answered, if there is one: that a later try was late says
    /// less. Such a step gives up
    /// [`RETRY_MARGIN`] before the deadline, so that the reason still gets to
    /// who asked.
    pub async fn retry<T>(
        &self,
        retry: &Retry,
        mut step: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let config = BackoffConfig {
            base: retry.pause,
            max: retry.pause_max,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::new(config, self.shard().random());
        let mut tries = 0;
        let mut cause: Option<Status> = None;
        let end = self.last_moment_to_try(retry);
        self.contexts()
            .begin_step(self.shard().now(), self.caller());
        loop {
            let result = match &cause {
                Some(cause) if retry.idempotent => match until(self.shard(), end, step()).await {
                    Ok(result) => result,
                    Err(_) => return Err(Self::out_of_time(cause.clone())),
                },
                _ => step().await,
            };
            let status = match result {
                Ok(value) => return Ok(value),
                Err(status) if !retry.allows(&status) => return Err(status),
                Err(status) => status,
            };
            let before = cause.take().filter(|_| retry.idempotent);
            let status = telling(before, status);
            tries += 1;
            let pause = backoff.next_delay();
            let now = self.shard().now();
            if tries >= retry.tries {
                return Err(self.out_of_tries(status, tries));
            }
            if now + pause >= end {
                return Err(Self::out_of_time(status));
            }
            if !self.contexts().may_retry(now, self.caller()) {
                return Err(self.out_of_tries(status, tries));
            }
            cause = Some(status);
            waiting(WaitsFor::plain("the next try"), self.shard().sleep(pause)).await;
        }
    }

    /// Until when a step may be tried again.
    fn last_moment_to_try(&self, retry: &Retry) -> Moment {
        let time = self.deadline().saturating_since(self.started());
        let margin = if retry.idempotent {
            RETRY_MARGIN.min(time / 10)
        } else {
            // A try that is given up may have been done, which what was said
            // before does not say.
            Duration::ZERO
        };
        self.started() + time.saturating_sub(margin)
    }

    /// A step ends so since it was tried often enough. The deadline that
    /// passed was that of a try: who asked has time left, and is told that
    /// nobody knows what came of it.
    fn out_of_tries(&self, status: Status, tries: u32) -> Status {
        if status.code() != Code::DeadlineExceeded || self.time_left().is_zero() {
            return status.retried();
        }
        let tries = match tries {
            1 => "a try".to_owned(),
            tries => format!("{tries} tries"),
        };
        Status::outcome_unknown(format!("no answer within {tries}")).retried()
    }

    /// A step ends so since its time ends. Whoever gave it that time may have
    /// more: it may try again what nobody has answered.
    fn out_of_time(cause: Status) -> Status {
        if cause.is_answered() {
            cause.retried()
        } else {
            cause
        }
    }
}
