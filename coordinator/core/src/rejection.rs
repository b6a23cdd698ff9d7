//! Typed answers to calls that cannot be done as asked. A rejected call changed nothing.

use crate::ids::TransactionId;
use crate::names::{ConsumerGroup, RequestId, TopicName};
use crate::transaction::{Decision, Verdict};

/// Why a call was refused. The text says what happened, what is safe, and what to do next.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its documentation")]
pub enum Rejection {
    #[error("illegal {what} {name:?}: {why}")]
    IllegalName { what: &'static str, name: String, why: &'static str },
    #[error("invalid {what}: {why}")]
    Invalid { what: &'static str, why: String },
    #[error("the {what} has {bytes} bytes, at most {bytes_max} are allowed; nothing was stored")]
    TooLarge { what: &'static str, bytes: usize, bytes_max: usize },
    #[error("topic {0} does not exist; create it with `halfmq topic create {0}`")]
    UnknownTopic(TopicName),
    #[error("topic {topic} exists with {queues} queues")]
    TopicExists { topic: TopicName, queues: u32 },
    #[error("topic {topic} is in use: {why}")]
    TopicInUse { topic: TopicName, why: String },
    #[error("consumer group {0} does not exist; it begins with its first receive")]
    UnknownGroup(ConsumerGroup),
    #[error("transaction {0} is not known here: it was never prepared on this coordinator")]
    UnknownTransaction(TransactionId),
    #[error(
        "transaction {0} is older than the receipts that are kept: if it was prepared here it was decided, and this says nothing about how"
    )]
    ReceiptPruned(TransactionId),
    #[error("transaction {transaction} was already decided: {} stands; the {asked} was not carried out", .stands.decision)]
    DecisionConflict { transaction: TransactionId, stands: Verdict, asked: Decision },
    #[error("request id {0:?} was used before for other content; nothing was stored")]
    RequestIdReused(RequestId),
    #[error("the receipt handle has expired: the message was or will be delivered again; nothing is lost")]
    ReceiptExpired,
    #[error("group {group} has no dead letter {number}; it may have been replayed or purged")]
    UnknownDeadLetter { group: ConsumerGroup, number: u64 },
    #[error(
        "the callback URL {url} is not admitted: {why}; the server's setting callbacks.allow lists what is"
    )]
    CallbackNotAllowed { url: String, why: String },
    #[error("{what}: the limit of {max} is reached; {then}")]
    LimitReached { what: &'static str, max: usize, then: &'static str },
}

impl Rejection {
    pub(crate) fn if_larger(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Self> {
        if bytes > bytes_max { Err(Self::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
    }
}
