//! `halfmq.v1.Queues`.

use halfmq_core::{ReceiptHandle, Receive, Rejection, TagFilter, limits};
use halfmq_proto::v1;
use tonic::{Request, Response, Status};
use v1::queues_server::Queues;

use super::status::{answer, reason};
use super::{Door, from_wire, to_wire};
use crate::service::{Ack, Lease, Refused};

#[tonic::async_trait]
impl Queues for Door {
    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let send = async {
            let (group, send) = from_wire::send(request.into_inner())?;
            Ok(to_wire::sent(&self.service.send(group, send).await?))
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
                invisible: from_wire::invisible(request.invisible)?,
                filter: TagFilter::parse(&request.tag_filter)?,
                start: from_wire::start(request.start)?,
            };
            let wait = from_wire::span("wait", request.wait)?.unwrap_or_default();
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
            let handles = from_wire::handles(&request.receipt_handles);
            let legal: Vec<_> = handles.iter().flatten().copied().collect();
            let (group, topic) = (request.group.parse()?, request.topic.parse()?);
            let results = match legal.is_empty() && !handles.is_empty() {
                true => Vec::new(),
                false => self.service.ack(Ack { group, topic, handles: legal }).await?.results,
            };
            Ok(acked(handles, results))
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
            let invisible = from_wire::invisible(request.invisible)?;
            Ok(to_wire::extended(self.service.extend(lease, invisible).await?))
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
            let delay = from_wire::span("delay", request.delay)?;
            Ok(to_wire::given_back(&self.service.retry_later(lease, delay, request.reason).await?))
        };
        answer("retry_later", retry).await
    }
}

fn lease(group: &str, topic: &str, handle: &str) -> Result<Lease, Rejection> {
    Ok(Lease { group: group.parse()?, topic: topic.parse()?, handle: handle.parse()? })
}

/// The results of an ack, in the order of its handles; `legal` are those of the handles that are well-formed.
pub(super) fn acked(
    handles: Vec<Result<ReceiptHandle, Rejection>>,
    legal: Vec<Result<(), Rejection>>,
) -> v1::AckResponse {
    let mut legal = legal.into_iter();
    let result =
        |handle: Result<_, _>| ack_result(handle.and_then(|_: ReceiptHandle| legal.next().unwrap_or(Ok(()))));
    v1::AckResponse { results: handles.into_iter().map(result).collect() }
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
