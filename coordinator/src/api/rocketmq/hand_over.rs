//! The answer to a receive: a status, the messages one by one, the time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use halfmq_core::{Delivery, Message, Receive};
use halfmq_proto::rocketmq as v2;
use tokio_stream::Stream;
use tonic::Status;
use v2::receive_message_response::Content;

use super::status::{Refusal, ok};
use super::to_wire;
use crate::clock::Clock;
use crate::service::{Lease, Service};

/// What is on its way to a consumer. What it did not take when it goes away is given back at once.
pub(super) struct HandOver {
    service: Arc<Service>,
    receive: Option<Receive>,
    status: Option<v2::Status>,
    deliveries: vec::IntoIter<(Delivery, Message)>,
    is_timed: bool,
}

impl HandOver {
    pub(super) fn new(service: Arc<Service>, receive: Receive, leased: Vec<(Delivery, Message)>) -> Self {
        let (status, deliveries) = (Some(ok()), leased.into_iter());
        Self { service, receive: Some(receive), status, deliveries, is_timed: false }
    }

    /// Also that there is nothing.
    pub(super) fn refused(service: &Arc<Service>, refusal: Refusal) -> Self {
        let (service, status) = (Arc::clone(service), Some(refusal.status()));
        Self { service, receive: None, status, deliveries: Vec::new().into_iter(), is_timed: false }
    }

    fn next(&mut self) -> Option<Content> {
        if let Some(status) = self.status.take() {
            return Some(Content::Status(status));
        }
        if let Some((delivery, content)) = self.deliveries.next() {
            return Some(Content::Message(to_wire::delivered(delivery, content)));
        }
        let is_timed = std::mem::replace(&mut self.is_timed, true);
        (!is_timed).then(|| Content::DeliveryTimestamp(to_wire::timestamp(Clock::System.now())))
    }
}

impl Stream for HandOver {
    type Item = Result<v2::ReceiveMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let content = self.next();
        Poll::Ready(content.map(|content| Ok(v2::ReceiveMessageResponse { content: Some(content) })))
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        let left: Vec<_> = self.deliveries.by_ref().collect();
        let Some(receive) = self.receive.take().filter(|_| !left.is_empty()) else { return };
        let service = Arc::clone(&self.service);
        tokio::spawn(async move { give_back(&service, &receive, left).await });
    }
}

/// Makes messages visible again that nobody got to see.
pub(super) async fn give_back(service: &Service, receive: &Receive, left: Vec<(Delivery, Message)>) {
    let lease = |(delivery, _): (Delivery, Message)| {
        let (group, topic) = (receive.group.clone(), receive.topic.clone());
        let reason = "the consumer went away before it got the message";
        (Lease { group, topic, handle: delivery.handle }, Some(Duration::ZERO), reason.to_owned())
    };
    // Whatever stays leased comes back when its lease ends.
    drop(service.retry_later_all(left.into_iter().map(lease).collect()).await);
    service.pass_on(&receive.topic, &receive.group);
}
