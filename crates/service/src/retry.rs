//! Steps that may be tried again.

use std::time::Duration;

use waystation_base::{Backoff, BackoffConfig};
use waystation_net::{WaitsFor, waiting};

use crate::contexts::Contexts;
use crate::ctx::Ctx;
use crate::limits::{RETRY_PAUSE, RETRY_TRIES};
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
        if self.idempotent {
            // A step may have had a shorter deadline than the request.
            code.may_retry_idempotent() || code == Code::DeadlineExceeded
        } else {
            code.may_retry()
        }
    }
}

impl Ctx {
    /// Runs a step until it succeeds, fails for good, or the tries, the
    /// deadline or the shard's budget of retries end
    /// ([`RETRY_SHARE_PERCENT`](crate::limits::RETRY_SHARE_PERCENT)). Only
    /// failures that another try may mend are tried again (`Status::code`
    /// says).
    ///
    /// # Errors
    /// The step's last failure.
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
        let contexts = Contexts::of(self.shard());
        contexts.begin_step(self.shard().now());
        loop {
            let status = match step().await {
                Ok(value) => return Ok(value),
                Err(status) => status,
            };
            tries += 1;
            let pause = backoff.next_delay();
            if tries >= retry.tries || !retry.allows(&status) || self.time_left() <= pause {
                return Err(status);
            }
            if !contexts.may_retry(self.shard().now()) {
                return Err(status);
            }
            waiting(WaitsFor::plain("the next try"), self.shard().sleep(pause)).await;
        }
    }
}
