//! Every metric and the log, in one place.
//!
//! Callers say what happened ([`Happened`], `acked`, ...) and hold no names. Names begin with
//! `halfmq_` and end with their unit. Deliberately absent: labels whose values a producer chooses
//! freely (transaction ids, keys), because each new value costs memory for good; topics and consumer
//! groups are bounded by the server's limits.

use crate::config::{LogFormat, LogSettings};
use halfmq_core::{Decision, Event, Release, Verdict};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::{io, sync::OnceLock, time::Duration};
use tracing_subscriber::{EnvFilter, filter::ParseError, util::TryInitError};

/// Names and their help texts.
mod names {
    /// One metric: its name and what people read in `/metrics`.
    pub(super) type Metric = (&'static str, &'static str);

    pub(super) const PREPARED: Metric =
        ("halfmq_transactions_prepared_total", "Transactions prepared, repeated requests not counted.");
    pub(super) const COMMITTED: Metric =
        ("halfmq_transactions_committed_total", "Transactions committed, by who decided.");
    pub(super) const ROLLED_BACK: Metric =
        ("halfmq_transactions_rolled_back_total", "Transactions rolled back, by who decided.");
    pub(super) const CHECKS: Metric =
        ("halfmq_checks_total", "Checks by outcome; unanswered ones count against no transaction.");
    pub(super) const SENT: Metric = ("halfmq_messages_sent_total", "Messages sent without a transaction.");
    pub(super) const RELEASED: Metric =
        ("halfmq_messages_released_total", "Messages that got their place in a queue.");
    pub(super) const DELIVERED: Metric =
        ("halfmq_messages_delivered_total", "Deliveries handed out, each attempt counted.");
    pub(super) const ACKED: Metric = ("halfmq_messages_acked_total", "Deliveries settled for good.");
    pub(super) const RETRIED: Metric =
        ("halfmq_messages_retried_total", "Deliveries given back or run out, to come again.");
    pub(super) const DEAD_LETTERED: Metric =
        ("halfmq_messages_dead_lettered_total", "Messages that became dead letters.");
    pub(super) const RECEIPTS_EXPIRED: Metric =
        ("halfmq_receipts_expired_total", "Acks, extensions and returns that came after their lease ended.");
    pub(super) const JOURNAL_SYNCS: Metric = ("halfmq_journal_syncs_total", "Syncs of the journal.");
    pub(super) const JOURNAL_BYTES: Metric =
        ("halfmq_journal_written_bytes_total", "Bytes written to the journal, framing included.");

    pub(super) const REQUEST: Metric =
        ("halfmq_request_duration_seconds", "Time from request to answer, by call and result.");
    pub(super) const JOURNAL_SYNC: Metric =
        ("halfmq_journal_sync_duration_seconds", "Time one sync of the journal took.");
    pub(super) const JOURNAL_GROUP: Metric =
        ("halfmq_journal_group_size_operations", "Operations made durable by one sync.");

    pub(super) const OPEN: Metric = ("halfmq_open_transactions", "Transactions not decided yet.");
    pub(super) const IN_DOUBT: Metric =
        ("halfmq_in_doubt_transactions", "Open transactions whose producers no longer know: look at them.");
    pub(super) const OLDEST_OPEN: Metric =
        ("halfmq_oldest_open_transaction_seconds", "Age of the oldest open transaction; 0 if there is none.");
    pub(super) const CHECKERS: Metric =
        ("halfmq_connected_checkers", "Producer instances that can be asked over a live stream.");
    pub(super) const BACKLOG: Metric =
        ("halfmq_backlog_messages", "Messages a consumer group has not settled, by topic and group.");

    pub(super) const JOURNAL_SIZE: Metric = ("halfmq_journal_size_bytes", "Bytes of the journal's files.");

    pub(super) const COUNTERS: [Metric; 13] = [
        PREPARED,
        COMMITTED,
        ROLLED_BACK,
        CHECKS,
        SENT,
        RELEASED,
        DELIVERED,
        ACKED,
        RETRIED,
        DEAD_LETTERED,
        RECEIPTS_EXPIRED,
        JOURNAL_SYNCS,
        JOURNAL_BYTES,
    ];
    pub(super) const HISTOGRAMS: [Metric; 3] = [REQUEST, JOURNAL_SYNC, JOURNAL_GROUP];
    pub(super) const GAUGES: [Metric; 6] = [OPEN, IN_DOUBT, OLDEST_OPEN, CHECKERS, BACKLOG, JOURNAL_SIZE];
}

/// What the events of one group say. Counters are looked up by their names, so that is done for a whole group.
#[derive(Debug, Default)]
pub struct Happened {
    prepared: u64,
    sent: u64,
    committed: Deciders,
    rolled_back: Deciders,
    unknown: u64,
    released: u64,
    delivered: u64,
    retried: u64,
    dead_lettered: u64,
}

/// So many by each of them.
#[derive(Debug, Default)]
struct Deciders {
    call: u64,
    check: u64,
    policy: u64,
}

impl Happened {
    /// Adds what an event says.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not counted")]
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Prepared(_) => self.prepared += 1,
            Event::Sent(sent) => {
                self.sent += sent.messages.len() as u64;
                self.released += placed(&sent.releases);
            }
            Event::Decided(event) => {
                self.decided(&event.verdict);
                self.released += placed(&event.releases);
            }
            Event::Checked { .. } => self.unknown += 1,
            Event::Released { .. } => self.released += 1,
            Event::Delivered { deliveries, .. } => self.delivered += deliveries.len() as u64,
            Event::Retried { .. } => self.retried += 1,
            Event::DeadLettered { .. } => self.dead_lettered += 1,
            _ => {}
        }
    }

    fn decided(&mut self, verdict: &Verdict) {
        let deciders = match verdict.decision {
            Decision::Commit => &mut self.committed,
            Decision::Rollback => &mut self.rolled_back,
        };
        *match verdict.by {
            halfmq_core::DecidedBy::Call => &mut deciders.call,
            halfmq_core::DecidedBy::Check => &mut deciders.check,
            halfmq_core::DecidedBy::Policy => &mut deciders.policy,
        } += 1;
    }

    /// Counts it. Engines do that for what they record, never for what they replay.
    pub fn tell(&self) {
        counter!(names::PREPARED.0).increment(self.prepared);
        for (name, Deciders { call, check, policy }) in
            [(names::COMMITTED.0, &self.committed), (names::ROLLED_BACK.0, &self.rolled_back)]
        {
            for (by, transactions) in [("call", call), ("check", check), ("policy", policy)] {
                counter!(name, "decided_by" => by).increment(*transactions);
            }
        }
        checked("commit", self.committed.check);
        checked("rollback", self.rolled_back.check);
        checked("unknown", self.unknown);
        counter!(names::SENT.0).increment(self.sent);
        counter!(names::RELEASED.0).increment(self.released);
        counter!(names::DELIVERED.0).increment(self.delivered);
        counter!(names::RETRIED.0).increment(self.retried);
        counter!(names::DEAD_LETTERED.0).increment(self.dead_lettered);
    }
}

fn placed(releases: &[Release]) -> u64 {
    releases.iter().filter(|release| matches!(release, Release::Placed { .. })).count() as u64
}

/// That many checks were answered by nobody; they cost nothing and are asked again.
pub fn unanswered(checks: u64) {
    checked("unanswered", checks);
}

/// That many checks ended like this.
fn checked(outcome: &'static str, checks: u64) {
    counter!(names::CHECKS.0, "outcome" => outcome).increment(checks);
}

/// That many deliveries were settled for good.
pub fn acked(deliveries: u64) {
    counter!(names::ACKED.0).increment(deliveries);
}

/// That many receipt handles were used after their lease ended.
pub fn receipts_expired(receipts: u64) {
    counter!(names::RECEIPTS_EXPIRED.0).increment(receipts);
}

/// So many calls were answered together; `result` is `OK` or the name of the reason.
pub fn answered(call: &'static str, result: &'static str, took: Duration, calls: usize) {
    if calls > 0 {
        histogram!(names::REQUEST.0, "call" => call, "result" => result).record_many(took, calls);
    }
}

/// One sync of the journal made a group of operations durable.
pub fn journal_synced(operations: usize, bytes: u64, took: Duration) {
    counter!(names::JOURNAL_SYNCS.0).increment(1);
    counter!(names::JOURNAL_BYTES.0).increment(bytes);
    histogram!(names::JOURNAL_SYNC.0).record(took);
    #[expect(clippy::cast_precision_loss, reason = "a group never holds 2^52 operations")]
    histogram!(names::JOURNAL_GROUP.0).record(operations as f64);
}

/// How many transactions are open now, how many of them in doubt, and how old the oldest is.
pub fn open_transactions(open: u64, in_doubt: u64, oldest: Duration) {
    gauge!(names::OPEN.0).set(level(open));
    gauge!(names::IN_DOUBT.0).set(level(in_doubt));
    gauge!(names::OLDEST_OPEN.0).set(oldest.as_secs_f64());
}

/// How many producer instances can be asked over a live stream now.
pub fn connected_checkers(instances: u64) {
    gauge!(names::CHECKERS.0).set(level(instances));
}

/// Bytes of the journal's files.
pub fn journal_size(bytes: u64) {
    gauge!(names::JOURNAL_SIZE.0).set(level(bytes));
}

/// How many messages this group has not settled in this topic. Set it to 0 when either is deleted.
pub fn backlog(topic: &str, group: &str, messages: u64) {
    gauge!(names::BACKLOG.0, "topic" => topic.to_owned(), "group" => group.to_owned()).set(level(messages));
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; levels stay far below 2^52")]
fn level(count: u64) -> f64 {
    count as f64
}

/// Upper bounds of the duration buckets, in seconds: from a fast sync to a long poll.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
    60.0,
];
const OPERATIONS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// How often [`Exposition::upkeep`] must run, so that samples nobody scrapes do not pile up.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Where the metrics of this process can be read.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

/// Why metrics cannot be kept.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot keep metrics: {0}")]
pub struct ExpositionError(String);

impl Exposition {
    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recent samples into their histograms; due every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Starts keeping metrics; later calls, from further servers in one process, share the first one's.
///
/// # Errors
/// Another metrics recorder was installed in this process.
pub fn metrics() -> Result<Exposition, ExpositionError> {
    static KEPT: OnceLock<Result<Exposition, ExpositionError>> = OnceLock::new();
    KEPT.get_or_init(|| record().map_err(|error| ExpositionError(error.to_string()))).clone()
}

fn record() -> Result<Exposition, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(full(names::REQUEST.0), &SECONDS)?
        .set_buckets_for_metric(full(names::JOURNAL_SYNC.0), &SECONDS)?
        .set_buckets_for_metric(full(names::JOURNAL_GROUP.0), &OPERATIONS)?
        .install_recorder()?;
    for (name, help) in names::COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in names::GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help) in names::HISTOGRAMS {
        describe_histogram!(name, unit(name), help);
    }
    begin_at_zero();
    Ok(Exposition(handle))
}

fn unit(name: &str) -> Unit {
    if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count }
}

/// Shows every series whose labels are known beforehand, so that an alert on a rise sees the first one.
fn begin_at_zero() {
    Happened::default().tell();
    unanswered(0);
    acked(0);
    receipts_expired(0);
    counter!(names::JOURNAL_SYNCS.0).increment(0);
    counter!(names::JOURNAL_BYTES.0).increment(0);
    open_transactions(0, 0, Duration::ZERO);
    connected_checkers(0);
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The setting `log.filter` is no filter.
    #[error("log.filter: '{filter}' is not a filter such as info or info,halfmq_coordinator=debug: {error}")]
    Filter {
        /// As it was set.
        filter: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Something else in this process logs already.
    #[error("cannot start the log: {0}")]
    Installed(#[from] TryInitError),
}

/// Starts the log of this process on stderr.
///
/// # Errors
/// The filter cannot be understood, or a log was started before.
pub fn start_log(settings: &LogSettings) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::builder()
        .parse(&settings.filter)
        .map_err(|error| LogError::Filter { filter: settings.filter.clone(), error })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match settings.format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr());
            log.with_ansi(colours).finish().try_init()?;
        }
        LogFormat::Json => log.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use halfmq_core::{Decided, DecidedBy, Timestamp, TransactionId};

    use super::*;

    #[test]
    fn names_carry_prefix_and_unit() {
        for (name, _) in names::COUNTERS {
            assert!(name.starts_with("halfmq_") && name.ends_with("_total"), "{name}");
        }
        for (name, _) in names::HISTOGRAMS {
            let has_unit = ["_seconds", "_bytes", "_operations"].iter().any(|unit| name.ends_with(unit));
            assert!(name.starts_with("halfmq_") && has_unit, "{name}");
        }
        for (name, _) in names::GAUGES {
            assert!(name.starts_with("halfmq_") && !name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn what_is_counted_can_be_read() {
        let exposition = metrics().expect("the first recorder in this process");
        answered("Prepare", "OK", Duration::from_micros(300), 1);
        journal_synced(3, 4_096, Duration::from_micros(80));
        backlog("orders", "billing", 7);
        let mut happened = Happened::default();
        let at = Timestamp::ZERO;
        for (decision, by) in [(Decision::Commit, DecidedBy::Check), (Decision::Rollback, DecidedBy::Policy)]
        {
            let verdict = Verdict { decision, by, at, reason: String::new() };
            let transaction = TransactionId::from_u128(1);
            let decided = Decided { transaction, verdict, releases: Vec::new(), replacements: Vec::new() };
            happened.add(&Event::Decided(decided));
        }
        assert_eq!((happened.committed.check, happened.rolled_back.policy), (1, 1));
        happened.tell();
        let text = metrics().expect("the same recorder again").render();
        exposition.upkeep();
        for line in [
            // Other tests of this process count as well: for these only that they are there.
            "halfmq_transactions_rolled_back_total{decided_by=\"policy\"} ",
            "halfmq_transactions_committed_total{decided_by=\"check\"} ",
            "halfmq_checks_total{outcome=\"unanswered\"} ",
            "halfmq_journal_written_bytes_total ",
            "halfmq_journal_group_size_operations_bucket{le=\"4\"} ",
            "halfmq_request_duration_seconds_bucket{call=\"Prepare\",result=\"OK\",le=\"0.0005\"} 1",
            "halfmq_backlog_messages{topic=\"orders\",group=\"billing\"} 7",
            "# TYPE halfmq_in_doubt_transactions gauge",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
