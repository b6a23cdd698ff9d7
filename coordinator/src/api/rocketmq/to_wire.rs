//! What goes out.

use std::fmt::Write;
use std::time::Duration;

use halfmq_core::{Delivery, Message, MessageGroup, MessageId, Tag, Timestamp, TopicName, Visibility};
use halfmq_proto::rocketmq as v2;
use md5::{Digest, Md5};
use v2::telemetry_command::Command;
use v2::{DigestType, Encoding, MessageType};

use super::{from_wire, status};
use crate::checker::Asked;

const STORE_HOST: &str = "halfmq";

pub(super) fn topic(topic: &TopicName) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: from_wire::wire_name(topic) }
}

pub(super) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0),
    }
}

/// A command with the status that some libraries insist on.
pub(super) fn command(command: Command) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: Some(status::ok()), command: Some(command) }
}

/// "What became of it?" A transaction of this door has one message.
pub(super) fn question(asked: Asked) -> Option<v2::TelemetryCommand> {
    let Asked { question, messages } = asked;
    let id = MessageId { transaction: question.transaction, index: 0 };
    let mut message = message(id, messages.into_iter().next()?);
    if let Some(system) = &mut message.system_properties {
        system.message_type = MessageType::Transaction.into();
    }
    let orphan = v2::RecoverOrphanedTransactionCommand {
        message: Some(message),
        transaction_id: question.transaction.to_string(),
    };
    Some(command(Command::RecoverOrphanedTransactionCommand(orphan)))
}

/// A message as its consumer gets it.
pub(super) fn delivered(delivery: Delivery, content: Message) -> v2::Message {
    let mut message = message(delivery.id, content);
    if let Some(system) = &mut message.system_properties {
        system.store_timestamp = Some(timestamp(delivery.released_at));
        system.receipt_handle = Some(delivery.handle.to_string());
        system.queue_id = i32::try_from(delivery.place.queue).unwrap_or(0);
        system.queue_offset = i64::try_from(delivery.place.offset).ok();
        system.delivery_attempt = i32::try_from(delivery.handle.attempt).ok();
        system.dead_letter_queue = delivery.origin.map(|origin| v2::DeadLetterQueue {
            topic: from_wire::wire_name(&origin.place.topic),
            message_id: system.message_id.clone(),
        });
    }
    message.topic = Some(topic(&delivery.place.topic));
    message
}

fn message(id: MessageId, content: Message) -> v2::Message {
    let mut system = v2::SystemProperties {
        message_id: id.to_string(),
        body_digest: Some(digest(&content.body)),
        body_encoding: Encoding::Identity.into(),
        message_type: kind(&content).into(),
        born_timestamp: Some(timestamp(born_at(id))),
        store_host: STORE_HOST.to_owned(),
        tag: content.tag.as_ref().map(Tag::to_string),
        keys: content.keys,
        message_group: content.message_group.as_ref().map(MessageGroup::to_string),
        delivery_timestamp: match content.visibility {
            Visibility::At(at) => Some(timestamp(at)),
            Visibility::AtOnce | Visibility::After(_) => None,
        },
        ..v2::SystemProperties::default()
    };
    let mut user_properties = std::collections::HashMap::with_capacity(content.headers.len());
    for (name, value) in content.headers {
        match name.as_str() {
            from_wire::MESSAGE_ID => system.message_id = value,
            from_wire::BORN_HOST => system.born_host = value,
            from_wire::ENCODING if value == from_wire::GZIP => {
                system.body_encoding = Encoding::Gzip.into();
            }
            _ => drop(user_properties.insert(name, value)),
        }
    }
    v2::Message {
        topic: Some(topic(&content.topic)),
        user_properties,
        system_properties: Some(system),
        body: content.body,
    }
}

/// Some consumers cannot read a message without a digest, and the libraries agree on no other kind than this,
/// in capitals.
fn digest(body: &[u8]) -> v2::Digest {
    let mut checksum = String::with_capacity(32);
    for byte in Md5::digest(body) {
        write!(checksum, "{byte:02X}").expect("a String takes any text");
    }
    v2::Digest { r#type: DigestType::Md5.into(), checksum }
}

fn kind(message: &Message) -> MessageType {
    match (&message.message_group, message.visibility) {
        (Some(_), _) => MessageType::Fifo,
        (None, Visibility::AtOnce) => MessageType::Normal,
        (None, Visibility::At(_) | Visibility::After(_)) => MessageType::Delay,
    }
}

/// When it came here, which its id tells. What the producer's clock says is not kept: the same message sent
/// again has another time, and must still be the same.
fn born_at(id: MessageId) -> Timestamp {
    let millis = u64::try_from(id.transaction.as_u128() >> 80).unwrap_or(0);
    Timestamp::from_micros(millis * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_md5_in_capitals() {
        assert_eq!(digest(b"hello").checksum, "5D41402ABC4B2A76B9719D911017C592");
    }
}
