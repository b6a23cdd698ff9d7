//! The Produce stream that everything of one client shares.
//!
//! ```text
//!   callers ──► bounded queue ──► one task: whatever waits, in one message ──► stream
//!      ▲                                │ by correlation id                      │
//!      └────────── answer ◄─────────────┴────────────── answers ◄────────────────┘
//! ```
//!
//! A broken stream fails what was not answered as *unavailable*. Callers repeat that until their time is
//! over, and the first one opens the next stream. Nothing waits for company.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use halfmq_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use v1::produce_answer::Outcome;
use v1::produce_operation::Verb;
use v1::streams_client::StreamsClient;

use super::{Client, ClientOptions};
use crate::error::Error;

/// Operations of one stream message.
const BATCH_MAX: usize = 64;
/// Bytes of one stream message; a larger operation is a message of its own.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Stream messages on their way to the transport.
const OUTSTANDING_MAX: usize = 4;

/// The way to the stream's task, which runs from the first operation to the end of the last client.
#[derive(Debug, Default)]
pub(super) struct Produce {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    not_spoken: Arc<AtomicBool>,
}

/// What came of an operation.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Outcome),
    Failed(Error),
    /// This coordinator knows no streams; nothing was sent.
    NotSpoken,
}

#[derive(Debug)]
struct Job {
    verb: Verb,
    answer: oneshot::Sender<Heard>,
}

impl Produce {
    /// Whether the coordinator knows streams, as far as anybody has found out.
    pub(super) fn is_spoken(&self) -> bool {
        !self.not_spoken.load(Ordering::Relaxed)
    }

    /// One try. A full queue and a slow coordinator are felt as waiting.
    pub(super) async fn ask(&self, client: &Client, verb: Verb) -> Heard {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs(client);
        let gone = || Heard::Failed(Error::unavailable("the runtime of the stream has ended".into()));
        match jobs.send(Job { verb, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }

    fn jobs(&self, client: &Client) -> mpsc::Sender<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match &*jobs {
            Some(jobs) if !jobs.is_closed() => jobs.clone(),
            Some(_) | None => {
                let (sender, receiver) = mpsc::channel(client.options.queue_max.max(1));
                let task = Task {
                    stub: client.streams(),
                    options: Arc::clone(&client.options),
                    jobs: receiver,
                    not_spoken: Arc::clone(&self.not_spoken),
                };
                tokio::spawn(task.run());
                jobs.insert(sender).clone()
            }
        }
    }
}

/// It holds no client, so that dropping the last one ends it.
struct Task {
    stub: StreamsClient<Channel>,
    options: Arc<ClientOptions>,
    jobs: mpsc::Receiver<Job>,
    not_spoken: Arc<AtomicBool>,
}

/// One stream.
struct Session<'a> {
    jobs: &'a mut mpsc::Receiver<Job>,
    waiting: VecDeque<Job>,
    in_flight: HashMap<u64, oneshot::Sender<Heard>>,
    in_flight_max: usize,
    next_id: u64,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.jobs.recv().await {
            let (requests, outgoing) = mpsc::channel(OUTSTANDING_MAX);
            let opened = self.open(outgoing).await;
            let mut session = Session {
                jobs: &mut self.jobs,
                waiting: VecDeque::from([first]),
                in_flight: HashMap::new(),
                in_flight_max: self.options.in_flight_max.max(1),
                next_id: 0,
            };
            match opened {
                Ok(answers) => {
                    let ended = session.serve(&requests, answers, self.options.attempt_timeout).await;
                    tracing::debug!(?ended, "produce stream ended");
                    let why = ended
                        .map_or_else(|status| status.message().to_owned(), |()| "the stream ended".into());
                    session.fail(|| Heard::Failed(Error::unavailable(why.clone())));
                }
                Err(status) if status.code() == Code::Unimplemented => {
                    self.not_spoken.store(true, Ordering::Relaxed);
                    session.fail(|| Heard::NotSpoken);
                }
                Err(status) => session.fail(|| Heard::Failed(Error::from_status(&status))),
            }
        }
    }

    async fn open(
        &mut self,
        requests: mpsc::Receiver<v1::ProduceRequest>,
    ) -> Result<Streaming<v1::ProduceResponse>, Status> {
        let opening = self.stub.produce(ReceiverStream::new(requests));
        match tokio::time::timeout(self.options.attempt_timeout, opening).await {
            Ok(answers) => Ok(answers?.into_inner()),
            Err(_elapsed) => Err(Status::deadline_exceeded("the stream was not accepted in time")),
        }
    }
}

impl Session<'_> {
    /// Serves until the stream ends, is silent for too long although it owes answers, or no client is left.
    async fn serve(
        &mut self,
        requests: &mpsc::Sender<v1::ProduceRequest>,
        mut answers: Streaming<v1::ProduceResponse>,
        silence_max: std::time::Duration,
    ) -> Result<(), Status> {
        let silent = tokio::time::sleep(silence_max);
        tokio::pin!(silent);
        let mut open = true;
        while open || !self.in_flight.is_empty() || !self.waiting.is_empty() {
            let room = self.in_flight.len() < self.in_flight_max;
            tokio::select! {
                response = answers.message() => match response? {
                    Some(response) => {
                        silent.as_mut().reset(Instant::now() + silence_max);
                        self.settle(response);
                    }
                    None => return Ok(()),
                },
                place = requests.reserve(), if room && !self.waiting.is_empty() => match place {
                    Ok(place) => {
                        if self.in_flight.is_empty() {
                            silent.as_mut().reset(Instant::now() + silence_max);
                        }
                        place.send(self.batch());
                    }
                    // The transport has let go of the stream; why, the answers say.
                    Err(_) => return answers.message().await.map(drop),
                },
                job = self.jobs.recv(), if open && room && self.waiting.is_empty() => match job {
                    Some(job) => {
                        self.waiting.push_back(job);
                        // Lets callers that were woken together ask together.
                        tokio::task::yield_now().await;
                    }
                    None => open = false,
                },
                () = &mut silent, if !self.in_flight.is_empty() => {
                    return Err(Status::deadline_exceeded(format!("no answer within {silence_max:?}")));
                }
            }
        }
        Ok(())
    }

    /// What waits, up to the bounds of one message.
    fn batch(&mut self) -> v1::ProduceRequest {
        let mut operations = Vec::new();
        let mut bytes_so_far = 0;
        let room = self.in_flight_max.saturating_sub(self.in_flight.len()).min(BATCH_MAX);
        while operations.len() < room {
            let Some(job) = self.waiting.pop_front().or_else(|| self.jobs.try_recv().ok()) else { break };
            if job.answer.is_closed() {
                continue;
            }
            let bytes = bytes(&job.verb);
            if bytes_so_far + bytes > BATCH_BYTES_MAX && !operations.is_empty() {
                self.waiting.push_front(job);
                break;
            }
            bytes_so_far += bytes;
            let correlation_id = self.next_id;
            self.next_id += 1;
            self.in_flight.insert(correlation_id, job.answer);
            operations.push(v1::ProduceOperation { correlation_id, verb: Some(job.verb) });
        }
        v1::ProduceRequest { operations }
    }

    fn settle(&mut self, response: v1::ProduceResponse) {
        for answer in response.answers {
            let Some(caller) = self.in_flight.remove(&answer.correlation_id) else {
                tracing::warn!(answer.correlation_id, "an answer to nothing that was asked");
                continue;
            };
            let heard = match answer.outcome {
                Some(Outcome::Refused(refusal)) => Heard::Failed(Error::from_refusal(refusal)),
                Some(outcome) => Heard::Answer(outcome),
                None => Heard::Failed(Error::Unexpected("the answer lacks its outcome".into())),
            };
            // Whoever asked may have given up waiting.
            drop(caller.send(heard));
        }
    }

    /// Tells everybody who waits for this stream.
    fn fail(&mut self, heard: impl Fn() -> Heard) {
        let mut callers: Vec<_> = self.in_flight.drain().map(|(_, caller)| caller).collect();
        callers.extend(self.waiting.drain(..).map(|job| job.answer));
        while let Ok(job) = self.jobs.try_recv() {
            callers.push(job.answer);
        }
        callers.into_iter().for_each(|caller| drop(caller.send(heard())));
    }
}

/// About how large it is on the wire.
pub(super) fn bytes(verb: &Verb) -> usize {
    const FRAME: usize = 64;
    let bodies = |messages: &[v1::Message]| -> usize {
        let headers = |message: &v1::Message| -> usize {
            message.headers.iter().map(|(name, value)| name.len() + value.len()).sum()
        };
        messages.iter().map(|message| FRAME + message.body.len() + headers(message)).sum()
    };
    FRAME
        + match verb {
            Verb::Prepare(request) => bodies(&request.messages),
            Verb::Send(request) => bodies(&request.messages),
            Verb::Commit(request) => {
                let body = |new: &v1::Replacement| new.body.as_ref().map_or(FRAME, bytes::Bytes::len);
                request.replacements.iter().map(body).sum()
            }
            Verb::Rollback(request) => request.reason.len(),
        }
}
