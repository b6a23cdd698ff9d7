//! The load: transactions in flight on one end, deliveries on the other, a window between them.

use super::driver::{Consumer, Driver, Producer, Received, UnaryConsumer, Wait};
use super::engine::EngineDoor;
use super::local::{Door, Local};
use super::pipeline;
use super::tally::{Outcome, Tally};
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::Failure;
use crate::clock::Clock;
use bytes::Bytes;
use halfmq_core::MessageId;
use indicatif::ProgressBar;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Committed and not yet acked at once; more in flight widen it.
const WINDOW: u32 = 1_000;
/// A run in which nothing is acked for so long has lost something.
const STALL: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) transactions: u64,
    /// Before those that count.
    pub(super) warm_up: u64,
    pub(super) in_flight: u32,
    /// Of the bodies, which take turns.
    pub(super) body_bytes: Vec<u32>,
    pub(super) producers: u32,
    pub(super) consumers: u32,
    pub(super) batch: u32,
    /// Each prepare has a request id, so that it may be repeated.
    pub(super) request_ids: bool,
    /// Starts each second; `None`: a closed loop.
    pub(super) rate: Option<u32>,
}

/// What all ends of a load share.
pub(super) struct Run {
    starts: Starts,
    window: Semaphore,
    bodies: Vec<Bytes>,
    next_body: AtomicUsize,
    request_ids: bool,
    tally: Mutex<Tally>,
    acked: watch::Sender<u64>,
    progress: ProgressBar,
}

/// When transactions start.
enum Starts {
    /// When an earlier one has ended; so many are left.
    Closed(AtomicU64),
    /// At their time. Whoever takes one late counts from when it was meant.
    Open(tokio::sync::Mutex<mpsc::Receiver<Instant>>),
}

/// In flight while it warms up, at least.
const WARM_UP_IN_FLIGHT: u32 = 256;

/// Brings the store to where a longer use brings it, as fast as it goes.
///
/// # Errors
/// As [`run`], and when something is missing or double.
pub(super) async fn warm_up(load: &Load, driver: &Driver, progress: &ProgressBar) -> Result<(), Failure> {
    if load.warm_up > 0 {
        let in_flight = load.in_flight.max(WARM_UP_IN_FLIGHT);
        let warm_up = Load { transactions: load.warm_up, in_flight, rate: None, ..load.clone() };
        progress.set_message("warms up");
        progress.set_length(load.warm_up);
        run(&warm_up, driver, progress).await?.verdict()?;
        progress.set_message("");
        progress.set_length(load.transactions);
        progress.reset();
    }
    Ok(())
}

/// Runs the load to its end.
///
/// # Errors
/// Of any call; what is missing or double is in the outcome.
pub(super) async fn run(load: &Load, driver: &Driver, progress: &ProgressBar) -> Result<Outcome, Failure> {
    let topic = format!("bench-{:016x}", rand::random::<u64>());
    driver.create_topic(&topic).await?;
    let body = |bytes: &u32| Bytes::from(vec![b'x'; *bytes as usize]);
    let run = Arc::new(Run {
        starts: Starts::new(load),
        window: Semaphore::new(WINDOW.max(load.in_flight) as usize),
        bodies: load.body_bytes.iter().map(body).collect(),
        next_body: AtomicUsize::new(0),
        request_ids: load.request_ids,
        tally: Mutex::new(Tally::new(load.transactions, Clock::stopwatch())),
        acked: watch::Sender::new(0),
        progress: progress.clone(),
    });
    let mut tasks = match driver {
        Driver::Streams(endpoint) => spawn_streams(load, endpoint, &topic, &run).await?,
        Driver::Unary(endpoint) => spawn_calls(load, endpoint, &topic, &run).await?,
        Driver::Engine(store) => spawn_local(load, &Local::new(EngineDoor::new(store, &topic)?), &run),
        Driver::Log(log) => spawn_local(load, &Local::new(log.clone()), &run),
    };
    until_all_acked(load.transactions, &run, &mut tasks).await?;
    tasks.shutdown().await;
    // Whatever comes now came twice: everything was acked once.
    let late = driver.waiting(&topic, load.batch).await?;
    run.tally().delivered(late.into_iter());
    driver.delete_topic(&topic).await?;
    Ok(run.tally().outcome())
}

type Tasks = JoinSet<Result<(), Failure>>;

/// A task for each transaction in flight.
async fn spawn_calls(
    load: &Load,
    endpoint: &Endpoint,
    topic: &str,
    run: &Arc<Run>,
) -> Result<Tasks, Failure> {
    let mut producers = Vec::new();
    for _ in 0..load.producers {
        producers.push(Producer::new(endpoint, topic).await?);
    }
    let mut tasks = JoinSet::new();
    for producer in producers.iter().cycle().take(load.in_flight as usize) {
        tasks.spawn(produce(Arc::clone(run), producer.clone()));
    }
    for _ in 0..load.consumers {
        let consumer = UnaryConsumer::new(endpoint, topic, load.batch).await?;
        tasks.spawn(consume(Arc::clone(run), consumer));
    }
    Ok(tasks)
}

/// A task for each producer and each consumer, straight into the store.
fn spawn_local<D: Door>(load: &Load, store: &Local<D>, run: &Arc<Run>) -> Tasks {
    let mut tasks = JoinSet::new();
    for share in shares(load) {
        tasks.spawn(store.clone().produce(Arc::clone(run), share as usize));
    }
    for _ in 0..load.consumers {
        tasks.spawn(consume(Arc::clone(run), store.clone()));
    }
    tasks
}

/// The transactions in flight, shared out among the producers.
fn shares(load: &Load) -> impl Iterator<Item = u32> {
    let (share, rest) = (load.in_flight / load.producers, load.in_flight % load.producers);
    (0..load.producers.min(load.in_flight)).map(move |number| share + u32::from(number < rest))
}

/// A task and a connection for each stream.
async fn spawn_streams(
    load: &Load,
    endpoint: &Endpoint,
    topic: &str,
    run: &Arc<Run>,
) -> Result<Tasks, Failure> {
    let mut tasks = JoinSet::new();
    for _ in 0..load.consumers {
        let streams = endpoint.streams().await?;
        let credits = WINDOW.div_ceil(load.consumers);
        tasks.spawn(pipeline::consume(Arc::clone(run), streams, topic.to_owned(), credits));
    }
    for share in shares(load) {
        let streams = endpoint.streams().await?;
        tasks.spawn(pipeline::produce(Arc::clone(run), streams, topic.to_owned(), share as usize));
    }
    Ok(tasks)
}

async fn until_all_acked(
    transactions: u64,
    run: &Run,
    tasks: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut acked = run.acked.subscribe();
    loop {
        let before = *acked.borrow();
        if before >= transactions {
            return Ok(());
        }
        tokio::select! {
            changed = acked.changed() => if changed.is_err() { return Ok(()) },
            Some(ended) = tasks.join_next() => {
                ended.map_err(|panic| Failure::Bench(format!("a task of the load ended: {panic}")))??;
            }
            () = tokio::time::sleep(STALL) => return Ok(()),
        }
    }
}

async fn produce(run: Arc<Run>, mut producer: Producer) -> Result<(), Failure> {
    loop {
        let Some(intended) = run.start().await else { return Ok(()) };
        let prepared = producer.prepare(run.body(), run.request_id()).await?;
        let took = intended.elapsed();
        run.tally().prepared(prepared.message, intended, took);
        let began = Clock::stopwatch();
        producer.commit(prepared.transaction).await?;
        run.tally().committed(Clock::stopwatch(), began.elapsed());
    }
}

async fn consume<C: Consumer>(run: Arc<Run>, mut consumer: C) -> Result<(), Failure> {
    let mut acker = consumer.clone();
    let mut batch = Vec::new();
    loop {
        // The last batch is acked while the next one is fetched, as consumers do.
        let (received, ()) = tokio::try_join!(
            consumer.receive(Wait::ForOne),
            ack(&run, &mut acker, std::mem::take(&mut batch))
        )?;
        run.tally().delivered(received.iter().map(|received| received.message));
        batch = received;
    }
}

async fn ack<C: Consumer>(
    run: &Run,
    consumer: &mut C,
    batch: Vec<Received<C::Handle>>,
) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let (messages, handles): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|received| (received.message, received.handle)).unzip();
    consumer.ack(handles).await?;
    run.acked(&messages);
    Ok(())
}

impl Run {
    /// Waits for a place in the window, which the ack gives back, and for the next start; `None`: there are
    /// no more. The time is when it was meant to start.
    pub(super) async fn start(&self) -> Option<Instant> {
        let room = self.window.acquire().await.ok()?;
        let intended = self.starts.next().await?;
        room.forget();
        Some(intended)
    }

    /// The next start, if nothing has to be waited for.
    pub(super) fn start_at_once(&self) -> Option<Instant> {
        let room = self.window.try_acquire().ok()?;
        let intended = self.starts.next_at_once()?;
        room.forget();
        Some(intended)
    }

    /// The next body.
    pub(super) fn body(&self) -> Bytes {
        let number = self.next_body.fetch_add(1, Ordering::Relaxed);
        self.bodies.get(number % self.bodies.len().max(1)).cloned().unwrap_or_default()
    }

    /// The id of the next prepare, in the order of time as those of the SDK; empty for none.
    pub(super) fn request_id(&self) -> String {
        if !self.request_ids {
            return String::new();
        }
        let millis = Clock::System.now().as_micros() / 1_000;
        format!("{millis:012x}-{:020x}", rand::random::<u128>() >> 48)
    }

    /// These are settled.
    pub(super) fn acked(&self, messages: &[MessageId]) {
        let first_time = self.tally().acked(messages, Clock::stopwatch());
        self.window.add_permits(first_time);
        self.progress.inc(first_time as u64);
        self.acked.send_modify(|acked| *acked += first_time as u64);
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Starts {
    fn new(load: &Load) -> Self {
        let Some(rate) = load.rate else { return Self::Closed(AtomicU64::new(load.transactions)) };
        // So long that the pacer never waits for those who are late.
        let (due, starts) = mpsc::channel(usize::try_from(load.transactions).unwrap_or(usize::MAX >> 4));
        let transactions = load.transactions;
        // A thread: the timers of the runtime are a millisecond wide, as long as what is measured.
        std::thread::spawn(move || {
            let began = Clock::stopwatch();
            for number in 0..transactions {
                let at = began + offset(number, rate);
                std::thread::sleep(at.saturating_duration_since(Clock::stopwatch()));
                if due.blocking_send(at).is_err() {
                    return;
                }
            }
        });
        Self::Open(tokio::sync::Mutex::new(starts))
    }

    fn next_at_once(&self) -> Option<Instant> {
        match self {
            Self::Closed(left) => {
                let take = |left: u64| left.checked_sub(1);
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
                Some(Clock::stopwatch())
            }
            Self::Open(due) => due.try_lock().ok()?.try_recv().ok(),
        }
    }

    async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed(_) => self.next_at_once(),
            Self::Open(due) => due.lock().await.recv().await,
        }
    }
}

/// When the start of this number is meant, counted from the first.
pub(super) fn offset(number: u64, rate: u32) -> Duration {
    let (seconds, rest) = (number / u64::from(rate), number % u64::from(rate));
    Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / u64::from(rate))
}
