//! The books of a run: every message id once, every step timed. A message is in them until it is acked: what comes
//! of it later comes from nowhere, and the books of a long run are as short as those of a brief one.

use crate::cli::failure::Failure;
use halfmq_core::MessageId;
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Latencies up to this are told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

/// Counts and times.
pub(super) struct Tally {
    transactions: u64,
    began: Instant,
    first_committed: Option<Instant>,
    last_acked: Instant,
    /// Not yet acked.
    messages: HashMap<MessageId, Message>,
    acked: u64,
    double: u64,
    prepare: Latencies,
    commit: Latencies,
    end_to_end: Latencies,
}

struct Message {
    began: Instant,
    delivered: bool,
}

/// Of one step.
pub(super) struct Latencies(Histogram<u64>);

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) transactions: u64,
    pub(super) took: Duration,
    /// When the first commit was answered.
    pub(super) first_committed: Option<Instant>,
    pub(super) prepare: Quantiles,
    pub(super) commit: Quantiles,
    pub(super) end_to_end: Quantiles,
    /// Committed and never acked.
    pub(super) missing: u64,
    /// Ids given again while in use, delivered twice, or never prepared.
    pub(super) double: u64,
}

/// In milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Tally {
    pub(super) fn new(transactions: u64, began: Instant) -> Self {
        Self {
            transactions,
            began,
            first_committed: None,
            last_acked: began,
            messages: HashMap::new(),
            acked: 0,
            double: 0,
            prepare: Latencies::new(),
            commit: Latencies::new(),
            end_to_end: Latencies::new(),
        }
    }

    pub(super) fn prepared(&mut self, id: MessageId, began: Instant, took: Duration) {
        self.prepare.record(took);
        let before = self.messages.insert(id, Message { began, delivered: false });
        self.double += u64::from(before.is_some());
    }

    pub(super) fn committed(&mut self, now: Instant, took: Duration) {
        self.first_committed.get_or_insert(now);
        self.commit.record(took);
    }

    pub(super) fn delivered(&mut self, ids: impl Iterator<Item = MessageId>) {
        for id in ids {
            match self.messages.get_mut(&id) {
                Some(message) if !message.delivered => message.delivered = true,
                Some(_) | None => self.double += 1,
            }
        }
    }

    /// Returns how many of them were acked for the first time.
    pub(super) fn acked(&mut self, ids: &[MessageId], now: Instant) -> usize {
        let mut first_time = 0;
        for id in ids {
            let Some(message) = self.messages.remove(id) else { continue };
            self.end_to_end.record(now.saturating_duration_since(message.began));
            first_time += 1;
            self.acked += 1;
        }
        self.last_acked = self.last_acked.max(now);
        first_time
    }

    pub(super) fn outcome(&self) -> Outcome {
        Outcome {
            transactions: self.transactions,
            took: self.last_acked.saturating_duration_since(self.began),
            first_committed: self.first_committed,
            prepare: self.prepare.quantiles(),
            commit: self.commit.quantiles(),
            end_to_end: self.end_to_end.quantiles(),
            missing: self.transactions.saturating_sub(self.acked),
            double: self.double,
        }
    }
}

impl Outcome {
    /// A figure is worth something only if nothing was lost for it.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let Self { missing, double, .. } = *self;
        if missing == 0 && double == 0 {
            return Ok(());
        }
        Err(Failure::Bench(format!("{missing} messages are missing, {double} came twice or from nowhere")))
    }

    pub(super) fn per_second(&self) -> f64 {
        self.transactions.saturating_sub(self.missing) as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

impl Latencies {
    pub(super) fn new() -> Self {
        let longest = u64::try_from(LATENCY_MAX.as_micros()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_max(longest, 3).expect("three digits up to an hour fit a histogram"))
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}
