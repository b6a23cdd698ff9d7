//! A stand-in until the composition root exists.

use crate::{api::http, config::Settings, telemetry};
use std::{net::SocketAddr, sync::Arc};

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
    /// Listening failed.
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
}

/// Serves health only.
///
/// # Errors
/// It cannot listen.
pub async fn run(
    settings: Settings,
    ready: impl FnOnce(Bound),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let grpc = tokio::net::TcpListener::bind(settings.grpc).await?;
    let http = tokio::net::TcpListener::bind(settings.http).await?;
    ready(Bound { grpc: grpc.local_addr()?, http: http.local_addr()? });
    let metrics = telemetry::metrics().map_err(std::io::Error::other)?;
    let router = http::router(Arc::new(|| http::Readiness::Ready), metrics);
    tokio::select! {
        served = async { axum::serve(http, router).await } => Ok(served?),
        () = shutdown => Ok(()),
    }
}
