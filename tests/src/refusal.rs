//! A refused call, as a program sees it.

use std::fmt;

use halfmq_proto::REASON_METADATA;
use tonic::{Code, Status};

/// The code and the reason of a refusal, and what it tells people.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC status code.
    pub code: Code,
    /// Trailing metadata entry `halfmq-reason`; empty if there is none.
    pub reason: String,
    /// Text for people.
    pub message: String,
}

impl Refusal {
    /// Code and reason, for comparing with what a table expects.
    #[must_use]
    pub fn kind(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let reason = status.metadata().get(REASON_METADATA).and_then(|value| value.to_str().ok());
        Self {
            code: status.code(),
            reason: reason.unwrap_or_default().to_owned(),
            message: status.message().to_owned(),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} {}: {}", self.code, self.reason, self.message)
    }
}
