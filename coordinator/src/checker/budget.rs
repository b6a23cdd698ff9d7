//! How many questions a second: a token bucket, so that a restart is no storm.

use std::time::Duration;

use tokio::time::Instant;

/// Wakes apart by at least this long when there is nothing left to spend.
const REFILLS_PER_SECOND: u32 = 50;

/// The bucket. It holds a tenth of a second's worth.
pub(super) struct Budget {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(per_second_max: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second_max.max(1));
        let mut budget = Self { per_second, tokens: 0.0, at: now };
        budget.tokens = budget.burst();
        budget
    }

    /// How many may be asked now.
    pub(super) fn available(&mut self, now: Instant) -> usize {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + refill).min(self.burst());
        self.at = self.at.max(now);
        // A cast of a negative number gives zero.
        self.tokens as usize
    }

    /// Counts questions. Those that are asked elsewhere for want of an answer may run up a debt.
    pub(super) fn spend(&mut self, questions: usize) {
        self.tokens -= questions as f64;
    }

    /// When it is worth looking again.
    pub(super) fn ready_at(&self) -> Instant {
        let wanted = (self.per_second / f64::from(REFILLS_PER_SECOND)).clamp(1.0, self.burst());
        // A hair longer, so that rounding does not cost a second look.
        let wait = ((wanted - self.tokens).max(0.0) / self.per_second + 1e-6).min(3_600.0);
        self.at + Duration::from_secs_f64(wait)
    }

    fn burst(&self) -> f64 {
        (self.per_second / 10.0).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_its_share() {
        for per_second in [1, 7, 100, 1_000] {
            let start = Instant::now();
            let mut budget = Budget::new(per_second, start);
            let (mut now, mut asked, mut looks) = (start, 0, 0);
            while now < start + Duration::from_secs(10) {
                let available = budget.available(now);
                budget.spend(available);
                asked += available;
                looks += 1;
                now = budget.ready_at();
            }
            let most = 10 * per_second as usize + (per_second as usize / 10).max(1);
            assert!(asked <= most && asked + 1 >= most * 9 / 10, "{per_second}: {asked} of {most}");
            assert!(looks <= 10 * 51, "{per_second}: {looks} looks in ten seconds");
        }
    }

    #[test]
    fn debts_are_paid_first() {
        let start = Instant::now();
        let mut budget = Budget::new(10, start);
        budget.spend(11);
        assert_eq!(budget.available(start + Duration::from_millis(900)), 0);
        assert_eq!(budget.available(start + Duration::from_millis(1_101)), 1);
    }
}
