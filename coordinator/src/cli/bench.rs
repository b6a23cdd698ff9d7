//! `halfmq bench`: what this machine does with transactions, each prepared, committed, received and acked.
//!
//! ```text
//!   starts ─► N in flight: prepare ─► commit ─► window ─► receive ─► ack     each id counted, each step timed
//!     │                                           │
//!     └ closed loop: when one ends                └ at most WINDOW committed and not yet acked, so that
//!       open loop: at a fixed rate, timed           no backlog flatters the figure
//!       from when it should have started
//! ```
//!
//! The load travels over streams or by unary calls, to a server of its own or to a given one, or straight into
//! the bare engine.

mod append_log;
mod backlog;
mod driver;
mod engine;
mod home;
mod load;
mod local;
mod metrics;
mod own_server;
mod pipeline;
mod process;
mod report;
mod tally;

use super::{endpoint::Endpoint, failure::Failure, output::Output};
use backlog::Fill;
use driver::Driver;
use home::Home;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use load::Load;
use metrics::Journal;
use own_server::OwnServer;
use process::Usage;
use report::Report;
use std::{net::SocketAddr, path::PathBuf};

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// How many transactions of one message each
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    transactions: u64,
    /// How many of the same before those that are measured [default: 0; for the engine alone until it uses files
    /// again]
    #[arg(long, value_name = "N")]
    warm_up: Option<u64>,
    /// How many are between prepare and the answer to commit at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Bytes of each body; several, comma-separated, take turns
    #[arg(long, value_name = "BYTES", default_value = "1024", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=4_194_304))]
    size: Vec<u32>,
    /// Connections that prepare and commit
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    producers: u32,
    /// Connections that receive and ack
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    consumers: u32,
    /// One gRPC call for each step, instead of streams that pipeline and batch
    #[arg(long)]
    unary: bool,
    /// Prepare without request ids: what is sent twice then counts twice
    #[arg(long)]
    no_request_ids: bool,
    /// Messages in one unary receive call, at most; streams have credit for as many as the window allows
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    /// Start so many each second, whether or not the earlier ones have ended
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// The embedded store without network and APIs, beside a bare append log of the same bytes: first the same groups
    /// back to back, then the same load
    #[arg(long, conflicts_with_all = ["endpoint", "metrics", "unary"])]
    engine_only: bool,
    /// Instead: leave so many messages unread, kill, start again, and say what memory and start take
    #[arg(long, value_name = "N", conflicts_with_all = ["endpoint", "metrics", "engine_only", "rate"])]
    backlog: Option<u64>,
    /// With --backlog: leave so many transactions undecided besides
    #[arg(long, value_name = "N", requires = "backlog", default_value_t = 0)]
    open: u64,
    /// With --backlog: leave so many messages delayed besides, by one hour to one day
    #[arg(long, value_name = "N", requires = "backlog", default_value_t = 0)]
    delayed: u64,
    /// The process that fills the store; the one that started it kills it.
    #[arg(long, hide = true, requires_all = ["backlog", "data"])]
    fill_only: bool,
    /// Where the store is put and left behind [default: a temporary folder]
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    data: Option<PathBuf>,
    /// A server that runs already; HALFMQ_ENDPOINT is not heeded, so that no server is loaded by accident
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Where that server shows its metrics, for the figures of its journal
    #[arg(long, value_name = "ADDR", requires = "endpoint")]
    metrics: Option<SocketAddr>,
}

impl Bench {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        if let Some(backlog) = self.backlog {
            return self.long_backlog(backlog, output).await;
        }
        let load = self.load();
        let progress =
            if output.is_for_people() { progress(load.transactions) } else { ProgressBar::hidden() };
        let report = match (&self.endpoint, self.engine_only) {
            (Some(url), _) => self.given_server(url, &load, &progress).await,
            (None, true) => engine::measure(Home::new(self.data.clone())?, &load, &progress).await,
            (None, false) => self.own_server(&load, &progress).await,
        };
        progress.finish_and_clear();
        let report = report?;
        output.answer(|| report.text(), || report.json())?;
        report.verdict()
    }

    async fn long_backlog(self, backlog: u64, output: Output) -> Result<(), Failure> {
        let body_bytes = self.size.first().copied().unwrap_or(1_024);
        let fill = Fill { backlog, open: self.open, delayed: self.delayed, body_bytes };
        let home = Home::new(self.data)?;
        if self.fill_only {
            return backlog::fill(home.path(), fill).await;
        }
        let progress = if output.is_for_people() { progress(fill.all()) } else { ProgressBar::hidden() };
        backlog::measure(home, fill, output, &progress)
    }

    fn load(&self) -> Load {
        Load {
            transactions: self.transactions,
            warm_up: self.warm_up.unwrap_or(if self.engine_only {
                engine::until_reuse(&self.size)
            } else {
                0
            }),
            in_flight: self.in_flight,
            body_bytes: self.size.clone(),
            producers: self.producers,
            consumers: self.consumers,
            batch: self.batch,
            request_ids: !self.no_request_ids,
            rate: self.rate,
        }
    }

    fn driver(&self, url: String) -> Driver {
        let endpoint = Endpoint::at(url);
        if self.unary { Driver::Unary(endpoint) } else { Driver::Streams(endpoint) }
    }

    async fn own_server(&self, load: &Load, progress: &ProgressBar) -> Result<Report, Failure> {
        let server = OwnServer::start(Home::new(self.data.clone())?)?;
        let driver = self.driver(server.url());
        load::warm_up(load, &driver, progress).await?;
        let before = Reading::take(Some(server.pid()), Some(server.http())).await;
        let outcome = load::run(load, &driver, progress).await?;
        let after = Reading::take(Some(server.pid()), Some(server.http())).await;
        let first_commit = outcome.first_committed.filter(|_| load.warm_up == 0);
        let mut report = Report::new(driver.name(), load.clone(), outcome, &before, &after);
        report.first_commit_after = first_commit.map(|at| at.saturating_duration_since(server.launched()));
        report.ready_after = Some(server.ready_after());
        report.warnings.extend(server.home().warning());
        Ok(report)
    }

    async fn given_server(&self, url: &str, load: &Load, progress: &ProgressBar) -> Result<Report, Failure> {
        let driver = self.driver(url.to_owned());
        load::warm_up(load, &driver, progress).await?;
        let before = Reading::take(None, self.metrics).await;
        let outcome = load::run(load, &driver, progress).await?;
        let after = Reading::take(None, self.metrics).await;
        Ok(Report::new(driver.name(), load.clone(), outcome, &before, &after))
    }
}

/// What is read before and after a run; what cannot be read is left out of the report.
#[derive(Debug, Default)]
struct Reading {
    client: Option<Usage>,
    server: Option<Usage>,
    journal: Option<Journal>,
}

impl Reading {
    async fn take(server: Option<u32>, metrics: Option<SocketAddr>) -> Self {
        let journal = match metrics {
            Some(address) => metrics::fetch(address).await.ok().as_deref().and_then(Journal::parse),
            None => None,
        };
        Self { client: Usage::own(), server: server.and_then(Usage::of), journal }
    }
}

fn progress(transactions: u64) -> ProgressBar {
    // Redrawing often would take CPU from what is measured. On anything but a terminal nothing is drawn.
    let bar = ProgressBar::with_draw_target(Some(transactions), ProgressDrawTarget::stderr_with_hz(4));
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests;
