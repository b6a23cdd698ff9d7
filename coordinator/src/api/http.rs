//! Health and metrics over HTTP.
//!
//! Deliberately absent: anything that changes state.

use crate::telemetry::Exposition;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::sync::Arc;

/// Whether this process can serve right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Calls are answered.
    Ready,
    /// Calls are refused, for this reason.
    NotReady(String),
}

/// Asks for the readiness; called once for each `/readyz`.
pub type Health = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// `/healthz`, `/readyz` and `/metrics`.
pub fn router(health: Health, metrics: Exposition) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(exposed).with_state(metrics))
}

/// The process lives; whether it can serve is `/readyz`, since a restart cures only a dead process.
async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(health): State<Health>) -> Response {
    match health() {
        Readiness::Ready => json(StatusCode::OK, &serde_json::json!({ "ready": true })),
        Readiness::NotReady(reason) => {
            json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "reason": reason }))
        }
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

async fn exposed(State(metrics): State<Exposition>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body, http::Request};
    use tower::ServiceExt;

    #[tokio::test]
    async fn each_path_says_what_it_should() {
        let not_ready = Readiness::NotReady("the journal is being read".to_owned());
        let cases = [
            ("GET", "/healthz", Readiness::Ready, 200, "ok"),
            ("GET", "/healthz", not_ready.clone(), 200, "ok"),
            ("GET", "/readyz", Readiness::Ready, 200, r#"{"ready":true}"#),
            ("GET", "/readyz", not_ready, 503, r#"{"ready":false,"reason":"the journal is being read"}"#),
            ("GET", "/metrics", Readiness::Ready, 200, "# TYPE halfmq_open_transactions gauge"),
            ("GET", "/nothing", Readiness::Ready, 404, ""),
            ("POST", "/healthz", Readiness::Ready, 405, ""),
        ];
        for (method, path, readiness, status, text) in cases {
            let metrics = crate::telemetry::metrics().expect("one recorder for this process");
            let story = format!("{method} {path} while {readiness:?}");
            let router = router(Arc::new(move || readiness.clone()), metrics);
            let request = Request::builder().method(method).uri(path).body(body::Body::empty());
            let response =
                router.oneshot(request.expect("a valid request")).await.expect("a router does not fail");
            assert_eq!(response.status(), status, "{story}");
            let bytes = body::to_bytes(response.into_body(), 1 << 20).await.expect("a short body");
            let body = String::from_utf8_lossy(&bytes);
            assert!(body.contains(text), "{story}: {body}");
        }
    }
}
