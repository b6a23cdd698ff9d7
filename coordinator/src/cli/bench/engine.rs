//! The embedded store by itself, through its port, beside a bare append log of the same bytes.

use super::Reading;
use super::append_log::{self, AppendLog, Groups};
use super::driver::{CONSUMER_GROUP, Driver, INVISIBLE, PRODUCER_GROUP, Prepared, Received};
use super::home::Home;
use super::load::{self, Load};
use super::local::{Door, Reply};
use super::metrics::Journal;
use super::process::Usage;
use super::report::{Bare, Report};
use super::tally::Outcome;
use crate::cli::failure::Failure;
use crate::service::TICK;
use crate::store::embedded::{Embedded, EngineOptions};
use crate::store::{Ack, Replies, Store};
use crate::telemetry::{self, Exposition};
use bytes::Bytes;
use halfmq_core::{
    Accepted, CheckPolicy, ConsumerGroup, Decide, DecidedBy, Decision, Message, Prepare, ProducerGroup,
    ReceiptHandle, Receive, Rejection, Send, Start, TagFilter, TopicName, TransactionId, Visibility, limits,
};
use indicatif::ProgressBar;
use std::sync::Arc;
use std::time::Duration;

/// As many as a server makes by default.
const QUEUES: u32 = 4;

/// Bytes that the journal keeps of a transaction besides its body, about.
const RECORDS: u64 = 180;

/// The store, and what each call to it says.
#[derive(Clone)]
pub(super) struct EngineDoor {
    store: Arc<dyn Store>,
    topic: TopicName,
    producers: ProducerGroup,
    consumers: ConsumerGroup,
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
    (image_every + 6 * journal.segment_bytes) / (mean(body_bytes) + RECORDS)
}

/// Runs the load on a store of its own, then the same groups through a bare log, then the same load on one.
pub(super) async fn measure(home: Home, load: &Load, progress: &ProgressBar) -> Result<Report, Failure> {
    let metrics = telemetry::metrics().map_err(|error| Failure::Bench(error.to_string()))?;
    let (store, _) = Embedded::open(home.path(), options()).map_err(bench)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let driver = Driver::Engine(Arc::clone(&store));
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
    progress.set_message("the same load on a bare append log");
    progress.reset();
    let same_load = on_bare_log(&home, load, groups, progress).await?;
    let engine_took = outcome.took;
    let mut report = Report::new("the engine alone", load.clone(), outcome, &before, &after);
    report.bare = Some(Bare {
        groups: groups.count,
        took,
        ratio: ratio(engine_took, took),
        same_load_ratio: ratio(engine_took, same_load.took),
        same_load,
    });
    report.warnings.extend(home.warning());
    Ok(report)
}

/// The same load, on a log that is written as many bytes for each transaction as the engine wrote.
async fn on_bare_log(
    home: &Home,
    load: &Load,
    groups: Groups,
    progress: &ProgressBar,
) -> Result<Outcome, Failure> {
    let body_bytes = mean(&load.body_bytes) * load.transactions;
    let (log, thread) = AppendLog::start(home.path(), load.transactions, groups.bytes, body_bytes)?;
    let outcome = load::run(load, &Driver::Log(log), progress).await?;
    thread.join().map_err(|_| Failure::Bench("the bare append log panicked".to_owned()))?;
    let lost = |failure| Failure::Bench(format!("of the bare append log: {failure}"));
    outcome.verdict().map_err(lost)?;
    Ok(outcome)
}

fn mean(sizes: &[u32]) -> u64 {
    sizes.iter().map(|bytes| u64::from(*bytes)).sum::<u64>() / (sizes.len() as u64).max(1)
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

/// As the server does when a topic is used for the first time.
pub(super) async fn create_topic(store: &dyn Store, topic: &str) -> Result<(), Failure> {
    let topic = topic.parse().map_err(bench)?;
    store.create_topic(topic, QUEUES).await.map_err(bench)?.map_err(bench)?;
    Ok(())
}

impl EngineDoor {
    pub(super) fn new(store: &Arc<dyn Store>, topic: &str) -> Result<Self, Failure> {
        Ok(Self {
            store: Arc::clone(store),
            topic: topic.parse().map_err(bench)?,
            producers: PRODUCER_GROUP.parse().map_err(bench)?,
            consumers: CONSUMER_GROUP.parse().map_err(bench)?,
        })
    }

    fn half(&self, body: Bytes, request_id: &str) -> Result<Prepare, Failure> {
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
}

impl Door for EngineDoor {
    type Transaction = TransactionId;
    type Handle = ReceiptHandle;

    fn prepare(&self, messages: Vec<(Bytes, String)>) -> Reply<Vec<Prepared<TransactionId>>> {
        let halves = messages.into_iter().map(|(body, request_id)| self.half(body, &request_id));
        let prepared = halves.collect::<Result<_, _>>().map(|halves| self.store.prepare(halves));
        Box::pin(async move {
            let transaction = |accepted: Result<Accepted, Rejection>| {
                let Accepted { transaction, message_ids, .. } = accepted.map_err(bench)?;
                let message = message_ids.first().copied();
                let message = message.ok_or_else(|| bench("a prepare was answered without a message id"))?;
                Ok(Prepared { transaction, message })
            };
            prepared?.await.map_err(bench)?.into_iter().map(transaction).collect()
        })
    }

    fn commit(&self, transactions: Vec<TransactionId>) -> Reply<()> {
        let decide = |transaction| Decide {
            transaction,
            decision: Decision::Commit,
            by: DecidedBy::Call,
            reason: String::new(),
            replacements: Vec::new(),
        };
        let decided =
            self.store.decide(transactions.into_iter().map(|id| (decide(id), Vec::new())).collect());
        Box::pin(async move {
            decided.await.map_err(bench)?.into_iter().try_for_each(|receipt| receipt.map(drop)).map_err(bench)
        })
    }

    fn receive(&self) -> Reply<Vec<Received<ReceiptHandle>>> {
        let receive = Receive {
            group: self.consumers.clone(),
            topic: self.topic.clone(),
            max: limits::RECEIVE_MAX,
            invisible: INVISIBLE,
            filter: TagFilter::default(),
            start: Start::Beginning,
        };
        let leased = one(self.store.receive(vec![receive]));
        Box::pin(async move {
            let deliveries = leased.await?.deliveries.into_iter();
            Ok(deliveries.map(|(it, _)| Received { message: it.id, handle: it.handle }).collect())
        })
    }

    fn ack(&self, handles: Vec<ReceiptHandle>) -> Reply<()> {
        let ack = Ack { group: self.consumers.clone(), topic: self.topic.clone(), handles };
        let acked = one(self.store.ack(vec![ack]));
        Box::pin(async move { acked.await?.results.into_iter().collect::<Result<(), _>>().map_err(bench) })
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
