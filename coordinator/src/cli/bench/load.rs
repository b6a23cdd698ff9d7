//! The load: transactions in flight on one end, deliveries on the other, a window between them.

use super::driver::{Consumer, Driver, Producer, Wait};
use super::tally::{Outcome, Tally};
use crate::cli::failure::Failure;
use crate::clock::Clock;
use bytes::Bytes;
use indicatif::ProgressBar;
use std::sync::atomic::{AtomicU64, Ordering};
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
    pub(super) in_flight: u32,
    pub(super) body_bytes: u32,
    pub(super) producers: u32,
    pub(super) consumers: u32,
    pub(super) batch: u32,
    /// Starts each second; `None`: a closed loop.
    pub(super) rate: Option<u32>,
}

struct Run {
    starts: Starts,
    window: Semaphore,
    body: Bytes,
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

/// Runs the load to its end.
///
/// # Errors
/// Of any call; what is missing or double is in the outcome.
pub(super) async fn run(load: &Load, driver: &Driver, progress: &ProgressBar) -> Result<Outcome, Failure> {
    let topic = format!("bench-{:016x}", rand::random::<u64>());
    driver.create_topic(&topic).await?;
    let mut producers = Vec::new();
    for _ in 0..load.producers {
        producers.push(driver.producer(&topic).await?);
    }
    let mut consumers = Vec::new();
    for _ in 0..load.consumers {
        consumers.push(driver.consumer(&topic, load.batch).await?);
    }
    let run = Arc::new(Run {
        starts: Starts::new(load),
        window: Semaphore::new(WINDOW.max(load.in_flight) as usize),
        body: Bytes::from(vec![b'x'; load.body_bytes as usize]),
        tally: Mutex::new(Tally::new(load.transactions, Clock::stopwatch())),
        acked: watch::Sender::new(0),
        progress: progress.clone(),
    });
    let mut tasks = JoinSet::new();
    for producer in producers.iter().cycle().take(load.in_flight as usize) {
        tasks.spawn(produce(Arc::clone(&run), producer.clone()));
    }
    for consumer in &consumers {
        tasks.spawn(consume(Arc::clone(&run), consumer.clone()));
    }
    until_all_acked(load.transactions, &run, &mut tasks).await?;
    tasks.shutdown().await;
    // Whatever comes now came twice: everything was acked once.
    if let Some(consumer) = consumers.first_mut() {
        let late = consumer.receive(Wait::No).await?;
        run.tally().delivered(late.iter().map(|received| received.message.as_str()));
    }
    driver.delete_topic(&topic).await?;
    Ok(run.tally().outcome())
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
        let Ok(room) = run.window.acquire().await else { return Ok(()) };
        let Some(intended) = run.starts.next().await else { return Ok(()) };
        let prepared = producer.prepare(run.body.clone()).await?;
        let took = intended.elapsed();
        run.tally().prepared(prepared.message, intended, took);
        let began = Clock::stopwatch();
        producer.commit(prepared.transaction).await?;
        run.tally().committed(began.elapsed());
        // Given back by the ack.
        room.forget();
    }
}

async fn consume(run: Arc<Run>, mut consumer: Consumer) -> Result<(), Failure> {
    let mut acker = consumer.clone();
    let mut batch = Vec::new();
    loop {
        // The last batch is acked while the next one is fetched, as consumers do.
        let (received, ()) = tokio::try_join!(
            consumer.receive(Wait::ForOne),
            ack(&run, &mut acker, std::mem::take(&mut batch))
        )?;
        run.tally().delivered(received.iter().map(|received| received.message.as_str()));
        batch = received;
    }
}

async fn ack(run: &Run, consumer: &mut Consumer, batch: Vec<super::driver::Received>) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let (messages, handles): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|received| (received.message, received.handle)).unzip();
    consumer.ack(handles).await?;
    let first_time = run.tally().acked(messages.iter().map(String::as_str), Clock::stopwatch());
    run.window.add_permits(first_time);
    run.progress.inc(first_time as u64);
    run.acked.send_modify(|acked| *acked += first_time as u64);
    Ok(())
}

impl Run {
    fn tally(&self) -> MutexGuard<'_, Tally> {
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

    async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed(left) => {
                let take = |left: u64| left.checked_sub(1);
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
                Some(Clock::stopwatch())
            }
            Self::Open(due) => due.lock().await.recv().await,
        }
    }
}

/// When the start of this number is meant, counted from the first.
pub(super) fn offset(number: u64, rate: u32) -> Duration {
    let (seconds, rest) = (number / u64::from(rate), number % u64::from(rate));
    Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / u64::from(rate))
}
