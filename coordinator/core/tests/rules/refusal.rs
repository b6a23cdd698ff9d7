//! How a story writes down that something was refused.

use halfmq_core::Rejection;

/// Each refusal in a few words of its own.
pub(crate) fn refusal(rejection: &Rejection) -> String {
    match rejection {
        Rejection::IllegalName { what, .. } => format!("illegal {what}"),
        Rejection::Invalid { what, .. } => format!("invalid {what}"),
        Rejection::TooLarge { what, .. } => format!("too large: {what}"),
        Rejection::UnknownTopic(topic) => format!("no topic {topic}"),
        Rejection::TopicExists { queues, .. } => format!("exists with {queues} queues"),
        Rejection::TopicInUse { why, .. } => format!("in use: {why}"),
        Rejection::UnknownGroup(group) => format!("no group {group}"),
        Rejection::UnknownTransaction(_) | Rejection::ReceiptPruned(_) => "no transaction".into(),
        Rejection::DecisionConflict { stands, asked, .. } => {
            assert_ne!(stands.decision, *asked, "that is no conflict");
            format!("conflict {}", stands.decision)
        }
        Rejection::RequestIdReused(id) => format!("request {id} reused"),
        Rejection::ReceiptExpired => "expired".into(),
        Rejection::UnknownDeadLetter { number, .. } => format!("no dead letter {number}"),
        Rejection::CallbackNotAllowed { .. } => "callback not allowed".into(),
        Rejection::LimitReached { what, .. } => format!("limit of {what}"),
    }
}
