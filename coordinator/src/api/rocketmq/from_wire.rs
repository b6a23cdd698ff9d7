//! What comes in: checked once, here; behind this the types say that it is right.

use std::time::Duration;

use halfmq_core::{
    ConsumerGroup, Message, ProducerGroup, ReceiptHandle, Tag, TagFilter, Timestamp, TopicName, Visibility,
};
use halfmq_proto::rocketmq as v2;
use v2::{Code, Encoding, FilterType, MessageType};

use super::status::Refusal;

/// Headers that hold what a message of the native API has no field for. Producers cannot write them.
pub(super) const RESERVED: &str = "rocketmq.";
/// The id its producer gave it.
pub(super) const MESSAGE_ID: &str = "rocketmq.id";
/// The machine it was made on.
pub(super) const BORN_HOST: &str = "rocketmq.host";
/// `gzip`, if the producer packed the body.
pub(super) const ENCODING: &str = "rocketmq.encoding";
pub(super) const GZIP: &str = "gzip";

/// Producers of a topic answer for each other. A group of its own, so that no native producer is asked about
/// half messages it has never seen, and no RocketMQ client about those of a native one.
const PRODUCERS_OF: &str = "rocketmq.";
/// How RocketMQ calls the dead letters of a group, and how they are called here.
const DEAD_LETTERS: &str = "%DLQ%";
const DEAD_LETTERS_HERE: &str = "dlq.";

/// The shortest lease, also for a client that wants to see a message again at once.
const INVISIBLE_MIN: Duration = halfmq_core::limits::INVISIBLE_MIN;

/// A message that came in.
pub(super) struct Incoming {
    pub(super) message: Message,
    /// The id its producer gave it.
    pub(super) id: String,
    pub(super) kind: MessageType,
    /// When to ask about it, if the producer says so.
    pub(super) first_check_after: Option<Duration>,
}

/// Namespaces are not told apart: the library for Node.js names its own in some calls only.
pub(super) fn topic(topic: Option<&v2::Resource>) -> Result<TopicName, Refusal> {
    let name = topic.map_or("", |topic| topic.name.as_str());
    match name.strip_prefix(DEAD_LETTERS) {
        Some(group) => Ok(format!("{DEAD_LETTERS_HERE}{group}").parse()?),
        None => Ok(name.parse()?),
    }
}

pub(super) fn wire_name(topic: &TopicName) -> String {
    match topic.as_str().strip_prefix(DEAD_LETTERS_HERE) {
        Some(group) if topic.is_dead_letter() => format!("{DEAD_LETTERS}{group}"),
        Some(_) | None => topic.to_string(),
    }
}

pub(super) fn group(group: Option<&v2::Resource>) -> Result<ConsumerGroup, Refusal> {
    Ok(group.map_or("", |group| group.name.as_str()).parse()?)
}

pub(super) fn producer_group(topic: &TopicName) -> Result<ProducerGroup, Refusal> {
    let group = format!("{PRODUCERS_OF}{topic}");
    group.parse().map_err(|_| {
        let why = format!("the topic {topic} is too long to send to: 118 characters at most");
        Refusal::new(Code::IllegalTopic, why)
    })
}

pub(super) fn handle(handle: &str) -> Result<ReceiptHandle, Refusal> {
    Ok(handle.parse()?)
}

pub(super) fn filter(expression: Option<&v2::FilterExpression>) -> Result<TagFilter, Refusal> {
    let Some(expression) = expression else { return Ok(TagFilter::default()) };
    match expression.r#type() {
        FilterType::Sql => Err(Refusal::new(
            Code::Unsupported,
            "SQL filters are not supported: filter by tag (\"TagA || TagB\"), or in the consumer",
        )),
        FilterType::Tag | FilterType::Unspecified => TagFilter::parse(&expression.expression)
            .map_err(|why| Refusal::new(Code::IllegalFilterExpression, why.to_string())),
    }
}

pub(super) fn span(what: &'static str, code: Code, span: prost_types::Duration) -> Result<Duration, Refusal> {
    Duration::try_from(span)
        .map_err(|_| Refusal::new(code, format!("invalid {what}: a time span must not be negative")))
}

/// Zero is legal, and one library uses it.
pub(super) fn invisible(invisible: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let asked = span("invisible duration", Code::IllegalInvisibleTime, invisible.unwrap_or_default())?;
    Ok(asked.max(INVISIBLE_MIN))
}

pub(super) fn message(message: v2::Message) -> Result<Incoming, Refusal> {
    let system = message.system_properties.unwrap_or_default();
    let id = system.message_id.trim().to_owned();
    if id.is_empty() {
        return Err(Refusal::new(Code::IllegalMessageId, "the message id is missing"));
    }
    let kind = kind(&system)?;
    let tag = system.tag.as_deref().filter(|tag| !tag.is_empty()).map(tag).transpose()?;
    let encoding = system.body_encoding();
    let mut headers: Vec<(String, String)> = message.user_properties.into_iter().collect();
    if let Some((name, _)) = headers.iter().find(|(name, _)| name.starts_with(RESERVED)) {
        let why = format!("the property {name} is reserved: names do not begin with {RESERVED:?}");
        return Err(Refusal::new(Code::IllegalMessagePropertyKey, why));
    }
    headers.push((MESSAGE_ID.to_owned(), id.clone()));
    if !system.born_host.is_empty() {
        headers.push((BORN_HOST.to_owned(), system.born_host));
    }
    if encoding == Encoding::Gzip {
        headers.push((ENCODING.to_owned(), GZIP.to_owned()));
    }
    headers.sort_unstable();
    let visibility = system.delivery_timestamp.map_or(Ok(Visibility::AtOnce), deliver_at)?;
    let message_group = system.message_group.filter(|group| !group.is_empty());
    let recovery = system.orphaned_transaction_recovery_duration;
    let message = Message {
        topic: topic(message.topic.as_ref())?,
        body: message.body,
        tag,
        keys: system.keys,
        headers,
        message_group: message_group.map(|group| group.parse()).transpose()?,
        visibility,
    };
    let first_check_after =
        recovery.map(|after| span("recovery duration", Code::BadRequest, after)).transpose()?;
    Ok(Incoming { message, id, kind, first_check_after })
}

fn kind(system: &v2::SystemProperties) -> Result<MessageType, Refusal> {
    let conflict = |why: &str| Err(Refusal::new(Code::MessagePropertyConflictWithType, why));
    let grouped = system.message_group.as_ref().is_some_and(|group| !group.is_empty());
    match system.message_type() {
        MessageType::Fifo if !grouped => conflict("a FIFO message needs a message group"),
        MessageType::Delay if system.delivery_timestamp.is_none() => {
            conflict("a DELAY message needs a delivery timestamp")
        }
        MessageType::Lite | MessageType::Priority => Err(Refusal::new(
            Code::Unsupported,
            "only NORMAL, FIFO, DELAY and TRANSACTION messages are supported; nothing was stored",
        )),
        kind @ (MessageType::Unspecified
        | MessageType::Normal
        | MessageType::Fifo
        | MessageType::Delay
        | MessageType::Transaction) => Ok(kind),
    }
}

fn tag(tag: &str) -> Result<Tag, Refusal> {
    if tag.contains('|') || tag.trim().is_empty() {
        return Err(Refusal::new(Code::IllegalMessageTag, "a tag is not blank and holds no \"|\""));
    }
    Ok(tag.parse()?)
}

fn deliver_at(at: prost_types::Timestamp) -> Result<Visibility, Refusal> {
    let micros = i128::from(at.seconds) * 1_000_000 + i128::from(at.nanos) / 1_000;
    let illegal = |_| Refusal::new(Code::IllegalDeliveryTime, "the delivery timestamp lies before 1970");
    u64::try_from(micros).map(|micros| Visibility::At(Timestamp::from_micros(micros))).map_err(illegal)
}
