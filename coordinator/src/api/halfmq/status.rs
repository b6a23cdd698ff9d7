//! Refusals on the wire: a status code, a sentence for people, a reason for programs.

use std::time::Instant;

use halfmq_core::Rejection;
use halfmq_proto::REASON_METADATA;
use halfmq_proto::v1::{self, Reason};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::service::{Refused, Unavailable};
use crate::telemetry;

/// Measures a call, and turns its refusal into a status.
pub(super) async fn answer<T>(
    call: &'static str,
    verb: impl Future<Output = Result<T, Refused>>,
) -> Result<tonic::Response<T>, Status> {
    let began = Clock::stopwatch();
    let outcome = verb.await;
    let result = outcome.as_ref().err().map_or("OK", |refused| reason(refused).1.as_str_name());
    telemetry::answered(call, result, began.elapsed(), 1);
    outcome.map(tonic::Response::new).map_err(|refused| status(&refused))
}

/// The refusal as a status.
pub(super) fn status(refused: &Refused) -> Status {
    let (code, reason) = reason(refused);
    let mut status = Status::new(code, refused.to_string());
    status.metadata_mut().insert(REASON_METADATA, MetadataValue::from_static(reason.as_str_name()));
    status
}

/// Measures the operations of a stream message that were answered together.
pub(super) fn answered_together<T>(call: &'static str, began: Instant, answers: &[Result<T, Refused>]) {
    let took = began.elapsed();
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    let mut answered = answers.len();
    for refused in refused {
        answered -= 1;
        telemetry::answered(call, reason(refused).1.as_str_name(), took, 1);
    }
    telemetry::answered(call, "OK", took, answered);
}

/// The refusal as the answer to one operation of a stream.
pub(super) fn refusal(refused: &Refused) -> v1::Refusal {
    let (code, reason) = reason(refused);
    let code = u32::try_from(i32::from(code)).unwrap_or_default();
    v1::Refusal { code, reason: reason.into(), message: refused.to_string() }
}

/// Code and reason of a refusal.
pub(super) fn reason(refused: &Refused) -> (Code, Reason) {
    match refused {
        Refused::Rejected(rejection) => rejected(rejection),
        Refused::Unavailable(Unavailable::Full) => (Code::ResourceExhausted, Reason::DiskFull),
        Refused::Unavailable(Unavailable::Failed(_)) => (Code::Unavailable, Reason::StoreFailed),
        Refused::Unavailable(Unavailable::Stopping) => (Code::Unavailable, Reason::Stopping),
        Refused::Unavailable(Unavailable::Damaged(_)) => (Code::DataLoss, Reason::Damaged),
    }
}

fn rejected(rejection: &Rejection) -> (Code, Reason) {
    match rejection {
        Rejection::IllegalName { .. } => (Code::InvalidArgument, Reason::IllegalName),
        Rejection::Invalid { .. } => (Code::InvalidArgument, Reason::InvalidArgument),
        Rejection::TooLarge { .. } => (Code::InvalidArgument, Reason::TooLarge),
        Rejection::UnknownTopic(_) => (Code::NotFound, Reason::UnknownTopic),
        Rejection::UnknownGroup(_) => (Code::NotFound, Reason::UnknownGroup),
        Rejection::UnknownTransaction(_) => (Code::NotFound, Reason::UnknownTransaction),
        Rejection::ReceiptPruned(_) => (Code::NotFound, Reason::ReceiptPruned),
        Rejection::UnknownDeadLetter { .. } => (Code::NotFound, Reason::UnknownDeadLetter),
        Rejection::DecisionConflict { .. } => (Code::FailedPrecondition, Reason::DecisionConflict),
        Rejection::ReceiptExpired => (Code::FailedPrecondition, Reason::ReceiptExpired),
        Rejection::TopicInUse { .. } => (Code::FailedPrecondition, Reason::TopicInUse),
        Rejection::RequestIdReused(_) => (Code::AlreadyExists, Reason::RequestIdReused),
        Rejection::TopicExists { .. } => (Code::AlreadyExists, Reason::TopicExists),
        Rejection::LimitReached { .. } => (Code::ResourceExhausted, Reason::LimitReached),
        Rejection::CallbackNotAllowed { .. } => (Code::PermissionDenied, Reason::CallbackNotAllowed),
    }
}
