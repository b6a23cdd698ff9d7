//! `halfmq.v1.Queues`.

use std::time::Duration;

use halfmq_core::{ReceiptHandle, Receive, Rejection, Retry, Send, TagFilter, limits};
use halfmq_proto::v1;
use tonic::{Request, Response, Status};
use v1::queues_server::Queues;

use super::status::{answer, reason};
use super::{Door, from_wire, to_wire};
use crate::service::{Ack, Lease, Refused};

/// Owner of the sequences of senders that do not name themselves.
const DEFAULT_PRODUCER_GROUP: &str = "default";
const DEFAULT_INVISIBLE: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl Queues for Door {
    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let request = request.into_inner();
        let send = async {
            let group = match request.producer_group.as_str() {
                "" => DEFAULT_PRODUCER_GROUP.parse()?,
                named => named.parse()?,
            };
            let request_id = from_wire::optional(&request.request_id)?;
            let send = Send::new(request_id, from_wire::messages(request.messages)?)?;
            let receipt = self.service.send(group, send).await?;
            Ok(v1::SendResponse { messages: to_wire::message_receipts(&receipt) })
        };
        answer("send", send).await
    }

    async fn receive(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Result<Response<v1::ReceiveResponse>, Status> {
        let request = request.into_inner();
        let receive = async {
            let receive = Receive {
                group: request.group.parse()?,
                topic: request.topic.parse()?,
                max: request.max_messages.max(1) as usize,
                invisible: span("invisible", request.invisible)?.unwrap_or(DEFAULT_INVISIBLE),
                filter: TagFilter::parse(&request.tag_filter)?,
                start: from_wire::start(request.start)?,
            };
            let wait = span("wait", request.wait)?.unwrap_or_default();
            if wait > limits::WAIT_MAX {
                return Err(
                    Rejection::Invalid { what: "wait", why: "it must be at most 60 s".to_owned() }.into()
                );
            }
            let leased = self.service.receive(receive, wait).await?;
            let deliveries =
                leased.deliveries.into_iter().map(|(delivery, content)| to_wire::delivery(delivery, content));
            Ok(v1::ReceiveResponse { deliveries: deliveries.collect() })
        };
        answer("receive", receive).await
    }

    async fn ack(&self, request: Request<v1::AckRequest>) -> Result<Response<v1::AckResponse>, Status> {
        let request = request.into_inner();
        let ack = async {
            // Each handle is answered by itself, a malformed one as well.
            let handles: Vec<Result<ReceiptHandle, Rejection>> =
                request.receipt_handles.iter().map(|handle| handle.parse()).collect();
            let legal: Vec<_> = handles.iter().flatten().copied().collect();
            let (group, topic) = (request.group.parse()?, request.topic.parse()?);
            let acked = match legal.is_empty() && !handles.is_empty() {
                true => Vec::new(),
                false => self.service.ack(Ack { group, topic, handles: legal }).await?.results,
            };
            let mut acked = acked.into_iter();
            let result =
                |handle: Result<_, _>| ack_result(handle.and_then(|_| acked.next().unwrap_or(Ok(()))));
            Ok(v1::AckResponse { results: handles.into_iter().map(result).collect() })
        };
        answer("ack", ack).await
    }

    async fn extend(
        &self,
        request: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        let request = request.into_inner();
        let extend = async {
            let lease = lease(&request.group, &request.topic, &request.receipt_handle)?;
            let invisible = span("invisible", request.invisible)?.unwrap_or(DEFAULT_INVISIBLE);
            let until = self.service.extend(lease, invisible).await?;
            Ok(v1::ExtendResponse { invisible_until: Some(to_wire::timestamp(until)) })
        };
        answer("extend", extend).await
    }

    async fn retry_later(
        &self,
        request: Request<v1::RetryLaterRequest>,
    ) -> Result<Response<v1::RetryLaterResponse>, Status> {
        let request = request.into_inner();
        let retry = async {
            let lease = lease(&request.group, &request.topic, &request.receipt_handle)?;
            let delay = span("delay", request.delay)?;
            let outcome = match self.service.retry_later(lease, delay, request.reason).await? {
                Retry::Visible(at) => v1::retry_later_response::Outcome::VisibleAt(to_wire::timestamp(at)),
                Retry::DeadLetter(place) => {
                    v1::retry_later_response::Outcome::DeadLetter(to_wire::place(&place))
                }
            };
            Ok(v1::RetryLaterResponse { outcome: Some(outcome) })
        };
        answer("retry_later", retry).await
    }
}

fn lease(group: &str, topic: &str, handle: &str) -> Result<Lease, Rejection> {
    Ok(Lease { group: group.parse()?, topic: topic.parse()?, handle: handle.parse()? })
}

fn span(what: &'static str, span: Option<prost_types::Duration>) -> Result<Option<Duration>, Rejection> {
    span.map(|span| from_wire::duration(what, span)).transpose()
}

fn ack_result(result: Result<(), Rejection>) -> v1::AckResult {
    match result {
        Ok(()) => v1::AckResult { ok: true, reason: String::new(), message: String::new() },
        Err(rejection) => {
            let refused = Refused::Rejected(rejection);
            let reason = reason(&refused).1.as_str_name().to_owned();
            v1::AckResult { ok: false, reason, message: refused.to_string() }
        }
    }
}
