//! All rules together, over state in memory: what is open, what stands in the queues, how far everyone is.
//!
//! Verbs stand in the rooms below, one for each part of a message's life; [`Ledger::apply`] is the only
//! function that changes durable state. After a restart the same events make the same ledger.

pub(crate) mod admin;
pub(crate) mod checks;
pub(crate) mod consume;
mod delayed;
mod image;
pub(crate) mod paging;
pub(crate) mod produce;
mod replay;
pub(crate) mod timers;
pub(crate) mod transactions;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::check::CheckPolicy;
use crate::cursor::Cursor;
use crate::dead_letters::DeadLetters;
use crate::delayed::Waiting;
use crate::event::{Event, Log};
use crate::ids::TransactionId;
use crate::image::OpenTransaction;
use crate::message::TagFilter;
use crate::names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
use crate::queue::Topic;
use crate::rejection::Rejection;
use crate::retry::RetryPolicy;
use crate::shelf::Shelf;
use crate::time::Timestamp;

pub(crate) use transactions::{DecidedTransaction, TxMessage};

/// The state of one coordinator.
#[derive(Debug)]
pub struct Ledger {
    topics: BTreeMap<TopicName, Topic>,
    producers: BTreeMap<ProducerGroup, Producer>,
    open: BTreeMap<TransactionId, Box<OpenTransaction>>,
    in_doubt: usize,
    /// Decided not long ago; older ones are the engine's to remember.
    decided: BTreeMap<TransactionId, Arc<DecidedTransaction>>,
    delayed: Waiting,
    groups: BTreeMap<ConsumerGroup, Group>,
    /// How long messages are kept that every group is done with.
    retention: Duration,
    /// There is no room to keep them that long.
    pressed: bool,
    shelf: Arc<dyn Shelf>,
}

#[derive(Debug, Default)]
struct Producer {
    /// Sequence given last.
    sequence: u64,
    callback: Option<String>,
    /// Of its newest transaction, for the next one to share.
    policy: Option<Arc<CheckPolicy>>,
    instance: Option<InstanceId>,
    /// What its request ids have brought, as long as the ledger knows it.
    requests: HashMap<RequestId, TransactionId>,
    /// Its open transactions by the time of their next check.
    due: BTreeSet<(Timestamp, TransactionId)>,
}

#[derive(Debug, Default)]
struct Group {
    retry: RetryPolicy,
    subscriptions: BTreeMap<TopicName, Subscription>,
    dead: DeadLetters,
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
    /// An empty ledger; `retention` is how long messages are kept that every group is done with, and
    /// `shelf` gives back the pages that went to the log.
    #[must_use]
    pub fn new(retention: Duration, shelf: Arc<dyn Shelf>) -> Self {
        Self {
            retention,
            pressed: false,
            shelf,
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            open: BTreeMap::new(),
            in_doubt: 0,
            decided: BTreeMap::new(),
            delayed: Waiting::default(),
            groups: BTreeMap::new(),
        }
    }

    /// Says whether the engine is short of room: then messages that every group is done with are let go of
    /// before their retention is over.
    pub fn press(&mut self, pressed: bool) {
        self.pressed = pressed;
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
