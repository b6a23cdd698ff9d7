//! The Consume stream of one topic: credit for every free place, deliveries as they come, acks beside them.
//!
//! ```text
//!   free places ──► credit ─┐                ┌─► deliveries ──► handlers ──► free places
//!   handled ──────► acks ───┴─► stream ──────┴─► answers
//! ```
//!
//! A broken stream is opened again. What it had delivered is acked on the next one, or by a call.

use std::collections::HashMap;
use std::sync::Arc;

use halfmq_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use v1::consume_answer::Outcome;
use v1::consume_operation::Verb;

use super::acks::{AckJob, AckStream};
use super::handler::Handler;
use super::topic::{hand_out, room_for_batch};
use super::work::Work;
use crate::client::Backoff;
use crate::delivery::Delivery;
use crate::error::Error;

/// Stream messages on their way to the transport.
const OUTSTANDING_MAX: usize = 4;

/// Why there is no stream any more.
pub(super) enum Ended {
    /// The consumer stops.
    Stopped,
    /// This coordinator knows no streams.
    NotSpoken,
    /// The coordinator refuses.
    Refused(Error),
}

/// What the streams of one topic share.
pub(super) struct Push<'a, H> {
    pub(super) work: &'a Arc<Work<H>>,
    pub(super) room: &'a Arc<Semaphore>,
    pub(super) acks: &'a AckStream,
    pub(super) handling: &'a mut JoinSet<()>,
    pub(super) stop: &'a CancellationToken,
}

/// One stream.
struct Session {
    /// Places that credit was given for.
    granted: OwnedSemaphorePermit,
    outgoing: v1::ConsumeRequest,
    acking: HashMap<u64, oneshot::Sender<Result<v1::AckResponse, Error>>>,
    next_id: u64,
}

impl<H: Handler> Push<'_, H> {
    /// Consumes until it is stopped or refused. A coordinator that is away is waited for, without end.
    pub(super) async fn run(mut self) -> Ended {
        let mut backoff = Backoff::new(self.work.pull.client().options().backoff);
        loop {
            let ended = self.stream(&mut backoff).await;
            self.acks.close();
            match ended {
                Ok(ended) => return ended,
                Err(error) if error.is_retryable() => {
                    let pause = backoff.pause();
                    tracing::warn!(topic = self.work.pull.topic(), %error, ?pause, "cannot receive, trying again");
                    let pause = tokio::time::sleep(pause);
                    if self.stop.run_until_cancelled(pause).await.is_none() {
                        return Ended::Stopped;
                    }
                }
                Err(error) => return Ended::Refused(error),
            }
        }
    }

    /// One stream, from its subscription to its end.
    async fn stream(&mut self, backoff: &mut Backoff) -> Result<Ended, Error> {
        let (requests, outgoing) = mpsc::channel(OUTSTANDING_MAX);
        let opened = self.stop.run_until_cancelled(async {
            let granted = room_for_batch(self.room, self.work.pull.options().batch_max).await;
            (granted, self.open(outgoing).await)
        });
        let Some((granted, opened)) = opened.await else { return Ok(Ended::Stopped) };
        let mut responses = match opened {
            Ok(responses) => responses,
            Err(status) if status.code() == Code::Unimplemented => return Ok(Ended::NotSpoken),
            Err(status) => return Err(Error::from_status(&status)),
        };
        let (acks, mut ack_jobs) = mpsc::channel(OUTSTANDING_MAX);
        self.acks.open(acks);
        let mut session = Session::new(self.work.pull.subscription(), granted);
        let batch_max = self.work.pull.options().batch_max;
        let mut requests = Some(requests);
        let mut give_up_at = None;
        loop {
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        backoff.reset();
                        let deliveries = session.take(response)?;
                        hand_out(self.work, deliveries, &mut session.granted, self.handling);
                    }
                    Ok(None) if requests.is_none() => return Ok(Ended::Stopped),
                    Ok(None) => return Err(Error::unavailable("the stream ended".into())),
                    Err(_) if requests.is_none() => return Ok(Ended::Stopped),
                    Err(status) => return Err(Error::from_status(&status)),
                },
                place = reserve(&requests), if !session.has_nothing_to_say() => {
                    // Let go of by the transport; the responses say why.
                    let Ok(place) = place else { session.outgoing = v1::ConsumeRequest::default(); continue };
                    drop(place.send(std::mem::take(&mut session.outgoing)));
                },
                places = room_for_batch(self.room, batch_max), if requests.is_some() => session.grant(places),
                Some(job) = ack_jobs.recv(), if requests.is_some() => session.ack(job),
                Some(_handled) = self.handling.join_next() => {}
                () = self.stop.cancelled(), if requests.is_some() => {
                    // The coordinator leases no more, sends what is on the way, and ends the stream.
                    self.acks.close();
                    requests = None;
                    give_up_at = Some(Instant::now() + self.work.pull.options().stop_timeout);
                }
                () = until(give_up_at) => return Ok(Ended::Stopped),
            }
        }
    }

    async fn open(
        &self,
        requests: mpsc::Receiver<v1::ConsumeRequest>,
    ) -> Result<Streaming<v1::ConsumeResponse>, Status> {
        let client = self.work.pull.client();
        let mut stub = client.streams();
        let opening = stub.consume(ReceiverStream::new(requests));
        match tokio::time::timeout(client.options().attempt_timeout, opening).await {
            Ok(responses) => Ok(responses?.into_inner()),
            Err(_elapsed) => Err(Status::deadline_exceeded("the stream was not accepted in time")),
        }
    }
}

impl Session {
    fn new(subscription: v1::Subscription, granted: OwnedSemaphorePermit) -> Self {
        let outgoing = v1::ConsumeRequest {
            subscription: Some(subscription),
            credits: credits(&granted),
            operations: Vec::new(),
        };
        Self { granted, outgoing, acking: HashMap::new(), next_id: 0 }
    }

    fn has_nothing_to_say(&self) -> bool {
        self.outgoing.credits == 0 && self.outgoing.operations.is_empty()
    }

    fn grant(&mut self, places: OwnedSemaphorePermit) {
        self.outgoing.credits += credits(&places);
        self.granted.merge(places);
    }

    fn ack(&mut self, job: AckJob) {
        let receipt_handles = job.receipts.into_iter().map(String::from).collect();
        let verb = Some(Verb::Ack(v1::AckDeliveries { receipt_handles }));
        self.outgoing.operations.push(v1::ConsumeOperation { correlation_id: self.next_id, verb });
        self.acking.insert(self.next_id, job.answer);
        self.next_id += 1;
    }

    fn take(&mut self, response: v1::ConsumeResponse) -> Result<Vec<Delivery>, Error> {
        for answer in response.answers {
            let Some(caller) = self.acking.remove(&answer.correlation_id) else { continue };
            let acked = match answer.outcome {
                Some(Outcome::Acked(acked)) => Ok(acked),
                Some(Outcome::Refused(refusal)) => Err(Error::from_refusal(refusal)),
                Some(Outcome::Extended(_) | Outcome::GivenBack(_)) | None => {
                    Err(Error::Unexpected("the answer to an ack is of another kind".into()))
                }
            };
            // Whoever asked may have given up waiting.
            drop(caller.send(acked));
        }
        response.deliveries.into_iter().map(Delivery::try_from).collect()
    }
}

fn credits(places: &OwnedSemaphorePermit) -> u32 {
    u32::try_from(places.num_permits()).unwrap_or(u32::MAX)
}

type Requests = mpsc::Sender<v1::ConsumeRequest>;

async fn reserve(requests: &Option<Requests>) -> Result<mpsc::OwnedPermit<v1::ConsumeRequest>, ()> {
    match requests {
        Some(requests) => requests.clone().reserve_owned().await.map_err(drop),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
