//! What happened. Events are what an engine makes durable, and all it needs to build the ledger again.

use crate::check::CheckPolicy;
use crate::delayed::{DelayedPage, Due};
use crate::ids::TransactionId;
use crate::image::{Holder, Image};
use crate::message::{Extent, Message, TagFilter};
use crate::names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
use crate::retry::RetryPolicy;
use crate::shelf::Page;
use crate::time::Timestamp;
use crate::transaction::Verdict;

/// Takes events in order. What it has taken may be shown to anyone only after it is durable.
pub trait Log {
    /// Takes an event and says where the contents of its messages are, in their order, or where its page is.
    fn append(&mut self, event: &Event) -> Vec<Extent>;
}

/// One thing that happened.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say; the variants are documented")]
pub enum Event {
    /// A topic began.
    TopicCreated { topic: TopicName, queues: u32 },
    /// A topic ended, with all that was in it.
    TopicDeleted { topic: TopicName },
    /// A consumer group began, or changed its retry policy.
    GroupConfigured { group: ConsumerGroup, retry: RetryPolicy },
    /// A group began to read a topic: one floor for each queue.
    Subscribed { group: ConsumerGroup, topic: TopicName, filter: TagFilter, floors: Vec<u64> },
    /// A group reads a topic with another filter from now on.
    FilterChanged { group: ConsumerGroup, topic: TopicName, filter: TagFilter },
    /// A group's cursors were moved.
    GroupReset { group: ConsumerGroup, topic: TopicName, floors: Vec<u64> },
    /// A producer group can be asked at this URL (`None`: no longer).
    CallbackChanged { producer_group: ProducerGroup, callback: Option<String> },
    /// Half messages were taken in.
    Prepared(Prepared),
    /// Messages without a transaction were taken in and released.
    Sent(Sent),
    /// A transaction ended.
    Decided(Decided),
    /// A check was answered UNKNOWN.
    Checked { transaction: TransactionId, answered: u32, next_check: Timestamp, in_doubt: bool },
    /// The time of a delayed message came.
    Released { transaction: TransactionId, index: u16, queue: u32, offset: u64, previous: u64, at: Timestamp },
    /// A delayed message was taken back before its time, which would have been `due`.
    Recalled { transaction: TransactionId, index: u16, due: Timestamp },
    /// The same with one on the shelf: in the page with this first one.
    RecalledOnShelf { topic: TopicName, page: Due, position: u64 },
    /// Messages were leased: offset and attempt of each.
    Delivered {
        group: ConsumerGroup,
        topic: TopicName,
        queue: u32,
        deliveries: Vec<(u64, u32)>,
        until: Timestamp,
    },
    /// Messages are done with: acked, or not wanted by the filter.
    Settled { group: ConsumerGroup, topic: TopicName, queue: u32, offsets: Vec<u64> },
    /// A lease became longer.
    Extended { group: ConsumerGroup, topic: TopicName, queue: u32, offset: u64, until: Timestamp },
    /// A delivery was given back.
    Retried { group: ConsumerGroup, topic: TopicName, queue: u32, offset: u64, visible_at: Timestamp },
    /// A message failed for the last time; `number` is its offset in the dead-letter topic.
    DeadLettered {
        group: ConsumerGroup,
        topic: TopicName,
        queue: u32,
        offset: u64,
        attempts: u32,
        reason: String,
        number: u64,
        at: Timestamp,
    },
    /// Dead letters were given back to their group.
    DeadLettersReplayed { group: ConsumerGroup, numbers: Vec<u64>, at: Timestamp },
    /// Dead letters were forgotten.
    DeadLettersPurged { group: ConsumerGroup, numbers: Vec<u64> },
    /// Messages below `base` that everyone is done with are no longer kept.
    Trimmed { topic: TopicName, queue: u32, base: u64 },
    /// Entries of a queue went onto the shelf, or were written there anew. The page has an extent.
    Paged { topic: TopicName, queue: u32, first: u64, page: Page },
    /// Delayed messages went onto the shelf, or the page that began with `old` was written there anew. The
    /// page has an extent.
    DelayedPaged { old: Option<Due>, page: DelayedPage },
    /// The delayed messages of the page with this first one came back from the shelf.
    DelayedLoaded { first: Due },
    /// Contents that nobody needs any more are no longer kept, although entries before them are.
    LetGo { topic: TopicName, queue: u32, offsets: Vec<u64> },
    /// A content was written anew.
    Moved { holder: Holder, message: Message },
    /// A piece of an image of the whole ledger.
    Image(Box<Image>),
}

/// Half messages were taken in.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Prepared {
    pub transaction: TransactionId,
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    /// Recognises the same request again.
    pub fingerprint: u64,
    pub policy: CheckPolicy,
    pub at: Timestamp,
    /// Sequence of the first message; the others follow.
    pub first_sequence: u64,
    pub messages: Vec<Message>,
}

/// Messages were taken in and released at once.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Sent {
    pub transaction: TransactionId,
    pub producer_group: ProducerGroup,
    pub request_id: Option<RequestId>,
    pub fingerprint: u64,
    pub at: Timestamp,
    pub first_sequence: u64,
    pub messages: Vec<Message>,
    /// One for each message.
    pub releases: Vec<Release>,
}

/// A transaction ended.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Decided {
    pub transaction: TransactionId,
    pub verdict: Verdict,
    /// One for each message of a commit.
    pub releases: Vec<Release>,
    /// Messages that were replaced with the commit.
    pub replacements: Vec<(u16, Message)>,
}

/// Where a committed message went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// To its one place; `previous` is the sequence before it in this queue, of the same producer group.
    Placed {
        /// Queue of its topic.
        queue: u32,
        /// Offset in that queue.
        offset: u64,
        /// 0: it is the first.
        previous: u64,
    },
    /// It gets its place then.
    Scheduled {
        /// On the server's clock.
        at: Timestamp,
    },
}
