//! The composition root: the only file that names engines and APIs.

#[cfg(not(feature = "resolver"))]
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use halfmq_core::{CheckPolicy, InDoubtPolicy};
use tokio::sync::watch;

use crate::api::halfmq;
use crate::api::http::{self, Readiness};
use crate::api::rocketmq::{self, BadUser, RocketmqSettings, Users};
use crate::checker::{CallbackSettings, Checker, CheckerSettings};
use crate::clock::Clock;
use crate::config::{InDoubt, Settings};
use crate::connections;
use crate::listener::{self, TlsError};
#[cfg(feature = "resolver")]
use crate::resolver::{self, Resolver};
use crate::service::{self, Arrivals, Service, ServiceSettings};
use crate::store::embedded::{self, Embedded, EngineOptions, JournalOptions, Progress};
use crate::store::{Store, Unavailable};
use crate::telemetry;

/// Where the server listens.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// gRPC.
    pub grpc: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// Why the server could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be used.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] embedded::Error),
    /// TLS cannot be set up.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// A user cannot be understood.
    #[error("rocketmq.users: {0}")]
    User(#[from] BadUser),
    /// A group cannot be understood.
    #[error("rocketmq.fifo_groups: {0}")]
    Group(#[from] halfmq_core::Rejection),
    /// The metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] telemetry::ExpositionError),
    /// A file with a database's password cannot be read.
    #[error("resolver.databases: cannot read {file}: {error}")]
    Password {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A business database can never be asked with these settings.
    #[cfg(feature = "resolver")]
    #[error("resolver.databases: {0}")]
    Resolver(#[from] resolver::Error),
    /// The store failed while it was in use.
    #[error(transparent)]
    Failed(#[from] Unavailable),
    /// The HTTP listener failed.
    #[error("the HTTP listener failed: {0}")]
    Http(io::Error),
}

/// Serves until `shutdown`; `ready` is called once calls are answered.
///
/// # Errors
/// [`enum@Error`].
pub async fn run(
    settings: Settings,
    ready: impl FnOnce(Bound),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let grpc = listen(settings.grpc).await?;
    let http = listen(settings.http).await?;
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().map_err(Error::Http);
    let bound = Bound { grpc: address(&grpc)?, http: address(&http)? };
    let metrics = telemetry::metrics()?;
    let tls = listener::tls(settings.tls.certificate.as_deref().zip(settings.tls.key.as_deref()))?;
    let rocketmq = rocketmq_settings(&settings)?;
    let store = open_store(&settings)?;

    let (stop, stopped) = watch::channel(false);
    let clock = Clock::System;
    let arrivals = Arc::new(Arrivals::default());
    let announce = Arc::clone(&arrivals);
    let decided = Arc::new(move |receipt: &halfmq_core::Receipt| announce.announce(receipt));
    let checker = Checker::new(Arc::clone(&store), clock.clone(), checker_settings(&settings), decided);
    let service = Service::new(
        Arc::clone(&store),
        clock,
        Arc::clone(&checker),
        arrivals,
        service_settings(&settings),
        stopped.clone(),
    );
    let service = Arc::new(service);

    let until_stopped = || service::until(stopped.clone());
    let health = Arc::clone(&store);
    let health = Arc::new(move || {
        health.health().map_or_else(|error| Readiness::NotReady(error.to_string()), |()| Readiness::Ready)
    });
    let upkeep = tokio::spawn(upkeep(metrics.clone()));
    let web = tokio::spawn(
        axum::serve(http, http::router(health, metrics))
            .with_graceful_shutdown(until_stopped())
            .into_future(),
    );
    let keeper = Arc::clone(&service);
    let mut time = tokio::spawn(async move { keeper.keep_time().await });
    let _asked_until_the_end = resolver(&settings, &checker)?;
    let asking = tokio::spawn(checker.run(until_stopped()));
    let incoming = listener::incoming(grpc, tls);
    let mut calls = tokio::spawn(connections::serve(incoming, doors(service, rocketmq), stopped.clone()));

    ready(bound);
    tokio::select! {
        () = shutdown => {}
        // Time ends only with the store: it failed, and only a new start can tell what is on disk.
        _ = &mut time => {}
    }
    tracing::info!("stopping: open calls are answered, new ones are refused");
    stop.send_replace(true);
    // Streams and long polls may last for ever; what they would bring is not lost.
    drop(tokio::time::timeout(GRACE, &mut calls).await);
    calls.abort();
    // The checker records the answers it has been given before the store closes.
    drop(tokio::time::timeout(GRACE, asking).await);
    time.abort();
    upkeep.abort();
    web.abort();
    let health = store.health();
    store.close().await?;
    Ok(health?)
}

/// How long open calls may take to end.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

async fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener, Error> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })
}

/// Segments between two images of the ledger, at most: what a start reads.
const SEGMENTS_OF_A_START: u64 = 4;

fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, Error> {
    let segment_bytes = settings.journal.segment_bytes;
    let defaults = EngineOptions::default();
    let options = EngineOptions {
        journal: JournalOptions { segment_bytes, ..JournalOptions::default() },
        image_every: segment_bytes.saturating_mul(SEGMENTS_OF_A_START).min(defaults.image_every),
        retention: settings.retention,
        retention_bytes: settings.retention_bytes,
        receipt_retention: settings.receipt_retention,
        progress: Some(rebuild_progress()),
        ..defaults
    };
    let (store, recovered) = Embedded::open(&settings.data, options)?;
    tracing::info!(frames = recovered.frames, "the journal is replayed");
    if recovered.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovered.torn_bytes,
            "a torn tail was cut: it was never acknowledged, nothing acknowledged is lost"
        );
    }
    Ok(Arc::new(store))
}

/// Shows people on a terminal how far the index is that is made anew.
fn rebuild_progress() -> Progress {
    let bar = std::sync::OnceLock::new();
    Progress(Arc::new(move |done, total| {
        let bar: &indicatif::ProgressBar = bar.get_or_init(|| {
            tracing::warn!(bytes = total, "the index is made anew from the journal");
            let style = indicatif::ProgressStyle::with_template("index {wide_bar} {percent} % {eta}");
            let bar = indicatif::ProgressBar::new(total);
            bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
            bar
        });
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    }))
}

/// Asks the configured databases from now on, until it is dropped.
#[cfg(feature = "resolver")]
fn resolver(settings: &Settings, checker: &Arc<Checker>) -> Result<Resolver, Error> {
    let databases = settings.resolver.databases.iter().map(|database| {
        let password = match &database.password_file {
            Some(file) => Some(
                std::fs::read_to_string(file)
                    .map_err(|error| Error::Password { file: file.display().to_string(), error })?,
            ),
            None => None,
        };
        Ok(resolver::Database {
            url: database.url.to_string(),
            password: password.map(|password| password.trim().to_owned()),
            table: database.table.clone(),
            producer_groups: database.producer_groups.clone(),
            connections_max: database.connections_max,
        })
    });
    let databases = databases.collect::<Result<Vec<_>, Error>>()?;
    Ok(Resolver::start(&databases, checker)?)
}

/// Built without it; settings that need it were refused.
#[cfg(not(feature = "resolver"))]
fn resolver(_settings: &Settings, _checker: &Arc<Checker>) -> Result<Option<Infallible>, Error> {
    Ok(None)
}

/// All gRPC services, on one port.
fn doors(service: Arc<Service>, rocketmq: RocketmqSettings) -> tonic::service::Routes {
    halfmq::routes(Arc::clone(&service)).add_service(rocketmq::messaging(service, rocketmq))
}

fn service_settings(settings: &Settings) -> ServiceSettings {
    ServiceSettings {
        create_topics: settings.creates_topics(),
        topic_queues: settings.topic_queues,
        policy: policy(settings),
    }
}

fn policy(settings: &Settings) -> CheckPolicy {
    CheckPolicy {
        first_after: settings.checks.first_after,
        interval: settings.checks.interval,
        interval_max: settings.checks.interval_max,
        checks_max: settings.checks.checks_max,
        in_doubt: match settings.checks.in_doubt {
            InDoubt::Keep => InDoubtPolicy::Keep,
            InDoubt::Rollback => InDoubtPolicy::Rollback,
            InDoubt::Commit => InDoubtPolicy::Commit,
        },
    }
}

fn rocketmq_settings(settings: &Settings) -> Result<RocketmqSettings, Error> {
    let rocketmq = &settings.rocketmq;
    Ok(RocketmqSettings {
        fifo_groups: rocketmq.fifo_groups.iter().map(|group| group.parse()).collect::<Result<_, _>>()?,
        push_invisible: rocketmq.push_invisible,
        users: Users::parse(rocketmq.users.iter().map(|user| &**user))?,
    })
}

fn checker_settings(settings: &Settings) -> CheckerSettings {
    let callbacks = &settings.callbacks;
    CheckerSettings {
        answer_timeout: settings.checks.answer_timeout,
        in_flight_max: settings.checks.in_flight_max as usize,
        per_second_max: settings.checks.per_second_max,
        callbacks: CallbackSettings {
            allow: callbacks.allow.clone(),
            secret: callbacks.secret.as_deref().map(str::to_owned),
            timeout: callbacks.timeout,
            in_flight_max: callbacks.in_flight_max as usize,
            batch_max: callbacks.batch_max as usize,
        },
    }
}

/// Samples of histograms pile up unless somebody folds them.
async fn upkeep(metrics: telemetry::Exposition) {
    loop {
        tokio::time::sleep(telemetry::UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}
