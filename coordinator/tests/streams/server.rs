//! A coordinator on a free port, and clients that speak the generated types.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::api::halfmq;
use halfmq_coordinator::checker::{Checker, CheckerSettings};
use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::service::{Arrivals, Service, ServiceSettings};
use halfmq_coordinator::store::Store;
use halfmq_coordinator::store::embedded::{Embedded, EngineOptions, JournalOptions};
use halfmq_coordinator::{connections, listener};
use halfmq_core::CheckPolicy;
use halfmq_proto::REASON_METADATA;
use halfmq_proto::v1::{self, consume_answer, consume_operation, produce_answer, produce_operation};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use v1::admin_client::AdminClient;
use v1::streams_client::StreamsClient;

/// Longest time that a test waits for anything that must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Stream messages that a client sends ahead.
const OUTSTANDING_MAX: usize = 8;

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what} did not come"),
    }
}

/// A coordinator with its topic `orders`.
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    _directory: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let journal = JournalOptions { segment_bytes: 4 * 1024 * 1024, ..JournalOptions::default() };
        let options = EngineOptions { journal, ..EngineOptions::default() };
        let (store, _) = Embedded::open(directory.path(), options).expect("an empty directory");
        let store: Arc<dyn Store> = Arc::new(store);
        let arrivals = Arc::new(Arrivals::default());
        let (stop, stopped) = watch::channel(false);
        let (clock, settings) = (Clock::System, CheckerSettings::default());
        let checker = Checker::new(Arc::clone(&store), clock.clone(), settings, Arc::new(|_| {}));
        let settings =
            ServiceSettings { create_topics: false, topic_queues: 2, policy: CheckPolicy::default() };
        let service = Service::new(store, clock, checker, arrivals, settings, stopped.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let incoming = listener::incoming(listener, listener::tls(None).expect("a certificate"));
        tokio::spawn(connections::serve(incoming, halfmq::routes(Arc::new(service)), stopped));
        let server = Self { address, stop, _directory: directory };
        let create = v1::CreateTopicRequest { topic: "orders".into(), queues: 2 };
        server.admin().create_topic(create).await.expect("a new topic");
        server
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.tcp_nodelay(true).connect_lazy()
    }

    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    pub(crate) async fn orders(&self) -> v1::Topic {
        let describe = v1::DescribeTopicRequest { topic: "orders".into() };
        self.admin().describe_topic(describe).await.expect("it exists").into_inner()
    }

    /// A connection and a stream of its own.
    pub(crate) async fn produce(&self) -> Produce {
        let (requests, incoming) = mpsc::channel(OUTSTANDING_MAX);
        let answers = StreamsClient::new(self.channel()).produce(ReceiverStream::new(incoming)).await;
        Produce { requests, answers: answers.expect("a stream").into_inner() }
    }

    /// A connection and a stream of its own, subscribed to `orders` for `shipping`.
    pub(crate) async fn consume(&self, credits: u32) -> Consume {
        let mut consume = self.unsubscribed().await;
        let subscription = v1::Subscription {
            topic: "orders".into(),
            group: "shipping".into(),
            ..v1::Subscription::default()
        };
        let subscription = Some(subscription);
        consume.say(v1::ConsumeRequest { subscription, credits, operations: Vec::new() }).await;
        let first = consume.hear().await.expect("a stream").expect("a first message");
        assert!(first.subscribed);
        consume
    }

    pub(crate) async fn unsubscribed(&self) -> Consume {
        let (requests, incoming) = mpsc::channel(OUTSTANDING_MAX);
        let responses = StreamsClient::new(self.channel()).consume(ReceiverStream::new(incoming)).await;
        Consume {
            requests,
            responses: responses.expect("a stream").into_inner(),
            deliveries: Vec::new(),
            answers: HashMap::new(),
        }
    }

    /// Sends one message for each body.
    pub(crate) async fn release(&self, bodies: &[&str]) {
        let mut produce = self.produce().await;
        produce.say((0..).zip(bodies.iter().map(|body| send("", body)))).await;
        for (id, outcome) in produce.answers(bodies.len()).await {
            assert!(matches!(outcome, produce_answer::Outcome::Sent(_)), "{id}: {outcome:?}");
        }
    }
}

/// A sender that leads nowhere.
fn nowhere<T>() -> mpsc::Sender<T> {
    mpsc::channel(1).0
}

/// One Produce stream.
pub(crate) struct Produce {
    pub(crate) requests: mpsc::Sender<v1::ProduceRequest>,
    answers: Streaming<v1::ProduceResponse>,
}

impl Produce {
    /// The client has said all it will say.
    pub(crate) fn half_closed(self) -> Self {
        Self { requests: nowhere(), ..self }
    }

    /// One stream message.
    pub(crate) async fn say(&self, operations: impl IntoIterator<Item = (u64, produce_operation::Verb)>) {
        self.requests.send(request(operations)).await.expect("the stream is open");
    }

    pub(crate) async fn hear(&mut self) -> Result<Option<v1::ProduceResponse>, Status> {
        within("an answer", self.answers.message()).await
    }

    /// That many answers, by correlation id. None comes twice.
    pub(crate) async fn answers(&mut self, count: usize) -> HashMap<u64, produce_answer::Outcome> {
        let mut outcomes = HashMap::new();
        while outcomes.len() < count {
            for answer in self.hear().await.expect("a stream").expect("it goes on").answers {
                let outcome = answer.outcome.expect("every answer has an outcome");
                let before = outcomes.insert(answer.correlation_id, outcome);
                assert_eq!(before, None, "{} was answered twice", answer.correlation_id);
            }
        }
        assert_eq!(outcomes.len(), count);
        outcomes
    }
}

pub(crate) fn request(
    operations: impl IntoIterator<Item = (u64, produce_operation::Verb)>,
) -> v1::ProduceRequest {
    let operation = |(correlation_id, verb)| v1::ProduceOperation { correlation_id, verb: Some(verb) };
    v1::ProduceRequest { operations: operations.into_iter().map(operation).collect() }
}

/// One Consume stream, and what came on it so far.
pub(crate) struct Consume {
    pub(crate) requests: mpsc::Sender<v1::ConsumeRequest>,
    responses: Streaming<v1::ConsumeResponse>,
    pub(crate) deliveries: Vec<v1::Delivery>,
    pub(crate) answers: HashMap<u64, consume_answer::Outcome>,
}

impl Consume {
    /// The client has said all it will say.
    pub(crate) fn half_closed(self) -> Self {
        Self { requests: nowhere(), ..self }
    }

    pub(crate) async fn say(&self, request: v1::ConsumeRequest) {
        self.requests.send(request).await.expect("the stream is open");
    }

    pub(crate) async fn credit(&self, credits: u32) {
        self.say(v1::ConsumeRequest { credits, ..v1::ConsumeRequest::default() }).await;
    }

    pub(crate) async fn settle(&self, verbs: impl IntoIterator<Item = (u64, consume_operation::Verb)>) {
        let operation = |(correlation_id, verb)| v1::ConsumeOperation { correlation_id, verb: Some(verb) };
        let operations = verbs.into_iter().map(operation).collect();
        self.say(v1::ConsumeRequest { operations, ..v1::ConsumeRequest::default() }).await;
    }

    pub(crate) async fn hear(&mut self) -> Result<Option<v1::ConsumeResponse>, Status> {
        let response = within("a response", self.responses.message()).await?;
        if let Some(response) = &response {
            self.deliveries.extend(response.deliveries.clone());
            for answer in response.answers.clone() {
                let outcome = answer.outcome.expect("every answer has an outcome");
                assert_eq!(self.answers.insert(answer.correlation_id, outcome), None);
            }
        }
        Ok(response)
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            self.hear().await.expect("a stream").expect("it goes on");
        }
    }

    /// Until the stream ends in good order, or why it does not.
    pub(crate) async fn drain(&mut self) -> Result<(), Status> {
        while self.hear().await?.is_some() {}
        Ok(())
    }

    pub(crate) fn handles(&self) -> Vec<String> {
        self.deliveries.iter().map(|delivery| delivery.receipt_handle.clone()).collect()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        let body = |delivery: &v1::Delivery| {
            let message = delivery.message.as_ref().expect("a delivery has a message");
            String::from_utf8_lossy(&message.body).into_owned()
        };
        self.deliveries.iter().map(body).collect()
    }
}

pub(crate) fn message(body: &str) -> v1::Message {
    v1::Message { topic: "orders".into(), body: body.to_owned().into(), ..v1::Message::default() }
}

pub(crate) fn prepare(request_id: &str, body: &str) -> produce_operation::Verb {
    produce_operation::Verb::Prepare(v1::PrepareRequest {
        producer_group: "shop".into(),
        request_id: request_id.into(),
        messages: vec![message(body)],
        ..v1::PrepareRequest::default()
    })
}

pub(crate) fn commit(transaction_id: &str) -> produce_operation::Verb {
    let transaction_id = transaction_id.to_owned();
    produce_operation::Verb::Commit(v1::CommitRequest { transaction_id, ..v1::CommitRequest::default() })
}

pub(crate) fn rollback(transaction_id: &str) -> produce_operation::Verb {
    let transaction_id = transaction_id.to_owned();
    produce_operation::Verb::Rollback(v1::RollbackRequest {
        transaction_id,
        ..v1::RollbackRequest::default()
    })
}

pub(crate) fn send(request_id: &str, body: &str) -> produce_operation::Verb {
    produce_operation::Verb::Send(v1::SendRequest {
        request_id: request_id.into(),
        messages: vec![message(body)],
        ..v1::SendRequest::default()
    })
}

/// The id that a prepare brought.
pub(crate) fn transaction(outcome: &produce_answer::Outcome) -> String {
    match outcome {
        produce_answer::Outcome::Prepared(prepared) => prepared.transaction_id.clone(),
        other @ (produce_answer::Outcome::Decided(_)
        | produce_answer::Outcome::Sent(_)
        | produce_answer::Outcome::Refused(_)) => panic!("not prepared: {other:?}"),
    }
}

/// The reason in the trailing metadata.
pub(crate) fn reason(status: &Status) -> Option<&str> {
    status.metadata().get(REASON_METADATA)?.to_str().ok()
}
