//! Between the SDK's types and `halfmq.v1`: the only place that knows both.

use std::time::{Duration, SystemTime};

use halfmq_proto::v1;
use prost_types::Timestamp;

use crate::admin::{Backlog, Group, Queue, QueueBacklog, Topic};
use crate::delivery::{DeadLetterOrigin, Delivery, GivenBack};
use crate::error::Error;
use crate::message::{Message, Replacement, Visibility};
use crate::producer::{Check, Resolution};
use crate::receipt::{Decision, DecisionReceipt, Place, Receipt, Released};

/// Longer spans than the wire can say are cut to its longest.
pub(crate) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

pub(crate) fn time(field: &'static str, at: Option<Timestamp>) -> Result<SystemTime, Error> {
    let at = present(field, at)?;
    SystemTime::try_from(at).map_err(|error| Error::Unexpected(format!("{field}: {error}")))
}

pub(crate) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::Unexpected(format!("the answer lacks {field}")))
}

pub(crate) fn messages_to_wire(messages: Vec<Message>) -> Vec<v1::Message> {
    messages.into_iter().map(v1::Message::from).collect()
}

impl From<Message> for v1::Message {
    fn from(message: Message) -> Self {
        let visibility = match message.visibility {
            Visibility::AtRelease => None,
            Visibility::After(delay) => Some(v1::message::Visibility::Delay(duration(delay))),
            Visibility::At(at) => Some(v1::message::Visibility::DeliverAt(Timestamp::from(at))),
        };
        Self {
            topic: message.topic,
            body: message.body,
            tag: message.tag,
            keys: message.keys,
            headers: message.headers,
            message_group: message.message_group,
            visibility,
        }
    }
}

impl TryFrom<v1::Message> for Message {
    type Error = Error;

    fn try_from(message: v1::Message) -> Result<Self, Error> {
        let visibility = match message.visibility {
            None => Visibility::AtRelease,
            Some(v1::message::Visibility::Delay(delay)) => Visibility::After(
                Duration::try_from(delay)
                    .map_err(|error| Error::Unexpected(format!("message.delay: {error}")))?,
            ),
            Some(v1::message::Visibility::DeliverAt(at)) => {
                Visibility::At(time("message.deliver_at", Some(at))?)
            }
        };
        Ok(Self {
            topic: message.topic,
            body: message.body,
            tag: message.tag,
            keys: message.keys,
            headers: message.headers,
            message_group: message.message_group,
            visibility,
        })
    }
}

impl From<Replacement> for v1::Replacement {
    fn from(new: Replacement) -> Self {
        let headers = new.headers.map(|entries| v1::Headers { entries });
        Self { index: new.index, body: new.body, headers }
    }
}

impl From<v1::Place> for Place {
    fn from(place: v1::Place) -> Self {
        Self { topic: place.topic, queue: place.queue, offset: place.offset }
    }
}

impl TryFrom<v1::MessageReceipt> for Receipt {
    type Error = Error;

    fn try_from(receipt: v1::MessageReceipt) -> Result<Self, Error> {
        let released = match present("receipt.released", receipt.released)? {
            v1::message_receipt::Released::Place(place) => Released::At(place.into()),
            v1::message_receipt::Released::ScheduledFor(at) => {
                Released::Scheduled(time("receipt.scheduled_for", Some(at))?)
            }
        };
        Ok(Self { message_id: receipt.message_id.into(), released })
    }
}

pub(crate) fn receipts(receipts: Vec<v1::MessageReceipt>) -> Result<Vec<Receipt>, Error> {
    receipts.into_iter().map(Receipt::try_from).collect()
}

impl TryFrom<v1::DecisionReceipt> for DecisionReceipt {
    type Error = Error;

    fn try_from(receipt: v1::DecisionReceipt) -> Result<Self, Error> {
        let decision = match receipt.decision() {
            v1::Decision::Commit => Decision::Commit,
            v1::Decision::Rollback => Decision::Rollback,
            v1::Decision::Unspecified => {
                return Err(Error::Unexpected("the answer lacks receipt.decision".into()));
            }
        };
        Ok(Self {
            transaction_id: receipt.transaction_id.into(),
            decision,
            decided_at: time("receipt.decided_at", receipt.decided_at)?,
            messages: receipts(receipt.messages)?,
        })
    }
}

impl TryFrom<v1::Delivery> for Delivery {
    type Error = Error;

    fn try_from(delivery: v1::Delivery) -> Result<Self, Error> {
        Ok(Self {
            message_id: delivery.message_id.into(),
            message: present("delivery.message", delivery.message)?.try_into()?,
            place: present("delivery.place", delivery.place)?.into(),
            receipt_handle: delivery.receipt_handle.into(),
            attempt: delivery.attempt,
            invisible_until: time("delivery.invisible_until", delivery.invisible_until)?,
            released_at: time("delivery.released_at", delivery.released_at)?,
            producer_group: delivery.producer_group,
            sequence: delivery.sequence,
            previous_sequence: delivery.previous_sequence,
            dead_letter: delivery.dead_letter.map(DeadLetterOrigin::try_from).transpose()?,
        })
    }
}

impl TryFrom<v1::DeadLetterOrigin> for DeadLetterOrigin {
    type Error = Error;

    fn try_from(origin: v1::DeadLetterOrigin) -> Result<Self, Error> {
        Ok(Self {
            group: origin.group,
            place: present("dead_letter.place", origin.place)?.into(),
            attempts: origin.attempts,
            reason: origin.reason,
            at: time("dead_letter.at", origin.at)?,
        })
    }
}

impl TryFrom<v1::RetryLaterResponse> for GivenBack {
    type Error = Error;

    fn try_from(response: v1::RetryLaterResponse) -> Result<Self, Error> {
        use v1::retry_later_response::Outcome;
        match present("retry_later.outcome", response.outcome)? {
            Outcome::VisibleAt(at) => Ok(Self::VisibleAt(time("retry_later.visible_at", Some(at))?)),
            Outcome::DeadLetter(place) => Ok(Self::DeadLetter(place.into())),
        }
    }
}

impl TryFrom<v1::CheckQuestion> for Check {
    type Error = Error;

    fn try_from(question: v1::CheckQuestion) -> Result<Self, Error> {
        Ok(Self {
            transaction_id: question.transaction_id.into(),
            producer_group: question.producer_group,
            producer_instance: question.producer_instance,
            prepared_at: time("question.prepared_at", question.prepared_at)?,
            checks_answered: question.checks_answered,
            request_id: question.request_id,
            messages: question.messages.into_iter().map(Message::try_from).collect::<Result<_, _>>()?,
        })
    }
}

/// `None`: nothing is said.
pub(crate) fn check_answer(transaction_id: String, resolution: Resolution) -> Option<v1::CheckAnswer> {
    let (resolution, replacements) = match resolution {
        Resolution::Commit => (v1::Resolution::Commit, Vec::new()),
        Resolution::CommitWith(replacements) => (v1::Resolution::Commit, replacements),
        Resolution::Rollback => (v1::Resolution::Rollback, Vec::new()),
        Resolution::Unknown => (v1::Resolution::Unknown, Vec::new()),
        Resolution::NoAnswer => return None,
    };
    Some(v1::CheckAnswer {
        transaction_id,
        resolution: resolution.into(),
        reason: String::new(),
        replacements: replacements.into_iter().map(v1::Replacement::from).collect(),
    })
}

impl From<v1::Topic> for Topic {
    fn from(topic: v1::Topic) -> Self {
        let queue = |q: v1::Queue| Queue { queue: q.queue, oldest: q.oldest, next: q.next };
        Self {
            name: topic.topic,
            queues: topic.queues.into_iter().map(queue).collect(),
            open_transactions: topic.open_transactions,
            delayed: topic.delayed,
            groups: topic.groups.into_iter().map(Backlog::from).collect(),
        }
    }
}

impl From<v1::Backlog> for Backlog {
    fn from(backlog: v1::Backlog) -> Self {
        Self {
            group: backlog.group,
            topic: backlog.topic,
            undelivered: backlog.undelivered,
            in_flight: backlog.in_flight,
            queues: backlog.queues.into_iter().map(QueueBacklog::from).collect(),
        }
    }
}

impl From<v1::QueueBacklog> for QueueBacklog {
    fn from(queue: v1::QueueBacklog) -> Self {
        Self { queue: queue.queue, floor: queue.floor, in_flight: queue.in_flight, next: queue.next }
    }
}

impl From<v1::Group> for Group {
    fn from(group: v1::Group) -> Self {
        Self {
            name: group.group,
            topics: group.topics.into_iter().map(Backlog::from).collect(),
            dead_letters: group.dead_letters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let full =
            Message::new("orders", "42").tag("t").key("a").key("b").header("h", "1").message_group("g");
        let late = SystemTime::UNIX_EPOCH + Duration::new(7, 9);
        for message in [
            Message::new("orders", ""),
            full.clone(),
            full.clone().delay(Duration::from_millis(1_500)),
            full.deliver_at(late),
        ] {
            let back = Message::try_from(v1::Message::from(message.clone()));
            assert_eq!(back.expect("it is whole"), message);
        }
    }

    #[test]
    fn gaps_in_an_answer_are_named() {
        let error = Delivery::try_from(v1::Delivery::default()).expect_err("it is empty");
        assert_eq!(error.to_string(), "unexpected answer: the answer lacks delivery.message");
    }
}
