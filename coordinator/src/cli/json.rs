//! What the server answers, as JSON for scripts: snake case as on the wire, times in RFC 3339,
//! bodies as text or, if they are none, in base64.

use super::text;
use base64::{Engine, engine::general_purpose::STANDARD};
use halfmq_proto::v1::{
    Backlog, DeadLetter, DeadLetterOrigin, DecidedBy, Decision, DecisionReceipt, Delivery, Group, Message,
    MessageReceipt, Place, Topic, Transaction, TransactionState, message::Visibility,
    message_receipt::Released,
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

fn time(at: Option<&Timestamp>) -> Value {
    at.map_or(Value::Null, |at| text::in_millis(at).into())
}

fn duration(duration: Option<&prost_types::Duration>) -> Value {
    duration
        .and_then(|duration| std::time::Duration::try_from(*duration).ok())
        .map_or(Value::Null, |duration| humantime::format_duration(duration).to_string().into())
}

fn place(place: Option<&Place>) -> Value {
    place.map_or(
        Value::Null,
        |place| json!({ "topic": place.topic, "queue": place.queue, "offset": place.offset }),
    )
}

pub(super) fn topic(topic: &Topic) -> Value {
    let queues: Vec<Value> = topic
        .queues
        .iter()
        .map(|queue| json!({ "queue": queue.queue, "oldest": queue.oldest, "next": queue.next }))
        .collect();
    json!({
        "topic": topic.topic,
        "queues": queues,
        "open_transactions": topic.open_transactions,
        "delayed": topic.delayed,
        "groups": topic.groups.iter().map(backlog).collect::<Vec<_>>(),
    })
}

fn backlog(backlog: &Backlog) -> Value {
    let queues: Vec<Value> = backlog
        .queues
        .iter()
        .map(|queue| {
            json!({
                "queue": queue.queue,
                "floor": queue.floor,
                "in_flight": queue.in_flight,
                "next": queue.next,
            })
        })
        .collect();
    json!({
        "group": backlog.group,
        "topic": backlog.topic,
        "undelivered": backlog.undelivered,
        "in_flight": backlog.in_flight,
        "tag_filter": backlog.tag_filter,
        "queues": queues,
    })
}

pub(super) fn group(group: &Group) -> Value {
    let retry = group.retry.as_ref().map(|retry| {
        json!({
            "attempts_max": retry.attempts_max,
            "delay": duration(retry.delay.as_ref()),
            "delay_max": duration(retry.delay_max.as_ref()),
        })
    });
    json!({
        "group": group.group,
        "retry": retry,
        "topics": group.topics.iter().map(backlog).collect::<Vec<_>>(),
        "dead_letters": group.dead_letters,
    })
}

pub(super) fn message_receipt(receipt: &MessageReceipt) -> Value {
    match &receipt.released {
        Some(Released::Place(at)) => json!({ "message_id": receipt.message_id, "place": place(Some(at)) }),
        Some(Released::ScheduledFor(at)) => {
            json!({ "message_id": receipt.message_id, "scheduled_for": time(Some(at)) })
        }
        None => json!({ "message_id": receipt.message_id }),
    }
}

pub(super) fn receipt(receipt: &DecisionReceipt) -> Value {
    json!({
        "transaction_id": receipt.transaction_id,
        "decision": match receipt.decision() {
            Decision::Unspecified => Value::Null,
            Decision::Commit => "commit".into(),
            Decision::Rollback => "rollback".into(),
        },
        "decided_at": time(receipt.decided_at.as_ref()),
        "messages": receipt.messages.iter().map(message_receipt).collect::<Vec<_>>(),
    })
}

pub(super) fn transaction(transaction: &Transaction) -> Value {
    let messages: Vec<Value> = transaction
        .messages
        .iter()
        .map(|message| {
            json!({
                "message_id": message.message_id,
                "topic": message.topic,
                "sequence": message.sequence,
            })
        })
        .collect();
    json!({
        "transaction_id": transaction.transaction_id,
        "state": state(transaction.state()),
        "producer_group": transaction.producer_group,
        "producer_instance": transaction.producer_instance,
        "request_id": transaction.request_id,
        "prepared_at": time(transaction.prepared_at.as_ref()),
        "checks_answered": transaction.checks_answered,
        "next_check_at": time(transaction.next_check_at.as_ref()),
        "resolver_reachable": transaction.resolver_reachable,
        "receipt": transaction.receipt.as_ref().map(receipt),
        "decided_by": match transaction.decided_by() {
            DecidedBy::Unspecified => Value::Null,
            DecidedBy::Call => "call".into(),
            DecidedBy::Check => "check".into(),
            DecidedBy::Policy => "policy".into(),
        },
        "reason": transaction.reason,
        "messages": messages,
    })
}

/// As `tx list --state` takes it.
pub(super) fn state(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Unspecified => "unspecified",
        TransactionState::Prepared => "prepared",
        TransactionState::InDoubt => "in-doubt",
        TransactionState::Committed => "committed",
        TransactionState::RolledBack => "rolled-back",
    }
}

fn message(message: &Message) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("topic", message.topic.clone().into());
    match std::str::from_utf8(&message.body) {
        Ok(text) => put("body", text.into()),
        Err(_) => put("body_base64", STANDARD.encode(&message.body).into()),
    };
    put("tag", message.tag.clone().into());
    put("keys", message.keys.clone().into());
    put("headers", json!(message.headers));
    put("message_group", message.message_group.clone().into());
    match &message.visibility {
        Some(Visibility::DeliverAt(at)) => put("deliver_at", time(Some(at))),
        Some(Visibility::Delay(delay)) => put("delay", duration(Some(delay))),
        None => None,
    };
    fields
}

pub(super) fn delivery(delivery: &Delivery) -> Value {
    json!({
        "message_id": delivery.message_id,
        "message": delivery.message.as_ref().map(message),
        "place": place(delivery.place.as_ref()),
        "receipt_handle": delivery.receipt_handle,
        "attempt": delivery.attempt,
        "invisible_until": time(delivery.invisible_until.as_ref()),
        "released_at": time(delivery.released_at.as_ref()),
        "producer_group": delivery.producer_group,
        "sequence": delivery.sequence,
        "previous_sequence": delivery.previous_sequence,
        "dead_letter": delivery.dead_letter.as_ref().map(origin),
    })
}

fn origin(origin: &DeadLetterOrigin) -> Value {
    json!({
        "group": origin.group,
        "place": place(origin.place.as_ref()),
        "attempts": origin.attempts,
        "reason": origin.reason,
        "at": time(origin.at.as_ref()),
    })
}

pub(super) fn dead_letter(letter: &DeadLetter) -> Value {
    json!({
        "number": letter.number,
        "message_id": letter.message_id,
        "origin": letter.origin.as_ref().map(origin),
        "message": letter.message.as_ref().map(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_text_or_base64() {
        let cases: [(&[u8], &str, &str); 3] =
            [(b"hello", "body", "hello"), (b"", "body", ""), (&[0xff, 0x00], "body_base64", "/wA=")];
        for (body, field, expected) in cases {
            let fields = message(&Message { body: body.to_vec().into(), ..Message::default() });
            assert_eq!(fields.get(field), Some(&expected.into()), "{body:?}");
        }
    }
}
