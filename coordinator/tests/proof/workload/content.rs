//! What is sent.

use std::time::Duration;

use halfmq_core::{CheckPolicy, Message, Prepare, Rejection, Send, Visibility};

use super::TOPIC;

pub(super) fn prepare(request: u32) -> Prepare {
    Prepare {
        producer_group: "shop".parse().expect("a legal name"),
        instance: None,
        callback: None,
        policy: CheckPolicy { first_after: Duration::from_secs(2), ..CheckPolicy::default() },
        send: content(request, request % 3 + 1).expect("the request is legal"),
    }
}

/// The same for the same request, so that it can be repeated. Some are larger than a segment.
pub(super) fn content(request: u32, messages: u32) -> Result<Send, Rejection> {
    let message = |index: u32| Message {
        topic: TOPIC.parse().expect("a legal name"),
        body: vec![
            index as u8 + 1;
            if request.is_multiple_of(41) { 40_000 } else { (request as usize * 37) % 700 }
        ]
        .into(),
        tag: None,
        keys: vec![request.to_string()],
        headers: Vec::new(),
        message_group: request.is_multiple_of(4).then(|| "in-order".parse().expect("a legal name")),
        visibility: match request % 7 {
            0 => Visibility::After(Duration::from_secs(5)),
            // Neither in the order of sending nor all at once.
            3 | 5 => Visibility::After(Duration::from_secs(u64::from(request * 37 % 90 + index))),
            _ => Visibility::AtOnce,
        },
    };
    Send::new(Some(format!("request-{request}").parse()?), (0..messages).map(message).collect())
}
