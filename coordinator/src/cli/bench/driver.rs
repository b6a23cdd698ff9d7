//! The ways a load can travel call by call. Streams carry many transactions at once: `pipeline.rs`.

use super::append_log::AppendLog;
use super::engine::{self, EngineDoor};
use super::local::Local;
use crate::cli::{endpoint::Endpoint, failure::Failure};
use crate::store::Store;
use bytes::Bytes;
use halfmq_core::MessageId;
use halfmq_proto::v1::{
    AckRequest, CommitRequest, CreateTopicRequest, DeleteTopicRequest, Message, PrepareRequest,
    PrepareResponse, ReceiveRequest, queues_client::QueuesClient, transactions_client::TransactionsClient,
};
use std::{sync::Arc, time::Duration};
use tonic::transport::Channel;

/// How long one receive waits for its first message.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Longer than any run should leave a message unacked.
pub(super) const INVISIBLE: Duration = Duration::from_secs(600);
/// Whoever prepares.
pub(super) const PRODUCER_GROUP: &str = "bench";
/// Whoever receives.
pub(super) const CONSUMER_GROUP: &str = "bench";

/// Makes the two ends of a load.
pub(super) enum Driver {
    /// Pipelined and batched, as the SDK does it.
    Streams(Endpoint),
    /// One gRPC call for each step.
    Unary(Endpoint),
    /// The store's port, without a network.
    Engine(Arc<dyn Store>),
    /// The least that could take the same load.
    Log(AppendLog),
}

/// The end that prepares and commits by calls; each clone is for one transaction at a time.
#[derive(Clone)]
pub(super) struct Producer {
    calls: TransactionsClient<Channel>,
    topic: Arc<str>,
}

/// The end that receives and acks.
pub(super) trait Consumer: Clone + Send + 'static {
    type Handle: Send + 'static;

    /// Waits a while for the first message, or answers at once.
    fn receive(
        &mut self,
        wait: Wait,
    ) -> impl Future<Output = Result<Vec<Received<Self::Handle>>, Failure>> + Send;
    /// Settles all of these; one that is refused fails the run.
    fn ack(&mut self, handles: Vec<Self::Handle>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// By calls.
#[derive(Clone)]
pub(super) struct UnaryConsumer {
    calls: QueuesClient<Channel>,
    topic: Arc<str>,
    batch: u32,
}

/// The answer to a prepare.
pub(super) struct Prepared<T> {
    pub(super) transaction: T,
    pub(super) message: MessageId,
}

/// What came out of a receive.
pub(super) struct Received<H> {
    pub(super) message: MessageId,
    pub(super) handle: H,
}

/// The id of a message, as the API tells it.
pub(super) fn message_id(text: &str) -> Result<MessageId, Failure> {
    text.parse().map_err(|error| Failure::Bench(format!("{error}")))
}

/// Of the one message of a transaction.
pub(super) fn first_id(prepared: &PrepareResponse) -> Result<MessageId, Failure> {
    message_id(prepared.message_ids.first().map_or("", String::as_str))
}

impl Driver {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Streams(_) => "streams",
            Self::Unary(_) => "unary calls",
            Self::Engine(_) => "the engine alone",
            Self::Log(_) => "a bare append log",
        }
    }

    pub(super) async fn create_topic(&self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                let request = CreateTopicRequest { topic: topic.to_owned(), queues: 0 };
                endpoint.admin().await?.create_topic(request).await?;
                Ok(())
            }
            Self::Engine(store) => engine::create_topic(&**store, topic).await,
            Self::Log(_) => Ok(()),
        }
    }

    pub(super) async fn delete_topic(&self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                let request = DeleteTopicRequest { topic: topic.to_owned(), force: true };
                endpoint.admin().await?.delete_topic(request).await?;
                Ok(())
            }
            Self::Engine(_) | Self::Log(_) => Ok(()),
        }
    }

    /// What waits for a consumer.
    pub(super) async fn waiting(&self, topic: &str, batch: u32) -> Result<Vec<MessageId>, Failure> {
        Ok(match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                ids(UnaryConsumer::new(endpoint, topic, batch).await?.receive(Wait::No).await?)
            }
            Self::Engine(store) => ids(Local::new(EngineDoor::new(store, topic)?).receive(Wait::No).await?),
            Self::Log(log) => ids(Local::new(log.clone()).receive(Wait::No).await?),
        })
    }
}

fn ids<H>(received: Vec<Received<H>>) -> Vec<MessageId> {
    received.into_iter().map(|received| received.message).collect()
}

impl Producer {
    pub(super) async fn new(endpoint: &Endpoint, topic: &str) -> Result<Self, Failure> {
        Ok(Self { calls: endpoint.transactions().await?, topic: topic.into() })
    }

    pub(super) async fn prepare(
        &mut self,
        body: Bytes,
        request_id: String,
    ) -> Result<Prepared<String>, Failure> {
        let message = Message { topic: self.topic.to_string(), body, ..Message::default() };
        let request = PrepareRequest {
            producer_group: PRODUCER_GROUP.to_owned(),
            messages: vec![message],
            request_id,
            ..PrepareRequest::default()
        };
        let prepared = self.calls.prepare(request).await?.into_inner();
        Ok(Prepared { message: first_id(&prepared)?, transaction: prepared.transaction_id })
    }

    pub(super) async fn commit(&mut self, transaction: String) -> Result<(), Failure> {
        let request = CommitRequest { transaction_id: transaction, ..CommitRequest::default() };
        self.calls.commit(request).await?;
        Ok(())
    }
}

impl UnaryConsumer {
    pub(super) async fn new(endpoint: &Endpoint, topic: &str, batch: u32) -> Result<Self, Failure> {
        Ok(Self { calls: endpoint.queues().await?, topic: topic.into(), batch })
    }
}

impl Consumer for UnaryConsumer {
    type Handle = String;

    async fn receive(&mut self, wait: Wait) -> Result<Vec<Received<String>>, Failure> {
        let span = |span: Duration| prost_types::Duration::try_from(span).ok();
        let request = ReceiveRequest {
            topic: self.topic.to_string(),
            group: CONSUMER_GROUP.to_owned(),
            max_messages: self.batch,
            wait: if wait == Wait::ForOne { span(WAIT) } else { None },
            invisible: span(INVISIBLE),
            ..ReceiveRequest::default()
        };
        let deliveries = self.calls.receive(request).await?.into_inner().deliveries;
        let received = deliveries.into_iter().map(|delivery| {
            Ok(Received { message: message_id(&delivery.message_id)?, handle: delivery.receipt_handle })
        });
        received.collect()
    }

    async fn ack(&mut self, handles: Vec<String>) -> Result<(), Failure> {
        let (topic, group) = (self.topic.to_string(), CONSUMER_GROUP.to_owned());
        let request = AckRequest { topic, group, receipt_handles: handles };
        let results = self.calls.ack(request).await?.into_inner().results;
        match results.into_iter().find(|result| !result.ok) {
            Some(refused) => Err(Failure::Bench(format!("an ack was refused: {}", refused.message))),
            None => Ok(()),
        }
    }
}

/// Whether a receive waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    ForOne,
    No,
}
