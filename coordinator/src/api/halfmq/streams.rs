//! `halfmq.v1.Streams`, and what its two streams have in common.
//!
//! A stream is one state machine that runs inside its response: it is polled only while the client takes
//! answers, so a client that does not is not read from either. No task is spawned for an operation.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use halfmq_core::Rejection;
use halfmq_proto::v1;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use v1::streams_server::Streams;

use super::Door;
use super::consume::Consuming;
use super::produce::Producing;
use super::status::status;
use crate::service::{Refused, Service, Unavailable};

/// Operations of one stream message.
pub(super) const OPERATIONS_MAX: usize = 1_024;
/// Operations of one stream that are not answered yet; past that it is not read. One message more may be.
pub(super) const IN_FLIGHT_MAX: usize = 4_096;

pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(super) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[tonic::async_trait]
impl Streams for Door {
    type ProduceStream = Responses<v1::ProduceResponse>;
    type ConsumeStream = Responses<v1::ConsumeResponse>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let producing = Producing::new(Arc::clone(&self.service), request.into_inner());
        let respond = |mut producing: Producing| async move {
            Some((producing.respond().await.transpose()?, producing))
        };
        Ok(Response::new(Box::pin(until_error(futures_util::stream::unfold(producing, respond)))))
    }

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let consuming = Consuming::new(Arc::clone(&self.service), request.into_inner());
        let respond = |mut consuming: Consuming| async move {
            Some((consuming.respond().await.transpose()?, consuming))
        };
        Ok(Response::new(Box::pin(until_error(futures_util::stream::unfold(consuming, respond)))))
    }
}

/// Nothing follows an error.
fn until_error<T>(responses: impl Stream<Item = Result<T, Status>>) -> impl Stream<Item = Result<T, Status>> {
    responses.scan(false, |failed, response| {
        let over = std::mem::replace(failed, response.is_err());
        std::future::ready((!over).then_some(response))
    })
}

/// Resolves when the coordinator stops. Kept for the life of a stream.
pub(super) fn stopping(service: &Arc<Service>) -> Work<Status> {
    let service = Arc::clone(service);
    Box::pin(async move {
        service.stopping().await;
        status(&Refused::Unavailable(Unavailable::Stopping))
    })
}

/// Finishes what was begun when the client has gone: it takes effect all the same, and whoever waits for the
/// outcome must be told.
pub(super) fn carry_on<T: Send + 'static>(running: &mut FuturesUnordered<Work<T>>) {
    let mut running = std::mem::take(running);
    if let (false, Ok(runtime)) = (running.is_empty(), tokio::runtime::Handle::try_current()) {
        runtime.spawn(async move { while running.next().await.is_some() {} });
    }
}

/// The next of what runs; for ever if nothing does.
pub(super) async fn next_done<T>(running: &mut FuturesUnordered<Work<T>>) -> T {
    match running.next().await {
        Some(done) => done,
        None => std::future::pending().await,
    }
}

/// The client broke a bound or the order of the stream.
pub(super) fn broken(what: &'static str, why: impl Into<String>) -> Status {
    status(&Rejection::Invalid { what, why: why.into() }.into())
}

/// An operation without a verb that this version knows.
pub(super) fn no_verb() -> Rejection {
    Rejection::Invalid { what: "operation", why: "it has no verb that this version knows".to_owned() }
}

pub(super) fn check_operations(operations: usize) -> Result<(), Status> {
    if operations <= OPERATIONS_MAX {
        return Ok(());
    }
    let why = format!("there are {operations}; at most {OPERATIONS_MAX} go into one message");
    Err(broken("number of operations", why))
}
