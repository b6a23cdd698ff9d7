//! The loop of one topic: receive as many as there is room for, hand out, start over.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::acks::{self, AckStream};
use super::handler::Handler;
use super::pull::PullConsumer;
use super::push::{Ended, Push};
use super::work::Work;
use crate::client::{Backoff, Transport};
use crate::delivery::Delivery;
use crate::error::Error;

/// What one receive may bring, by the protocol.
const RECEIVE_BATCH_MAX: usize = 256;

pub(super) async fn consume<H: Handler>(
    pull: PullConsumer,
    handler: Arc<H>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let in_flight_max = pull.options().in_flight_max.max(1);
    let stop_timeout = pull.options().stop_timeout;
    let (acks, handled) = mpsc::channel(in_flight_max);
    let mut acking = JoinSet::new();
    let ack_stream = Arc::new(AckStream::default());
    acking.spawn(acks::settle(pull.clone(), Arc::clone(&ack_stream), handled));
    let cancel = CancellationToken::new();
    let work = Arc::new(Work { pull, handler, acks, cancel: cancel.clone() });
    let mut handling = JoinSet::new();
    let room = Arc::new(Semaphore::new(in_flight_max));

    let pushed = match work.pull.client().options().transport {
        Transport::Streams => {
            let (work, room, acks) = (&work, &room, &*ack_stream);
            Push { work, room, acks, handling: &mut handling, stop: &stop }.run().await
        }
        Transport::Unary => Ended::NotSpoken,
    };
    let result = match pushed {
        Ended::Stopped => Ok(()),
        Ended::Refused(error) => Err(error),
        Ended::NotSpoken => {
            let receiving = receive_for_ever(&work, &room, &mut handling);
            stop.run_until_cancelled(receiving).await.map_or(Ok(()), Err)
        }
    };

    // The acks end when the last sender is dropped: this one and those of the handlers.
    drop(work);
    if !finished(&mut handling, stop_timeout).await {
        cancel.cancel();
        if !finished(&mut handling, stop_timeout).await {
            tracing::warn!("deliveries could not be given back in time; they come again when leases end");
            handling.shutdown().await;
        }
    }
    if !finished(&mut acking, stop_timeout).await {
        tracing::warn!("deliveries could not be acked in time; they come again when leases end");
    }
    result
}

/// Receives until the coordinator refuses.
///
/// Cancelled during a receive it may lose deliveries that are on their way; they come again when their
/// leases end. Waiting for the long poll instead would make every stop as slow as one.
async fn receive_for_ever<H: Handler>(
    work: &Arc<Work<H>>,
    room: &Arc<Semaphore>,
    handling: &mut JoinSet<()>,
) -> Error {
    let mut backoff = Backoff::new(work.pull.client().options().backoff);
    loop {
        let mut permits = room_for_batch(room, work.pull.options().batch_max).await;
        while handling.try_join_next().is_some() {}
        let messages_max = u32::try_from(permits.num_permits()).unwrap_or(1);
        match work.pull.receive(messages_max).await {
            Ok(deliveries) => {
                backoff.reset();
                hand_out(work, deliveries, &mut permits, handling);
            }
            Err(error) if error.is_retryable() => {
                let pause = backoff.pause();
                tracing::warn!(topic = work.pull.topic(), %error, ?pause, "cannot receive, trying again");
                drop(permits);
                tokio::time::sleep(pause).await;
            }
            Err(error) => return error,
        }
    }
}

/// One handler for each delivery at once: nothing waits here while its lease runs out.
pub(super) fn hand_out<H: Handler>(
    work: &Arc<Work<H>>,
    deliveries: Vec<Delivery>,
    permits: &mut OwnedSemaphorePermit,
    handling: &mut JoinSet<()>,
) {
    for delivery in deliveries {
        for interceptor in &work.pull.options().interceptors {
            let received = AssertUnwindSafe(|| interceptor.received(&delivery));
            if std::panic::catch_unwind(received).is_err() {
                tracing::error!(id = %delivery.message_id, "an interceptor panicked at a delivery; it is handled");
            }
        }
        // More than was asked for, which the protocol forbids, runs without a permit rather than not.
        let permit = permits.split(1);
        let work = Arc::clone(work);
        handling.spawn(async move {
            work.settle(delivery).await;
            drop(permit);
        });
    }
}

/// Waits for one free place, and takes all others that are free up to a batch.
pub(super) async fn room_for_batch(room: &Arc<Semaphore>, batch_max: usize) -> OwnedSemaphorePermit {
    let first = Arc::clone(room).acquire_owned().await;
    let mut permits = first.expect("the semaphore is never closed");
    let more = room.available_permits().min(batch_max.clamp(1, RECEIVE_BATCH_MAX) - 1);
    let more = u32::try_from(more).unwrap_or(0);
    // Only this task takes permits, so those that were free still are.
    if let Ok(others) = Arc::clone(room).try_acquire_many_owned(more) {
        permits.merge(others);
    }
    permits
}

/// Whether everything ended in time. Handlers catch panics, so there is nothing to learn from a join.
async fn finished(tasks: &mut JoinSet<()>, time_max: Duration) -> bool {
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(time_max, all).await.is_ok()
}
