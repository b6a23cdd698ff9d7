//! When a failed delivery comes again, and when it is a dead letter.

use std::time::Duration;

use crate::limits::ATTEMPTS_MAX;
use crate::rejection::Rejection;

/// How a consumer group treats failed deliveries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Deliveries of one message; when the last one fails it is a dead letter.
    pub attempts_max: u32,
    /// Wait after the first failure; doubles with each further one.
    pub delay: Duration,
    /// The longest wait.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 16, delay: Duration::from_secs(1), delay_max: Duration::from_secs(3600) }
    }
}

impl RetryPolicy {
    /// Checks what an operator asks for.
    ///
    /// # Errors
    /// [`Rejection::Invalid`].
    pub fn check(&self) -> Result<(), Rejection> {
        if self.attempts_max == 0 || self.attempts_max > ATTEMPTS_MAX {
            return Err(Rejection::Invalid { what: "attempts_max", why: "it must be 1 to 1,000".into() });
        }
        if self.delay_max < self.delay || self.delay_max > Duration::from_secs(30 * 24 * 3600) {
            let why = "delay must be at most delay_max, and delay_max at most 30 days".into();
            return Err(Rejection::Invalid { what: "retry delay", why });
        }
        Ok(())
    }

    /// The wait after the given attempt (1 is the first).
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        self.delay.saturating_mul(1 << attempt.saturating_sub(1).min(31)).min(self.delay_max)
    }

    pub(crate) fn is_last(&self, attempt: u32) -> bool {
        attempt >= self.attempts_max
    }
}
