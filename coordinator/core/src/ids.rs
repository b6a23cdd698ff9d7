//! Ids that are made once and never change: transactions, messages, deliveries.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::names::TopicName;
use crate::queue::Place;
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// A UUIDv7: ordered by the time of preparation, so that neighbours in time are neighbours on disk.
///
/// Kept as bytes: a number of 128 bits is aligned to 16 bytes, and a time with an id would take 32 instead of 24.
/// There is such a pair for each open transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(Uuid);

const _: () = assert!(size_of::<(Timestamp, TransactionId)>() == 24, "see above");

impl TransactionId {
    /// A fresh id from the server's clock and ten random bytes.
    #[must_use]
    pub fn fresh(now: Timestamp, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(now.as_micros() / 1_000, &random).into_uuid())
    }

    /// When it was made, to the millisecond.
    #[must_use]
    pub fn made_at(self) -> Timestamp {
        let millis = u64::try_from(self.as_u128() >> 80).expect("48 bits are left");
        Timestamp::from_micros(millis.saturating_mul(1_000))
    }

    /// From its sixteen bytes as a number.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }

    /// Its sixteen bytes as a number; the order of numbers is the order of ids.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// Evenly spread over all ids; used where chance is wanted but must be repeatable.
    pub(crate) fn spread(self, salt: u32) -> u64 {
        crate::message::hash(&[&self.0.as_bytes()[..], &salt.to_be_bytes()[..]])
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(out)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for TransactionId {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Uuid::try_parse(text).map(Self).map_err(|_| Rejection::Invalid {
            what: "transaction id",
            why: "it is not a UUID; use the transaction_id that Prepare returned".into(),
        })
    }
}

/// Transaction and position within it: `<uuid>-<index>`. One id from prepare to ack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId {
    /// The transaction, or the send, that brought it.
    pub transaction: TransactionId,
    /// From 0.
    pub index: u16,
}

impl fmt::Display for MessageId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.transaction, self.index)
    }
}

impl FromStr for MessageId {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let parts = text.rsplit_once('-');
        let id = parts.and_then(|(transaction, index)| {
            Some(Self { transaction: transaction.parse().ok()?, index: index.parse().ok()? })
        });
        id.ok_or_else(|| Rejection::Invalid {
            what: "message id",
            why: "it is malformed; use the message_id of a delivery unchanged".into(),
        })
    }
}

/// Names one attempt to deliver one message: `<queue>-<offset>-<attempt>`, within a topic and group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReceiptHandle {
    /// Queue of the message.
    pub queue: u32,
    /// Offset of the message.
    pub offset: u64,
    /// From 1.
    pub attempt: u32,
}

impl ReceiptHandle {
    pub(crate) fn place(self, topic: &TopicName) -> Place {
        Place { topic: topic.clone(), queue: self.queue, offset: self.offset }
    }
}

impl fmt::Display for ReceiptHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}-{}", self.queue, self.offset, self.attempt)
    }
}

impl FromStr for ReceiptHandle {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let malformed = || Rejection::Invalid {
            what: "receipt handle",
            why: "it is malformed; use the receipt_handle of a delivery unchanged".into(),
        };
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().ok_or_else(malformed);
        let (queue, offset, attempt) = (part()?, part()?, part()?);
        Ok(Self {
            queue: queue.parse().map_err(|_| malformed())?,
            offset: offset.parse().map_err(|_| malformed())?,
            attempt: attempt.parse().map_err(|_| malformed())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text() -> Result<(), Rejection> {
        let id = TransactionId::fresh(Timestamp::from_micros(1_700_000_000_000_000), [7; 10]);
        assert_eq!(id.to_string().parse::<TransactionId>()?, id);
        let message = MessageId { transaction: id, index: u16::MAX };
        assert_eq!(message.to_string().parse::<MessageId>()?, message);
        for text in
            ["", "1", "x-1", &id.to_string(), &format!("{id}-65536"), &format!("{id}-"), &format!("{id}1")]
        {
            assert!(text.parse::<MessageId>().is_err(), "{text:?}");
        }
        let handle = ReceiptHandle { queue: 3, offset: u64::MAX, attempt: 9 };
        assert_eq!(handle.to_string().parse::<ReceiptHandle>()?, handle);
        for text in ["", "1", "1-2", "1-2-x", "1-2-3-4", "-1-2-3"] {
            assert!(text.parse::<ReceiptHandle>().is_err(), "{text:?}");
        }
        Ok(())
    }

    #[test]
    fn later_ids_sort_later() {
        let id =
            |millis: u64, random| TransactionId::fresh(Timestamp::from_micros(millis * 1_000), [random; 10]);
        assert!(id(1_000, 255) < id(1_001, 0));
    }
}
