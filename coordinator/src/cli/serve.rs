//! `halfmq serve`: settings, log, signals, and then the server.

use super::{failure::Failure, output::Output, table};
use crate::{
    config::{
        Settings,
        layers::{self, Flag, Loaded},
    },
    server::{self, Bound},
    telemetry,
};
use serde_json::json;
use std::path::PathBuf;
use tokio::sync::oneshot;

const SETTINGS_HELP: &str = "\
Settings come from the first of: flag, environment, file, default.
  In the file (TOML):   [checks]
                        interval = \"10s\"
  In the environment:   HALFMQ_CHECKS__INTERVAL=10s   (lists are comma-separated)
  On the command line:  --set checks.interval=10s
Settings: grpc, http, data, store, insecure, auto_create_topics, topic_queues,
  retention, retention_bytes, receipt_retention,
  checks.{first_after, interval, interval_max, checks_max, in_doubt, answer_timeout,
          in_flight_max, per_second_max},
  callbacks.{allow, secret, secret_file, timeout, in_flight_max, batch_max},
  rocketmq.{fifo_groups, push_invisible, users}, tls.{certificate, key},
  journal.segment_bytes, log.{filter, format}
Stops on SIGINT or SIGTERM once open calls are answered; a second signal ends it at once.";

/// Flags of `serve`; each beats the environment and the file.
#[derive(Debug, clap::Args)]
#[command(after_help = SETTINGS_HELP)]
pub(super) struct Serve {
    /// File with settings (TOML)
    #[arg(long, value_name = "FILE", env = "HALFMQ_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the embedded store [default: ./halfmq-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Storage engine [default: embedded]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Where the gRPC API listens; port 0 picks one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// Where health and metrics listen; port 0 picks one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Let other machines in, although nothing is encrypted or authenticated
    #[arg(long)]
    insecure: bool,
    /// Any setting by its name; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Serve {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let Loaded { settings, ignored } = layers::load(self.config.as_deref(), environment, &self.flags())?;
        telemetry::start_log(&settings.log)?;
        for variable in ignored {
            tracing::warn!(variable, "ignored: names no setting");
        }
        let in_force = settings.in_force();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            settings = %json!(in_force),
            "starting"
        );
        let shutdown = first_signal()?;
        server::run(settings.clone(), |bound| announce(output, &settings, bound), shutdown).await?;
        tracing::info!("stopped");
        Ok(())
    }

    fn flags(&self) -> Vec<Flag> {
        let named =
            [("grpc", &self.grpc), ("http", &self.http), ("data", &self.data), ("store", &self.store)];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((format!("--{name}"), name.to_owned(), value.clone()?)));
        let insecure = self
            .insecure
            .then(|| ("--insecure".to_owned(), "insecure".to_owned(), "true".to_owned()))
            .into_iter();
        let set = self.set.iter().map(|(name, value)| (format!("--set {name}"), name.clone(), value.clone()));
        // The more particular flags come last, so that they win over --set.
        set.chain(named).chain(insecure).map(|(place, name, value)| Flag { place, name, value }).collect()
    }
}

/// Tells people and scripts that it serves, and where.
fn announce(output: Output, settings: &Settings, bound: Bound) {
    let Bound { grpc, http } = bound;
    let told = output
        .answer(|| banner(settings, bound), || json!({ "grpc": grpc.to_string(), "http": http.to_string() }));
    if let Err(failure) = told {
        // A closed stdout is no reason not to serve.
        tracing::warn!(%failure, "could not say where it listens");
    }
    tracing::info!(%grpc, %http, "serving");
}

fn banner(settings: &Settings, Bound { grpc, http }: Bound) -> String {
    let in_force = settings.in_force();
    let facts: Vec<(&str, String)> = in_force
        .iter()
        .map(|(name, value)| {
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "(unset)".to_owned(),
                other @ (serde_json::Value::Bool(_)
                | serde_json::Value::Number(_)
                | serde_json::Value::Array(_)
                | serde_json::Value::Object(_)) => other.to_string(),
            };
            (name.as_str(), value)
        })
        .collect();
    format!(
        "halfmq {} with these settings in force:\n{}\n\nServing gRPC on {grpc}, health and metrics on http://{http}",
        env!("CARGO_PKG_VERSION"),
        table::facts(&facts),
    )
}

/// Resolves on the first SIGINT or SIGTERM; the second ends the process at once.
fn first_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::new().map_err(Failure::Runtime)?;
    let (first, arrived) = oneshot::channel();
    // A task of its own: while the server winds down nobody would poll for the second signal.
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; a second signal ends it at once");
        if first.send(()).is_err() {
            return;
        }
        signals.next().await;
        tracing::warn!("ended by a second signal; what was acknowledged is on disk");
        std::process::exit(1);
    });
    // A closed channel cannot mean "stop": the task ends only after it sent.
    Ok(async move {
        if arrived.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
