//! The whole ledger, written down in pieces: from a whole image on, earlier events are not needed any more.
//!
//! Every so often an engine asks for an image and keeps it among the events, between [`Image::Began`] and
//! [`Image::Ended`]. A start then begins with the newest whole one. Contents of messages and pages on the
//! shelf are not in it; they stay where they are.

use std::sync::Arc;

use crate::check::CheckPolicy;
use crate::cursor::Open;
use crate::delayed::DelayedPageRef;
use crate::ids::{MessageId, TransactionId};
use crate::ledger::DecidedTransaction;
use crate::message::{Extent, Tag, TagFilter, Visibility};
use crate::names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
use crate::queue::{Entry, Origin, Place};
use crate::retry::RetryPolicy;
use crate::shelf::PageRef;
use crate::time::Timestamp;

/// One piece of an image, in this order.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say; the variants are documented")]
pub enum Image {
    /// Nothing before it is needed if the end is there, too.
    Began { at: Timestamp },
    /// A topic, without its hot entries, half messages and delayed messages.
    Topic { topic: TopicName, released: u64, queues: Vec<QueueImage> },
    /// Hot entries of a queue; those of further pieces follow.
    Entries { topic: TopicName, queue: u32, entries: Vec<Entry> },
    /// A producer group.
    Producer { producer_group: ProducerGroup, sequence: u64, callback: Option<String> },
    /// An open transaction.
    Open { transaction: TransactionId, open: OpenTransaction },
    /// A committed message whose time has not come.
    Delayed { due: Timestamp, id: MessageId, producer_group: ProducerGroup, half: Half },
    /// A page of such messages that is on the shelf.
    DelayedPage { page: DelayedPageRef },
    /// A transaction that was decided not long ago.
    Decided { transaction: TransactionId, decided: DecidedTransaction },
    /// A consumer group, without its dead letters and cursors.
    Group { group: ConsumerGroup, retry: RetryPolicy },
    /// Dead letters of a group; those of further pieces follow.
    DeadLetters { group: ConsumerGroup, letters: Vec<(u64, Origin)> },
    /// How far a group is in a topic.
    Subscription { group: ConsumerGroup, topic: TopicName, filter: TagFilter, cursors: Vec<CursorImage> },
    /// The image is whole.
    Ended,
}

/// A queue without its hot entries.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct QueueImage {
    pub base: u64,
    pub hot_base: u64,
    pub last: Vec<(ProducerGroup, u64)>,
    pub pages: Vec<PageRef>,
}

/// How far a group is in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CursorImage {
    /// Everything below is settled.
    pub floor: u64,
    /// Settled above the floor: first offset and the one behind the last.
    pub settled: Vec<(u64, u64)>,
    /// Delivered or given back, and not settled.
    pub open: Vec<(u64, Open)>,
}

/// A transaction that waits for its decision.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct OpenTransaction {
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    pub fingerprint: u64,
    /// Shared: most transactions of a producer have the same one.
    pub policy: Arc<CheckPolicy>,
    pub prepared_at: Timestamp,
    pub answered: u32,
    pub in_doubt: bool,
    pub next_check: Timestamp,
    pub halves: Box<[Half]>,
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

/// Who needs a content that is written anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// An open transaction.
    Half(MessageId),
    /// A delayed message, due then.
    Delayed(Timestamp, MessageId),
    /// A hot entry.
    Entry(Place),
    /// A message of a page that is written anew right after it.
    Page,
}
