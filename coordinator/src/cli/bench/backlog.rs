//! How much memory a long backlog takes, and how long a start takes that finds one.
//!
//! A process of its own fills a store through its port and is killed in the middle of its work, as by a power
//! cut; then a server starts on what it left behind.

use super::home::Home;
use super::own_server::OwnServer;
use super::process::Usage;
use crate::cli::{failure::Failure, output::Output, table};
use crate::clock::Clock;
use crate::store::Store;
use crate::store::embedded::{Embedded, EngineOptions};
use bytes::Bytes;
use halfmq_core::{CheckPolicy, Message, Prepare, Send, TopicName, Visibility};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// As many as a server makes by default.
const QUEUES: u32 = 4;
/// Items of one call of the port.
const BATCH: u64 = 256;
/// Calls at once.
const CALLS: usize = 4;

/// What is to be in the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    /// Messages that nobody has read.
    pub(super) backlog: u64,
    /// Transactions that nobody has decided.
    pub(super) open: u64,
    /// Messages whose time has not come.
    pub(super) delayed: u64,
    /// Bytes of each body.
    pub(super) body_bytes: u32,
}

impl Fill {
    /// Items altogether.
    pub(super) fn all(&self) -> u64 {
        self.backlog + self.open + self.delayed
    }
}

/// What comes at a place of the filling: first all messages, then all transactions, then all delayed ones.
#[derive(Clone, Copy)]
enum Kind {
    Waits,
    Open,
    Delayed,
}

/// Fills, kills, starts, and says what that took.
pub(super) fn measure(home: Home, fill: Fill, output: Output, progress: &ProgressBar) -> Result<(), Failure> {
    let began = Clock::stopwatch();
    let filler = Filler::start(home.path(), fill, progress)?;
    let (filled_in, filling) = (began.elapsed(), Usage::of(filler.0.id()));
    drop(filler);
    progress.set_message("a server starts on it");
    let server = OwnServer::start(home)?;
    let serving = Usage::of(server.pid());
    let ready_after = server.ready_after();
    progress.finish_and_clear();
    let disk = folder_bytes(&server.home().path().join("journal"));
    output.answer(
        || text(fill, filled_in, ready_after, filling, serving, disk),
        || {
            json!({
                "backlog": fill.backlog,
                "open": fill.open,
                "delayed": fill.delayed,
                "size": fill.body_bytes,
                "fill_seconds": filled_in.as_secs_f64(),
                "filler_resident_bytes_max": filling.map(|usage| usage.resident_bytes_max),
                "server_ready_seconds": ready_after.as_secs_f64(),
                "server_resident_bytes": serving.map(|usage| usage.resident_bytes),
                "server_resident_bytes_max": serving.map(|usage| usage.resident_bytes_max),
                "journal_bytes": disk,
            })
        },
    )
}

fn text(
    fill: Fill,
    filled_in: Duration,
    ready_after: Duration,
    filling: Option<Usage>,
    serving: Option<Usage>,
    disk: u64,
) -> String {
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let mut facts = vec![
        ("filled in", format!("{:.1} s", filled_in.as_secs_f64())),
        ("journal", mebibytes(disk)),
        ("server ready after", format!("{} ms", ready_after.as_millis())),
    ];
    let mut fact = |name, usage: Option<u64>| facts.extend(usage.map(|bytes| (name, mebibytes(bytes))));
    fact("memory while filling, highest", filling.map(|usage| usage.resident_bytes_max));
    fact("memory, server", serving.map(|usage| usage.resident_bytes));
    fact("memory, server, highest", serving.map(|usage| usage.resident_bytes_max));
    format!(
        "{} waiting messages, {} open transactions and {} delayed messages of {} bytes, killed and started \
         again\n\n{}",
        fill.backlog,
        fill.open,
        fill.delayed,
        fill.body_bytes,
        table::facts(&facts)
    )
}

/// The process that fills the store; killed when this goes.
struct Filler(Child);

impl Filler {
    /// Starts it and waits until the store is full.
    fn start(data: &Path, fill: Fill, progress: &ProgressBar) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Bench(format!("the store could not be filled: {why}"));
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut process = Command::new(program)
            .args(["bench", "--fill-only", "--data"])
            .arg(data)
            .args(["--backlog", &fill.backlog.to_string(), "--open", &fill.open.to_string()])
            .args(["--delayed", &fill.delayed.to_string()])
            .args(["--size", &fill.body_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = process.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
        let filler = Self(process);
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|error| failed(error.to_string()))?;
            match line.parse() {
                Ok(done) => progress.set_position(done),
                Err(_) => return Ok(filler),
            }
        }
        Err(failed("see its words above".to_owned()))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The filler's part: prints how far it is, says when it is done, and then waits to be killed.
#[expect(clippy::print_stdout, reason = "it is read by the process that started this one")]
pub(super) async fn fill(data: &Path, fill: Fill) -> Result<(), Failure> {
    let (store, _) = Embedded::open(data, EngineOptions::default()).map_err(bench)?;
    let topic: TopicName = "backlog".parse().map_err(bench)?;
    store.create_topic(topic.clone(), QUEUES).await.map_err(bench)?.map_err(bench)?;
    let body = Bytes::from(vec![b'x'; fill.body_bytes as usize]);
    let mut done = 0;
    while done < fill.all() {
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            let (kind, end) = match done {
                done if done < fill.backlog => (Kind::Waits, fill.backlog),
                done if done < fill.backlog + fill.open => (Kind::Open, fill.backlog + fill.open),
                _ => (Kind::Delayed, fill.all()),
            };
            let count = BATCH.min(end - done);
            calls.push(call(&store, &topic, &body, done..done + count, kind)?);
            done += count;
        }
        for call in calls {
            call.await?;
        }
        store.tick().await.map_err(bench)?;
        println!("{done}");
    }
    println!("full");
    std::future::pending().await
}

type Call = std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + std::marker::Send>>;

fn call(
    store: &Embedded,
    topic: &TopicName,
    body: &Bytes,
    numbers: Range<u64>,
    kind: Kind,
) -> Result<Call, Failure> {
    let send = |visibility| {
        let message = Message {
            topic: topic.clone(),
            body: body.clone(),
            tag: None,
            keys: Vec::new(),
            headers: Vec::new(),
            message_group: None,
            visibility,
        };
        Send::new(None, vec![message]).map_err(bench)
    };
    let group = || "bench".parse().map_err(bench);
    let visibility = |number: u64| match kind {
        Kind::Waits | Kind::Open => Visibility::AtOnce,
        Kind::Delayed => Visibility::After(Duration::from_secs(3_600 + number * 7_919 % 82_800)),
    };
    if matches!(kind, Kind::Waits | Kind::Delayed) {
        let sends = numbers.map(|number| Ok((group()?, send(visibility(number))?)));
        let sent = store.send(sends.collect::<Result<_, Failure>>()?);
        return Ok(Box::pin(async move { sent.await.map_err(bench)?.into_iter().try_for_each(taken) }));
    }
    let prepare = |number| {
        let (instance, callback, policy) = (None, None, CheckPolicy::default());
        Ok(Prepare { producer_group: group()?, instance, callback, policy, send: send(visibility(number))? })
    };
    let prepared = store.prepare(numbers.map(prepare).collect::<Result<_, Failure>>()?);
    Ok(Box::pin(async move { prepared.await.map_err(bench)?.into_iter().try_for_each(taken) }))
}

fn taken<T>(answer: Result<T, halfmq_core::Rejection>) -> Result<(), Failure> {
    answer.map(drop).map_err(bench)
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn bench(error: impl std::fmt::Display) -> Failure {
    Failure::Bench(error.to_string())
}
