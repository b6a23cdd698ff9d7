//! The load over streams: each Produce stream carries many transactions, each Consume stream acks what it is
//! given. What waits goes into one message, and nothing waits for company, as in the SDK.

use super::driver::{CONSUMER_GROUP, INVISIBLE, PRODUCER_GROUP, first_id, message_id};
use super::load::Run;
use crate::cli::failure::Failure;
use crate::clock::Clock;
use halfmq_core::MessageId;
use halfmq_proto::v1::{self, streams_client::StreamsClient};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use v1::{consume_answer, consume_operation, produce_answer, produce_operation};

/// Operations of one stream message.
const BATCH_MAX: usize = 64;
/// Bytes of one stream message; a larger operation is a message of its own.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Stream messages on their way to the transport.
const OUTSTANDING_MAX: usize = 4;

/// Prepares and commits over one stream, with at most so many transactions on it at once.
pub(super) async fn produce(
    run: Arc<Run>,
    mut streams: StreamsClient<Channel>,
    topic: String,
    in_flight_max: usize,
) -> Result<(), Failure> {
    let (requests, outgoing) = mpsc::channel(OUTSTANDING_MAX);
    let mut answers = streams.produce(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut pipeline =
        Pipeline { run, topic, slots: Vec::new(), free: Vec::new(), outgoing: VecDeque::new() };
    pipeline.free.extend((0..in_flight_max).rev());
    pipeline.slots.resize_with(in_flight_max, || None);
    let mut more = true;
    while more || pipeline.free.len() < in_flight_max {
        tokio::select! {
            response = answers.message() => match response? {
                Some(response) => pipeline.take(response)?,
                None => return Err(ended("Produce")),
            },
            place = requests.reserve(), if !pipeline.outgoing.is_empty() => match place {
                Ok(place) => place.send(pipeline.batch()),
                Err(_) => return Err(because("Produce", &mut answers).await),
            },
            began = pipeline.run.start(), if more && !pipeline.free.is_empty() => match began {
                Some(began) => pipeline.begin(began),
                None => more = false,
            },
        }
        while more
            && !pipeline.free.is_empty()
            && let Some(began) = pipeline.run.start_at_once()
        {
            pipeline.begin(began);
        }
    }
    Ok(())
}

/// The transactions of one stream, each in a slot whose number is its correlation id.
struct Pipeline {
    run: Arc<Run>,
    topic: String,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    outgoing: VecDeque<v1::ProduceOperation>,
}

/// A transaction on its way.
struct Slot {
    /// When its step was meant to begin.
    began: Instant,
}

impl Pipeline {
    fn begin(&mut self, began: Instant) {
        let Some(slot) = self.free.pop() else { return };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Slot { began });
        }
        let message =
            v1::Message { topic: self.topic.clone(), body: self.run.body(), ..v1::Message::default() };
        let request = v1::PrepareRequest {
            producer_group: PRODUCER_GROUP.to_owned(),
            messages: vec![message],
            request_id: self.run.request_id(),
            ..v1::PrepareRequest::default()
        };
        self.say(slot, produce_operation::Verb::Prepare(request));
    }

    fn say(&mut self, slot: usize, verb: produce_operation::Verb) {
        self.outgoing.push_back(v1::ProduceOperation { correlation_id: slot as u64, verb: Some(verb) });
    }

    /// What waits, up to the bounds of one message.
    fn batch(&mut self) -> v1::ProduceRequest {
        let mut operations = Vec::with_capacity(self.outgoing.len().min(BATCH_MAX));
        let mut bytes = 0;
        while operations.len() < BATCH_MAX
            && let Some(next) = self.outgoing.front()
        {
            bytes += body_bytes(next);
            if bytes > BATCH_BYTES_MAX && !operations.is_empty() {
                break;
            }
            operations.extend(self.outgoing.pop_front());
        }
        v1::ProduceRequest { operations }
    }

    fn take(&mut self, response: v1::ProduceResponse) -> Result<(), Failure> {
        let now = Clock::stopwatch();
        let run = Arc::clone(&self.run);
        let mut tally = run.tally();
        for answer in response.answers {
            let slot = usize::try_from(answer.correlation_id).unwrap_or(usize::MAX);
            let place = self.slots.get_mut(slot).and_then(Option::as_mut);
            let place =
                place.ok_or_else(|| Failure::Bench("an answer to nothing that was asked".to_owned()))?;
            let took = now.saturating_duration_since(place.began);
            match answer.outcome {
                Some(produce_answer::Outcome::Prepared(prepared)) => {
                    tally.prepared(first_id(&prepared)?, place.began, took);
                    place.began = now;
                    let commit =
                        v1::CommitRequest { transaction_id: prepared.transaction_id, ..Default::default() };
                    self.say(slot, produce_operation::Verb::Commit(commit));
                }
                Some(produce_answer::Outcome::Decided(_)) => {
                    tally.committed(now, took);
                    if let Some(place) = self.slots.get_mut(slot) {
                        *place = None;
                    }
                    self.free.push(slot);
                }
                Some(produce_answer::Outcome::Refused(refusal)) => {
                    return Err(Failure::Bench(format!("an operation was refused: {}", refusal.message)));
                }
                Some(produce_answer::Outcome::Sent(_)) | None => {
                    return Err(Failure::Bench("an answer is of another kind".to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn body_bytes(operation: &v1::ProduceOperation) -> usize {
    const FRAME: usize = 64;
    FRAME
        + match &operation.verb {
            Some(produce_operation::Verb::Prepare(request)) => {
                request.messages.iter().map(|message| message.body.len()).sum()
            }
            Some(
                produce_operation::Verb::Commit(_)
                | produce_operation::Verb::Rollback(_)
                | produce_operation::Verb::Send(_),
            )
            | None => 0,
        }
}

/// Receives and acks over one stream, with credit for so many deliveries.
pub(super) async fn consume(
    run: Arc<Run>,
    mut streams: StreamsClient<Channel>,
    topic: String,
    credits: u32,
) -> Result<(), Failure> {
    let (requests, outgoing) = mpsc::channel(OUTSTANDING_MAX);
    let subscription = v1::Subscription {
        topic,
        group: CONSUMER_GROUP.to_owned(),
        invisible: prost_types::Duration::try_from(INVISIBLE).ok(),
        ..v1::Subscription::default()
    };
    let first = v1::ConsumeRequest { subscription: Some(subscription), credits, operations: Vec::new() };
    requests.send(first).await.map_err(|_| ended("Consume"))?;
    let mut responses = streams.consume(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut acks = Acks { run, waiting: Vec::new(), acking: HashMap::new(), next: 0 };
    loop {
        tokio::select! {
            response = responses.message() => match response? {
                Some(response) => acks.take(response)?,
                None => return Err(ended("Consume")),
            },
            place = requests.reserve(), if !acks.waiting.is_empty() => match place {
                Ok(place) => place.send(acks.batch()),
                Err(_) => return Err(because("Consume", &mut responses).await),
            },
        }
    }
}

/// What one stream has delivered and not acked.
struct Acks {
    run: Arc<Run>,
    /// Ids and handles of what came.
    waiting: Vec<(MessageId, String)>,
    acking: HashMap<u64, Vec<MessageId>>,
    next: u64,
}

impl Acks {
    /// Acks what waits, and gives credit for as many.
    fn batch(&mut self) -> v1::ConsumeRequest {
        const HANDLES_MAX: usize = 1_024;
        let waiting = self.waiting.drain(..self.waiting.len().min(HANDLES_MAX));
        let (messages, receipt_handles): (Vec<_>, Vec<_>) = waiting.unzip();
        let credits = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let verb = Some(consume_operation::Verb::Ack(v1::AckDeliveries { receipt_handles }));
        let operation = v1::ConsumeOperation { correlation_id: self.next, verb };
        self.acking.insert(self.next, messages);
        self.next += 1;
        v1::ConsumeRequest { subscription: None, credits, operations: vec![operation] }
    }

    fn take(&mut self, response: v1::ConsumeResponse) -> Result<(), Failure> {
        let before = self.waiting.len();
        for delivery in response.deliveries {
            self.waiting.push((message_id(&delivery.message_id)?, delivery.receipt_handle));
        }
        let came = self.waiting.get(before..).unwrap_or_default();
        self.run.tally().delivered(came.iter().map(|(message, _)| *message));
        for answer in response.answers {
            let messages = self.acking.remove(&answer.correlation_id).unwrap_or_default();
            match answer.outcome {
                Some(consume_answer::Outcome::Acked(acked)) => {
                    if let Some(refused) = acked.results.iter().find(|result| !result.ok) {
                        return Err(Failure::Bench(format!("an ack was refused: {}", refused.message)));
                    }
                    self.run.acked(&messages);
                }
                Some(consume_answer::Outcome::Refused(refusal)) => {
                    return Err(Failure::Bench(format!("an ack was refused: {}", refusal.message)));
                }
                Some(consume_answer::Outcome::Extended(_) | consume_answer::Outcome::GivenBack(_)) | None => {
                    return Err(Failure::Bench("the answer to an ack is of another kind".to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn ended(stream: &str) -> Failure {
    Failure::Bench(format!("the {stream} stream ended before the load did"))
}

/// The transport has let go of the stream; its end says why.
async fn because<T>(stream: &str, responses: &mut Streaming<T>) -> Failure {
    loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return ended(stream),
            Err(status) => return status.into(),
        }
    }
}
