//! A message as a consumer group receives it.

use std::time::SystemTime;

use crate::ids::{MessageId, ReceiptHandle};
use crate::message::Message;
use crate::receipt::Place;

/// One message leased to one consumer group: invisible to the rest of it until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The same at every attempt: what an idempotent receiver remembers.
    pub message_id: MessageId,
    /// The message.
    pub message: Message,
    /// Where it stands.
    pub place: Place,
    /// Names this attempt.
    pub receipt_handle: ReceiptHandle,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// End of the lease when it was received, on the coordinator's clock.
    pub invisible_until: SystemTime,
    /// When it was released, on the coordinator's clock.
    pub released_at: SystemTime,
    /// Who produced it.
    pub producer_group: String,
    /// Number of the message in its producer group.
    pub sequence: u64,
    /// The sequence released before it in this queue by this producer group; 0 for none.
    pub previous_sequence: u64,
    /// Set when it is read from a dead-letter topic.
    pub dead_letter: Option<DeadLetterOrigin>,
}

/// Where a dead letter came from, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterOrigin {
    /// The consumer group that failed on it.
    pub group: String,
    /// Where it stood.
    pub place: Place,
    /// How often it was tried.
    pub attempts: u32,
    /// The last failure.
    pub reason: String,
    /// When it was given up.
    pub at: SystemTime,
}

/// What came of giving a delivery back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenBack {
    /// It becomes visible again at this time.
    VisibleAt(SystemTime),
    /// It was the last attempt: its place in the dead-letter topic.
    DeadLetter(Place),
}
