//! The door for RocketMQ 5 clients, `apache.rocketmq.v2`: they work unmodified.
//!
//! ```text
//!   unary calls ─► caller (who, may they?) ─► from_wire ─► verbs of the service ─► to_wire + status
//!   Telemetry   ─► stream: settings both ways; questions of the checker for each topic the client sends to
//!   clients      remembers who they are, what they send to, and which streams are theirs
//!   leases       prolongs what push consumers work on, as long as they live
//! ```
//!
//! A transaction of theirs has one half message. Its producer group is named after the topic, because any
//! producer of a topic may be asked about it. What differs from the reference server, and why, stands in
//! `proto/apache/rocketmq/README.md`. Deliberately absent: SQL filters, offsets moved by clients, lite topics.

mod caller;
mod clients;
mod from_wire;
mod hand_over;
mod leases;
mod receive;
mod route;
mod send;
mod settings;
mod settle;
mod status;
mod stream;
mod to_wire;
mod transactions;
mod users;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use halfmq_core::ConsumerGroup;
use halfmq_proto::rocketmq as v2;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use v2::messaging_service_server::{MessagingService, MessagingServiceServer};

use crate::service::Service;
use clients::Clients;
use hand_over::HandOver;
use leases::Leases;
use status::{Refusal, answer};
pub use users::{BadUser, Users};

/// A request at the most: the largest transaction, with room for its frame.
const REQUEST_BYTES_MAX: usize = halfmq_core::limits::TRANSACTION_BYTES_MAX + 1024 * 1024;

/// What an operator can choose about this door.
#[derive(Clone, Debug)]
pub struct RocketmqSettings {
    /// Groups whose push consumers try again by themselves, in order, before they give up.
    pub fifo_groups: HashSet<ConsumerGroup>,
    /// The lease of a push consumer's message, prolonged as long as the consumer lives.
    pub push_invisible: Duration,
    /// Who may come in; none: everybody.
    pub users: Users,
}

/// One door to the service, shared by all calls.
struct Door {
    service: Arc<Service>,
    clients: Clients,
    leases: Leases,
    settings: RocketmqSettings,
}

/// The service of `apache.rocketmq.v2`.
#[must_use]
pub fn messaging(
    service: Arc<Service>,
    settings: RocketmqSettings,
) -> MessagingServiceServer<impl MessagingService> {
    let door =
        Door { service, clients: Clients::default(), leases: Leases::new(settings.push_invisible), settings };
    let door = Arc::new(door);
    tokio::spawn(leases::prolong(Arc::clone(&door)));
    MessagingServiceServer::new(Shared(door)).max_decoding_message_size(REQUEST_BYTES_MAX)
}

struct Shared(Arc<Door>);

type Commands = Pin<Box<dyn Stream<Item = Result<v2::TelemetryCommand, Status>> + Send>>;
type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MessagingService for Shared {
    type ReceiveMessageStream = HandOver;
    type PullMessageStream = Nothing<v2::PullMessageResponse>;
    type TelemetryStream = Commands;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        answer("rocketmq.query_route", self.0.query_route(request)).await
    }

    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        answer("rocketmq.heartbeat", async { self.0.heartbeat(&request) }).await
    }

    async fn send_message(
        &self,
        request: Request<v2::SendMessageRequest>,
    ) -> Answer<v2::SendMessageResponse> {
        answer("rocketmq.send_message", self.0.send(request)).await
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Answer<v2::QueryAssignmentResponse> {
        answer("rocketmq.query_assignment", self.0.query_assignment(request)).await
    }

    async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Answer<HandOver> {
        Ok(Response::new(self.0.receive(request).await))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        answer("rocketmq.ack_message", self.0.ack(request)).await
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        answer("rocketmq.forward_to_dead_letter_queue", self.0.give_up(request)).await
    }

    async fn pull_message(
        &self,
        _: Request<v2::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        Err(absent())
    }

    async fn update_offset(&self, _: Request<v2::UpdateOffsetRequest>) -> Answer<v2::UpdateOffsetResponse> {
        Err(absent())
    }

    async fn get_offset(&self, _: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        Err(absent())
    }

    async fn query_offset(&self, _: Request<v2::QueryOffsetRequest>) -> Answer<v2::QueryOffsetResponse> {
        Err(absent())
    }

    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Answer<v2::EndTransactionResponse> {
        answer("rocketmq.end_transaction", self.0.end_transaction(request)).await
    }

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<Commands> {
        Ok(Response::new(stream::commands(Arc::clone(&self.0), request)))
    }

    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        answer("rocketmq.notify_client_termination", async { self.0.terminate(&request) }).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        answer("rocketmq.change_invisible_duration", self.0.change_invisible(request)).await
    }

    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Answer<v2::RecallMessageResponse> {
        answer("rocketmq.recall_message", self.0.recall(request)).await
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        Err(absent())
    }
}

/// The reference server does not answer these either, and no client library needs them.
fn absent() -> Status {
    Status::unimplemented("HalfMQ does not answer this call; see proto/apache/rocketmq/README.md")
}

impl Door {
    /// They come every 10 to 30 seconds, and tell what kind of client it is.
    fn heartbeat(&self, request: &Request<v2::HeartbeatRequest>) -> Result<v2::HeartbeatResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        let client = self.clients.enter(&caller)?;
        client.beat(request.get_ref().client_type());
        Ok(v2::HeartbeatResponse::default())
    }

    fn terminate(
        &self,
        request: &Request<v2::NotifyClientTerminationRequest>,
    ) -> Result<v2::NotifyClientTerminationResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        self.clients.leave(&caller.client);
        Ok(v2::NotifyClientTerminationResponse::default())
    }
}
