//! The ledger, written down whole: a few events from which it can be made again without its history.
//!
//! An image lets an engine drop old journal segments: what it says, nobody has to replay. Contents are
//! not in it, only where they are; those that stay in a segment that goes are moved first.

use crate::check::CheckPolicy;
use crate::cursor::Open;
use crate::ids::{MessageId, TransactionId};
use crate::ledger::transactions::DecidedTransaction;
use crate::message::{Extent, Tag, TagFilter, Visibility};
use crate::names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
use crate::queue::{Entry, Origin, Place};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// One piece of an image.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say; the variants are documented")]
pub enum Image {
    /// What was known before is forgotten.
    Began,
    /// A topic, without its messages.
    Topic { topic: TopicName, released: u64, queues: Vec<QueueImage> },
    /// Messages of a queue, in the order of offsets.
    Entries { topic: TopicName, queue: u32, entries: Vec<Entry> },
    /// A producer group.
    Producer { producer_group: ProducerGroup, sequence: u64, callback: Option<String> },
    /// An open transaction.
    Open { transaction: TransactionId, open: OpenTransaction },
    /// A committed message whose time has not come.
    Delayed { due: Timestamp, id: MessageId, producer_group: ProducerGroup, half: Half },
    /// A decided transaction that only the ledger remembers.
    Decided { transaction: TransactionId, decided: DecidedTransaction },
    /// A consumer group, with its dead letters by number.
    Group { group: ConsumerGroup, retry: RetryPolicy, dead: Vec<(u64, Origin)> },
    /// How far a group is in a topic.
    Subscription { group: ConsumerGroup, topic: TopicName, filter: TagFilter, cursors: Vec<CursorImage> },
    /// The image is whole.
    Ended,
}

/// A queue, without its messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueImage {
    /// Offset of the oldest message that is kept.
    pub base: u64,
    /// Sequence released last, of each producer group.
    pub last: Vec<(ProducerGroup, u64)>,
}

/// How far a group is in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CursorImage {
    /// Everything below is settled.
    pub floor: u64,
    /// Settled above it.
    pub settled: Vec<u64>,
    /// Delivered, or given back, and not settled.
    pub open: Vec<(u64, Open)>,
}

/// A transaction that is not decided.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct OpenTransaction {
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    pub fingerprint: u64,
    pub policy: CheckPolicy,
    pub prepared_at: Timestamp,
    pub answered: u32,
    pub in_doubt: bool,
    pub next_check: Timestamp,
    pub halves: Vec<Half>,
}

/// A half message, as the rules see it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Half {
    pub topic: TopicName,
    pub content: Extent,
    pub tag: Option<Tag>,
    /// Hash of the message group.
    pub message_group: Option<u64>,
    pub visibility: Visibility,
    pub sequence: u64,
}

/// Who needs a content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A half message of an open transaction.
    Half(MessageId),
    /// A committed message whose time has not come.
    Delayed(Timestamp, MessageId),
    /// A released message.
    Released(Place),
}
