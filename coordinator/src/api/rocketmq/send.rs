//! Messages in: plain, in order, delayed; and a delayed one out again.

use halfmq_core::{MessageId, Place, ProducerGroup, Receipt, RequestId, Send, Timestamp};
use halfmq_proto::rocketmq as v2;
use tonic::Request;
use v2::{Code, MessageType};

use super::caller::Caller;
use super::from_wire::Incoming;
use super::status::{Refusal, ok};
use super::{Door, from_wire};
use crate::service::Recall;

impl Door {
    pub(super) async fn send(
        &self,
        request: Request<v2::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        let messages = request.into_inner().messages.into_iter().map(from_wire::message);
        let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = messages.first() else {
            return Err(Refusal::new(Code::MessageCorrupted, "there is no message"));
        };
        if messages.iter().any(|other| other.message.topic != first.message.topic) {
            let why = "all messages of one send must be for the same topic; nothing was stored";
            return Err(Refusal::new(Code::MessageCorrupted, why));
        }
        let group = from_wire::producer_group(&first.message.topic)?;
        if messages.iter().any(|other| other.kind == MessageType::Transaction) {
            return match (messages.pop(), messages.is_empty()) {
                (Some(half), true) => self.prepare(&caller, group, half).await,
                (Some(_) | None, _) => {
                    let why = "a transaction has one half message, sent by itself; nothing was stored";
                    Err(Refusal::new(Code::BadRequest, why))
                }
            };
        }
        self.release(&caller, group, messages).await
    }

    async fn release(
        &self,
        caller: &Caller,
        group: ProducerGroup,
        messages: Vec<Incoming>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        let request_id = messages.first().map(|first| request_id(caller, &first.id)).transpose()?;
        let (messages, ids): (Vec<_>, Vec<_>) =
            messages.into_iter().map(|incoming| (incoming.message, incoming.id)).unzip();
        let receipt: Receipt = self.service.send(group, Send::new(request_id, messages)?).await?;
        let entry = |(message_id, (id, released)): (String, (MessageId, Result<Place, Timestamp>))| {
            let (offset, recall_handle) = match released {
                Ok(place) => (i64::try_from(place.offset).unwrap_or(i64::MAX), String::new()),
                Err(due) => (0, recall_handle(id, due)),
            };
            v2::SendResultEntry {
                status: Some(ok()),
                message_id,
                offset,
                recall_handle,
                ..Default::default()
            }
        };
        let entries = ids.into_iter().zip(receipt.messages).map(entry).collect();
        Ok(v2::SendMessageResponse { status: None, entries })
    }

    pub(super) async fn recall(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Result<v2::RecallMessageResponse, Refusal> {
        self.caller(request.metadata())?;
        let v2::RecallMessageRequest { topic, recall_handle } = request.into_inner();
        let topic = from_wire::topic(topic.as_ref())?;
        let (message, due) = recalled(&recall_handle)
            .ok_or_else(|| Refusal::new(Code::BadRequest, "the recall handle is malformed"))?;
        self.service.recall(Recall { topic, message, due }).await?;
        Ok(v2::RecallMessageResponse { status: None, message_id: message.to_string() })
    }
}

/// The same message sent again by the same client is recognised, and answered with what the first one got.
pub(super) fn request_id(caller: &Caller, message_id: &str) -> Result<RequestId, Refusal> {
    let too_long =
        |_| Refusal::new(Code::IllegalMessageId, "client id and message id have more than 254 bytes");
    format!("{}/{message_id}", caller.client).parse().map_err(too_long)
}

/// `<time in microseconds>-<message id>`: where the message waits.
fn recall_handle(id: MessageId, due: Timestamp) -> String {
    format!("{}-{id}", due.as_micros())
}

fn recalled(handle: &str) -> Option<(MessageId, Timestamp)> {
    let (due, id) = handle.split_once('-')?;
    Some((id.parse().ok()?, Timestamp::from_micros(due.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use halfmq_core::TransactionId;

    use super::*;

    #[test]
    fn recall_handles_come_back_as_they_were() {
        let id = MessageId { transaction: TransactionId::from_u128(7 << 80 | 9), index: 3 };
        let due = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(recalled(&recall_handle(id, due)), Some((id, due)));
        for handle in ["", "-", "1", "1-2", "1-2-3", "x-00000000-0000-0000-0000-000000000000-0"] {
            assert_eq!(recalled(handle), None, "{handle:?}");
        }
    }
}
