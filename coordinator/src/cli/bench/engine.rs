//! The embedded store by itself, through its port, beside a bare append log of the same bytes.

use super::Reading;
use super::append_log::{self, Groups};
use super::driver::{CONSUMER_GROUP, Driver, PRODUCER_GROUP, Received, Wait};
use super::home::Home;
use super::load::{self, Load, Run};
use super::metrics::Journal;
use super::process::Usage;
use super::report::{Bare, Report};
use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::service::TICK;
use crate::store::embedded::{Embedded, EngineOptions};
use crate::store::{Ack, Replies, Store};
use crate::telemetry::{self, Exposition};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use halfmq_core::{
    CheckPolicy, ConsumerGroup, Decide, DecidedBy, Decision, Message, Prepare, ProducerGroup, Receive,
    Rejection, Send, Start, TagFilter, TopicName, TransactionId, Visibility, limits,
};
use indicatif::ProgressBar;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// As many as a server makes by default.
const QUEUES: u32 = 4;

/// Transactions of one batch: were they all in one, they would wait for each other at every step.
const BATCH_MAX: usize = 16;
/// Bytes that the journal keeps of a transaction besides its body, about.
const RECORDS: u64 = 180;

/// The store, and what a consumer without a message waits for.
pub(super) struct InProcess {
    store: Arc<dyn Store>,
    arrived: Notify,
}

/// One end of the load: what each of its calls says.
#[derive(Clone)]
pub(super) struct EngineDoor {
    engine: Arc<InProcess>,
    topic: TopicName,
    producers: ProducerGroup,
    consumers: ConsumerGroup,
}

/// A batch on its way through the store.
type Running = Pin<Box<dyn Future<Output = Result<Step, Failure>> + std::marker::Send>>;

enum Step {
    Prepared(Vec<TransactionId>),
    Committed(usize),
}

/// Nothing is kept that is not needed, so that files are used again after some seconds: the bare log does not have
/// to fill them with zeros either.
fn options() -> EngineOptions {
    EngineOptions { retention: Duration::ZERO, retention_bytes: 0, ..EngineOptions::default() }
}

/// Transactions with such bodies until a new store uses its files again: the first image lets go of them, and some
/// are filled until the looks come that make it and remove what it does not need.
pub(super) fn until_reuse(body_bytes: &[u32]) -> u64 {
    let EngineOptions { image_every, journal, .. } = options();
    let bodies: u64 = body_bytes.iter().map(|bytes| u64::from(*bytes)).sum();
    let each = bodies / (body_bytes.len() as u64).max(1) + RECORDS;
    (image_every + 6 * journal.segment_bytes) / each
}

/// Runs the load on a store of its own, then the same groups through a bare log.
pub(super) async fn measure(home: Home, load: &Load, progress: &ProgressBar) -> Result<Report, Failure> {
    let metrics = telemetry::metrics().map_err(|error| Failure::Bench(error.to_string()))?;
    let (store, _) = Embedded::open(home.path(), options()).map_err(bench)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let driver = Driver::Engine(Arc::new(InProcess { store: Arc::clone(&store), arrived: Notify::new() }));
    let (outcome, before, after) = tokio::select! {
        measured = async {
            load::warm_up(load, &driver, progress).await?;
            let before = reading(&metrics);
            let outcome = load::run(load, &driver, progress).await?;
            Ok::<_, Failure>((outcome, before, reading(&metrics)))
        } => measured?,
        stopped = keep_time(&*store) => return Err(stopped),
    };
    store.close().await.map_err(bench)?;
    drop((driver, store));
    progress.set_message("the same bytes through a bare append log");
    let groups = written(&before, &after);
    let took = append_log::write(home.path(), groups)?;
    let engine_took = outcome.took;
    let mut report = Report::new("the engine alone", load.clone(), outcome, &before, &after);
    report.bare = Some(Bare { groups: groups.count, took, ratio: ratio(engine_took, took) });
    report.warnings.extend(home.warning());
    Ok(report)
}

/// Sees to it, as a server does, that the store lets go of what everybody is done with.
async fn keep_time(store: &dyn Store) -> Failure {
    loop {
        if let Err(stopped) = store.tick().await {
            return bench(stopped);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// What the journal wrote in between.
fn written(before: &Reading, after: &Reading) -> Groups {
    let (Some(before), Some(after)) = (before.journal, after.journal) else { return Groups::default() };
    let journal = after.since(before);
    Groups { count: journal.syncs as u64, bytes: journal.bytes as u64 }
}

/// How many times as long.
pub(super) fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::EPSILON)
}

/// Client and server are one process here.
fn reading(metrics: &Exposition) -> Reading {
    Reading { client: None, server: Usage::own(), journal: Journal::parse(&metrics.render()) }
}

impl InProcess {
    pub(super) async fn create_topic(&self, topic: &str) -> Result<(), Failure> {
        let topic = topic.parse().map_err(bench)?;
        self.store.create_topic(topic, QUEUES).await.map_err(bench)?.map_err(bench)?;
        Ok(())
    }
}

impl EngineDoor {
    pub(super) fn new(engine: &Arc<InProcess>, topic: &str) -> Result<Self, Failure> {
        Ok(Self {
            engine: Arc::clone(engine),
            topic: topic.parse().map_err(bench)?,
            producers: PRODUCER_GROUP.parse().map_err(bench)?,
            consumers: CONSUMER_GROUP.parse().map_err(bench)?,
        })
    }

    fn prepare(&self, body: Bytes, request_id: &str) -> Result<Prepare, Failure> {
        let message = Message {
            topic: self.topic.clone(),
            body,
            tag: None,
            keys: Vec::new(),
            headers: Vec::new(),
            message_group: None,
            visibility: Visibility::AtOnce,
        };
        let request_id = if request_id.is_empty() { None } else { Some(request_id.parse().map_err(bench)?) };
        Ok(Prepare {
            producer_group: self.producers.clone(),
            instance: None,
            callback: None,
            policy: CheckPolicy::default(),
            send: Send::new(request_id, vec![message]).map_err(bench)?,
        })
    }

    /// Prepares and commits with at most so many transactions at once, in batches of what is ready, as streams
    /// hand them to the store.
    pub(super) async fn produce(self, run: Arc<Run>, in_flight_max: usize) -> Result<(), Failure> {
        let mut running = FuturesUnordered::new();
        let (mut in_flight, mut more) = (0, true);
        while more || in_flight > 0 {
            let mut begun = Vec::new();
            tokio::select! {
                Some(step) = running.next() => match step? {
                    Step::Prepared(prepared) => running.push(self.commit_all(&run, prepared)),
                    Step::Committed(count) => {
                        in_flight -= count;
                        self.engine.arrived.notify_one();
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
                running.push(self.prepare_all(&run, batch.to_vec())?);
            }
        }
        Ok(())
    }

    fn prepare_all(&self, run: &Arc<Run>, begun: Vec<Instant>) -> Result<Running, Failure> {
        let prepare = |_: &Instant| self.prepare(run.body(), &run.request_id());
        let batch = begun.iter().map(prepare).collect::<Result<_, _>>()?;
        let (prepared, run) = (self.engine.store.prepare(batch), Arc::clone(run));
        Ok(Box::pin(async move {
            let prepared = prepared.await.map_err(bench)?;
            let mut transactions = Vec::with_capacity(prepared.len());
            let (now, mut tally) = (Clock::stopwatch(), run.tally());
            for (prepared, began) in prepared.into_iter().zip(begun) {
                let accepted = prepared.map_err(bench)?;
                let message = accepted.message_ids.first().map(ToString::to_string).unwrap_or_default();
                tally.prepared(message, began, now.saturating_duration_since(began));
                transactions.push(accepted.transaction);
            }
            drop(tally);
            Ok(Step::Prepared(transactions))
        }))
    }

    fn commit_all(&self, run: &Arc<Run>, transactions: Vec<TransactionId>) -> Running {
        let (began, count) = (Clock::stopwatch(), transactions.len());
        let decide = |transaction| Decide {
            transaction,
            decision: Decision::Commit,
            by: DecidedBy::Call,
            reason: String::new(),
            replacements: Vec::new(),
        };
        let batch = transactions.into_iter().map(|id| (decide(id), Vec::new())).collect();
        let (decided, run) = (self.engine.store.decide(batch), Arc::clone(run));
        Box::pin(async move {
            decided.await.map_err(bench)?.into_iter().collect::<Result<Vec<_>, _>>().map_err(bench)?;
            let now = Clock::stopwatch();
            let took = now.saturating_duration_since(began);
            (0..count).for_each(|_| run.tally().committed(now, took));
            Ok(Step::Committed(count))
        })
    }

    pub(super) async fn receive(
        &self,
        wait: Wait,
        longest: Duration,
        invisible: Duration,
    ) -> Result<Vec<Received>, Failure> {
        loop {
            let receive = Receive {
                group: self.consumers.clone(),
                topic: self.topic.clone(),
                max: limits::RECEIVE_MAX,
                invisible,
                filter: TagFilter::default(),
                start: Start::Beginning,
            };
            let leased = one(self.engine.store.receive(vec![receive])).await?;
            if !leased.deliveries.is_empty() || wait == Wait::No {
                let received = leased.deliveries.into_iter().map(|(delivery, _)| Received {
                    message: delivery.id.to_string(),
                    handle: delivery.handle.to_string(),
                });
                return Ok(received.collect());
            }
            if tokio::time::timeout(longest, self.engine.arrived.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    pub(super) async fn ack(&self, handles: &[String]) -> Result<(), Failure> {
        let handles = handles.iter().map(|handle| handle.parse()).collect::<Result<_, _>>().map_err(bench)?;
        let ack = Ack { group: self.consumers.clone(), topic: self.topic.clone(), handles };
        let acked = one(self.engine.store.ack(vec![ack])).await?;
        acked.results.into_iter().collect::<Result<(), Rejection>>().map_err(bench)
    }
}

/// The answer to a call with one item.
async fn one<T>(replies: Replies<T>) -> Result<T, Failure> {
    let answer = replies.await.map_err(bench)?.pop();
    answer.ok_or_else(|| Failure::Bench("the store did not answer".to_owned()))?.map_err(bench)
}

fn bench(error: impl std::fmt::Display) -> Failure {
    Failure::Bench(error.to_string())
}
