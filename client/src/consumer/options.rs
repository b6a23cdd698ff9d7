//! What a consumer may be told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use halfmq_proto::v1;
use prost_types::Timestamp;

use super::retry::RetrySchedule;
use crate::interceptor::ConsumerInterceptor;

/// How a [`Consumer`](crate::Consumer) or [`PullConsumer`](crate::PullConsumer) works.
#[derive(Clone)]
pub struct ConsumerOptions {
    /// How long a delivery stays invisible to the rest of the group, 1 s to 12 h: 30 s. A running
    /// handler extends it, so this is also how long a crash delays a message.
    pub invisible: Duration,
    /// How long one receive waits for the first message, at most 60 s: 20 s.
    pub wait: Duration,
    /// Handlers that run at the same time at most, for each topic: 16.
    pub in_flight_max: usize,
    /// Messages in one receive at most, up to 256: 64.
    pub batch_max: usize,
    /// Tags joined by `||`; empty for all. Messages with other tags are settled unseen.
    pub tag_filter: String,
    /// Where a group that reads a topic for the first time begins: the beginning.
    pub start: Start,
    /// A handler that runs longer is cancelled, and its delivery retried: 1 h.
    pub handler_time_max: Duration,
    /// After a stop, how long handlers may finish before they are cancelled; and once more, how long
    /// giving back may take: 10 s.
    pub stop_timeout: Duration,
    /// When a failed delivery comes again, unless its handler says; `None` leaves it to the group's policy.
    pub retry: Option<RetrySchedule>,
    /// Called around the handler.
    pub interceptors: Vec<Arc<dyn ConsumerInterceptor>>,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            invisible: Duration::from_secs(30),
            wait: Duration::from_secs(20),
            in_flight_max: 16,
            batch_max: 64,
            tag_filter: String::new(),
            start: Start::default(),
            handler_time_max: Duration::from_secs(3_600),
            stop_timeout: Duration::from_secs(10),
            retry: None,
            interceptors: Vec::new(),
        }
    }
}

/// A position in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The oldest message that is kept.
    #[default]
    Beginning,
    /// Only what is released from now on.
    End,
    /// The first message that was released at or after this time.
    Time(SystemTime),
}

impl Start {
    pub(super) fn to_wire(self) -> v1::Start {
        let kind = match self {
            Self::Beginning => v1::start::Kind::Edge(v1::Edge::Beginning.into()),
            Self::End => v1::start::Kind::Edge(v1::Edge::End.into()),
            Self::Time(at) => v1::start::Kind::Time(Timestamp::from(at)),
        };
        v1::Start { kind: Some(kind) }
    }
}
