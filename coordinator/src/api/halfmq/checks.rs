//! The stream of checks: a producer registers, is asked, and answers in any order.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use halfmq_core::{Answer, Decision, Rejection};
use halfmq_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};
use v1::checks_request::Kind as Said;
use v1::checks_response::Kind as Ask;

use super::status::status;
use super::{from_wire, to_wire};
use crate::checker::{Asked, Connection};
use crate::service::Service;
use crate::service::{CheckAnswer, Refused, Unavailable};

/// What a producer is asked.
pub(super) type Questions = Pin<Box<dyn Stream<Item = Result<v1::ChecksResponse, Status>> + Send>>;

/// Questions on their way to one producer; more wait in the checker.
const QUESTIONS_MAX: usize = 16;
/// Answers of one producer on their way to the store; recorded together, not one after the other.
const ANSWERS_MAX: usize = 256;

/// Serves one stream, and returns at once: clients wait for the head of the answer.
pub(super) fn questions(service: Arc<Service>, said: Streaming<v1::ChecksRequest>) -> Questions {
    let (asks, questions) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(async move {
        if let Err(refused) = serve(&service, said, &asks).await {
            // A producer that has gone away needs no reason.
            drop(asks.send(Err(refused)).await);
        }
    });
    Box::pin(ReceiverStream::new(questions))
}

type Asks = mpsc::Sender<Result<v1::ChecksResponse, Status>>;

async fn serve(service: &Service, mut said: Streaming<v1::ChecksRequest>, asks: &Asks) -> Result<(), Status> {
    let first = said.next().await.transpose()?.and_then(|request| request.kind);
    let Some(Said::Registration(registration)) = first else {
        return Err(invalid("the first message of the stream must be a registration"));
    };
    let mut connection = connect(service, &registration).map_err(|rejection| status(&rejection.into()))?;
    send(asks, Ask::Registered(v1::Registered {})).await?;
    let mut taking = FuturesUnordered::new();
    loop {
        tokio::select! {
            asked = connection.questions.recv() => match asked {
                Some(asked) => send(asks, Ask::Question(question(asked))).await?,
                None => return Err(stopping()),
            },
            Some(taken) = taking.next(), if !taking.is_empty() => recorded(taken)?,
            request = said.next(), if taking.len() < ANSWERS_MAX => {
                match request.transpose()?.map(|request| request.kind) {
                    None => return finish(taking).await,
                    Some(Some(Said::Answer(said))) => taking.push(take(service, said)),
                    Some(Some(Said::Registration(_)) | None) => {
                        return Err(invalid("only answers may follow the registration"));
                    }
                }
            }
            () = service.stopping() => return Err(stopping()),
        }
    }
}

/// The producer has said all it will say; what it said still counts.
async fn finish(
    mut taking: FuturesUnordered<impl Future<Output = Result<(), Refused>>>,
) -> Result<(), Status> {
    while let Some(taken) = taking.next().await {
        recorded(taken)?;
    }
    Ok(())
}

fn recorded(taken: Result<(), Refused>) -> Result<(), Status> {
    taken.map_err(|refused| status(&refused))
}

fn connect(service: &Service, registration: &v1::Registration) -> Result<Connection, Rejection> {
    let group = registration.producer_group.parse()?;
    let instance = from_wire::optional(&registration.producer_instance)?;
    Ok(service.checker().connect(group, instance, registration.has_checker))
}

async fn take(service: &Service, said: v1::CheckAnswer) -> Result<(), Refused> {
    let answer = match from_wire::known::<v1::Resolution>("resolution", said.resolution)? {
        v1::Resolution::Commit => Answer::Decided(Decision::Commit),
        v1::Resolution::Rollback => Answer::Decided(Decision::Rollback),
        v1::Resolution::Unknown => Answer::Unknown,
        v1::Resolution::Unspecified => {
            let why = "it must be COMMIT, ROLLBACK or UNKNOWN".to_owned();
            return Err(Rejection::Invalid { what: "resolution", why }.into());
        }
    };
    let transaction = said.transaction_id.parse()?;
    let reason = said.reason.chars().take(halfmq_core::limits::REASON_BYTES_MAX / 4).collect();
    let replacements = from_wire::replacements(said.replacements)?;
    match service.checker().answer(CheckAnswer { transaction, answer, reason, replacements }).await {
        // It was decided or forgotten meanwhile: nothing that this stream could do about it.
        Ok(()) | Err(Refused::Rejected(_)) => Ok(()),
        Err(unavailable @ Refused::Unavailable(_)) => Err(unavailable),
    }
}

async fn send(asks: &Asks, ask: Ask) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the producer has gone away");
    asks.send(Ok(v1::ChecksResponse { kind: Some(ask) })).await.map_err(gone)
}

fn question(asked: Asked) -> v1::CheckQuestion {
    let Asked { question, messages } = asked;
    v1::CheckQuestion {
        transaction_id: question.transaction.to_string(),
        producer_group: question.producer_group.to_string(),
        producer_instance: question.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        request_id: question.request_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        prepared_at: Some(to_wire::timestamp(question.prepared_at)),
        checks_answered: question.answered,
        messages: messages.into_iter().map(to_wire::message).collect(),
    }
}

fn stopping() -> Status {
    status(&Refused::Unavailable(Unavailable::Stopping))
}

fn invalid(why: &str) -> Status {
    status(&Rejection::Invalid { what: "Checks stream", why: why.to_owned() }.into())
}
