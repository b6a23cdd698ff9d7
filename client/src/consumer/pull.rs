//! Deliveries in the caller's hands.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use halfmq_proto::v1;

use super::handler::RetryLater;
use super::options::ConsumerOptions;
use crate::client::{Client, attempt, call, unary};
use crate::delivery::{Delivery, GivenBack};
use crate::error::Error;
use crate::ids::ReceiptHandle;
use crate::wire;

/// Handles that one ack call may carry, by the protocol.
pub(super) const ACK_BATCH_MAX: usize = 1_024;

/// Receives and settles deliveries one call at a time, for loops of the caller's own.
///
/// ```no_run
/// # async fn example(client: halfmq_client::Client) -> Result<(), halfmq_client::Error> {
/// use halfmq_client::{ConsumerOptions, PullConsumer};
///
/// let consumer = PullConsumer::new(&client, "orders", "shipping", ConsumerOptions::default());
/// for delivery in consumer.receive(16).await? {
///     println!("{:?}", delivery.message.body);
///     consumer.ack(&delivery.receipt_handle).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PullConsumer {
    client: Client,
    topic: Arc<str>,
    group: Arc<str>,
    options: Arc<ConsumerOptions>,
}

impl PullConsumer {
    /// A consumer of this topic, on behalf of this group.
    pub fn new(
        client: &Client,
        topic: impl AsRef<str>,
        group: impl AsRef<str>,
        options: ConsumerOptions,
    ) -> Self {
        Self {
            client: client.clone(),
            topic: topic.as_ref().into(),
            group: group.as_ref().into(),
            options: Arc::new(options),
        }
    }

    /// Leases 1 to 256 messages, waiting for the first one; none if the wait was in vain.
    ///
    /// It is not repeated when no answer arrives: what a lost answer leased comes again after the
    /// invisible duration.
    pub async fn receive(&self, messages_max: u32) -> Result<Vec<Delivery>, Error> {
        let options = &self.options;
        let request = v1::ReceiveRequest {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            max_messages: messages_max,
            wait: Some(wire::duration(options.wait)),
            invisible: Some(wire::duration(options.invisible)),
            tag_filter: options.tag_filter.clone(),
            start: Some(options.start.to_wire()),
        };
        let time_max = self.client.options().attempt_timeout.saturating_add(options.wait);
        let mut queues = self.client.queues();
        let received = attempt(time_max, unary(queues.receive(request))).await?;
        received.deliveries.into_iter().map(Delivery::try_from).collect()
    }

    /// Settles a delivery for good.
    pub async fn ack(&self, receipt: &ReceiptHandle) -> Result<(), Error> {
        let mut results = self.ack_all(std::slice::from_ref(receipt)).await?;
        wire::present("ack.result", results.pop())?
    }

    /// Settles 1 to 1,024 deliveries for good; each is answered by itself.
    pub async fn ack_all(&self, receipts: &[ReceiptHandle]) -> Result<Vec<Result<(), Error>>, Error> {
        let request = v1::AckRequest {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            receipt_handles: receipts.iter().map(ReceiptHandle::to_string).collect(),
        };
        let answer = call!(self.client, queues.ack, request)?;
        results(answer, receipts.len())
    }

    /// Keeps a delivery invisible from now on for 1 s to 12 h; answers until when.
    pub async fn extend(&self, receipt: &ReceiptHandle, invisible: Duration) -> Result<SystemTime, Error> {
        let request = v1::ExtendRequest {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            receipt_handle: receipt.to_string(),
            invisible: Some(wire::duration(invisible)),
        };
        let answer = call!(self.client, queues.extend, request)?;
        wire::time("extend.invisible_until", answer.invisible_until)
    }

    /// Gives a delivery back. If it was the last attempt it becomes a dead letter.
    pub async fn retry_later(
        &self,
        receipt: &ReceiptHandle,
        retry: impl Into<RetryLater>,
    ) -> Result<GivenBack, Error> {
        let retry = retry.into();
        let request = v1::RetryLaterRequest {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            receipt_handle: receipt.to_string(),
            delay: retry.delay.map(wire::duration),
            reason: retry.reason,
        };
        call!(self.client, queues.retry_later, request)?.try_into()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn options(&self) -> &ConsumerOptions {
        &self.options
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn subscription(&self) -> v1::Subscription {
        v1::Subscription {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            invisible: Some(wire::duration(self.options.invisible)),
            tag_filter: self.options.tag_filter.clone(),
            start: Some(self.options.start.to_wire()),
        }
    }
}

/// One result for each receipt that was asked about.
pub(super) fn results(answer: v1::AckResponse, asked: usize) -> Result<Vec<Result<(), Error>>, Error> {
    if answer.results.len() != asked {
        let answered = answer.results.len();
        return Err(Error::Unexpected(format!("{answered} results for {asked} acks")));
    }
    let settled = |result: v1::AckResult| match result.ok {
        true => Ok(()),
        false => Err(Error::from_reason(&result.reason, result.message)),
    };
    Ok(answer.results.into_iter().map(settled).collect())
}
