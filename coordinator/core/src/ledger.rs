//! All rules together, over state in memory: what is open, what stands in the queues, how far everyone is.
//!
//! Verbs stand in the rooms below, one for each part of a message's life; [`Ledger::apply`] is the only
//! function that changes durable state. After a restart the same events make the same ledger.

pub(crate) mod admin;
pub(crate) mod checks;
pub(crate) mod consume;
pub(crate) mod produce;
mod replay;
pub(crate) mod timers;
pub(crate) mod transactions;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::check::CheckPolicy;
use crate::cursor::Cursor;
use crate::event::{Event, Log};
use crate::ids::{MessageId, TransactionId};
use crate::message::{Extent, Tag, TagFilter, Visibility};
use crate::names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
use crate::queue::{Origin, Topic};
use crate::rejection::Rejection;
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

pub(crate) use transactions::{DecidedTransaction, TxMessage};

/// The state of one coordinator.
#[derive(Debug, Default)]
pub struct Ledger {
    topics: BTreeMap<TopicName, Topic>,
    producers: BTreeMap<ProducerGroup, Producer>,
    open: BTreeMap<TransactionId, OpenTransaction>,
    in_doubt: usize,
    /// Decided not long ago; older ones are the engine's to remember.
    decided: BTreeMap<TransactionId, DecidedTransaction>,
    requests: HashMap<(ProducerGroup, RequestId), TransactionId>,
    delayed: BTreeMap<(Timestamp, MessageId), Delayed>,
    groups: BTreeMap<ConsumerGroup, Group>,
    /// How long messages are kept that every group is done with.
    retention: Duration,
}

#[derive(Debug, Default)]
struct Producer {
    /// Sequence given last.
    sequence: u64,
    callback: Option<String>,
    /// Its open transactions by the time of their next check.
    due: BTreeSet<(Timestamp, TransactionId)>,
}

#[derive(Debug)]
struct OpenTransaction {
    producer_group: ProducerGroup,
    instance: Option<InstanceId>,
    request_id: Option<RequestId>,
    fingerprint: u64,
    policy: CheckPolicy,
    prepared_at: Timestamp,
    answered: u32,
    in_doubt: bool,
    next_check: Timestamp,
    halves: Vec<Half>,
}

/// A half message, as the rules see it.
#[derive(Clone, Debug)]
struct Half {
    topic: TopicName,
    content: Extent,
    tag: Option<Tag>,
    message_group: Option<u64>,
    visibility: Visibility,
    sequence: u64,
}

/// A committed message whose time has not come.
#[derive(Debug)]
struct Delayed {
    producer_group: ProducerGroup,
    half: Half,
}

#[derive(Debug, Default)]
struct Group {
    retry: RetryPolicy,
    subscriptions: BTreeMap<TopicName, Subscription>,
    /// By number: their offset in the dead-letter topic.
    dead: BTreeMap<u64, Origin>,
}

#[derive(Debug, Default)]
struct Subscription {
    filter: TagFilter,
    cursors: Vec<Cursor>,
    /// The queue that is served first next time.
    turn: usize,
}

/// An event that does not fit the state it is applied to: the log is not the one that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the event does not fit what came before it: {0}")]
pub struct Inconsistency(pub &'static str);

impl Ledger {
    /// An empty ledger; `retention` is how long messages are kept that every group is done with.
    #[must_use]
    pub fn new(retention: Duration) -> Self {
        Self { retention, ..Self::default() }
    }

    /// Number of open transactions.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.open.len()
    }

    /// Number of open transactions that are in doubt.
    #[must_use]
    pub fn in_doubt_transactions(&self) -> usize {
        self.in_doubt
    }

    /// When the oldest open transaction was prepared.
    #[must_use]
    pub fn oldest_open(&self) -> Option<Timestamp> {
        self.open.first_key_value().map(|(_, transaction)| transaction.prepared_at)
    }

    /// Hands the event to the log and applies it: the only way a verb changes durable state.
    fn record(&mut self, log: &mut dyn Log, event: Event) {
        let extents = log.append(&event);
        self.apply(event, &extents).expect("a verb writes only events that fit the state it has just read");
    }

    fn topic(&self, name: &TopicName) -> Result<&Topic, Rejection> {
        self.topics.get(name).ok_or_else(|| Rejection::UnknownTopic(name.clone()))
    }

    fn group(&self, name: &ConsumerGroup) -> Result<&Group, Rejection> {
        self.groups.get(name).ok_or_else(|| Rejection::UnknownGroup(name.clone()))
    }

    fn cursor_mut(&mut self, group: &ConsumerGroup, topic: &TopicName, queue: u32) -> Option<&mut Cursor> {
        self.groups.get_mut(group)?.subscriptions.get_mut(topic)?.cursors.get_mut(queue as usize)
    }
}
