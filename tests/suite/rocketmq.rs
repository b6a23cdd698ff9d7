//! The door for RocketMQ 5 clients, call by call: what the client libraries trip over, and what only a
//! hand-made call can show. The libraries themselves are run by `tests/rocketmq`.

mod receiving;
mod refusals;
mod routes;
mod streams;
mod transactions;

use halfmq_proto::rocketmq as v2;
use halfmq_tests::{Coordinator, within};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use v2::messaging_service_client::MessagingServiceClient;
use v2::receive_message_response::Content;
use v2::telemetry_command::Command;
use v2::{Code, MessageType};

/// A client that says what it is told to say.
#[derive(Clone)]
struct Peer {
    client: MessagingServiceClient<Channel>,
    headers: Vec<(&'static str, String)>,
}

/// A stream of a client.
struct Line {
    says: mpsc::Sender<v2::TelemetryCommand>,
    hears: Streaming<v2::TelemetryCommand>,
}

impl Peer {
    async fn new(coordinator: &Coordinator, id: &str) -> Self {
        Self::with_headers(coordinator, vec![("x-mq-client-id", id.to_owned())]).await
    }

    async fn with_headers(coordinator: &Coordinator, headers: Vec<(&'static str, String)>) -> Self {
        let address = format!("http://{}", coordinator.grpc());
        let channel = Endpoint::from_shared(address).expect("a legal address").connect_lazy();
        let client = MessagingServiceClient::new(channel)
            .max_decoding_message_size(32 << 20)
            .max_encoding_message_size(32 << 20);
        Self { client, headers }
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(*name, value.parse().expect("a legal header"));
        }
        request
    }

    async fn send(&self, messages: impl IntoIterator<Item = v2::Message>) -> v2::SendMessageResponse {
        let request = self.request(v2::SendMessageRequest { messages: messages.into_iter().collect() });
        within("an answer", self.client.clone().send_message(request)).await.expect("gRPC is OK").into_inner()
    }

    /// The transaction's id.
    async fn half(&self, topic: &str, id: &str, body: &str) -> String {
        let answer = self.send([message(topic, id, body, MessageType::Transaction)]).await;
        assert_eq!(code(&answer.status), Code::Ok, "{answer:?}");
        answer.entries[0].transaction_id.clone()
    }

    async fn end(&self, transaction_id: &str, resolution: v2::TransactionResolution) -> Code {
        let request = self.request(v2::EndTransactionRequest {
            topic: Some(resource("orders")),
            transaction_id: transaction_id.to_owned(),
            resolution: resolution.into(),
            ..v2::EndTransactionRequest::default()
        });
        let answer = within("an answer", self.client.clone().end_transaction(request)).await;
        code(&answer.expect("gRPC is OK").into_inner().status)
    }

    /// Status and messages.
    async fn receive(&self, request: v2::ReceiveMessageRequest) -> (Code, Vec<v2::Message>) {
        let answer = within("an answer", self.client.clone().receive_message(self.request(request))).await;
        frames(answer.expect("gRPC is OK").into_inner()).await
    }

    async fn ack(&self, topic: &str, group: &str, handles: &[&str]) -> v2::AckMessageResponse {
        let entry = |handle: &&str| v2::AckMessageEntry {
            receipt_handle: (*handle).to_owned(),
            ..v2::AckMessageEntry::default()
        };
        let request = self.request(v2::AckMessageRequest {
            group: Some(resource(group)),
            topic: Some(resource(topic)),
            entries: handles.iter().map(entry).collect(),
        });
        within("an answer", self.client.clone().ack_message(request)).await.expect("gRPC is OK").into_inner()
    }

    async fn route(&self, topic: &str) -> v2::QueryRouteResponse {
        let request = self.request(v2::QueryRouteRequest {
            topic: Some(resource(topic)),
            endpoints: Some(endpoints("127.0.0.1", 5)),
        });
        within("an answer", self.client.clone().query_route(request)).await.expect("gRPC is OK").into_inner()
    }

    async fn heartbeat(&self, kind: v2::ClientType) -> Code {
        let request = self.request(v2::HeartbeatRequest { group: None, client_type: kind.into() });
        let answer = within("an answer", self.client.clone().heartbeat(request)).await;
        code(&answer.expect("gRPC is OK").into_inner().status)
    }

    /// Opens a stream.
    async fn line(&self) -> Line {
        let (says, said) = mpsc::channel(8);
        let request = self.request(ReceiverStream::new(said));
        let answer = within("a stream", self.client.clone().telemetry(request)).await;
        Line { says, hears: answer.expect("gRPC is OK").into_inner() }
    }
}

impl Line {
    async fn settings(&self, settings: v2::Settings) {
        let command = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        self.says.send(command).await.expect("the stream is open");
    }

    async fn next(&mut self) -> v2::TelemetryCommand {
        within("a command", self.hears.next()).await.expect("the stream is open").expect("gRPC is OK")
    }

    /// The settings that come next.
    async fn echo(&mut self) -> v2::Settings {
        let command = self.next().await;
        assert_eq!(code(&command.status), Code::Ok);
        match command.command {
            Some(Command::Settings(settings)) => settings,
            other => panic!("settings were expected: {other:?}"),
        }
    }

    /// The question that comes next: transaction id and message.
    async fn question(&mut self) -> (String, v2::Message) {
        match self.next().await.command {
            Some(Command::RecoverOrphanedTransactionCommand(orphan)) => {
                (orphan.transaction_id, orphan.message.expect("with its message"))
            }
            other => panic!("a question was expected: {other:?}"),
        }
    }
}

async fn frames(mut stream: Streaming<v2::ReceiveMessageResponse>) -> (Code, Vec<v2::Message>) {
    let (mut status, mut messages) = (None, Vec::new());
    while let Some(frame) = within("a frame", stream.next()).await {
        match frame.expect("gRPC is OK").content {
            Some(Content::Status(given)) => status = Some(given),
            Some(Content::Message(message)) => messages.push(message),
            Some(Content::DeliveryTimestamp(_)) => {}
            None => panic!("one library crashes on a frame without content"),
        }
    }
    (code(&status), messages)
}

fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.to_owned() }
}

fn endpoints(host: &str, port: i32) -> v2::Endpoints {
    let addresses = vec![v2::Address { host: host.to_owned(), port }];
    v2::Endpoints { scheme: v2::AddressScheme::IPv4.into(), addresses }
}

fn message(topic: &str, id: &str, body: &str, kind: MessageType) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: id.to_owned(),
        message_type: kind.into(),
        ..v2::SystemProperties::default()
    };
    v2::Message {
        topic: Some(resource(topic)),
        system_properties: Some(system),
        body: body.to_owned().into(),
        ..v2::Message::default()
    }
}

fn receive(topic: &str, group: &str, wait_s: i64) -> v2::ReceiveMessageRequest {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let queue = v2::MessageQueue { topic: Some(resource(topic)), ..v2::MessageQueue::default() };
    v2::ReceiveMessageRequest {
        group: Some(resource(group)),
        message_queue: Some(queue),
        batch_size: 16,
        invisible_duration: seconds(30),
        long_polling_timeout: seconds(wait_s),
        ..v2::ReceiveMessageRequest::default()
    }
}

fn code(status: &Option<v2::Status>) -> Code {
    status.as_ref().expect("some libraries take no answer without a status").code()
}
