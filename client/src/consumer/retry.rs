//! When a failed delivery comes again, as this consumer wants it.

use std::time::Duration;

/// Waits between attempts, in place of the group's own policy. How many attempts there are stays the group's
/// to say ([`RetryPolicy::attempts_max`](crate::RetryPolicy)): after the last one a message is a dead letter.
#[derive(Debug, Clone, PartialEq)]
pub enum RetrySchedule {
    /// The same wait after every attempt.
    Fixed(Duration),
    /// A wait that doubles from `first` up to `max`. `jitter` of it, 0 to 1, is left to chance, so that
    /// messages that failed together do not come again together.
    Exponential {
        /// After the first attempt.
        first: Duration,
        /// The longest.
        max: Duration,
        /// 0: none; 1: anything between nothing and the whole wait.
        jitter: f64,
    },
    /// The n-th wait after the n-th attempt, and the last one from then on. An empty list does not wait.
    List(Vec<Duration>),
}

impl RetrySchedule {
    /// The wait after this attempt, from 1.
    pub fn delay(&self, attempt: u32) -> Duration {
        match self {
            Self::Fixed(delay) => *delay,
            Self::Exponential { first, max, jitter } => {
                let whole = first.saturating_mul(1 << attempt.saturating_sub(1).min(31)).min(*max);
                whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) * rand::random_range(0.0..=1.0))
            }
            Self::List(delays) => {
                let index = attempt.saturating_sub(1) as usize;
                delays.get(index).or(delays.last()).copied().unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule() {
        let ms = Duration::from_millis;
        let exponential = RetrySchedule::Exponential { first: ms(100), max: ms(1_000), jitter: 0.0 };
        for (schedule, waits_ms) in [
            (RetrySchedule::Fixed(ms(50)), [50, 50, 50, 50, 50, 50]),
            (exponential, [100, 200, 400, 800, 1_000, 1_000]),
            (RetrySchedule::List(vec![ms(1), ms(5), ms(9)]), [1, 5, 9, 9, 9, 9]),
            (RetrySchedule::List(Vec::new()), [0; 6]),
        ] {
            let waits: Vec<_> = (1..=6).map(|attempt| schedule.delay(attempt).as_millis()).collect();
            assert_eq!(waits, waits_ms, "{schedule:?}");
        }
        let jittered = RetrySchedule::Exponential { first: ms(100), max: ms(100), jitter: 0.3 };
        let waits: Vec<_> = (0..200).map(|_| jittered.delay(9)).collect();
        assert!(waits.iter().all(|wait| (ms(70)..=ms(100)).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != ms(100)), "chance has a part in it");
    }
}
