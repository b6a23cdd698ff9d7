//! The ways a load can travel call by call. Streams carry many transactions at once: `pipeline.rs`.

use super::engine::{EngineDoor, InProcess};
use crate::cli::{endpoint::Endpoint, failure::Failure};
use bytes::Bytes;
use halfmq_proto::v1::{
    AckRequest, CommitRequest, CreateTopicRequest, DeleteTopicRequest, Message, PrepareRequest,
    ReceiveRequest, queues_client::QueuesClient, transactions_client::TransactionsClient,
};
use std::{sync::Arc, time::Duration};
use tonic::transport::Channel;

/// How long one receive waits for its first message.
const WAIT: Duration = Duration::from_secs(1);
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
    Engine(Arc<InProcess>),
}

/// The end that prepares and commits by calls; each clone is for one transaction at a time.
#[derive(Clone)]
pub(super) struct Producer {
    calls: TransactionsClient<Channel>,
    topic: Arc<str>,
}

/// The end that receives and acks.
#[derive(Clone)]
pub(super) enum Consumer {
    Unary { calls: QueuesClient<Channel>, topic: Arc<str>, batch: u32 },
    Engine(EngineDoor),
}

/// The answer to a prepare.
pub(super) struct Prepared {
    pub(super) transaction: String,
    pub(super) message: String,
}

/// What came out of a receive.
pub(super) struct Received {
    pub(super) message: String,
    pub(super) handle: String,
}

impl Driver {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Streams(_) => "streams",
            Self::Unary(_) => "unary calls",
            Self::Engine(_) => "the engine alone",
        }
    }

    pub(super) async fn create_topic(&self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                let request = CreateTopicRequest { topic: topic.to_owned(), queues: 0 };
                endpoint.admin().await?.create_topic(request).await?;
                Ok(())
            }
            Self::Engine(engine) => engine.create_topic(topic).await,
        }
    }

    pub(super) async fn delete_topic(&self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                let request = DeleteTopicRequest { topic: topic.to_owned(), force: true };
                endpoint.admin().await?.delete_topic(request).await?;
                Ok(())
            }
            Self::Engine(_) => Ok(()),
        }
    }

    pub(super) async fn consumer(&self, topic: &str, batch: u32) -> Result<Consumer, Failure> {
        Ok(match self {
            Self::Streams(endpoint) | Self::Unary(endpoint) => {
                Consumer::Unary { calls: endpoint.queues().await?, topic: topic.into(), batch }
            }
            Self::Engine(engine) => Consumer::Engine(EngineDoor::new(engine, topic)?),
        })
    }
}

impl Producer {
    pub(super) async fn new(endpoint: &Endpoint, topic: &str) -> Result<Self, Failure> {
        Ok(Self { calls: endpoint.transactions().await?, topic: topic.into() })
    }

    pub(super) async fn prepare(&mut self, body: Bytes, request_id: String) -> Result<Prepared, Failure> {
        let message = Message { topic: self.topic.to_string(), body, ..Message::default() };
        let request = PrepareRequest {
            producer_group: PRODUCER_GROUP.to_owned(),
            messages: vec![message],
            request_id,
            ..PrepareRequest::default()
        };
        let prepared = self.calls.prepare(request).await?.into_inner();
        let message = prepared.message_ids.into_iter().next().unwrap_or_default();
        Ok(Prepared { transaction: prepared.transaction_id, message })
    }

    pub(super) async fn commit(&mut self, transaction: String) -> Result<(), Failure> {
        let request = CommitRequest { transaction_id: transaction, ..CommitRequest::default() };
        self.calls.commit(request).await?;
        Ok(())
    }
}

impl Consumer {
    /// Waits a while for the first message; `wait` false: answers at once.
    pub(super) async fn receive(&mut self, wait: Wait) -> Result<Vec<Received>, Failure> {
        match self {
            Self::Unary { calls, topic, batch } => {
                let span = |span: Duration| prost_types::Duration::try_from(span).ok();
                let request = ReceiveRequest {
                    topic: topic.to_string(),
                    group: CONSUMER_GROUP.to_owned(),
                    max_messages: *batch,
                    wait: if wait == Wait::ForOne { span(WAIT) } else { None },
                    invisible: span(INVISIBLE),
                    ..ReceiveRequest::default()
                };
                let deliveries = calls.receive(request).await?.into_inner().deliveries;
                let received = deliveries.into_iter().map(|delivery| Received {
                    message: delivery.message_id,
                    handle: delivery.receipt_handle,
                });
                Ok(received.collect())
            }
            Self::Engine(engine) => engine.receive(wait, WAIT, INVISIBLE).await,
        }
    }

    /// Settles all of these; one that is refused fails the run.
    pub(super) async fn ack(&mut self, handles: Vec<String>) -> Result<(), Failure> {
        match self {
            Self::Unary { calls, topic, .. } => {
                let group = CONSUMER_GROUP.to_owned();
                let request = AckRequest { topic: topic.to_string(), group, receipt_handles: handles };
                let results = calls.ack(request).await?.into_inner().results;
                match results.into_iter().find(|result| !result.ok) {
                    Some(refused) => Err(Failure::Bench(format!("an ack was refused: {}", refused.message))),
                    None => Ok(()),
                }
            }
            Self::Engine(engine) => engine.ack(&handles).await,
        }
    }
}

/// Whether a receive waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    ForOne,
    No,
}
