//! The port: what a storage engine does for the coordinator.
//!
//! Calls take many items and answer each one; every call is idempotent by id, and `decide` answers the
//! decision that stands. An answer means durable. Engines differ in how they keep things, not in what
//! they decide: that is `halfmq_core`, and one conformance suite runs on every engine.

pub mod embedded;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use halfmq_core::{
    Accepted, Answer, Backlog, ConsumerGroup, DeadLetter, Decide, Delivery, GroupView, Message, MessageId,
    Place, Prepare, ProducerGroup, Question, Receipt, ReceiptHandle, Receive, Rejection, Retry, RetryPolicy,
    Send, Start, State, Tick, Timestamp, TopicName, TopicView, TransactionId, TransactionView,
};

/// A call cannot be carried out here and now. Whether it took effect is unknown unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unavailable {
    /// There is no room for new work. Nothing was stored; decisions, acks and reads go on.
    #[error("the disk is full: nothing was stored; decisions, acks and reads go on; make room and try again")]
    Full,
    /// The store failed and takes no more work until it is opened again.
    #[error("the store failed and has stopped: {0}; nothing acknowledged is lost; restart the coordinator")]
    Failed(String),
    /// The coordinator is stopping.
    #[error("the coordinator is stopping; try again here later, or elsewhere")]
    Stopping,
    /// Stored bytes do not match their checksum.
    #[error("stored data is damaged: {0}; run `halfmq repair` on the data directory")]
    Damaged(String),
}

/// Why a call was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It may not be done as asked. Nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It cannot be done here and now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The answer to a call.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + core::marker::Send>>;
/// Resolves when waiting shall end.
pub type Until = Pin<Box<dyn Future<Output = ()> + core::marker::Send>>;
/// One answer for each item of a call.
pub type Replies<T> = Reply<Vec<Result<T, Rejection>>>;

/// A new body or new headers for one message of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// Position of the message, from 0.
    pub index: u16,
    /// `None` keeps the body.
    pub body: Option<Bytes>,
    /// `None` keeps the headers.
    pub headers: Option<Vec<(String, String)>>,
}

/// The answer of a producer to a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckAnswer {
    /// About which transaction.
    pub transaction: TransactionId,
    /// What it said.
    pub answer: Answer,
    /// Why, for the record.
    pub reason: String,
    /// With a commit: what the lost commit would have replaced.
    pub replacements: Vec<Replacement>,
}

/// Due checks of producer groups that can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claimed {
    /// With the messages they are about.
    pub questions: Vec<(Question, Vec<Message>)>,
    /// When the next one is due.
    pub next: Option<Timestamp>,
}

/// Messages leased to a consumer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leased {
    /// With their contents.
    pub deliveries: Vec<(Delivery, Message)>,
    /// When something that is leased or waits now will be visible.
    pub next_visible: Option<Timestamp>,
}

/// Deliveries a consumer is done with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Of this group.
    pub group: ConsumerGroup,
    /// In this topic.
    pub topic: TopicName,
    /// Which.
    pub handles: Vec<ReceiptHandle>,
}

/// The answers to an [`Ack`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acked {
    /// One for each handle.
    pub results: Vec<Result<(), Rejection>>,
    /// Messages wait that this has set free.
    pub freed: bool,
}

/// One delivery, for [`Store::extend`] and [`Store::retry_later`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Of this group.
    pub group: ConsumerGroup,
    /// In this topic.
    pub topic: TopicName,
    /// Which.
    pub handle: ReceiptHandle,
}

/// A delivery that shall be a dead letter, for [`Store::give_up`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GiveUp {
    /// Which.
    pub lease: Lease,
    /// How often it was tried, if the consumer counts more than the deliveries.
    pub attempts: u32,
    /// For the record.
    pub reason: String,
}

/// A message that waits for its time, for [`Store::recall`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recall {
    /// In this topic.
    pub topic: TopicName,
    /// Which.
    pub message: MessageId,
    /// Until then it waits.
    pub due: Timestamp,
}

/// Which transactions to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListTransactions {
    /// `None`: all open ones.
    pub state: Option<State>,
    /// `None`: of all producer groups.
    pub producer_group: Option<ProducerGroup>,
    /// Behind this one.
    pub after: Option<TransactionId>,
    /// At most so many.
    pub max: usize,
}

/// Numbers to watch.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Statistics {
    pub open_transactions: u64,
    pub in_doubt_transactions: u64,
    pub oldest_open: Option<Timestamp>,
    pub backlogs: Vec<Backlog>,
    pub dead_letters: u64,
}

/// What there is to account for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Horizon {
    /// Receipts of transactions that were prepared before this are not all kept. `None`: all are.
    pub receipts_since: Option<Timestamp>,
    /// The sequence that each producer group was given last.
    pub last_sequences: Vec<(ProducerGroup, u64)>,
}

/// A storage engine.
pub trait Store: core::marker::Send + Sync {
    /// Keeps half messages.
    fn prepare(&self, batch: Vec<Prepare>) -> Replies<Accepted>;
    /// Takes messages in and releases them.
    fn send(&self, batch: Vec<(ProducerGroup, Send)>) -> Replies<Receipt>;
    /// Ends transactions, each with its replacements.
    fn decide(&self, batch: Vec<(Decide, Vec<Replacement>)>) -> Replies<Receipt>;
    /// Looks at transactions; for an open one, with its messages.
    fn describe(&self, ids: Vec<TransactionId>) -> Replies<(TransactionView, Vec<Message>)>;
    /// Transactions, oldest first.
    fn list(&self, list: ListTransactions) -> Reply<Vec<TransactionView>>;
    /// How far back receipts reach, and how far numbers go.
    fn horizon(&self) -> Reply<Horizon>;

    /// Takes due checks of these producer groups; nobody else gets them until `claim` is over.
    fn claim_checks(&self, reachable: Vec<ProducerGroup>, max: usize, claim: Duration) -> Reply<Claimed>;
    /// Takes answers. `Some` receipt: the answer decided the transaction.
    fn record_answers(&self, batch: Vec<CheckAnswer>) -> Replies<Option<Receipt>>;
    /// Puts off checks that nobody answered. Costs nothing, counts nothing.
    fn put_off(&self, transactions: Vec<TransactionId>, wait: Duration) -> Reply<()>;
    /// Producer groups that registered a URL, with it.
    fn callbacks(&self) -> Reply<Vec<(ProducerGroup, String)>>;

    /// Leases messages.
    fn receive(&self, batch: Vec<Receive>) -> Replies<Leased>;
    /// Leases messages as soon as they are released; finds nothing when `until` resolves first, or when
    /// something that is leased becomes visible earlier than the caller `looks_at` it. Whatever else makes
    /// messages visible (acks before them, replays) the engine need not see: `until` resolves for that. If
    /// the reply is dropped nothing more is leased.
    fn stand_by(
        &self,
        receive: Receive,
        looks_at: Option<Timestamp>,
        until: Until,
    ) -> Reply<Result<Leased, Rejection>>;
    /// Settles deliveries.
    fn ack(&self, batch: Vec<Ack>) -> Replies<Acked>;
    /// Keeps deliveries invisible for longer.
    fn extend(&self, batch: Vec<(Lease, Duration)>) -> Replies<Timestamp>;
    /// Gives deliveries back, each with a delay (`None`: the policy's) and a reason.
    fn retry_later(&self, batch: Vec<(Lease, Option<Duration>, String)>) -> Replies<Retry>;
    /// Makes deliveries dead letters at once.
    fn give_up(&self, batch: Vec<GiveUp>) -> Replies<Place>;
    /// Takes delayed messages back before their time.
    fn recall(&self, batch: Vec<Recall>) -> Replies<()>;
    /// Does what is due by time alone.
    fn tick(&self) -> Reply<Tick>;

    /// Creates a topic.
    fn create_topic(&self, topic: TopicName, queues: u32) -> Reply<Result<TopicView, Rejection>>;
    /// Deletes a topic.
    fn delete_topic(&self, topic: TopicName, force: bool) -> Reply<Result<(), Rejection>>;
    /// One topic.
    fn describe_topic(&self, topic: TopicName) -> Reply<Result<TopicView, Rejection>>;
    /// All topics.
    fn topics(&self) -> Reply<Vec<TopicView>>;
    /// Creates a group or changes its retry policy.
    fn configure_group(
        &self,
        group: ConsumerGroup,
        retry: RetryPolicy,
    ) -> Reply<Result<GroupView, Rejection>>;
    /// One group.
    fn describe_group(&self, group: ConsumerGroup) -> Reply<Result<GroupView, Rejection>>;
    /// All groups.
    fn groups(&self) -> Reply<Vec<GroupView>>;
    /// Moves a group's cursors.
    fn reset_group(
        &self,
        group: ConsumerGroup,
        topic: TopicName,
        start: Start,
    ) -> Reply<Result<GroupView, Rejection>>;
    /// Dead letters from a number on.
    fn dead_letters(
        &self,
        group: ConsumerGroup,
        from: u64,
        max: usize,
    ) -> Reply<Result<Vec<DeadLetter>, Rejection>>;
    /// One dead letter, with its message.
    fn dead_letter(
        &self,
        group: ConsumerGroup,
        number: u64,
    ) -> Reply<Result<(DeadLetter, Message), Rejection>>;
    /// Gives dead letters (`None`: all) back to their group; the topics they went to.
    fn replay_dead_letters(
        &self,
        group: ConsumerGroup,
        numbers: Option<Vec<u64>>,
    ) -> Reply<Result<Vec<TopicName>, Rejection>>;
    /// Forgets dead letters (`None`: all).
    fn purge_dead_letters(
        &self,
        group: ConsumerGroup,
        numbers: Option<Vec<u64>>,
    ) -> Reply<Result<u64, Rejection>>;

    /// Numbers to watch.
    fn statistics(&self) -> Reply<Statistics>;
    /// `Err`: it takes no work, and why.
    fn health(&self) -> Result<(), Unavailable>;
    /// Finishes what it has taken and lets go of its files.
    fn close(&self) -> Reply<()>;
}
