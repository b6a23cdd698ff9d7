//! Refusals on the wire: a code inside an answer that gRPC counts as a success.
//!
//! Never used, because one client library crashes on codes it does not know: 40019, 40020, 40021, 40404,
//! 41302, 42901, 42902.

use halfmq_core::Rejection;
use halfmq_proto::rocketmq as v2;
use tonic::{Response, Status};
use v2::Code;

use crate::clock::Clock;
use crate::service::{Refused, Unavailable};
use crate::telemetry;

/// Why a call was not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same, for a call that names a delivery: whoever cannot settle it must stop trying.
    pub(super) fn of_delivery(refused: &Refused) -> Self {
        let gone =
            matches!(refused, Refused::Rejected(Rejection::UnknownTopic(_) | Rejection::UnknownGroup(_)));
        let code = if gone { Code::InvalidReceiptHandle } else { code(refused) };
        Self::new(code, refused.to_string())
    }

    pub(super) fn status(self) -> v2::Status {
        v2::Status { code: self.code.into(), message: self.message }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::new(code(&refused), refused.to_string())
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refused::from(rejection).into()
    }
}

pub(super) fn ok() -> v2::Status {
    v2::Status { code: Code::Ok.into(), message: String::from("OK") }
}

/// An answer that carries its own status.
pub(super) trait Carrier: Default {
    fn carry(&mut self, status: v2::Status);
    fn carries(&self) -> bool;
}

macro_rules! carriers {
    ($($answer:ident)*) => {
        $(impl Carrier for v2::$answer {
            fn carry(&mut self, status: v2::Status) {
                self.status = Some(status);
            }

            fn carries(&self) -> bool {
                self.status.is_some()
            }
        })*
    };
}

carriers! {
    QueryRouteResponse HeartbeatResponse SendMessageResponse QueryAssignmentResponse AckMessageResponse
    ForwardMessageToDeadLetterQueueResponse EndTransactionResponse NotifyClientTerminationResponse
    ChangeInvisibleDurationResponse RecallMessageResponse
}

/// Measures a call, and gives its answer a status: OK unless it has one.
pub(super) async fn answer<T: Carrier>(
    call: &'static str,
    verb: impl Future<Output = Result<T, Refusal>>,
) -> Result<Response<T>, Status> {
    let began = Clock::stopwatch();
    let outcome = verb.await;
    let result = outcome.as_ref().err().map_or("OK", |refusal| refusal.code.as_str_name());
    telemetry::answered(call, result, began.elapsed(), 1);
    let mut answer = T::default();
    match outcome {
        Ok(done) => {
            answer = done;
            if !answer.carries() {
                answer.carry(ok());
            }
        }
        Err(refusal) => answer.carry(refusal.status()),
    }
    Ok(Response::new(answer))
}

pub(super) fn code(refused: &Refused) -> Code {
    match refused {
        Refused::Rejected(rejection) => rejected(rejection),
        // Clients wait before they try again.
        Refused::Unavailable(Unavailable::Full) => Code::TooManyRequests,
        Refused::Unavailable(Unavailable::Failed(_) | Unavailable::Stopping | Unavailable::Damaged(_)) => {
            Code::InternalServerError
        }
    }
}

fn rejected(rejection: &Rejection) -> Code {
    match rejection {
        Rejection::IllegalName { what: "topic", .. } => Code::IllegalTopic,
        Rejection::IllegalName { what: "consumer group", .. } => Code::IllegalConsumerGroup,
        Rejection::IllegalName { what: "tag", .. } => Code::IllegalMessageTag,
        Rejection::IllegalName { what: "message group", .. } => Code::IllegalMessageGroup,
        Rejection::Invalid { what: "transaction id", .. } => Code::InvalidTransactionId,
        Rejection::Invalid { what: "receipt handle", .. } => Code::InvalidReceiptHandle,
        Rejection::Invalid { what: "recall handle", .. } => Code::MessageNotFound,
        Rejection::Invalid { what: "invisible duration" | "retry delay", .. } => Code::IllegalInvisibleTime,
        Rejection::Invalid { what: "delay", .. } => Code::IllegalDeliveryTime,
        Rejection::TooLarge { what: "body", .. } => Code::MessageBodyTooLarge,
        Rejection::TooLarge { what: "keys and headers", .. } => Code::MessagePropertiesTooLarge,
        Rejection::TooLarge { .. } => Code::PayloadTooLarge,
        Rejection::UnknownTopic(_) => Code::TopicNotFound,
        Rejection::UnknownGroup(_) => Code::ConsumerGroupNotFound,
        Rejection::UnknownTransaction(_)
        | Rejection::ReceiptPruned(_)
        | Rejection::DecisionConflict { .. } => Code::InvalidTransactionId,
        Rejection::ReceiptExpired => Code::InvalidReceiptHandle,
        Rejection::RequestIdReused(_) => Code::IllegalMessageId,
        Rejection::LimitReached { .. } => Code::TooManyRequests,
        Rejection::IllegalName { .. }
        | Rejection::Invalid { .. }
        | Rejection::TopicInUse { .. }
        | Rejection::TopicExists { .. }
        | Rejection::UnknownDeadLetter { .. }
        | Rejection::CallbackNotAllowed { .. } => Code::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use halfmq_core::{DecidedBy, Decision, Timestamp, TransactionId, Verdict};

    use super::*;

    #[test]
    fn refusals_have_codes_that_every_library_knows() {
        let name = |what| Rejection::IllegalName { what, name: "x".into(), why: "" };
        let invalid = |what| Rejection::Invalid { what, why: String::new() };
        let large = |what| Rejection::TooLarge { what, bytes: 2, bytes_max: 1 };
        let (decision, by, at) = (Decision::Commit, DecidedBy::Call, Timestamp::ZERO);
        let stands = Verdict { decision, by, at, reason: String::new() };
        let id = TransactionId::from_u128(1);
        let unknown_topic = Rejection::UnknownTopic("x".parse().expect("a legal name"));
        let unknown_group = Rejection::UnknownGroup("x".parse().expect("a legal name"));
        let reused = Rejection::RequestIdReused("x".parse().expect("a legal id"));
        for (rejection, expected) in [
            (name("topic"), 40_002),
            (name("consumer group"), 40_003),
            (name("tag"), 40_004),
            (name("message group"), 40_006),
            (invalid("transaction id"), 40_008),
            (Rejection::UnknownTransaction(id), 40_008),
            (Rejection::DecisionConflict { transaction: id, stands, asked: Decision::Commit }, 40_008),
            (reused, 40_009),
            (invalid("invisible duration"), 40_011),
            (invalid("delay"), 40_012),
            (invalid("receipt handle"), 40_013),
            (Rejection::ReceiptExpired, 40_013),
            (invalid("recall handle"), 40_401),
            (unknown_topic, 40_402),
            (unknown_group, 40_403),
            (large("transaction"), 41_300),
            (large("body"), 41_301),
            (large("keys and headers"), 43_101),
            (Rejection::LimitReached { what: "topics", max: 1, then: "" }, 42_900),
            (invalid("anything else"), 40_000),
        ] {
            assert_eq!(i32::from(rejected(&rejection)), expected, "{rejection}");
        }
        assert_eq!(code(&Unavailable::Full.into()), Code::TooManyRequests);
        assert_eq!(code(&Unavailable::Stopping.into()), Code::InternalServerError);
    }
}
