//! What comes in: checked once, here; behind this the types say that it is right.

use std::time::Duration;

use halfmq_core::{
    CheckPolicy, Decide, DecidedBy, Decision, InDoubtPolicy, Message, Prepare, ProducerGroup, ReceiptHandle,
    Rejection, RetryPolicy, Send, Start, State, Timestamp, Visibility,
};
use halfmq_proto::v1;
use v1::message::Visibility as WireVisibility;

use crate::service::Replacement;

/// Owner of the sequences of senders that do not name themselves.
const DEFAULT_PRODUCER_GROUP: &str = "default";
const DEFAULT_INVISIBLE: Duration = Duration::from_secs(30);

/// A prepare; what it does not say about checks is as in the default.
///
/// # Errors
/// [`Rejection`].
pub fn prepare(request: v1::PrepareRequest, default: &CheckPolicy) -> Result<Prepare, Rejection> {
    let check = request.check.unwrap_or_default();
    Ok(Prepare {
        producer_group: request.producer_group.parse()?,
        instance: optional(&request.producer_instance)?,
        policy: policy(&check, default)?,
        callback: (!check.callback_url.is_empty()).then_some(check.callback_url),
        send: Send::new(optional(&request.request_id)?, messages(request.messages)?)?,
    })
}

pub(super) fn send(request: v1::SendRequest) -> Result<(ProducerGroup, Send), Rejection> {
    let group = match request.producer_group.as_str() {
        "" => DEFAULT_PRODUCER_GROUP.parse()?,
        named => named.parse()?,
    };
    Ok((group, Send::new(optional(&request.request_id)?, messages(request.messages)?)?))
}

pub(super) fn commit(request: v1::CommitRequest) -> Result<(Decide, Vec<Replacement>), Rejection> {
    let decide = decide(&request.transaction_id, Decision::Commit, request.reason)?;
    Ok((decide, replacements(request.replacements)?))
}

pub(super) fn rollback(request: v1::RollbackRequest) -> Result<(Decide, Vec<Replacement>), Rejection> {
    Ok((decide(&request.transaction_id, Decision::Rollback, request.reason)?, Vec::new()))
}

fn decide(transaction: &str, decision: Decision, reason: String) -> Result<Decide, Rejection> {
    let transaction = transaction.parse()?;
    Ok(Decide { transaction, decision, by: DecidedBy::Call, reason, replacements: Vec::new() })
}

/// Each is answered by itself, a malformed one as well.
pub(super) fn handles(handles: &[String]) -> Vec<Result<ReceiptHandle, Rejection>> {
    handles.iter().map(|handle| handle.parse()).collect()
}

pub(super) fn invisible(invisible: Option<prost_types::Duration>) -> Result<Duration, Rejection> {
    Ok(span("invisible", invisible)?.unwrap_or(DEFAULT_INVISIBLE))
}

/// `None` for one that is not given.
pub(super) fn span(
    what: &'static str,
    span: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Rejection> {
    span.map(|span| duration(what, span)).transpose()
}

/// `None` for the empty text.
pub(super) fn optional<T: std::str::FromStr<Err = Rejection>>(text: &str) -> Result<Option<T>, Rejection> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

fn messages(messages: Vec<v1::Message>) -> Result<Vec<Message>, Rejection> {
    messages.into_iter().map(message).collect()
}

fn message(message: v1::Message) -> Result<Message, Rejection> {
    let visibility = match message.visibility {
        None => Visibility::AtOnce,
        Some(WireVisibility::DeliverAt(at)) => Visibility::At(timestamp("deliver_at", at)?),
        Some(WireVisibility::Delay(delay)) => Visibility::After(duration("delay", delay)?),
    };
    Ok(Message {
        topic: message.topic.parse()?,
        body: message.body,
        tag: optional(&message.tag)?,
        keys: message.keys,
        headers: headers(message.headers),
        message_group: optional(&message.message_group)?,
        visibility,
    })
}

/// What a commit replaces.
pub(super) fn replacements(replacements: Vec<v1::Replacement>) -> Result<Vec<Replacement>, Rejection> {
    let replacement = |replacement: v1::Replacement| {
        let index = u16::try_from(replacement.index).map_err(|_| Rejection::Invalid {
            what: "index of a replacement",
            why: format!("{} is larger than any transaction", replacement.index),
        })?;
        let headers = replacement.headers.map(|given| headers(given.entries));
        Ok(Replacement { index, body: replacement.body, headers })
    };
    replacements.into_iter().map(replacement).collect()
}

/// In the order of names, so that the same headers are the same bytes.
pub(super) fn headers(headers: std::collections::HashMap<String, String>) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers.into_iter().collect();
    headers.sort_unstable();
    headers
}

/// The request's settings where it has some, else the server's.
pub(super) fn policy(check: &v1::CheckSettings, default: &CheckPolicy) -> Result<CheckPolicy, Rejection> {
    let span = |what, span: Option<prost_types::Duration>, default| {
        span.map_or(Ok(default), |span| duration(what, span))
    };
    let interval = span("check.interval", check.interval, default.interval)?;
    Ok(CheckPolicy {
        first_after: span("check.first_after", check.first_after, default.first_after)?,
        interval,
        interval_max: span("check.interval_max", check.interval_max, default.interval_max.max(interval))?,
        checks_max: if check.checks_max == 0 { default.checks_max } else { check.checks_max },
        in_doubt: match known::<v1::InDoubtPolicy>("check.in_doubt", check.in_doubt)? {
            v1::InDoubtPolicy::Unspecified => default.in_doubt,
            v1::InDoubtPolicy::Keep => InDoubtPolicy::Keep,
            v1::InDoubtPolicy::Rollback => InDoubtPolicy::Rollback,
            v1::InDoubtPolicy::Commit => InDoubtPolicy::Commit,
        },
    })
}

pub(super) fn retry(retry: &v1::RetryPolicy) -> Result<RetryPolicy, Rejection> {
    let default = RetryPolicy::default();
    let span = |what, span: Option<prost_types::Duration>, default| {
        span.map_or(Ok(default), |span| duration(what, span))
    };
    let delay = span("retry.delay", retry.delay, default.delay)?;
    Ok(RetryPolicy {
        attempts_max: if retry.attempts_max == 0 { default.attempts_max } else { retry.attempts_max },
        delay,
        delay_max: span("retry.delay_max", retry.delay_max, default.delay_max.max(delay))?,
    })
}

pub(super) fn start(start: Option<v1::Start>) -> Result<Start, Rejection> {
    match start.and_then(|start| start.kind) {
        None => Ok(Start::Beginning),
        Some(v1::start::Kind::Time(time)) => Ok(Start::At(timestamp("start.time", time)?)),
        Some(v1::start::Kind::Edge(edge)) => Ok(match known::<v1::Edge>("start.edge", edge)? {
            v1::Edge::Unspecified | v1::Edge::Beginning => Start::Beginning,
            v1::Edge::End => Start::End,
        }),
    }
}

pub(super) fn state(state: i32) -> Result<Option<State>, Rejection> {
    Ok(match known::<v1::TransactionState>("state", state)? {
        v1::TransactionState::Unspecified => None,
        v1::TransactionState::Prepared => Some(State::Prepared),
        v1::TransactionState::InDoubt => Some(State::InDoubt),
        v1::TransactionState::Committed => Some(State::Committed),
        v1::TransactionState::RolledBack => Some(State::RolledBack),
    })
}

/// A choice that this version knows.
pub(super) fn known<T: TryFrom<i32>>(what: &'static str, number: i32) -> Result<T, Rejection> {
    T::try_from(number)
        .map_err(|_| Rejection::Invalid { what, why: format!("{number} is not one of its values") })
}

pub(super) fn duration(what: &'static str, span: prost_types::Duration) -> Result<Duration, Rejection> {
    Duration::try_from(span)
        .map_err(|_| Rejection::Invalid { what, why: "a time span must not be negative".to_owned() })
}

fn timestamp(what: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, Rejection> {
    let micros = i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos) / 1_000;
    u64::try_from(micros)
        .map(Timestamp::from_micros)
        .map_err(|_| Rejection::Invalid { what, why: "it lies before 1970 or too far ahead".to_owned() })
}

/// Of a page: 0 means 100.
pub(super) fn page_size(asked: u32) -> Result<usize, Rejection> {
    match asked as usize {
        0 => Ok(100),
        asked if asked <= halfmq_core::limits::PAGE_MAX => Ok(asked),
        asked => {
            let why = format!("it is {asked}; it must be 1 to {}", halfmq_core::limits::PAGE_MAX);
            Err(Rejection::Invalid { what: "page_size", why })
        }
    }
}
