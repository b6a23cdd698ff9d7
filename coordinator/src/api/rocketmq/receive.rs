//! Messages out: a long poll that answers before its caller gives up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use halfmq_core::{Receive, Start, Timestamp, limits};
use halfmq_proto::rocketmq as v2;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataMap;
use v2::Code;

use super::clients::Client;
use super::hand_over::{HandOver, give_back};
use super::status::Refusal;
use super::{Door, from_wire};
use crate::api::deadline::patience;
use crate::clock::Clock;
use crate::service::{Leased, Refused, Service};
use crate::telemetry;

/// Before the caller's deadline: for one library that is the end of the wait itself.
const MARGIN: Duration = Duration::from_millis(500);
/// Of a consumer that does not say.
const POLL: Duration = Duration::from_secs(20);
/// Of a simple consumer that does not say.
const INVISIBLE: Duration = Duration::from_secs(30);

impl Door {
    pub(super) async fn receive(&self, request: Request<v2::ReceiveMessageRequest>) -> HandOver {
        let began = Clock::stopwatch();
        let received = self.lease(request).await;
        let result = received.as_ref().err().map_or("OK", |refusal| refusal.code.as_str_name());
        telemetry::answered("rocketmq.receive_message", result, began.elapsed(), 1);
        received.unwrap_or_else(|refusal| HandOver::refused(&self.service, refusal))
    }

    async fn lease(&self, request: Request<v2::ReceiveMessageRequest>) -> Result<HandOver, Refusal> {
        let caller = self.caller(request.metadata())?;
        let wait = wait(request.metadata(), request.get_ref())?;
        let request = request.into_inner();
        let queue = request.message_queue.unwrap_or_default();
        let renewed = request.auto_renew.then(|| self.clients.enter(&caller)).transpose()?;
        let receive = Receive {
            group: from_wire::group(request.group.as_ref())?,
            topic: from_wire::topic(queue.topic.as_ref())?,
            max: usize::try_from(request.batch_size).unwrap_or(0).clamp(1, limits::RECEIVE_MAX),
            invisible: self.invisible(request.invisible_duration, renewed.is_some())?,
            filter: from_wire::filter(request.filter_expression.as_ref())?,
            start: Start::Beginning,
        };
        let leased = wait_for(&self.service, &receive, Instant::now() + wait).await?;
        if leased.deliveries.is_empty() {
            return Err(Refusal::new(Code::MessageNotFound, "no new message"));
        }
        if let Some(client) = &renewed {
            self.watch(client, &receive, &leased);
        }
        Ok(HandOver::new(Arc::clone(&self.service), receive, leased.deliveries))
    }

    fn invisible(&self, asked: Option<prost_types::Duration>, renewed: bool) -> Result<Duration, Refusal> {
        match asked {
            None if renewed => Ok(self.settings.push_invisible),
            None => Ok(INVISIBLE),
            Some(asked) => from_wire::span("invisible duration", Code::IllegalInvisibleTime, asked),
        }
    }

    fn watch(&self, client: &Arc<Client>, receive: &Receive, leased: &Leased) {
        let handles = leased.deliveries.iter().map(|(delivery, _)| delivery.handle);
        self.leases.watch(client, &receive.group, &receive.topic, handles);
    }
}

fn wait(headers: &MetadataMap, request: &v2::ReceiveMessageRequest) -> Result<Duration, Refusal> {
    let asked = request
        .long_polling_timeout
        .map(|asked| from_wire::span("long polling timeout", Code::IllegalPollingTime, asked));
    let left =
        patience(headers.as_ref()).map_or(limits::WAIT_MAX, |patience| patience.saturating_sub(MARGIN));
    Ok(asked.transpose()?.unwrap_or(POLL).min(left).min(limits::WAIT_MAX))
}

/// Leases messages, and waits for the first one until the deadline.
async fn wait_for(service: &Arc<Service>, receive: &Receive, deadline: Instant) -> Result<Leased, Refused> {
    let mut waiter = Waiter { service, receive, has_waited: false };
    let mut leased = Look::at_once(service, receive).await?;
    while leased.deliveries.is_empty() && Instant::now() < deadline && !service.is_stopping() {
        waiter.has_waited = true;
        leased = Look::standing_by(service, receive, leased.next_visible, deadline).await?;
        if leased.deliveries.is_empty() {
            leased = Look::at_once(service, receive).await?;
        }
    }
    waiter.has_waited = false;
    Ok(leased)
}

/// A caller that goes away while it waits may have been woken for something that others wait for.
struct Waiter<'a> {
    service: &'a Service,
    receive: &'a Receive,
    has_waited: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.has_waited {
            self.service.pass_on(&self.receive.topic, &self.receive.group);
        }
    }
}

/// One look at the queues. If its caller goes away meanwhile, what it leased goes back at once.
struct Look {
    service: Arc<Service>,
    receive: Receive,
    /// Ends standing by.
    enough: Arc<Notify>,
    leasing: Option<Leasing>,
}

type Leasing = Pin<Box<dyn Future<Output = Result<Leased, Refused>> + Send>>;

impl Look {
    fn at_once(service: &Arc<Service>, receive: &Receive) -> Self {
        let (by, what) = (Arc::clone(service), receive.clone());
        Self::of(service, receive, Arc::default(), Box::pin(async move { by.lease(what).await }))
    }

    fn standing_by(
        service: &Arc<Service>,
        receive: &Receive,
        next_visible: Option<Timestamp>,
        deadline: Instant,
    ) -> Self {
        let (by, what, enough) = (Arc::clone(service), receive.clone(), Arc::<Notify>::default());
        let arrival = service.arrival(&receive.topic, &receive.group, next_visible, deadline);
        let gone = Arc::clone(&enough);
        let until = async move {
            tokio::select! {
                () = arrival => {}
                () = gone.notified() => {}
            }
        };
        Self::of(
            service,
            receive,
            enough,
            Box::pin(async move { by.stand_by(what, next_visible, until).await }),
        )
    }

    fn of(service: &Arc<Service>, receive: &Receive, enough: Arc<Notify>, leasing: Leasing) -> Self {
        Self { service: Arc::clone(service), receive: receive.clone(), enough, leasing: Some(leasing) }
    }
}

impl Future for Look {
    type Output = Result<Leased, Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let leasing = self.leasing.as_mut().expect("a look is not polled after it has ended");
        let leased = ready!(leasing.as_mut().poll(context));
        self.leasing = None;
        Poll::Ready(leased)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let Some(leasing) = self.leasing.take() else { return };
        self.enough.notify_one();
        let (service, receive) = (Arc::clone(&self.service), self.receive.clone());
        tokio::spawn(async move {
            if let Ok(leased) = leasing.await {
                give_back(&service, &receive, leased.deliveries).await;
            }
        });
    }
}
