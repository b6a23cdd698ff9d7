//! One delivery: handler, lease, outcome.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handler::{Handler, HandlerOutcome};
use super::pull::PullConsumer;
use crate::delivery::Delivery;
use crate::error::Reason;
use crate::ids::ReceiptHandle;

/// What the deliveries of one topic share.
pub(super) struct Work<H> {
    pub(super) pull: PullConsumer,
    pub(super) handler: Arc<H>,
    pub(super) acks: mpsc::Sender<ReceiptHandle>,
    /// Cancels handlers that did not finish in time after a stop.
    pub(super) cancel: CancellationToken,
}

impl<H: Handler> Work<H> {
    /// Handles a delivery, then acks it or gives it back.
    pub(super) async fn settle(self: Arc<Self>, delivery: Delivery) {
        let (receipt, attempt) = (delivery.receipt_handle.clone(), delivery.attempt);
        let outcome = AssertUnwindSafe(self.handle(delivery)).catch_unwind().await;
        match outcome.unwrap_or(HandlerOutcome::Panicked).retry() {
            None => {
                if self.acks.send(receipt).await.is_err() {
                    tracing::warn!(topic = self.pull.topic(), "handled too late to ack; it comes again");
                }
            }
            Some(mut retry) => {
                let schedule = self.pull.options().retry.as_ref();
                retry.delay = retry.delay.or_else(|| schedule.map(|schedule| schedule.delay(attempt)));
                let reason = retry.reason.clone();
                match self.pull.retry_later(&receipt, retry).await {
                    Ok(given_back) => tracing::debug!(%receipt, reason, ?given_back, "not handled"),
                    // Its lease ends sooner or later, and then it comes again all the same.
                    Err(error) => tracing::warn!(%receipt, reason, %error, "not handled, not given back"),
                }
            }
        }
    }

    async fn handle(&self, mut delivery: Delivery) -> HandlerOutcome {
        let interceptors = &self.pull.options().interceptors;
        for interceptor in interceptors {
            interceptor.before_handler(&mut delivery);
        }
        let delivery = Arc::new(delivery);
        // A panic must reach interceptors as an outcome.
        let outcome = AssertUnwindSafe(self.run_handler(&delivery)).catch_unwind().await;
        let outcome = outcome.unwrap_or(HandlerOutcome::Panicked);
        for interceptor in interceptors.iter().rev() {
            interceptor.after_handler(&delivery, &outcome);
        }
        outcome
    }

    async fn run_handler(&self, delivery: &Arc<Delivery>) -> HandlerOutcome {
        tokio::select! {
            // First, so that a quick handler sets no timer.
            biased;
            result = self.handler.handle(Arc::clone(delivery)) => match result {
                Ok(()) => HandlerOutcome::Handled,
                Err(retry) => HandlerOutcome::Failed(retry),
            },
            () = self.cancel.cancelled() => HandlerOutcome::Stopped,
            () = tokio::time::sleep(self.pull.options().handler_time_max) => HandlerOutcome::TimedOut,
            never = self.keep_lease(&delivery.receipt_handle) => match never {},
        }
    }

    /// Extends the lease at every half of it, for as long as the handler runs.
    async fn keep_lease(&self, receipt: &ReceiptHandle) -> Infallible {
        let invisible = self.pull.options().invisible;
        loop {
            tokio::time::sleep(invisible / 2).await;
            match self.pull.extend(receipt, invisible).await {
                Ok(until) => tracing::trace!(%receipt, ?until, "lease extended"),
                Err(error) if error.reason() == Some(Reason::ReceiptExpired) => {
                    tracing::warn!(%receipt, "the lease is lost; the message will be delivered again");
                    // The handler may be past the point of no return, so it is not cancelled.
                    return std::future::pending().await;
                }
                Err(error) => tracing::warn!(%receipt, %error, "lease not extended, trying again"),
            }
        }
    }
}
