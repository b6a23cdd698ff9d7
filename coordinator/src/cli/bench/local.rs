//! The load in batches, straight into a store of this process, as streams hand it to the store of a server.

use super::driver::{Consumer, Prepared, Received, WAIT, Wait};
use super::load::Run;
use crate::cli::failure::Failure;
use crate::clock::Clock;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Transactions of one batch: were they all in one, they would wait for each other at every step.
const BATCH_MAX: usize = 16;

/// What a call to a store will answer.
pub(super) type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// A store of this process, as the load calls it. Answers come when what was asked is durable.
pub(super) trait Door: Clone + Send + Sync + 'static {
    type Transaction: Send + 'static;
    type Handle: Send + 'static;

    /// Prepares a transaction for each body, with a request id if it is not empty.
    fn prepare(&self, messages: Vec<(Bytes, String)>) -> Reply<Vec<Prepared<Self::Transaction>>>;
    fn commit(&self, transactions: Vec<Self::Transaction>) -> Reply<()>;
    /// What waits for a consumer now.
    fn receive(&self) -> Reply<Vec<Received<Self::Handle>>>;
    fn ack(&self, handles: Vec<Self::Handle>) -> Reply<()>;
}

/// The store, and what a consumer without a message waits for.
#[derive(Clone)]
pub(super) struct Local<D> {
    door: D,
    arrived: Arc<Notify>,
}

enum Step<T> {
    Prepared(Vec<T>),
    Committed(usize),
}

impl<D: Door> Local<D> {
    pub(super) fn new(door: D) -> Self {
        Self { door, arrived: Arc::default() }
    }

    /// Prepares and commits with at most so many transactions at once, in batches of what is ready.
    pub(super) async fn produce(self, run: Arc<Run>, in_flight_max: usize) -> Result<(), Failure> {
        let mut running = FuturesUnordered::new();
        let (mut in_flight, mut more) = (0, true);
        while more || in_flight > 0 {
            let mut begun = Vec::new();
            tokio::select! {
                Some(step) = running.next() => match step? {
                    Step::Prepared(prepared) => running.push(self.commit(&run, prepared)),
                    Step::Committed(count) => {
                        in_flight -= count;
                        self.arrived.notify_one();
                    }
                },
                began = run.start(), if more && in_flight < in_flight_max => match began {
                    Some(began) => begun.push(began),
                    None => more = false,
                },
            }
            while more
                && in_flight + begun.len() < in_flight_max
                && let Some(began) = run.start_at_once()
            {
                begun.push(began);
            }
            in_flight += begun.len();
            for batch in begun.chunks(BATCH_MAX) {
                running.push(self.prepare(&run, batch.to_vec()));
            }
        }
        Ok(())
    }

    fn prepare(&self, run: &Arc<Run>, begun: Vec<Instant>) -> Reply<Step<D::Transaction>> {
        let messages = begun.iter().map(|_| (run.body(), run.request_id())).collect();
        let (prepared, run) = (self.door.prepare(messages), Arc::clone(run));
        Box::pin(async move {
            let prepared = prepared.await?;
            let mut transactions = Vec::with_capacity(prepared.len());
            let (now, mut tally) = (Clock::stopwatch(), run.tally());
            for (Prepared { transaction, message }, began) in prepared.into_iter().zip(begun) {
                tally.prepared(message, began, now.saturating_duration_since(began));
                transactions.push(transaction);
            }
            drop(tally);
            Ok(Step::Prepared(transactions))
        })
    }

    fn commit(&self, run: &Arc<Run>, transactions: Vec<D::Transaction>) -> Reply<Step<D::Transaction>> {
        let (began, count) = (Clock::stopwatch(), transactions.len());
        let (committed, run) = (self.door.commit(transactions), Arc::clone(run));
        Box::pin(async move {
            committed.await?;
            let (now, mut tally) = (Clock::stopwatch(), run.tally());
            (0..count).for_each(|_| tally.committed(now, now.saturating_duration_since(began)));
            drop(tally);
            Ok(Step::Committed(count))
        })
    }
}

impl<D: Door> Consumer for Local<D> {
    type Handle = D::Handle;

    async fn receive(&mut self, wait: Wait) -> Result<Vec<Received<D::Handle>>, Failure> {
        loop {
            let received = self.door.receive().await?;
            if !received.is_empty() || wait == Wait::No {
                return Ok(received);
            }
            if tokio::time::timeout(WAIT, self.arrived.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn ack(&mut self, handles: Vec<D::Handle>) -> Result<(), Failure> {
        self.door.ack(handles).await
    }
}
