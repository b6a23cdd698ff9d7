//! The API as stories tell it: one short verb for each call, which fails the test where it is refused.

use std::time::Duration;

use bytes::Bytes;
use halfmq_proto::v1::admin_client::AdminClient;
use halfmq_proto::v1::queues_client::QueuesClient;
use halfmq_proto::v1::transactions_client::TransactionsClient;
use halfmq_proto::v1::{
    AckRequest, CommitRequest, CreateTopicRequest, DecisionReceipt, Delivery, DescribeTransactionRequest,
    Message, PrepareRequest, PrepareResponse, ReceiveRequest, RetryLaterRequest, RetryLaterResponse,
    RollbackRequest, SendRequest, SendResponse, Transaction, TransactionState,
};
use tonic::transport::{Channel, Endpoint};

use crate::{PATIENCE, Refusal, eventually, within};

/// Larger than anything the coordinator sends.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Deliveries of one receive.
const RECEIVE_MAX: u32 = 256;

/// Clients of every native service. Refused calls that a story expects go through the fields.
#[derive(Clone)]
pub struct Driver {
    /// `halfmq.v1.Transactions`.
    pub transactions: TransactionsClient<Channel>,
    /// `halfmq.v1.Queues`.
    pub queues: QueuesClient<Channel>,
    /// `halfmq.v1.Admin`.
    pub admin: AdminClient<Channel>,
}

/// A half message, or several, of a producer group's instance `p1`.
#[must_use]
pub fn half(producer_group: &str, messages: impl IntoIterator<Item = Message>) -> PrepareRequest {
    PrepareRequest {
        producer_group: producer_group.into(),
        producer_instance: "p1".into(),
        messages: messages.into_iter().collect(),
        ..PrepareRequest::default()
    }
}

/// A plain message.
#[must_use]
pub fn message(topic: &str, body: &str) -> Message {
    Message { topic: topic.into(), body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() }
}

/// A message of a message group.
#[must_use]
pub fn grouped(topic: &str, message_group: &str, body: &str) -> Message {
    Message { message_group: message_group.into(), ..message(topic, body) }
}

/// A duration on the wire.
///
/// # Panics
/// For more than 292 billion years.
#[must_use]
pub fn seconds(seconds: f64) -> prost_types::Duration {
    Duration::from_secs_f64(seconds).try_into().expect("it fits the wire")
}

/// A well-formed transaction id that nobody was given.
#[must_use]
pub fn transaction_id() -> String {
    "01890000-0000-7000-8000-000000000000".into()
}

/// Bodies as text, in order.
#[must_use]
pub fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let body = |delivery: &Delivery| delivery.message.as_ref().map(|message| message.body.clone());
    let text = |body: Bytes| String::from_utf8_lossy(&body).into_owned();
    deliveries.iter().map(|delivery| body(delivery).map(text).unwrap_or_default()).collect()
}

impl Driver {
    pub(crate) fn new(grpc: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{grpc}"))
            .expect("the coordinator printed an address")
            .connect_timeout(PATIENCE)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        Self {
            transactions: TransactionsClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX),
            queues: QueuesClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX),
            admin: AdminClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX),
        }
    }

    /// Creates a topic. One queue makes the order of everything in it plain.
    pub async fn create_topic(&self, topic: &str, queues: u32) {
        let request = CreateTopicRequest { topic: topic.into(), queues };
        answer("create topic", self.admin.clone().create_topic(request)).await;
    }

    /// Prepares a transaction.
    pub async fn prepare(&self, request: PrepareRequest) -> PrepareResponse {
        answer("prepare", self.transactions.clone().prepare(request)).await
    }

    /// Commits a transaction as it was prepared.
    pub async fn commit(&self, transaction_id: &str) -> DecisionReceipt {
        answer("commit", self.transactions.clone().commit(commit(transaction_id))).await
    }

    /// Commits a transaction, which must be refused.
    pub async fn refused_commit(&self, transaction_id: &str) -> Refusal {
        refusal("commit", self.transactions.clone().commit(commit(transaction_id))).await
    }

    /// Rolls a transaction back.
    pub async fn rollback(&self, transaction_id: &str) -> DecisionReceipt {
        answer("rollback", self.transactions.clone().rollback(rollback(transaction_id))).await
    }

    /// Rolls a transaction back, which must be refused.
    pub async fn refused_rollback(&self, transaction_id: &str) -> Refusal {
        refusal("rollback", self.transactions.clone().rollback(rollback(transaction_id))).await
    }

    /// Prepares a transaction, which must be refused.
    pub async fn refused_prepare(&self, request: PrepareRequest) -> Refusal {
        refusal("prepare", self.transactions.clone().prepare(request)).await
    }

    /// A transaction as it is now.
    pub async fn describe(&self, transaction_id: &str) -> Transaction {
        let request = DescribeTransactionRequest { transaction_id: transaction_id.into() };
        answer("describe", self.transactions.clone().describe_transaction(request)).await
    }

    /// Waits until a transaction is in this state.
    pub async fn becomes(&self, transaction_id: &str, state: TransactionState) -> Transaction {
        eventually(&format!("{transaction_id} to be {state:?}"), async || {
            let transaction = self.describe(transaction_id).await;
            (transaction.state() == state).then_some(transaction)
        })
        .await
    }

    /// Sends messages without a transaction.
    pub async fn send(&self, messages: impl IntoIterator<Item = Message>) -> SendResponse {
        let messages = messages.into_iter().collect();
        let request = SendRequest { messages, ..SendRequest::default() };
        answer("send", self.queues.clone().send(request)).await
    }

    /// What is visible to a consumer group this very moment.
    pub async fn receive_now(&self, topic: &str, group: &str) -> Vec<Delivery> {
        let request = ReceiveRequest {
            topic: topic.into(),
            group: group.into(),
            max_messages: RECEIVE_MAX,
            ..ReceiveRequest::default()
        };
        answer("receive", self.queues.clone().receive(request)).await.deliveries
    }

    /// Waits for the next so many deliveries.
    pub async fn receive(&self, topic: &str, group: &str, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let wanted = format!("{count} messages of {topic} for {group}");
        within(&wanted, async {
            while deliveries.len() < count {
                let request = ReceiveRequest {
                    topic: topic.into(),
                    group: group.into(),
                    max_messages: u32::try_from(count - deliveries.len()).unwrap_or(RECEIVE_MAX),
                    wait: Some(seconds(5.0)),
                    ..ReceiveRequest::default()
                };
                deliveries.extend(answer("receive", self.queues.clone().receive(request)).await.deliveries);
            }
        })
        .await;
        deliveries
    }

    /// Settles deliveries of one topic; each must be accepted.
    ///
    /// # Panics
    /// If one is not.
    pub async fn ack(&self, topic: &str, group: &str, deliveries: &[Delivery]) {
        let request = AckRequest {
            topic: topic.into(),
            group: group.into(),
            receipt_handles: deliveries.iter().map(|delivery| delivery.receipt_handle.clone()).collect(),
        };
        let results = answer("ack", self.queues.clone().ack(request)).await.results;
        assert_eq!(results.len(), deliveries.len(), "each handle is answered");
        assert!(results.iter().all(|result| result.ok), "acks of {topic} for {group}: {results:?}");
    }

    /// Gives a delivery back for an attempt right away.
    pub async fn retry_now(&self, group: &str, delivery: &Delivery, reason: &str) -> RetryLaterResponse {
        let topic = delivery.place.as_ref().map(|place| place.topic.clone()).unwrap_or_default();
        let request = RetryLaterRequest {
            topic,
            group: group.into(),
            receipt_handle: delivery.receipt_handle.clone(),
            delay: Some(seconds(0.0)),
            reason: reason.into(),
        };
        answer("retry later", self.queues.clone().retry_later(request)).await
    }
}

fn commit(transaction_id: &str) -> CommitRequest {
    CommitRequest { transaction_id: transaction_id.into(), ..CommitRequest::default() }
}

fn rollback(transaction_id: &str) -> RollbackRequest {
    RollbackRequest { transaction_id: transaction_id.into(), ..RollbackRequest::default() }
}

type Call<T> = Result<tonic::Response<T>, tonic::Status>;

async fn answer<T>(what: &str, call: impl Future<Output = Call<T>>) -> T {
    match within(what, call).await {
        Ok(response) => response.into_inner(),
        Err(status) => panic!("{what} was refused: {:?}", Refusal::from(status)),
    }
}

async fn refusal<T>(what: &str, call: impl Future<Output = Call<T>>) -> Refusal {
    match within(what, call).await {
        Ok(_) => panic!("{what} was accepted, although it must be refused"),
        Err(status) => status.into(),
    }
}
