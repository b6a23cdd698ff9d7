//! Pauses between attempts.

use std::time::Duration;

use super::BackoffOptions;

/// The next pause; doubles at every use.
#[derive(Debug)]
pub(crate) struct Backoff {
    options: BackoffOptions,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(options: BackoffOptions) -> Self {
        Self { options, next: options.first }
    }

    /// Jittered, so that a thousand clients do not come back in one instant after a restart.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next.min(self.options.pause_max);
        self.next = whole.saturating_mul(2);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.options.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_a_half() {
        let options =
            BackoffOptions { first: Duration::from_millis(100), pause_max: Duration::from_millis(300) };
        let mut backoff = Backoff::new(options);
        for whole_ms in [100, 200, 300, 300] {
            let pause = backoff.pause().as_millis();
            assert!((whole_ms / 2..=whole_ms).contains(&pause), "{pause} ms of {whole_ms} ms");
        }
        backoff.reset();
        assert!(backoff.pause().as_millis() <= 100);
    }
}
