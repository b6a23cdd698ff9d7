//! What a service does with a message, and what may come of it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::Delivery;

/// Handles deliveries. Async closures that take an `Arc<Delivery>` work as well.
///
/// ```
/// use std::sync::Arc;
/// use halfmq_client::{Delivery, Handler, RetryLater};
///
/// struct Print;
///
/// impl Handler for Print {
///     async fn handle(&self, delivery: Arc<Delivery>) -> Result<(), RetryLater> {
///         let text = std::str::from_utf8(&delivery.message.body)?;
///         println!("{text}");
///         Ok(())
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// `Ok` acks the delivery; `Err` gives it back.
    fn handle(&self, delivery: Arc<Delivery>) -> impl Future<Output = Result<(), RetryLater>> + Send;
}

impl<F, Fut> Handler for F
where
    F: Fn(Arc<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), RetryLater>> + Send,
{
    fn handle(&self, delivery: Arc<Delivery>) -> impl Future<Output = Result<(), RetryLater>> + Send {
        self(delivery)
    }
}

/// Gives a delivery back. Made by `?` from anything that can be displayed.
///
/// It is no error type itself, so that every error type can become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryLater {
    /// How long it stays invisible; `None` leaves it to the group's retry policy.
    pub delay: Option<Duration>,
    /// Kept with the dead letter that it may become.
    pub reason: String,
}

impl RetryLater {
    /// Retries after this delay.
    pub fn after(delay: Duration, reason: impl Into<String>) -> Self {
        Self { delay: Some(delay), reason: reason.into() }
    }
}

impl<E: Display> From<E> for RetryLater {
    fn from(error: E) -> Self {
        Self { delay: None, reason: error.to_string() }
    }
}

/// What a handler made of a delivery, as interceptors see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerOutcome {
    /// It returned `Ok`: the delivery is acked next.
    Handled,
    /// It returned `Err`: the delivery is given back next.
    Failed(RetryLater),
    /// It panicked: the delivery is given back next.
    Panicked,
    /// It ran longer than `handler_time_max` and was cancelled: the delivery is given back next.
    TimedOut,
    /// It was cancelled because the consumer stops: the delivery is given back at once.
    Stopped,
}

impl HandlerOutcome {
    /// How the delivery is given back; `None` to ack it.
    pub(super) fn retry(self) -> Option<RetryLater> {
        match self {
            Self::Handled => None,
            Self::Failed(retry) => Some(retry),
            Self::Panicked => Some("the handler panicked".into()),
            Self::TimedOut => Some("the handler took too long".into()),
            Self::Stopped => Some(RetryLater::after(Duration::ZERO, "the consumer stopped")),
        }
    }
}
