//! Why a command failed, and what to do next.

use super::text;
use crate::{config::layers::SettingsError, server, telemetry};
use halfmq_proto::{REASON_METADATA, v1::Reason};
use serde_json::{Value, json};
use std::{error::Error as _, io};
use tonic::{Code, Status};

/// Why a command failed. The message says what happened and what to do next.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Log(#[from] telemetry::LogError),
    #[error("the server stopped: {0}")]
    Server(#[from] server::Error),
    #[error("cannot start the async runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot reach a server at {endpoint}: {cause}")]
    Unreachable { endpoint: String, cause: String },
    #[error("{message}")]
    Refused { message: String, reason: Reason },
    /// An answer without one of our reasons: the connection broke, or that is not our server.
    #[error("{code:?}: {message}")]
    Broken { code: Code, message: String },
    /// Some items of a batch were refused; the others took effect.
    #[error("{0}")]
    Partly(String),
    /// A run of the bench came to nothing, or what it measured is not to be trusted.
    #[error("{0}")]
    Bench(String),
    #[error("cannot read the body: {0}")]
    Input(io::Error),
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

impl Failure {
    /// 2 when the command was called wrongly, 1 when it failed.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Settings(_) | Self::Log(telemetry::LogError::Filter { .. }) => 2,
            Self::Log(telemetry::LogError::Installed(_))
            | Self::Server(_)
            | Self::Runtime(_)
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Broken { .. }
            | Self::Partly(_)
            | Self::Bench(_)
            | Self::Input(_)
            | Self::Output(_) => 1,
        }
    }

    /// What happened, the reason, what to do next: a line each.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![format!("error: {self}")];
        lines.extend(self.reason().map(|reason| format!("  reason: {}", reason.as_str_name())));
        lines.extend(self.next().map(|next| format!("  next:   {next}")));
        lines.join("\n")
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "error": self.to_string(),
            "reason": self.reason().map(|reason| reason.as_str_name()),
            "next": self.next(),
        })
    }

    fn reason(&self) -> Option<Reason> {
        if let Self::Refused { reason, .. } = self { Some(*reason) } else { None }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => {
                Some("start one with `halfmq serve`, or name another with --endpoint or HALFMQ_ENDPOINT")
            }
            Self::Refused { reason, .. } => Some(next_step(*reason)),
            Self::Broken { .. } => Some(
                "whether it took effect is unknown; look, or try again: a decision or an ack may be repeated",
            ),
            // Their messages say it themselves.
            Self::Usage(_)
            | Self::Settings(_)
            | Self::Log(_)
            | Self::Server(_)
            | Self::Runtime(_)
            | Self::Partly(_)
            | Self::Bench(_)
            | Self::Input(_)
            | Self::Output(_) => None,
        }
    }

    /// Whether the server refused for this very reason.
    pub(super) fn is(&self, expected: Reason) -> bool {
        self.reason() == Some(expected)
    }

    /// No server answers here.
    pub(super) fn unreachable(endpoint: &str, error: &tonic::transport::Error) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = error.to_string();
            source = error.source();
        }
        Self::Unreachable { endpoint: endpoint.to_owned(), cause }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = text::safe(status.message());
        let named = status.metadata().get(REASON_METADATA).and_then(|value| value.to_str().ok());
        match named.and_then(reason_named) {
            Some(reason) => Self::Refused { message, reason },
            None => Self::Broken { code: status.code(), message },
        }
    }
}

fn reason_named(name: &str) -> Option<Reason> {
    Reason::from_str_name(name).or_else(|| Reason::from_str_name(&format!("REASON_{name}")))
}

fn next_step(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "see the message; a newer `halfmq` may know more",
        Reason::InvalidArgument | Reason::IllegalName => "mend the argument; nothing was changed",
        Reason::TooLarge => "send less at once; nothing was changed",
        Reason::UnknownTopic => "see `halfmq topic list`, or make it with `halfmq topic create`",
        Reason::UnknownGroup => "see `halfmq group list`; a group exists once it has received",
        Reason::UnknownTransaction => "check the id with `halfmq tx list`",
        Reason::ReceiptPruned => {
            "its outcome is not remembered; see the service's own database, and the setting receipt_retention"
        }
        Reason::UnknownDeadLetter => "see `halfmq dlq list GROUP`; it may have been replayed or purged",
        Reason::DecisionConflict => {
            "the first decision stands; see `halfmq tx show ID` for who made it and why"
        }
        Reason::ReceiptExpired => {
            "the message comes again to its group; ack in time or receive with a longer --invisible"
        }
        Reason::TopicInUse => {
            "see `halfmq topic describe TOPIC`; decide its open transactions, or drop undelivered messages with --force"
        }
        Reason::RequestIdReused => "use a new request id for a different request",
        Reason::TopicExists => {
            "see `halfmq topic describe TOPIC`; a topic keeps the settings it was made with"
        }
        Reason::DiskFull => "free some space for the server's data folder; nothing acknowledged is lost",
        Reason::LimitReached => "let the server catch up, then try again; nothing was changed",
        Reason::CallbackNotAllowed => "admit the URL in the server's callbacks.allow",
        Reason::Stopping => {
            "try again when it is back; whether the call took effect is unknown, repeating it is safe"
        }
        Reason::StoreFailed => {
            "read the server's log, then restart it; whether the call took effect is unknown, repeating it is safe"
        }
        Reason::Damaged => "keep the data folder as it is, and read the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    #[test]
    fn refusals_name_the_reason_and_the_next_step() {
        let cases = [
            (Some("REASON_UNKNOWN_TOPIC"), "REASON_UNKNOWN_TOPIC", "halfmq topic create"),
            (Some("DECISION_CONFLICT"), "REASON_DECISION_CONFLICT", "halfmq tx show"),
            (Some("REASON_OF_THE_FUTURE"), "FailedPrecondition", "whether it took effect is unknown"),
            (None, "FailedPrecondition", "whether it took effect is unknown"),
        ];
        for (reason, name, next) in cases {
            let mut status = Status::failed_precondition("what happened");
            if let Some(reason) = reason {
                status.metadata_mut().insert(REASON_METADATA, MetadataValue::from_static(reason));
            }
            let failure = Failure::from(status);
            let text = failure.text();
            for part in ["what happened", name, next] {
                assert!(text.contains(part), "{reason:?}: no {part:?} in {text:?}");
            }
            assert_eq!(failure.exit_code(), 1);
        }
    }
}
