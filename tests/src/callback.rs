//! A producer that is asked over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri, header};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::within;

/// A web server on a free loopback port that remembers what it was asked.
pub struct Callback {
    address: String,
    asked: Mutex<mpsc::UnboundedReceiver<Asked>>,
    server: JoinHandle<()>,
}

/// One request.
pub struct Asked {
    /// Path of the URL.
    pub path: String,
    /// The questions.
    pub json: Value,
    headers: HeaderMap,
    body: Bytes,
}

/// What to answer.
pub enum Reply {
    /// 200 and this JSON.
    Json(Value),
    /// 200 and this text.
    Text(&'static str),
    /// This status, without a body.
    Status(u16),
    /// 302 to this URL.
    Redirect(String),
}

type Responder = dyn Fn(&Asked) -> Reply + Send + Sync;

#[derive(Clone)]
struct Shared {
    asked: mpsc::UnboundedSender<Asked>,
    respond: Arc<Responder>,
}

impl Callback {
    /// Starts a server that answers each request with what `respond` makes of it.
    ///
    /// # Panics
    /// If no loopback port is free.
    pub async fn start(respond: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound listener has an address").to_string();
        let (sender, asked) = mpsc::unbounded_channel();
        let router =
            Router::new().fallback(serve).with_state(Shared { asked: sender, respond: Arc::new(respond) });
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a bound listener serves until it is dropped");
        });
        Self { address, asked: Mutex::new(asked), server }
    }

    /// URL of a path that begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request, in the order they came.
    ///
    /// # Panics
    /// If none comes.
    pub async fn asked(&self) -> Asked {
        let mut asked = self.asked.lock().await;
        within("a callback", asked.recv()).await.expect("the server keeps the other end")
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Asked {
    /// Whether `halfmq-signature` is what the documentation says it is for this secret.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let header = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(timestamp), Some(signature)) = (header("halfmq-timestamp"), header("halfmq-signature"))
        else {
            return false;
        };
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        signature == format!("sha256={hex}")
    }

    /// Ids of the transactions it asks about.
    #[must_use]
    pub fn transaction_ids(&self) -> Vec<&str> {
        let questions = self.json.get("questions").and_then(Value::as_array);
        let ids = questions.into_iter().flatten().map(|question| question.get("transaction_id"));
        ids.map(|id| id.and_then(Value::as_str).expect("each question names its transaction")).collect()
    }

    /// The same answer to each question.
    #[must_use]
    pub fn answer_all(&self, resolution: &str) -> Reply {
        let answer = |id: &str| serde_json::json!({ "transaction_id": id, "resolution": resolution });
        let answers: Vec<Value> = self.transaction_ids().into_iter().map(answer).collect();
        Reply::Json(serde_json::json!({ "answers": answers }))
    }
}

async fn serve(State(shared): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let asked = Asked { path: uri.path().to_owned(), json, headers, body };
    let (status, location, text) = match (shared.respond)(&asked) {
        Reply::Json(json) => (200, None, json.to_string()),
        Reply::Text(text) => (200, None, text.to_owned()),
        Reply::Status(status) => (status, None, String::new()),
        Reply::Redirect(location) => (302, Some(location), String::new()),
    };
    // The test may have ended already and no longer care.
    let _nobody_listens = shared.asked.send(asked);
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if let Some(location) = location {
        response = response.header(header::LOCATION, location);
    }
    response.body(Body::from(text)).expect("status and headers of a test are legal")
}
