//! When to ask, when to ask again, and when to call a transaction in doubt.

use std::time::Duration;

use crate::ids::TransactionId;
use crate::limits::CHECKS_MAX;
use crate::rejection::Rejection;
use crate::time::Timestamp;
use crate::transaction::Decision;

/// How the outcome of a silent transaction is sought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckPolicy {
    /// From prepare to the first check.
    pub first_after: Duration,
    /// Wait after the first UNKNOWN; doubles with each further one.
    pub interval: Duration,
    /// The longest wait.
    pub interval_max: Duration,
    /// UNKNOWN answers until the transaction is in doubt.
    pub checks_max: u32,
    /// What happens then.
    pub in_doubt: InDoubtPolicy,
}

/// What happens to a transaction in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InDoubtPolicy {
    /// Flag it and go on asking slowly.
    #[default]
    Keep,
    /// Drop its messages.
    Rollback,
    /// Release its messages.
    Commit,
}

impl Default for CheckPolicy {
    fn default() -> Self {
        Self {
            first_after: Duration::from_secs(6),
            interval: Duration::from_secs(10),
            interval_max: Duration::from_secs(600),
            checks_max: 15,
            in_doubt: InDoubtPolicy::Keep,
        }
    }
}

/// What follows an UNKNOWN answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextCheck {
    /// Ask again then.
    Ask(Timestamp),
    /// It is in doubt; ask again then.
    InDoubt(Timestamp),
    /// It was in doubt, and its policy decides.
    Decide(Decision),
}

impl CheckPolicy {
    /// Checks what a producer or the settings ask for.
    ///
    /// # Errors
    /// [`Rejection::Invalid`].
    pub fn check(&self) -> Result<(), Rejection> {
        let invalid = |what, why: &str| Err(Rejection::Invalid { what, why: why.into() });
        if self.checks_max == 0 || self.checks_max > CHECKS_MAX {
            return invalid("checks_max", "it must be 1 to 1,000,000");
        }
        if self.interval < Duration::from_millis(1) || self.interval_max < self.interval {
            return invalid("check interval", "it must be at least 1 ms and at most interval_max");
        }
        if self.interval_max.max(self.first_after) > Duration::from_secs(30 * 24 * 3600) {
            return invalid("check interval", "first_after and interval_max must be at most 30 days");
        }
        Ok(())
    }

    pub(crate) fn first(&self, prepared_at: Timestamp) -> Timestamp {
        prepared_at.after(self.first_after)
    }

    /// What follows the `answered`-th UNKNOWN (1 is the first).
    pub(crate) fn after_unknown(
        &self,
        transaction: TransactionId,
        answered: u32,
        now: Timestamp,
    ) -> NextCheck {
        let doublings = answered.saturating_sub(1).min(31);
        let wait = self.interval.saturating_mul(1 << doublings).min(self.interval_max);
        let again = now.after(jittered(wait, transaction, answered));
        match self.in_doubt {
            _ if answered < self.checks_max => NextCheck::Ask(again),
            InDoubtPolicy::Keep => {
                NextCheck::InDoubt(now.after(jittered(self.interval_max, transaction, answered)))
            }
            InDoubtPolicy::Rollback => NextCheck::Decide(Decision::Rollback),
            InDoubtPolicy::Commit => NextCheck::Decide(Decision::Commit),
        }
    }
}

/// Time that each overdue check adds to the span over which a restart spreads them.
pub(crate) const WARM_UP_EACH: Duration = Duration::from_millis(5);

/// Spreads what fell due while the coordinator was down over `window`, so that a restart is no storm.
pub(crate) fn warmed_up(
    due: Timestamp,
    transaction: TransactionId,
    now: Timestamp,
    window: Duration,
) -> Timestamp {
    if due > now {
        return due;
    }
    let window = u64::try_from(window.as_micros()).unwrap_or(u64::MAX).max(1);
    now.after(Duration::from_micros(transaction.spread(0) % window))
}

/// Up to a tenth longer: transactions that were prepared together are not asked together for ever.
fn jittered(wait: Duration, transaction: TransactionId, salt: u32) -> Duration {
    let tenth = u64::try_from(wait.as_micros() / 10).unwrap_or(u64::MAX).max(1);
    wait + Duration::from_micros(transaction.spread(salt) % tenth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn unknown_waits_longer_each_time_and_then_flags() {
        let policy = CheckPolicy { checks_max: 8, ..CheckPolicy::default() };
        let id = TransactionId::from_u128(42);
        for (answered, seconds) in [(1, 10), (2, 20), (3, 40), (4, 80), (7, 600)] {
            let NextCheck::Ask(at) = policy.after_unknown(id, answered, NOW) else {
                panic!("in doubt after {answered}");
            };
            let wait = at.since(NOW).as_secs_f64();
            assert!(wait >= f64::from(seconds) && wait <= f64::from(seconds) * 1.1, "{answered}: {wait}");
        }
        assert!(matches!(policy.after_unknown(id, 8, NOW), NextCheck::InDoubt(_)));
        let policy = CheckPolicy { in_doubt: InDoubtPolicy::Commit, ..policy };
        assert_eq!(policy.after_unknown(id, 8, NOW), NextCheck::Decide(Decision::Commit));
    }

    #[test]
    fn restart_spreads_what_is_overdue() {
        let window = Duration::from_secs(10);
        let due = |id| warmed_up(Timestamp::ZERO, TransactionId::from_u128(id), NOW, window);
        let early = (0..1_000).filter(|id| due(*id).since(NOW) < Duration::from_secs(1)).count();
        assert!((50..150).contains(&early), "{early} of 1,000 in the first tenth of the window");
        assert!((0..1_000).all(|id| due(id) < NOW.after(window)));
        assert_eq!(warmed_up(NOW.after(window), TransactionId::from_u128(1), NOW, window), NOW.after(window));
    }
}
