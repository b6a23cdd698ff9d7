//! Topics and groups: the thin part of administration that programs and tests need.

use std::time::Duration;

use halfmq_proto::v1;

use crate::client::{Client, call};
use crate::error::Error;
use crate::ids::TransactionId;
use crate::wire;

/// Creates and describes topics and consumer groups. Made by [`Client::admin`].
///
/// ```no_run
/// # async fn example(client: halfmq_client::Client) -> Result<(), halfmq_client::Error> {
/// let admin = client.admin();
/// admin.create_topic("orders", 4).await?;
/// let backlog = admin.describe_group("shipping").await?.topics;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

/// A topic and how far it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its queues, in order.
    pub queues: Vec<Queue>,
    /// Transactions with half messages for it.
    pub open_transactions: u64,
    /// Committed messages that wait for their delivery time.
    pub delayed: u64,
    /// The groups that read it.
    pub groups: Vec<Backlog>,
}

/// One queue of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its number.
    pub queue: u32,
    /// Offset of the oldest message that is kept.
    pub oldest: u64,
    /// Offset that the next message gets.
    pub next: u64,
}

/// How far one group is in one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// Messages not settled yet, leased ones included.
    pub undelivered: u64,
    /// Leased, or waiting for a retry.
    pub in_flight: u64,
    /// The same, queue by queue.
    pub queues: Vec<QueueBacklog>,
}

/// How far one group is in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueBacklog {
    /// Its number.
    pub queue: u32,
    /// Everything below this offset is settled: acked, a dead letter, or not wanted.
    pub floor: u64,
    /// Leased, or waiting for a retry.
    pub in_flight: u64,
    /// Offset that the next message gets.
    pub next: u64,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How far it is, one for each topic.
    pub topics: Vec<Backlog>,
    /// Messages it gave up.
    pub dead_letters: u64,
}

/// How a consumer group tries again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After so many attempts a message is a dead letter: 16.
    pub attempts_max: u32,
    /// The first retry waits this long, each further one twice as long: 1 s.
    pub delay: Duration,
    /// The longest wait: 1 h.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 16, delay: Duration::from_secs(1), delay_max: Duration::from_secs(3_600) }
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic; 0 queues means 4. The same again is fine.
    pub async fn create_topic(&self, topic: impl Into<String>, queues: u32) -> Result<Topic, Error> {
        let request = v1::CreateTopicRequest { topic: topic.into(), queues };
        call!(self.client, administration.create_topic, request).map(Topic::from)
    }

    /// One topic.
    pub async fn describe_topic(&self, topic: impl Into<String>) -> Result<Topic, Error> {
        let request = v1::DescribeTopicRequest { topic: topic.into() };
        call!(self.client, administration.describe_topic, request).map(Topic::from)
    }

    /// Every topic.
    pub async fn list_topics(&self) -> Result<Vec<Topic>, Error> {
        let request = v1::ListTopicsRequest {};
        let answer = call!(self.client, administration.list_topics, request)?;
        Ok(answer.topics.into_iter().map(Topic::from).collect())
    }

    /// The id below which the coordinator will never ask about a transaction: producers may forget what
    /// became of those.
    pub async fn transaction_floor(&self) -> Result<TransactionId, Error> {
        let request = v1::DescribeFloorRequest::default();
        let floor = call!(self.client, transactions.describe_floor, request)?;
        Ok(floor.transaction_id.into())
    }

    /// Creates a consumer group or changes its retry policy.
    pub async fn configure_group(
        &self,
        group: impl Into<String>,
        retry: RetryPolicy,
    ) -> Result<Group, Error> {
        let retry = v1::RetryPolicy {
            attempts_max: retry.attempts_max,
            delay: Some(wire::duration(retry.delay)),
            delay_max: Some(wire::duration(retry.delay_max)),
        };
        let request = v1::ConfigureGroupRequest { group: group.into(), retry: Some(retry) };
        call!(self.client, administration.configure_group, request).map(Group::from)
    }

    /// One consumer group.
    pub async fn describe_group(&self, group: impl Into<String>) -> Result<Group, Error> {
        let request = v1::DescribeGroupRequest { group: group.into() };
        call!(self.client, administration.describe_group, request).map(Group::from)
    }
}
