//! What an operator can choose about checks.

use std::time::Duration;

/// How producers are asked.
#[derive(Clone, Debug)]
pub struct CheckerSettings {
    /// How long one producer may take before the next is asked.
    pub answer_timeout: Duration,
    /// Questions that wait for an answer at the same time.
    pub in_flight_max: usize,
    /// Transactions asked about each second.
    pub per_second_max: u32,
    /// How producer groups are asked at a URL.
    pub callbacks: CallbackSettings,
}

/// How producer groups are asked at a URL.
#[derive(Clone)]
pub struct CallbackSettings {
    /// URL prefixes below which URLs are called; none: none are.
    pub allow: Vec<String>,
    /// Signs each call.
    pub secret: Option<String>,
    /// How long one call may take.
    pub timeout: Duration,
    /// Calls at the same time; one at a time for each URL.
    pub in_flight_max: usize,
    /// Questions in one call.
    pub batch_max: usize,
}

impl Default for CheckerSettings {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(10),
            in_flight_max: 1_000,
            per_second_max: 1_000,
            callbacks: CallbackSettings::default(),
        }
    }
}

impl Default for CallbackSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            secret: None,
            timeout: Duration::from_secs(5),
            in_flight_max: 16,
            batch_max: 100,
        }
    }
}

impl std::fmt::Debug for CallbackSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { allow, secret, timeout, in_flight_max, batch_max } = self;
        out.debug_struct("CallbackSettings")
            .field("allow", allow)
            .field("secret", &secret.as_ref().map(|_| "(not shown)"))
            .field("timeout", timeout)
            .field("in_flight_max", in_flight_max)
            .field("batch_max", batch_max)
            .finish()
    }
}
