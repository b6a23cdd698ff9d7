//! What becomes of deliveries: done, once more later, or given up.

use halfmq_core::{ConsumerGroup, Rejection, TopicName};
use halfmq_proto::rocketmq as v2;
use tonic::Request;
use v2::{ClientType, Code};

use super::clients::Client;
use super::status::{Refusal, ok};
use super::{Door, from_wire};
use crate::service::{Ack, GiveUp, Lease, Refused};

const FAILED: &str = "the consumer failed on it";
const GIVEN_UP: &str = "the consumer gave it up after trying by itself";

impl Door {
    /// Each handle is answered by itself, a malformed one as well.
    pub(super) async fn ack(
        &self,
        request: Request<v2::AckMessageRequest>,
    ) -> Result<v2::AckMessageResponse, Refusal> {
        self.caller(request.metadata())?;
        let v2::AckMessageRequest { group, topic, entries } = request.into_inner();
        let (group, topic) = (from_wire::group(group.as_ref())?, from_wire::topic(topic.as_ref())?);
        let handles: Vec<_> = entries.iter().map(|entry| from_wire::handle(&entry.receipt_handle)).collect();
        let legal: Vec<_> = handles.iter().flatten().copied().collect();
        let mut results = match legal.is_empty() {
            true => Vec::new(),
            false => self.settle(group, topic, legal).await?,
        }
        .into_iter();
        let mut refused = 0;
        let mut entry = |(entry, handle): (v2::AckMessageEntry, Result<_, Refusal>)| {
            let result = handle.and_then(|_| match results.next() {
                Some(result) => result.map_err(|rejection| Refusal::of_delivery(&rejection.into())),
                None => Err(Refusal::new(Code::InternalError, "the store did not answer")),
            });
            refused += usize::from(result.is_err());
            let status = Some(result.map_or_else(Refusal::status, |()| ok()));
            let v2::AckMessageEntry { message_id, receipt_handle, .. } = entry;
            v2::AckMessageResultEntry { message_id, receipt_handle, status }
        };
        let entries: Vec<_> = entries.into_iter().zip(handles).map(&mut entry).collect();
        let status = match (refused, entries.as_slice()) {
            (0, _) => ok(),
            (_, [only]) => only.status.clone().unwrap_or_default(),
            (_, _) => Refusal::new(Code::MultipleResults, "see the entries").status(),
        };
        Ok(v2::AckMessageResponse { status: Some(status), entries })
    }

    async fn settle(
        &self,
        group: ConsumerGroup,
        topic: TopicName,
        handles: Vec<halfmq_core::ReceiptHandle>,
    ) -> Result<Vec<Result<(), Rejection>>, Refusal> {
        for handle in &handles {
            let lease = Lease { group: group.clone(), topic: topic.clone(), handle: *handle };
            self.leases.forget(&lease);
        }
        let acked = self.service.ack(Ack { group, topic, handles }).await;
        Ok(acked.map_err(|refused| Refusal::of_delivery(&refused))?.results)
    }

    /// A simple consumer keeps the delivery for so long from now on. A push consumer has failed on it and
    /// wants it back by then.
    pub(super) async fn change_invisible(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Result<v2::ChangeInvisibleDurationResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        let request = request.into_inner();
        let lease = lease(request.group.as_ref(), request.topic.as_ref(), &request.receipt_handle)?;
        let invisible = from_wire::invisible(request.invisible_duration)?;
        self.leases.forget(&lease);
        let client = self.clients.find(&caller.client);
        let changed = match client.as_deref().map(Client::kind) {
            Some(ClientType::PushConsumer) => {
                // What it asks for follows from the policy it was told when it connected, at best: one
                // library takes seconds for milliseconds. The group's policy of today says how long.
                self.service.retry_later(lease, None, FAILED.to_owned()).await.map(drop)
            }
            Some(_) | None => {
                let extended = self.service.extend(lease.clone(), invisible).await.map(drop);
                // It may be visible earlier than those who wait for it think.
                self.service.pass_on(&lease.topic, &lease.group);
                extended
            }
        };
        changed.map_err(|refused: Refused| Refusal::of_delivery(&refused))?;
        Ok(v2::ChangeInvisibleDurationResponse { status: None, receipt_handle: request.receipt_handle })
    }

    pub(super) async fn give_up(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Refusal> {
        self.caller(request.metadata())?;
        let request = request.into_inner();
        let lease = lease(request.group.as_ref(), request.topic.as_ref(), &request.receipt_handle)?;
        self.leases.forget(&lease);
        let attempts = u32::try_from(request.delivery_attempt).unwrap_or(0);
        let give_up = GiveUp { lease, attempts, reason: GIVEN_UP.to_owned() };
        self.service.give_up(give_up).await.map_err(|refused| Refusal::of_delivery(&refused))?;
        Ok(v2::ForwardMessageToDeadLetterQueueResponse::default())
    }
}

fn lease(group: Option<&v2::Resource>, topic: Option<&v2::Resource>, handle: &str) -> Result<Lease, Refusal> {
    let (group, topic) = (from_wire::group(group)?, from_wire::topic(topic)?);
    Ok(Lease { group, topic, handle: from_wire::handle(handle)? })
}
