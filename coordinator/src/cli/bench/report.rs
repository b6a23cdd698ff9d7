//! What a run is told as.

use super::Reading;
use super::load::Load;
use super::metrics::Journal;
use super::tally::{Outcome, Quantiles};
use crate::cli::{failure::Failure, table};
use serde_json::{Value, json};
use std::time::Duration;

/// One run.
pub(super) struct Report {
    transport: &'static str,
    load: Load,
    outcome: Outcome,
    client_cpu: Option<Duration>,
    server_cpu: Option<Duration>,
    resident_bytes: Option<u64>,
    resident_bytes_max: Option<u64>,
    journal: Option<Journal>,
    /// From the server's launch until it served.
    pub(super) ready_after: Option<Duration>,
    /// From the server's launch until the first commit was answered.
    pub(super) first_commit_after: Option<Duration>,
    /// Beside it, for the engine alone.
    pub(super) bare: Option<Bare>,
    /// What makes the figures doubtful.
    pub(super) warnings: Vec<String>,
}

/// A bare append log.
pub(super) struct Bare {
    /// Those of the engine, one after the other, with nobody to hear or answer in between.
    pub(super) groups: u64,
    pub(super) took: Duration,
    /// How many times as long as that the engine took.
    pub(super) ratio: f64,
    /// With as many calls at once, and as many bytes.
    pub(super) same_load: Outcome,
    /// How many times as long as with the same load the engine took.
    pub(super) same_load_ratio: f64,
}

impl Report {
    pub(super) fn new(
        transport: &'static str,
        load: Load,
        outcome: Outcome,
        before: &Reading,
        after: &Reading,
    ) -> Self {
        let cpu = |before: &Option<super::Usage>, after: &Option<super::Usage>| {
            Some(after.as_ref()?.cpu.saturating_sub(before.as_ref()?.cpu))
        };
        Self {
            transport,
            load,
            client_cpu: cpu(&before.client, &after.client),
            server_cpu: cpu(&before.server, &after.server),
            resident_bytes: after.server.map(|usage| usage.resident_bytes),
            resident_bytes_max: after.server.map(|usage| usage.resident_bytes_max),
            journal: after
                .journal
                .zip(before.journal)
                .map(|(after, before)| per(after.since(before), &outcome)),
            outcome,
            ready_after: None,
            first_commit_after: None,
            bare: None,
            warnings: Vec::new(),
        }
    }

    /// A figure is worth something only if nothing was lost for it.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        self.outcome.verdict()
    }

    pub(super) fn text(&self) -> String {
        let Self { load, outcome, .. } = self;
        let pace = load.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} starts/s"));
        let mut parts = vec![
            format!(
                "{} transactions of {} bytes, {} in flight, {pace}, {}",
                outcome.transactions,
                sizes(&load.body_bytes),
                load.in_flight,
                self.transport
            ),
            self.latencies(),
            table::facts(&self.facts()),
        ];
        parts.extend(self.warnings.iter().map(|warning| format!("Mind: {warning}.")));
        parts.join("\n\n")
    }

    fn latencies(&self) -> String {
        let mut table = table::Table::new(["MILLISECONDS", "P50", "P99", "P99.9", "MAX"]);
        for (step, quantiles) in self.steps() {
            let Quantiles { p50, p99, p999, max } = quantiles;
            let [p50, p99, p999, max] = [p50, p99, p999, max].map(|value| format!("{value:.2}"));
            table.row([step.to_owned(), p50, p99, p999, max]);
        }
        table.render("")
    }

    fn steps(&self) -> [(&'static str, Quantiles); 3] {
        let Outcome { prepare, commit, end_to_end, .. } = self.outcome;
        [("prepare", prepare), ("commit", commit), ("end to end", end_to_end)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let seconds = |span: Duration| format!("{:.2} s", span.as_secs_f64());
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        let mut facts = vec![("transactions/s", format!("{:.0}", self.outcome.per_second()))];
        let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
        fact("took", Some(seconds(self.outcome.took)));
        fact("CPU, server", self.server_cpu.map(seconds));
        fact("CPU, client", self.client_cpu.map(seconds));
        fact("memory, server", self.resident_bytes.map(mebibytes));
        fact("memory, highest", self.resident_bytes_max.map(mebibytes));
        fact("journal bytes/transaction", self.journal.map(|journal| format!("{:.0}", journal.bytes)));
        fact("journal syncs/transaction", self.journal.map(|journal| format!("{:.3}", journal.syncs)));
        fact("server ready after", self.ready_after.map(|span| format!("{} ms", span.as_millis())));
        fact("first commit after", self.first_commit_after.map(|span| format!("{} ms", span.as_millis())));
        if let Some(bare) = &self.bare {
            fact(
                "bare append log",
                Some(format!("{} for the same {} groups", seconds(bare.took), bare.groups)),
            );
            fact("engine to bare log", Some(format!("{:.2} times as long", bare.ratio)));
            let (took, rate) = (seconds(bare.same_load.took), bare.same_load.per_second());
            fact("bare log, same load", Some(format!("{took}, {rate:.0} transactions/s")));
            fact("engine to that", Some(format!("{:.2} times as long", bare.same_load_ratio)));
        }
        fact("missing", Some(self.outcome.missing.to_string()));
        fact("double", Some(self.outcome.double.to_string()));
        facts
    }

    pub(super) fn json(&self) -> Value {
        let Self { load, outcome, .. } = self;
        let steps = self.steps().map(|(step, quantiles)| {
            let Quantiles { p50, p99, p999, max } = quantiles;
            (
                format!("{}_ms", step.replace(' ', "_")),
                json!({ "p50": p50, "p99": p99, "p99_9": p999, "max": max }),
            )
        });
        let mut report = json!({
            "transport": self.transport,
            "transactions": outcome.transactions,
            "in_flight": load.in_flight,
            "sizes": load.body_bytes,
            "producers": load.producers,
            "consumers": load.consumers,
            "rate": load.rate,
            "request_ids": load.request_ids,
            "transactions_per_second": outcome.per_second(),
            "seconds": outcome.took.as_secs_f64(),
            "server_cpu_seconds": self.server_cpu.map(|span| span.as_secs_f64()),
            "client_cpu_seconds": self.client_cpu.map(|span| span.as_secs_f64()),
            "server_resident_bytes": self.resident_bytes,
            "server_resident_bytes_max": self.resident_bytes_max,
            "journal_bytes_per_transaction": self.journal.map(|journal| journal.bytes),
            "journal_syncs_per_transaction": self.journal.map(|journal| journal.syncs),
            "server_ready_seconds": self.ready_after.map(|span| span.as_secs_f64()),
            "first_commit_seconds": self.first_commit_after.map(|span| span.as_secs_f64()),
            "bare_log_seconds": self.bare.as_ref().map(|bare| bare.took.as_secs_f64()),
            "bare_log_groups": self.bare.as_ref().map(|bare| bare.groups),
            "engine_to_bare_log": self.bare.as_ref().map(|bare| bare.ratio),
            "bare_log_same_load_seconds": self.bare.as_ref().map(|bare| bare.same_load.took.as_secs_f64()),
            "engine_to_bare_log_same_load": self.bare.as_ref().map(|bare| bare.same_load_ratio),
            "missing": outcome.missing,
            "double": outcome.double,
            "warnings": self.warnings,
        });
        if let Value::Object(fields) = &mut report {
            fields.extend(steps);
        }
        report
    }
}

/// Sizes that take turns.
fn sizes(bytes: &[u32]) -> String {
    bytes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// For each transaction.
fn per(journal: Journal, outcome: &Outcome) -> Journal {
    let transactions = outcome.transactions as f64;
    Journal { bytes: journal.bytes / transactions, syncs: journal.syncs / transactions }
}
