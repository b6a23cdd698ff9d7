//! Does what time alone brings about: delayed messages, ended leases, retention, gauges.

use std::time::Duration;

use halfmq_core::Timestamp;

use super::Service;
use crate::store::Unavailable;
use crate::telemetry;

/// The longest time between two looks.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Ticks between two looks at the gauges.
const GAUGES_EVERY: u32 = 5;

impl Service {
    /// Keeps time until the store stops.
    pub async fn keep_time(&self) {
        let mut ticks = 0_u32;
        loop {
            let next = match self.tick().await {
                Ok(next) => next,
                Err(Unavailable::Stopping | Unavailable::Failed(_)) => return,
                Err(error @ (Unavailable::Full | Unavailable::Damaged(_))) => {
                    tracing::warn!(%error, "time stands still for delayed messages");
                    None
                }
            };
            if ticks.is_multiple_of(GAUGES_EVERY) {
                self.show_gauges().await;
            }
            ticks = ticks.wrapping_add(1);
            self.sleep_until(next).await;
        }
    }

    async fn tick(&self) -> Result<Option<Timestamp>, Unavailable> {
        let tick = self.store.tick().await?;
        tick.topics.iter().for_each(|topic| self.arrivals.wake(topic));
        Ok(tick.next)
    }

    async fn sleep_until(&self, next: Option<Timestamp>) {
        let next = next.into_iter().chain(self.arrivals.take_earliest()).min();
        let wait = next.map_or(TICK, |at| at.since(self.clock.now())).min(TICK).max(Duration::from_millis(1));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.arrivals.delayed.notified() => {}
        }
    }

    async fn show_gauges(&self) {
        let Ok(numbers) = self.store.statistics().await else { return };
        let oldest = numbers.oldest_open.map_or(Duration::ZERO, |since| self.clock.now().since(since));
        telemetry::open_transactions(numbers.open_transactions, numbers.in_doubt_transactions, oldest);
        telemetry::connected_checkers(self.checker.connected() as u64);
        for backlog in numbers.backlogs {
            let undelivered = backlog.queues.iter().map(|queue| queue.undelivered).sum();
            telemetry::backlog(backlog.topic.as_str(), backlog.group.as_str(), undelivered);
        }
    }
}
