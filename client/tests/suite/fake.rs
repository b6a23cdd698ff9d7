//! A coordinator that remembers what it was told and fails as it is told.
//!
//! It talks through in-memory pipes, so paused time moves only when both sides have nothing to do.

mod streams;

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use halfmq_client::{Client, ClientOptions};
use halfmq_proto::{REASON_METADATA, v1};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use v1::queues_server::{Queues, QueuesServer};
use v1::streams_server::StreamsServer;
use v1::transactions_server::{Transactions, TransactionsServer};

pub(crate) type Answer<T> = Result<Response<T>, Status>;

/// Longest virtual time that a test waits for anything.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Every call that had an effect, in order, such as `commit tx-1`.
    pub(crate) log: Vec<String>,
    pub(crate) prepared: Vec<v1::PrepareRequest>,
    pub(crate) commits: Vec<v1::CommitRequest>,
    pub(crate) sent: HashMap<String, v1::SendRequest>,
    pub(crate) decisions: HashMap<String, v1::Decision>,
    pub(crate) registrations: Vec<v1::Registration>,
    pub(crate) answers: Vec<(String, v1::Resolution)>,
    pub(crate) streams: Vec<mpsc::Sender<Result<v1::ChecksResponse, Status>>>,
    pub(crate) waiting: VecDeque<v1::Delivery>,
    pub(crate) acks: Vec<Vec<String>>,
    pub(crate) extensions: usize,
    pub(crate) returned: Vec<v1::RetryLaterRequest>,
    pub(crate) expired: Vec<String>,
    /// Stream messages of each Produce stream, as numbers of operations.
    pub(crate) produced: Vec<Vec<usize>>,
    /// Produce streams that break: after so many messages, answered or not.
    pub(crate) breaks: VecDeque<Break>,
    /// Credit of each Consume stream, in order.
    pub(crate) credits: Vec<Vec<u32>>,
    plans: Vec<Plan>,
}

/// The next `times` calls of `call` fail; with an effect that the caller does not learn of, or none.
struct Plan {
    call: &'static str,
    times: usize,
    effect: Effect,
    status: Status,
}

/// A stream breaks when this message has come; with an effect that the caller does not learn of, or none.
pub(crate) struct Break {
    pub(crate) at: usize,
    pub(crate) effect: Effect,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Lost,
    None,
}

/// An old coordinator knows no streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Old,
    New,
}

impl Fake {
    /// A running coordinator and a client of it.
    pub(crate) fn start() -> (Self, Client) {
        Self::start_with(ClientOptions::default())
    }

    pub(crate) fn start_with(options: ClientOptions) -> (Self, Client) {
        Self::start_as(options, Age::New)
    }

    pub(crate) fn start_as(options: ClientOptions, age: Age) -> (Self, Client) {
        let fake = Self::default();
        let streams = age == Age::New;
        let (pipes, incoming) = mpsc::unbounded_channel::<Result<DuplexStream, std::io::Error>>();
        let serving = Server::builder()
            .add_service(TransactionsServer::new(fake.clone()))
            .add_service(QueuesServer::new(fake.clone()))
            .add_optional_service(streams.then(|| StreamsServer::new(fake.clone())))
            .serve_with_incoming(UnboundedReceiverStream::new(incoming));
        tokio::spawn(serving);
        let connector = tower::service_fn(move |_uri| {
            let pipes = pipes.clone();
            async move {
                let (near, far) = tokio::io::duplex(1 << 16);
                pipes.send(Ok(far)).map_err(|_gone| std::io::Error::other("the fake is gone"))?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let channel = Endpoint::from_static("http://fake").connect_with_connector_lazy(connector);
        (fake, Client::over(channel, options))
    }

    /// The same coordinator, reached over TCP until the returned thread's sender is dropped: then its
    /// runtime ends with every connection, as after kill -9.
    pub(crate) fn serve(&self, listener: std::net::TcpListener) -> (Sender<()>, JoinHandle<()>) {
        let (kill, killed) = std::sync::mpsc::channel();
        let fake = self.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let serving = runtime.spawn(async move {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                Server::builder()
                    .add_service(TransactionsServer::new(fake.clone()))
                    .add_service(QueuesServer::new(fake.clone()))
                    .add_service(StreamsServer::new(fake))
                    .serve_with_incoming(TcpListenerStream::new(listener))
                    .await
            });
            assert!(killed.recv().is_err(), "nothing is ever sent");
            drop(serving);
            runtime.shutdown_timeout(WAIT_MAX);
        });
        (kill, thread)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, call: &'static str, times: usize, effect: Effect, status: Status) {
        self.state().plans.push(Plan { call, times, effect, status });
    }

    /// Waits until the state is as wanted, and shows the log if it never is.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !wanted(&self.state()) {
                changed.changed().await.expect("the fake holds the sender");
            }
        };
        if tokio::time::timeout(WAIT_MAX, waiting).await.is_err() {
            panic!("never: {what}; log: {:#?}", self.state().log);
        }
    }

    /// Asks on the newest stream.
    pub(crate) async fn ask(&self, id: &str) {
        let question = v1::CheckQuestion {
            transaction_id: id.into(),
            prepared_at: Some(SystemTime::UNIX_EPOCH.into()),
            ..v1::CheckQuestion::default()
        };
        let kind = Some(v1::checks_response::Kind::Question(question));
        let stream = self.state().streams.last().cloned().expect("a producer is registered");
        stream.send(Ok(v1::ChecksResponse { kind })).await.expect("the stream is open");
    }

    /// Breaks every stream, as a restart does.
    pub(crate) fn break_streams(&self) {
        for stream in self.state().streams.drain(..) {
            stream.try_send(Err(away())).expect("there is room");
        }
    }

    /// Makes messages ready for consumers: one for each name, with `receipt-<name>` as handle.
    pub(crate) fn release(&self, names: &[&str]) {
        let now = Some(SystemTime::UNIX_EPOCH.into());
        for name in names {
            self.state().waiting.push_back(v1::Delivery {
                message_id: format!("id-{name}"),
                message: Some(v1::Message { body: name.to_string().into(), ..v1::Message::default() }),
                place: Some(v1::Place { topic: "orders".into(), queue: 0, offset: 0 }),
                receipt_handle: format!("receipt-{name}"),
                attempt: 1,
                invisible_until: now,
                released_at: now,
                ..v1::Delivery::default()
            });
        }
        self.touch();
    }

    pub(crate) fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// One call: its effect on the state, unless a plan says otherwise.
    pub(crate) fn call<T>(
        &self,
        call: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Answer<T> {
        let mut state = self.state();
        let planned = state.plans.iter_mut().find(|plan| plan.call == call && plan.times > 0);
        let failure = planned.map(|plan| {
            plan.times -= 1;
            (plan.effect, plan.status.clone())
        });
        let result = match failure {
            Some((Effect::None, status)) => Err(status),
            Some((Effect::Lost, status)) => effect(&mut state).and(Err(status)),
            None => effect(&mut state).map(Response::new),
        };
        drop(state);
        self.touch();
        result
    }
}

impl State {
    pub(crate) fn decide(&mut self, id: &str, decision: v1::Decision) -> Result<v1::DecisionReceipt, Status> {
        let known = self.prepared.len();
        if !(1..=known).any(|number| id == format!("tx-{number}")) {
            return Err(refusal(Code::NotFound, "REASON_UNKNOWN_TRANSACTION"));
        }
        if *self.decisions.entry(id.to_owned()).or_insert(decision) != decision {
            return Err(refusal(Code::FailedPrecondition, "REASON_DECISION_CONFLICT"));
        }
        self.log.push(format!("{} {id}", decision.as_str_name()));
        Ok(v1::DecisionReceipt {
            transaction_id: id.to_owned(),
            decision: decision.into(),
            decided_at: Some(SystemTime::UNIX_EPOCH.into()),
            messages: Vec::new(),
        })
    }
}

pub(crate) fn refusal(code: Code, reason: &'static str) -> Status {
    let mut status = Status::new(code, format!("the fake says {reason}"));
    let reason = tonic::metadata::MetadataValue::from_static(reason);
    status.metadata_mut().insert(REASON_METADATA, reason);
    status
}

pub(crate) fn away() -> Status {
    Status::unavailable("the fake is away")
}

#[tonic::async_trait]
impl Transactions for Fake {
    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<v1::PrepareResponse> {
        let request = request.into_inner();
        self.call("prepare", |state| {
            let known = state.prepared.iter().position(|old| old.request_id == request.request_id);
            let number = known.unwrap_or_else(|| {
                state.prepared.push(request.clone());
                state.prepared.len() - 1
            });
            Ok(v1::PrepareResponse {
                transaction_id: format!("tx-{}", number + 1),
                message_ids: request.messages.iter().map(|message| message.topic.clone()).collect(),
                first_check_at: Some(SystemTime::UNIX_EPOCH.into()),
                warnings: vec![v1::Warning::NoResolver.into()],
            })
        })
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Answer<v1::DecisionReceipt> {
        let request = request.into_inner();
        self.call("commit", |state| {
            let id = request.transaction_id.clone();
            state.commits.push(request);
            state.decide(&id, v1::Decision::Commit)
        })
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::DecisionReceipt> {
        let id = request.into_inner().transaction_id;
        self.call("rollback", |state| state.decide(&id, v1::Decision::Rollback))
    }

    async fn describe_transaction(
        &self,
        request: Request<v1::DescribeTransactionRequest>,
    ) -> Answer<v1::Transaction> {
        let id = request.into_inner().transaction_id;
        self.call("describe", |state| {
            let standing = match state.decisions.get(&id) {
                Some(v1::Decision::Commit) => v1::TransactionState::Committed,
                Some(v1::Decision::Rollback) => v1::TransactionState::RolledBack,
                Some(v1::Decision::Unspecified) | None => v1::TransactionState::Prepared,
            };
            Ok(v1::Transaction { state: standing.into(), ..v1::Transaction::default() })
        })
    }

    async fn list_transactions(
        &self,
        _: Request<v1::ListTransactionsRequest>,
    ) -> Answer<v1::ListTransactionsResponse> {
        Err(Status::unimplemented("not asked for by the SDK"))
    }

    async fn describe_floor(&self, _: Request<v1::DescribeFloorRequest>) -> Answer<v1::TransactionFloor> {
        Err(Status::unimplemented("not asked for by the SDK"))
    }

    type ChecksStream = ReceiverStream<Result<v1::ChecksResponse, Status>>;

    async fn checks(&self, request: Request<Streaming<v1::ChecksRequest>>) -> Answer<Self::ChecksStream> {
        let (sender, receiver) = mpsc::channel(64);
        let mut requests = request.into_inner();
        let fake = self.clone();
        let accepted = self.call("checks", |_| Ok(ReceiverStream::new(receiver)))?;
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                fake.hear(request, &sender);
            }
            fake.state().log.push("stream closed".into());
            fake.touch();
        });
        Ok(accepted)
    }
}

impl Fake {
    fn hear(&self, request: v1::ChecksRequest, sender: &mpsc::Sender<Result<v1::ChecksResponse, Status>>) {
        let mut state = self.state();
        match request.kind.expect("every request has a kind") {
            v1::checks_request::Kind::Registration(registration) => {
                state.registrations.push(registration);
                state.streams.push(sender.clone());
                let kind = Some(v1::checks_response::Kind::Registered(v1::Registered {}));
                sender.try_send(Ok(v1::ChecksResponse { kind })).expect("there is room");
            }
            v1::checks_request::Kind::Answer(answer) => {
                state.answers.push((answer.transaction_id.clone(), answer.resolution()));
            }
        }
        drop(state);
        self.touch();
    }
}

#[tonic::async_trait]
impl Queues for Fake {
    async fn send(&self, request: Request<v1::SendRequest>) -> Answer<v1::SendResponse> {
        let request = request.into_inner();
        self.call("send", |state| {
            let place = v1::Place { topic: "orders".into(), queue: 0, offset: 7 };
            let receipt = v1::MessageReceipt {
                message_id: "m".into(),
                released: Some(v1::message_receipt::Released::Place(place)),
            };
            let messages = vec![receipt; request.messages.len()];
            state.sent.insert(request.request_id.clone(), request);
            Ok(v1::SendResponse { messages })
        })
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Answer<v1::ReceiveResponse> {
        let request = request.into_inner();
        let wait = Duration::try_from(request.wait.unwrap_or_default()).expect("not negative");
        let there_is_one = self.until("a message", |state| !state.waiting.is_empty());
        // In vain or not, the answer below says it.
        drop(tokio::time::timeout(wait, there_is_one).await);
        self.call("receive", |state| {
            let count = state.waiting.len().min(request.max_messages as usize);
            Ok(v1::ReceiveResponse { deliveries: state.waiting.drain(..count).collect() })
        })
    }

    async fn ack(&self, request: Request<v1::AckRequest>) -> Answer<v1::AckResponse> {
        let handles = request.into_inner().receipt_handles;
        self.call("ack", |state| {
            let result = |handle: &String| match state.expired.contains(handle) {
                false => v1::AckResult { ok: true, ..v1::AckResult::default() },
                true => v1::AckResult {
                    ok: false,
                    reason: "REASON_RECEIPT_EXPIRED".into(),
                    message: "the lease ended".into(),
                },
            };
            let results = handles.iter().map(result).collect();
            state.acks.push(handles);
            Ok(v1::AckResponse { results })
        })
    }

    async fn extend(&self, _: Request<v1::ExtendRequest>) -> Answer<v1::ExtendResponse> {
        self.call("extend", |state| {
            state.extensions += 1;
            Ok(v1::ExtendResponse { invisible_until: Some(SystemTime::UNIX_EPOCH.into()) })
        })
    }

    async fn retry_later(&self, request: Request<v1::RetryLaterRequest>) -> Answer<v1::RetryLaterResponse> {
        let request = request.into_inner();
        self.call("retry_later", |state| {
            state.returned.push(request);
            let at = SystemTime::UNIX_EPOCH.into();
            Ok(v1::RetryLaterResponse { outcome: Some(v1::retry_later_response::Outcome::VisibleAt(at)) })
        })
    }
}
