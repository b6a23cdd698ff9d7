//! What the coordinator confirms, durable when it is received.

use std::time::SystemTime;

use crate::ids::{MessageId, TransactionId};

/// The one place of a released message. Offsets of a queue are dense: 0, 1, 2, ...
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The queue in the topic.
    pub queue: u32,
    /// The position in the queue.
    pub offset: u64,
}

/// What became of one message of a committed transaction or a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message.
    pub message_id: MessageId,
    /// Where or when it is released.
    pub released: Released,
}

/// Where or when a message is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// It has its place.
    At(Place),
    /// It gets its place at this time.
    Scheduled(SystemTime),
}

/// What the first commit or rollback made of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Its messages are released.
    Commit,
    /// Its messages are dropped.
    Rollback,
}

/// The decision that stands. The same decision again returns the same receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionReceipt {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// What stands.
    pub decision: Decision,
    /// Since when, on the coordinator's clock.
    pub decided_at: SystemTime,
    /// One for each message, in order; empty after a rollback.
    pub messages: Vec<Receipt>,
}
