//! What can go wrong, in three kinds that are never mixed: *rejected* (a typed answer, final),
//! *unavailable* (nobody answered; the effect is unknown, every call is safe to repeat), and
//! *unexpected* (one side has a bug).

use std::time::Duration;

use halfmq_proto::{REASON_METADATA, v1};
use tonic::{Code, Status};

use crate::ids::TransactionId;
use crate::receipt::Decision;

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The coordinator refused; the call had no effect.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No answer arrived. Whether the call took effect is unknown; the same call again is safe.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The endpoint is not an `http://host:port` address.
    #[error("{endpoint:?} is no endpoint: {message}; write http://host:port")]
    IllegalEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
    /// This producer holds as many undecided transactions as its options allow; nothing was sent.
    #[error("{open_max} transactions are still open; decide some, or raise TransactionOptions::open_max")]
    TooManyOpen {
        /// The bound that was hit.
        open_max: usize,
    },
    /// An answer that breaks the protocol, or an error without a known reason: a bug, or another
    /// version. Whether the call took effect is unknown.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// A refusal: final, typed, without effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused ({reason:?}): {message}")]
pub struct Rejection {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// Nobody answered within the time the client allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer after {attempts} attempts: {message}; whether it took effect is unknown, repeat it")]
pub struct Unavailable {
    /// How often it was tried.
    pub attempts: u32,
    /// The last failure.
    pub message: String,
}

/// Why the coordinator refused, from the metadata entry `halfmq-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// An argument is out of its range; the message says which.
    InvalidArgument,
    /// A topic, group or tag has illegal characters or length.
    IllegalName,
    /// A body or a request is too large.
    TooLarge,
    /// No such topic.
    UnknownTopic,
    /// No such consumer group.
    UnknownGroup,
    /// No such transaction.
    UnknownTransaction,
    /// The transaction is older than the receipts that the coordinator keeps; its outcome cannot be told.
    ReceiptPruned,
    /// No such dead letter.
    UnknownDeadLetter,
    /// The opposite decision came first and stands.
    DecisionConflict,
    /// The lease ended: the message was, or will be, delivered again.
    ReceiptExpired,
    /// The topic has open transactions or undelivered messages.
    TopicInUse,
    /// The same request id came with other messages.
    RequestIdReused,
    /// The topic exists with other settings.
    TopicExists,
    /// The coordinator's disk is full; what it acknowledged is safe.
    DiskFull,
    /// A bound of the coordinator was hit; try again later.
    LimitReached,
    /// The callback URL is not on the coordinator's allow-list.
    CallbackNotAllowed,
    /// A stored message does not match its checksum.
    Damaged,
}

impl Error {
    /// Whether the same call may succeed later without any change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.reason.is_retryable(),
            Self::Unavailable(_) | Self::TooManyOpen { .. } => true,
            Self::IllegalEndpoint { .. } | Self::Unexpected(_) => false,
        }
    }

    /// Why the coordinator refused, if it did.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Rejected(rejection) => Some(rejection.reason),
            Self::Unavailable(_)
            | Self::IllegalEndpoint { .. }
            | Self::TooManyOpen { .. }
            | Self::Unexpected(_) => None,
        }
    }

    pub(crate) fn from_status(status: &Status) -> Self {
        let named = status.metadata().get(REASON_METADATA).and_then(|name| name.to_str().ok());
        let message = status.message().to_owned();
        match named {
            Some(name) => Self::from_reason(name, message),
            None => Self::from_code(status, message),
        }
    }

    pub(crate) fn from_refusal(refusal: v1::Refusal) -> Self {
        match v1::Reason::try_from(refusal.reason) {
            Ok(v1::Reason::Unspecified) => {
                let code = Code::from(i32::try_from(refusal.code).unwrap_or(Code::Unknown as i32));
                Self::from_code(&Status::new(code, ""), refusal.message)
            }
            Ok(reason) => Self::from_reason(reason.as_str_name(), refusal.message),
            Err(_) => Self::Unexpected(format!("reason {}: {}", refusal.reason, refusal.message)),
        }
    }

    /// From the name of a `halfmq.v1.Reason`.
    pub(crate) fn from_reason(name: &str, message: String) -> Self {
        use v1::Reason as Wire;
        let reason = match Wire::from_str_name(name) {
            Some(Wire::Stopping | Wire::StoreFailed) => return Self::unavailable(message),
            None | Some(Wire::Unspecified) => return Self::Unexpected(format!("{name}: {message}")),
            Some(Wire::InvalidArgument) => Reason::InvalidArgument,
            Some(Wire::IllegalName) => Reason::IllegalName,
            Some(Wire::TooLarge) => Reason::TooLarge,
            Some(Wire::UnknownTopic) => Reason::UnknownTopic,
            Some(Wire::UnknownGroup) => Reason::UnknownGroup,
            Some(Wire::UnknownTransaction) => Reason::UnknownTransaction,
            Some(Wire::ReceiptPruned) => Reason::ReceiptPruned,
            Some(Wire::UnknownDeadLetter) => Reason::UnknownDeadLetter,
            Some(Wire::DecisionConflict) => Reason::DecisionConflict,
            Some(Wire::ReceiptExpired) => Reason::ReceiptExpired,
            Some(Wire::TopicInUse) => Reason::TopicInUse,
            Some(Wire::RequestIdReused) => Reason::RequestIdReused,
            Some(Wire::TopicExists) => Reason::TopicExists,
            Some(Wire::DiskFull) => Reason::DiskFull,
            Some(Wire::LimitReached) => Reason::LimitReached,
            Some(Wire::CallbackNotAllowed) => Reason::CallbackNotAllowed,
            Some(Wire::Damaged) => Reason::Damaged,
        };
        Self::Rejected(Rejection { reason, message })
    }

    /// A status without a reason comes from the transport, a proxy, or a failed server.
    fn from_code(status: &Status, message: String) -> Self {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                Self::unavailable(message)
            }
            // tonic reports a broken connection as one of these; only then is there a source.
            Code::Unknown | Code::Internal | Code::ResourceExhausted
                if std::error::Error::source(status).is_some() =>
            {
                Self::unavailable(message)
            }
            Code::InvalidArgument => Self::rejected(Reason::InvalidArgument, message),
            Code::ResourceExhausted => Self::rejected(Reason::LimitReached, message),
            Code::OutOfRange => Self::rejected(Reason::TooLarge, message),
            code @ (Code::Ok
            | Code::Unknown
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated) => Self::Unexpected(format!("{code:?}: {message}")),
        }
    }

    pub(crate) fn rejected(reason: Reason, message: impl Into<String>) -> Self {
        Self::Rejected(Rejection { reason, message: message.into() })
    }

    pub(crate) fn unavailable(message: String) -> Self {
        Self::Unavailable(Unavailable { attempts: 1, message })
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::unavailable(format!("no answer within {after:?}"))
    }
}

impl Reason {
    fn is_retryable(self) -> bool {
        matches!(self, Self::DiskFull | Self::LimitReached)
    }
}

/// Why a commit or rollback is not known to stand.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// The opposite decision came first and stands: an operator, a policy or the answer to a check.
    #[error("{asked:?} of {transaction_id} came too late, the opposite stands: {message}")]
    Conflict {
        /// The transaction.
        transaction_id: TransactionId,
        /// The decision that lost.
        asked: Decision,
        /// What the coordinator says about it.
        message: String,
    },
    /// No answer is known. Nothing is lost: the decision stands already, or the coordinator checks.
    #[error("{asked:?} of {transaction_id} is not confirmed, the coordinator will check: {cause}")]
    Unconfirmed {
        /// The transaction.
        transaction_id: TransactionId,
        /// The decision that was sent.
        asked: Decision,
        /// The last failure.
        cause: Error,
    },
    /// The coordinator refused for another reason, such as an unknown transaction or too large a
    /// replacement. If the transaction exists it is still open and will be checked.
    #[error("{asked:?} of {transaction_id} was refused: {rejection}")]
    Refused {
        /// The transaction.
        transaction_id: TransactionId,
        /// The decision that was sent.
        asked: Decision,
        /// Why not.
        rejection: Rejection,
    },
}

impl DecisionError {
    /// Whether the same decision may be confirmed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unconfirmed { .. })
    }

    pub(crate) fn from_call(transaction_id: TransactionId, asked: Decision, cause: Error) -> Self {
        match cause {
            Error::Rejected(Rejection { reason: Reason::DecisionConflict, message }) => {
                Self::Conflict { transaction_id, asked, message }
            }
            Error::Rejected(rejection) if !rejection.reason.is_retryable() => {
                Self::Refused { transaction_id, asked, rejection }
            }
            cause @ (Error::Rejected(_)
            | Error::Unavailable(_)
            | Error::IllegalEndpoint { .. }
            | Error::TooManyOpen { .. }
            | Error::Unexpected(_)) => Self::Unconfirmed { transaction_id, asked, cause },
        }
    }
}
