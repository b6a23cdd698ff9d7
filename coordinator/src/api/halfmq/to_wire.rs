//! What goes out.

use halfmq_core::{
    Accepted, Backlog, DeadLetter, DecidedBy, Decision, Delivery, GroupView, Message, MessageGroup,
    MessageId, Origin, Place, Receipt, Retry, State, Tag, Timestamp, TopicView, Visibility,
};
use halfmq_proto::v1;

use crate::service::Described;

pub(super) fn message(message: Message) -> v1::Message {
    v1::Message {
        topic: message.topic.to_string(),
        body: message.body,
        tag: message.tag.as_ref().map(Tag::to_string).unwrap_or_default(),
        keys: message.keys,
        headers: message.headers.into_iter().collect(),
        message_group: message.message_group.as_ref().map(MessageGroup::to_string).unwrap_or_default(),
        visibility: match message.visibility {
            Visibility::AtOnce => None,
            Visibility::At(at) => Some(v1::message::Visibility::DeliverAt(timestamp(at))),
            Visibility::After(delay) => Some(v1::message::Visibility::Delay(duration(delay))),
        },
    }
}

fn place(place: &Place) -> v1::Place {
    v1::Place { topic: place.topic.to_string(), queue: place.queue, offset: place.offset }
}

fn message_receipts(receipt: &Receipt) -> Vec<v1::MessageReceipt> {
    let line = |(id, released): &(MessageId, Result<Place, Timestamp>)| v1::MessageReceipt {
        message_id: id.to_string(),
        released: Some(match released {
            Ok(at) => v1::message_receipt::Released::Place(place(at)),
            Err(at) => v1::message_receipt::Released::ScheduledFor(timestamp(*at)),
        }),
    };
    receipt.messages.iter().map(line).collect()
}

pub(super) fn receipt(receipt: &Receipt) -> v1::DecisionReceipt {
    v1::DecisionReceipt {
        transaction_id: receipt.transaction.to_string(),
        decision: match receipt.verdict.decision {
            Decision::Commit => v1::Decision::Commit,
            Decision::Rollback => v1::Decision::Rollback,
        }
        .into(),
        decided_at: Some(timestamp(receipt.verdict.at)),
        messages: message_receipts(receipt),
    }
}

/// An accepted prepare; the flag says whether anybody could be asked about it.
pub(super) fn prepared((accepted, reachable): &(Accepted, bool)) -> v1::PrepareResponse {
    v1::PrepareResponse {
        transaction_id: accepted.transaction.to_string(),
        message_ids: accepted.message_ids.iter().map(ToString::to_string).collect(),
        first_check_at: Some(timestamp(accepted.first_check_at)),
        warnings: if *reachable { Vec::new() } else { vec![v1::Warning::NoResolver.into()] },
    }
}

pub(super) fn sent(receipt: &Receipt) -> v1::SendResponse {
    v1::SendResponse { messages: message_receipts(receipt) }
}

pub(super) fn extended(until: Timestamp) -> v1::ExtendResponse {
    v1::ExtendResponse { invisible_until: Some(timestamp(until)) }
}

pub(super) fn given_back(retry: &Retry) -> v1::RetryLaterResponse {
    let outcome = match retry {
        Retry::Visible(at) => v1::retry_later_response::Outcome::VisibleAt(timestamp(*at)),
        Retry::DeadLetter(at) => v1::retry_later_response::Outcome::DeadLetter(place(at)),
    };
    v1::RetryLaterResponse { outcome: Some(outcome) }
}

pub(super) fn transaction(described: Described, with_messages: bool) -> v1::Transaction {
    let Described { view, reachable } = described;
    let verdict = view.receipt.as_ref().map(|receipt| &receipt.verdict);
    let message = |(index, message): (u16, &halfmq_core::TxMessage)| v1::TransactionMessage {
        message_id: MessageId { transaction: view.transaction, index }.to_string(),
        topic: message.topic.to_string(),
        sequence: message.sequence,
    };
    let messages = if with_messages { (0..).zip(&view.messages).map(message).collect() } else { Vec::new() };
    v1::Transaction {
        transaction_id: view.transaction.to_string(),
        state: match view.state {
            State::Prepared => v1::TransactionState::Prepared,
            State::InDoubt => v1::TransactionState::InDoubt,
            State::Committed => v1::TransactionState::Committed,
            State::RolledBack => v1::TransactionState::RolledBack,
        }
        .into(),
        producer_group: view.producer_group.to_string(),
        producer_instance: view.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        request_id: view.request_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        prepared_at: Some(timestamp(view.prepared_at)),
        checks_answered: view.answered,
        next_check_at: view.next_check.map(timestamp),
        resolver_reachable: reachable,
        decided_by: match verdict.map(|verdict| verdict.by) {
            None => v1::DecidedBy::Unspecified,
            Some(DecidedBy::Call) => v1::DecidedBy::Call,
            Some(DecidedBy::Check) => v1::DecidedBy::Check,
            Some(DecidedBy::Policy) => v1::DecidedBy::Policy,
        }
        .into(),
        reason: verdict.map(|verdict| verdict.reason.clone()).unwrap_or_default(),
        receipt: view.receipt.as_ref().map(receipt),
        messages,
    }
}

/// A delivery with its content.
#[must_use]
pub fn delivery(delivery: Delivery, content: Message) -> v1::Delivery {
    v1::Delivery {
        message_id: delivery.id.to_string(),
        message: Some(message(content)),
        place: Some(place(&delivery.place)),
        receipt_handle: delivery.handle.to_string(),
        attempt: delivery.handle.attempt,
        invisible_until: Some(timestamp(delivery.invisible_until)),
        released_at: Some(timestamp(delivery.released_at)),
        producer_group: delivery.producer_group.to_string(),
        sequence: delivery.sequence,
        previous_sequence: delivery.previous_sequence,
        dead_letter: delivery.origin.as_ref().map(origin),
    }
}

pub(super) fn dead_letter(letter: &DeadLetter, content: Option<Message>) -> v1::DeadLetter {
    v1::DeadLetter {
        number: letter.number,
        message_id: letter.id.to_string(),
        origin: Some(origin(&letter.origin)),
        message: content.map(message),
    }
}

fn origin(origin: &Origin) -> v1::DeadLetterOrigin {
    v1::DeadLetterOrigin {
        group: origin.group.to_string(),
        place: Some(place(&origin.place)),
        attempts: origin.attempts,
        reason: origin.reason.clone(),
        at: Some(timestamp(origin.at)),
    }
}

pub(super) fn topic(view: &TopicView) -> v1::Topic {
    let queue = |(queue, view): (u32, &halfmq_core::QueueView)| v1::Queue {
        queue,
        oldest: view.oldest,
        next: view.next,
    };
    v1::Topic {
        topic: view.topic.to_string(),
        queues: (0..).zip(&view.queues).map(queue).collect(),
        open_transactions: view.open,
        delayed: view.delayed,
        groups: view.groups.iter().map(backlog).collect(),
    }
}

pub(super) fn group(view: &GroupView) -> v1::Group {
    v1::Group {
        group: view.group.to_string(),
        retry: Some(v1::RetryPolicy {
            attempts_max: view.retry.attempts_max,
            delay: Some(duration(view.retry.delay)),
            delay_max: Some(duration(view.retry.delay_max)),
        }),
        topics: view.topics.iter().map(backlog).collect(),
        dead_letters: view.dead_letters,
    }
}

fn backlog(backlog: &Backlog) -> v1::Backlog {
    let queue = |(queue, view): (u32, &halfmq_core::QueueBacklog)| v1::QueueBacklog {
        queue,
        floor: view.floor,
        in_flight: view.in_flight,
        next: view.next,
    };
    v1::Backlog {
        group: backlog.group.to_string(),
        topic: backlog.topic.to_string(),
        undelivered: backlog.queues.iter().map(|queue| queue.undelivered).sum(),
        in_flight: backlog.queues.iter().map(|queue| queue.in_flight).sum(),
        tag_filter: backlog.filter.clone(),
        queues: (0..).zip(&backlog.queues).map(queue).collect(),
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0),
    }
}

fn duration(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}
