//! What a transaction producer may be told.

use std::sync::Arc;
use std::time::Duration;

use halfmq_proto::v1;

use crate::interceptor::ProducerInterceptor;
use crate::wire;

/// How a [`TransactionProducer`](crate::TransactionProducer) works.
#[derive(Clone)]
pub struct TransactionOptions {
    /// When and how often the coordinator asks; what is left out follows its settings.
    pub check: CheckSettings,
    /// Undecided transactions of this producer at most, and 16,384 by default.
    pub open_max: usize,
    /// Checks that run at the same time at most: 32. More wait in the stream.
    pub checks_in_flight_max: usize,
    /// Longest time for one check; after it nothing is answered: 10 s.
    pub check_timeout: Duration,
    /// Called before prepare and after decisions.
    pub interceptors: Vec<Arc<dyn ProducerInterceptor>>,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self {
            check: CheckSettings::default(),
            open_max: 16_384,
            checks_in_flight_max: 32,
            check_timeout: Duration::from_secs(10),
            interceptors: Vec::new(),
        }
    }
}

/// When and how often a transaction is checked. `None` follows the coordinator's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckSettings {
    /// Time from prepare to the first check.
    pub first_after: Option<Duration>,
    /// Wait after the first UNKNOWN; doubles up to `interval_max`.
    pub interval: Option<Duration>,
    /// The longest wait between checks.
    pub interval_max: Option<Duration>,
    /// UNKNOWN answers until the transaction is flagged in doubt.
    pub checks_max: Option<u32>,
    /// What happens then.
    pub in_doubt: Option<InDoubtPolicy>,
    /// Where the producer group can be asked when none of its producers is connected.
    pub callback_url: Option<String>,
}

/// What happens to a transaction that is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InDoubtPolicy {
    /// Keep it, raise an alarm, go on asking slowly.
    Keep,
    /// Drop its messages.
    Rollback,
    /// Release its messages.
    Commit,
}

impl CheckSettings {
    pub(super) fn to_wire(&self) -> v1::CheckSettings {
        let in_doubt = match self.in_doubt {
            None => v1::InDoubtPolicy::Unspecified,
            Some(InDoubtPolicy::Keep) => v1::InDoubtPolicy::Keep,
            Some(InDoubtPolicy::Rollback) => v1::InDoubtPolicy::Rollback,
            Some(InDoubtPolicy::Commit) => v1::InDoubtPolicy::Commit,
        };
        v1::CheckSettings {
            first_after: self.first_after.map(wire::duration),
            interval: self.interval.map(wire::duration),
            interval_max: self.interval_max.map(wire::duration),
            checks_max: self.checks_max.unwrap_or_default(),
            in_doubt: in_doubt.into(),
            callback_url: self.callback_url.clone().unwrap_or_default(),
        }
    }
}
