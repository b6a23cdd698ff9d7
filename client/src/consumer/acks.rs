//! Acks of handled deliveries: whatever waits goes in one call, and nothing waits for company.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halfmq_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::pull::{ACK_BATCH_MAX, PullConsumer, results};
use crate::client::Backoff;
use crate::error::Error;
use crate::ids::ReceiptHandle;

/// The way of acks to the stream that brought the deliveries, while there is one.
#[derive(Default)]
pub(super) struct AckStream {
    open: Mutex<Option<mpsc::Sender<AckJob>>>,
}

/// A batch for the stream.
pub(super) struct AckJob {
    pub(super) receipts: Vec<ReceiptHandle>,
    pub(super) answer: oneshot::Sender<Result<v1::AckResponse, Error>>,
}

impl AckStream {
    pub(super) fn open(&self, acks: mpsc::Sender<AckJob>) {
        *self.current() = Some(acks);
    }

    pub(super) fn close(&self) {
        *self.current() = None;
    }

    fn current(&self) -> MutexGuard<'_, Option<mpsc::Sender<AckJob>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Over the stream; by a call if there is none or it does not answer, for an ack that comes twice is fine.
    async fn ack_all(
        &self,
        pull: &PullConsumer,
        receipts: &[ReceiptHandle],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let stream = self.current().clone();
        if let Some(stream) = stream {
            let (answer, answered) = oneshot::channel();
            let answer = async {
                stream.send(AckJob { receipts: receipts.to_vec(), answer }).await.ok()?;
                answered.await.ok()
            };
            let time_max = pull.client().options().attempt_timeout;
            match tokio::time::timeout(time_max, answer).await {
                Ok(Some(Ok(response))) => return results(response, receipts.len()),
                Ok(Some(Err(error))) if !error.is_retryable() => return Err(error),
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
        pull.ack_all(receipts).await
    }
}

/// Acks until the last handler is gone and its delivery is acked.
pub(super) async fn settle(
    pull: PullConsumer,
    stream: Arc<AckStream>,
    mut handled: mpsc::Receiver<ReceiptHandle>,
) {
    let mut batch = Vec::new();
    while handled.recv_many(&mut batch, ACK_BATCH_MAX).await > 0 {
        settle_batch(&pull, &stream, std::mem::take(&mut batch)).await;
    }
}

/// Tries again what a full disk or a busy coordinator refused, as long as a call may take.
async fn settle_batch(pull: &PullConsumer, stream: &AckStream, mut batch: Vec<ReceiptHandle>) {
    let deadline = Instant::now() + pull.client().options().call_timeout;
    let mut backoff = Backoff::new(pull.client().options().backoff);
    loop {
        let results = match stream.ack_all(pull, &batch).await {
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
