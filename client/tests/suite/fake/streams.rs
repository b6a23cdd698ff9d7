//! The streams of the fake: every operation is the unary call of the same name.

use std::time::Duration;

use halfmq_proto::{REASON_METADATA, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::queues_server::Queues;
use v1::streams_server::Streams;
use v1::transactions_server::Transactions;
use v1::{consume_answer, consume_operation, produce_answer, produce_operation};

use super::{Answer, Effect, Fake, away};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

fn refusal(status: &Status) -> v1::Refusal {
    let name = status.metadata().get(REASON_METADATA).and_then(|name| name.to_str().ok());
    let reason = match name {
        None => 0,
        // A number that no version knows, for a name that this one does not.
        Some(name) => v1::Reason::from_str_name(name).map_or(9_999, i32::from),
    };
    v1::Refusal { code: status.code() as u32, reason, message: status.message().to_owned() }
}

/// One more of this stream.
fn note<T>(streams: &mut [Vec<T>], number: usize, value: T) {
    streams.get_mut(number).expect("it was numbered when it began").push(value);
}

#[tonic::async_trait]
impl Streams for Fake {
    type ProduceStream = ReceiverStream<Result<v1::ProduceResponse, Status>>;
    type ConsumeStream = ReceiverStream<Result<v1::ConsumeResponse, Status>>;

    async fn produce(&self, request: Request<Streaming<v1::ProduceRequest>>) -> Answer<Self::ProduceStream> {
        let (answers, receiver) = mpsc::channel(64);
        let (fake, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = fake.produce_for(requests, &answers).await {
                drop(answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn consume(&self, request: Request<Streaming<v1::ConsumeRequest>>) -> Answer<Self::ConsumeStream> {
        let (responses, receiver) = mpsc::channel(64);
        let (fake, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = fake.consume_for(requests, &responses).await {
                drop(responses.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Fake {
    async fn produce_for(
        &self,
        mut requests: Streaming<v1::ProduceRequest>,
        answers: &mpsc::Sender<Result<v1::ProduceResponse, Status>>,
    ) -> Result<(), Status> {
        let (number, planned) = {
            let mut state = self.state();
            state.produced.push(Vec::new());
            (state.produced.len() - 1, state.breaks.pop_front())
        };
        let mut messages = 0;
        while let Some(request) = requests.message().await? {
            messages += 1;
            note(&mut self.state().produced, number, request.operations.len());
            self.touch();
            let breaks = planned.as_ref().filter(|planned| planned.at == messages);
            if breaks.is_some_and(|planned| planned.effect == Effect::None) {
                return Err(away());
            }
            let mut response = v1::ProduceResponse::default();
            for operation in request.operations {
                let outcome = self.operate(operation.verb.expect("every operation has a verb")).await;
                let outcome =
                    outcome.unwrap_or_else(|status| produce_answer::Outcome::Refused(refusal(&status)));
                let correlation_id = operation.correlation_id;
                response.answers.push(v1::ProduceAnswer { correlation_id, outcome: Some(outcome) });
            }
            if breaks.is_some() {
                return Err(away());
            }
            // Order is free.
            response.answers.reverse();
            drop(answers.send(Ok(response)).await);
        }
        Ok(())
    }

    async fn operate(&self, verb: produce_operation::Verb) -> Result<produce_answer::Outcome, Status> {
        use produce_answer::Outcome;
        use produce_operation::Verb;
        Ok(match verb {
            Verb::Prepare(request) => {
                Outcome::Prepared(Transactions::prepare(self, Request::new(request)).await?.into_inner())
            }
            Verb::Commit(request) => {
                Outcome::Decided(Transactions::commit(self, Request::new(request)).await?.into_inner())
            }
            Verb::Rollback(request) => {
                Outcome::Decided(Transactions::rollback(self, Request::new(request)).await?.into_inner())
            }
            Verb::Send(request) => {
                Outcome::Sent(Queues::send(self, Request::new(request)).await?.into_inner())
            }
        })
    }

    async fn consume_for(
        &self,
        mut requests: Streaming<v1::ConsumeRequest>,
        responses: &mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
    ) -> Result<(), Status> {
        let number = {
            let mut state = self.state();
            state.credits.push(Vec::new());
            state.credits.len() - 1
        };
        let mut credits = 0;
        loop {
            let arrival = async {
                let there_is_one = self.until("a message", |state| credits > 0 && !state.waiting.is_empty());
                if tokio::time::timeout(FOR_EVER, there_is_one).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    credits += request.credits;
                    note(&mut self.state().credits, number, request.credits);
                    let answers = self.settle(request.operations).await;
                    if !answers.is_empty() {
                        let response = v1::ConsumeResponse { answers, ..v1::ConsumeResponse::default() };
                        drop(responses.send(Ok(response)).await);
                    }
                }
                () = arrival => {
                    let deliveries = self.call("receive", |state| {
                        let count = state.waiting.len().min(credits as usize);
                        Ok(state.waiting.drain(..count).collect::<Vec<_>>())
                    })?;
                    let deliveries = deliveries.into_inner();
                    credits -= u32::try_from(deliveries.len()).expect("no more than the credit");
                    let response = v1::ConsumeResponse { deliveries, ..v1::ConsumeResponse::default() };
                    drop(responses.send(Ok(response)).await);
                }
            }
        }
    }

    async fn settle(&self, operations: Vec<v1::ConsumeOperation>) -> Vec<v1::ConsumeAnswer> {
        let mut answers = Vec::new();
        for operation in operations {
            let Some(consume_operation::Verb::Ack(ack)) = operation.verb else { panic!("{operation:?}") };
            let request =
                v1::AckRequest { receipt_handles: ack.receipt_handles, ..v1::AckRequest::default() };
            let outcome = match Queues::ack(self, Request::new(request)).await {
                Ok(acked) => consume_answer::Outcome::Acked(acked.into_inner()),
                Err(status) => consume_answer::Outcome::Refused(refusal(&status)),
            };
            let correlation_id = operation.correlation_id;
            answers.push(v1::ConsumeAnswer { correlation_id, outcome: Some(outcome) });
        }
        answers
    }
}
