//! One Produce stream.
//!
//! ```text
//!   message ──► batches: prepares │ decisions │ sends ──► service, all at once ──► answers, as they come
//!      ▲                                                                              │
//!      └── read while operations and bytes in flight are below their bounds ◄─────────┘
//! ```

use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use halfmq_core::{Decide, Message, Prepare, ProducerGroup, Rejection, Send};
use halfmq_proto::v1;
use tonic::{Status, Streaming};
use v1::produce_answer::Outcome;
use v1::produce_operation::Verb;

use super::status::{answered_together, refusal};
use super::streams::{self, IN_FLIGHT_MAX, OPERATIONS_MAX, Work};
use super::{from_wire, to_wire};
use crate::clock::Clock;
use crate::service::{Refused, Replacement, Service};

/// Bytes of contents of one stream that are not answered yet; past that it is not read. One message more may be.
const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A stream, from its first message to its last answer.
pub(super) struct Producing {
    service: Arc<Service>,
    requests: Streaming<v1::ProduceRequest>,
    stopping: Work<Status>,
    running: FuturesUnordered<Work<Done>>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Nothing more is read; how the stream ends once everything is answered.
    end: Option<Result<(), Status>>,
}

/// Answers, and how many bytes of contents were asked about.
struct Done {
    answers: Vec<v1::ProduceAnswer>,
    bytes: usize,
}

/// Operations of one kind in one stream message.
struct Batch<T> {
    ids: Vec<u64>,
    items: Vec<T>,
}

impl Producing {
    pub(super) fn new(service: Arc<Service>, requests: Streaming<v1::ProduceRequest>) -> Self {
        let (stopping, running) = (streams::stopping(&service), FuturesUnordered::new());
        Self { service, requests, stopping, running, in_flight: 0, in_flight_bytes: 0, end: None }
    }

    /// The next answers; `None` at the end.
    pub(super) async fn respond(&mut self) -> Result<Option<v1::ProduceResponse>, Status> {
        loop {
            if self.running.is_empty()
                && let Some(end) = &self.end
            {
                return end.clone().map(|()| None);
            }
            let open = self.end.is_none();
            let room = self.in_flight < IN_FLIGHT_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            tokio::select! {
                done = streams::next_done(&mut self.running) => return Ok(Some(self.collect(done))),
                request = self.requests.next(), if open && room => match request {
                    Some(Ok(request)) => {
                        if let Err(status) = self.begin(request) {
                            self.end = Some(Err(status));
                        }
                    }
                    Some(Err(status)) => self.end = Some(Err(status)),
                    None => self.end = Some(Ok(())),
                },
                status = &mut self.stopping, if open => self.end = Some(Err(status)),
            }
        }
    }

    /// These answers, with all others that are ready.
    fn collect(&mut self, done: Done) -> v1::ProduceResponse {
        let mut response = v1::ProduceResponse { answers: self.settle(done) };
        while response.answers.len() < OPERATIONS_MAX
            && let Some(Some(done)) = self.running.next().now_or_never()
        {
            let more = self.settle(done);
            response.answers.extend(more);
        }
        response
    }

    fn settle(&mut self, done: Done) -> Vec<v1::ProduceAnswer> {
        self.in_flight -= done.answers.len();
        self.in_flight_bytes -= done.bytes;
        done.answers
    }

    fn begin(&mut self, request: v1::ProduceRequest) -> Result<(), Status> {
        streams::check_operations(request.operations.len())?;
        self.in_flight += request.operations.len();
        let (mut prepares, mut decides, mut sends) = (Batch::new(), Batch::new(), Batch::new());
        let mut refused = Vec::new();
        for operation in request.operations {
            let id = operation.correlation_id;
            let taken = match operation.verb {
                Some(Verb::Prepare(request)) => {
                    prepares.add(id, from_wire::prepare(request, self.service.policy()))
                }
                Some(Verb::Commit(request)) => decides.add(id, from_wire::commit(request)),
                Some(Verb::Rollback(request)) => decides.add(id, from_wire::rollback(request)),
                Some(Verb::Send(request)) => sends.add(id, from_wire::send(request)),
                None => Err(streams::no_verb()),
            };
            if let Err(rejection) = taken {
                refused.push(refused_answer(id, &rejection.into()));
            }
        }
        if !refused.is_empty() {
            self.running.push(Box::pin(ready(Done { answers: refused, bytes: 0 })));
        }
        if !prepares.ids.is_empty() {
            let bytes = prepares.items.iter().map(|prepare| content_bytes(&prepare.send)).sum();
            self.start(bytes, |service| prepare(service, prepares));
        }
        if !decides.ids.is_empty() {
            let bytes = decides.items.iter().map(|(_, replacements)| replaced_bytes(replacements)).sum();
            self.start(bytes, |service| decide(service, decides));
        }
        if !sends.ids.is_empty() {
            let bytes = sends.items.iter().map(|(_, send)| content_bytes(send)).sum();
            self.start(bytes, |service| send(service, sends));
        }
        Ok(())
    }

    fn start<F>(&mut self, bytes: usize, verb: impl FnOnce(Arc<Service>) -> F)
    where
        F: Future<Output = Vec<v1::ProduceAnswer>> + core::marker::Send + 'static,
    {
        self.in_flight_bytes += bytes;
        let answers = verb(Arc::clone(&self.service));
        self.running.push(Box::pin(async move { Done { answers: answers.await, bytes } }));
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        streams::carry_on(&mut self.running);
    }
}

impl<T> Batch<T> {
    fn new() -> Self {
        Self { ids: Vec::new(), items: Vec::new() }
    }

    fn add(&mut self, id: u64, item: Result<T, Rejection>) -> Result<(), Rejection> {
        self.items.push(item?);
        self.ids.push(id);
        Ok(())
    }
}

fn content_bytes(send: &Send) -> usize {
    send.messages().iter().map(Message::content_bytes).sum()
}

/// A commit may bring new bodies, as large as those of a prepare.
fn replaced_bytes(replacements: &[Replacement]) -> usize {
    let body = |replacement: &Replacement| replacement.body.as_ref().map_or(0, Bytes::len);
    let headers = |replacement: &Replacement| -> usize {
        let headers = replacement.headers.iter().flatten();
        headers.map(|(name, value)| name.len() + value.len()).sum()
    };
    replacements.iter().map(|replacement| body(replacement) + headers(replacement)).sum()
}

async fn prepare(service: Arc<Service>, batch: Batch<Prepare>) -> Vec<v1::ProduceAnswer> {
    let began = Clock::stopwatch();
    let answers = service.prepare_all(batch.items).await;
    answered_together("prepare", began, &answers);
    answer_all(batch.ids, answers, |accepted| Outcome::Prepared(to_wire::prepared(&accepted)))
}

async fn decide(service: Arc<Service>, batch: Batch<(Decide, Vec<Replacement>)>) -> Vec<v1::ProduceAnswer> {
    let began = Clock::stopwatch();
    let answers = service.decide_all(batch.items).await;
    answered_together("decide", began, &answers);
    answer_all(batch.ids, answers, |receipt| Outcome::Decided(to_wire::receipt(&receipt)))
}

async fn send(service: Arc<Service>, batch: Batch<(ProducerGroup, Send)>) -> Vec<v1::ProduceAnswer> {
    let began = Clock::stopwatch();
    let answers = service.send_all(batch.items).await;
    answered_together("send", began, &answers);
    answer_all(batch.ids, answers, |receipt| Outcome::Sent(to_wire::sent(&receipt)))
}

fn answer_all<T>(
    ids: Vec<u64>,
    answers: Vec<Result<T, Refused>>,
    outcome: impl Fn(T) -> Outcome,
) -> Vec<v1::ProduceAnswer> {
    let answer = |(id, answer)| match answer {
        Ok(answer) => v1::ProduceAnswer { correlation_id: id, outcome: Some(outcome(answer)) },
        Err(refused) => refused_answer(id, &refused),
    };
    ids.into_iter().zip(answers).map(answer).collect()
}

fn refused_answer(correlation_id: u64, refused: &Refused) -> v1::ProduceAnswer {
    v1::ProduceAnswer { correlation_id, outcome: Some(Outcome::Refused(refusal(refused))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_commit_replaces_counts_as_much_as_what_a_prepare_brings() {
        let replacement = |body: Option<&'static [u8]>, headers: &[(&str, &str)]| Replacement {
            index: 0,
            body: body.map(Bytes::from_static),
            headers: (!headers.is_empty())
                .then(|| headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
        };
        for (replacements, bytes) in [
            (vec![], 0),
            (vec![replacement(None, &[])], 0),
            (vec![replacement(Some(&[0; 4_096]), &[])], 4_096),
            (vec![replacement(Some(b"12"), &[("a", "bcd")]), replacement(None, &[("e", "f")])], 8),
        ] {
            assert_eq!(replaced_bytes(&replacements), bytes, "{replacements:?}");
        }
    }
}
