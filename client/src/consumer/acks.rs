//! Acks of handled deliveries: whatever waits goes in one call, and nothing waits for company.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pull::{ACK_BATCH_MAX, PullConsumer};
use crate::client::Backoff;
use crate::error::Error;
use crate::ids::ReceiptHandle;

/// Acks until the last handler is gone and its delivery is acked.
pub(super) async fn settle(pull: PullConsumer, mut handled: mpsc::Receiver<ReceiptHandle>) {
    let mut batch = Vec::new();
    while handled.recv_many(&mut batch, ACK_BATCH_MAX).await > 0 {
        settle_batch(&pull, std::mem::take(&mut batch)).await;
    }
}

/// Tries again what a full disk or a busy coordinator refused, as long as a call may take.
async fn settle_batch(pull: &PullConsumer, mut batch: Vec<ReceiptHandle>) {
    let deadline = Instant::now() + pull.client().options().call_timeout;
    let mut backoff = Backoff::new(pull.client().options().backoff);
    loop {
        let results = match pull.ack_all(&batch).await {
            Ok(results) => results,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        };
        let pause = backoff.pause();
        let time_is_left = Instant::now() + pause < deadline;
        let mut again = Vec::new();
        for (receipt, result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(error) if error.is_retryable() && time_is_left => again.push(receipt),
                Err(error) => report(pull, &receipt, &error),
            }
        }
        if again.is_empty() {
            return;
        }
        batch = again;
        tokio::time::sleep(pause).await;
    }
}

/// Not fatal: the message is delivered again, which at-least-once allows.
fn report(pull: &PullConsumer, receipt: &ReceiptHandle, error: &Error) {
    tracing::warn!(topic = pull.topic(), %receipt, %error, "handled but not acked; it will be delivered again");
    for interceptor in pull.options().interceptors.iter().rev() {
        interceptor.ack_failed(receipt, error);
    }
}
