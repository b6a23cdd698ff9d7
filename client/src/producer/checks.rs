//! The stream on which the coordinator asks what became of transactions.
//!
//! ```text
//! connect ──► register ──► question ──► checker ──► answer
//!    ▲                        │ stream ends: answers on the way are lost and cost nothing,
//!    └──── jittered pause ◄───┘ the coordinator asks again
//! ```

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use halfmq_proto::v1::{self, checks_request, checks_response};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::checker::{BoxedChecker, Check, Resolution};
use super::open::OpenTransactions;
use crate::client::{Backoff, Client};
use crate::ids::TransactionId;
use crate::wire;

/// Everything the stream's task needs. It holds no producer, so that dropping those ends it.
pub(super) struct Checks {
    pub(super) client: Client,
    pub(super) registration: v1::Registration,
    pub(super) checker: Option<Arc<dyn BoxedChecker>>,
    pub(super) open: Arc<OpenTransactions>,
    pub(super) in_flight_max: usize,
    pub(super) timeout: Duration,
    pub(super) registered: watch::Sender<bool>,
}

/// The questions of one stream that are being looked into.
struct Session {
    answers: mpsc::Sender<v1::ChecksRequest>,
    running: JoinSet<TransactionId>,
    asked: HashSet<TransactionId>,
}

impl Checks {
    /// Keeps a stream open for ever; ends by being dropped.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(self.client.options().backoff);
        loop {
            let ended = self.stream(&mut backoff).await;
            self.registered.send_replace(false);
            let pause = backoff.pause();
            tracing::debug!(group = self.registration.producer_group, ?ended, ?pause, "check stream ended");
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream from registration to its end.
    async fn stream(&self, backoff: &mut Backoff) -> Result<(), Status> {
        let (answers, requests) = mpsc::channel(self.in_flight_max + 1);
        let registration = checks_request::Kind::Registration(self.registration.clone());
        answers
            .try_send(v1::ChecksRequest { kind: Some(registration) })
            .expect("a new channel has room for one");
        let connect = self.client.options().attempt_timeout;
        let mut stub = self.client.transactions();
        let mut questions: Streaming<v1::ChecksResponse> =
            tokio::time::timeout(connect, stub.checks(ReceiverStream::new(requests)))
                .await
                .map_err(|_elapsed| Status::deadline_exceeded("the stream was not accepted in time"))??
                .into_inner();
        let mut session = Session { answers, running: JoinSet::new(), asked: HashSet::new() };
        loop {
            // A full house stops reading, and HTTP/2 flow control stops the coordinator.
            let may_ask = session.running.len() < self.in_flight_max;
            tokio::select! {
                Some(finished) = session.running.join_next() => session.forget(finished),
                response = questions.message(), if may_ask => match response? {
                    None => return Ok(()),
                    Some(response) => self.take(response, &mut session, backoff),
                },
            }
        }
    }

    fn take(&self, response: v1::ChecksResponse, session: &mut Session, backoff: &mut Backoff) {
        match response.kind {
            Some(checks_response::Kind::Registered(v1::Registered {})) => {
                backoff.reset();
                self.registered.send_replace(true);
            }
            Some(checks_response::Kind::Question(question)) => match Check::try_from(question) {
                Ok(check) => self.look_into(check, session),
                Err(error) => tracing::warn!(%error, "a question cannot be read and stays unanswered"),
            },
            None => tracing::debug!("the coordinator says something newer than this SDK"),
        }
    }

    fn look_into(&self, check: Check, session: &mut Session) {
        let id = check.transaction_id.clone();
        // Asked again while it is being looked into: one answer serves both questions.
        if !session.asked.insert(id.clone()) {
            return;
        }
        let (answers, timeout) = (session.answers.clone(), self.timeout);
        let checker = self.checker.clone();
        let open = Arc::clone(&self.open);
        session.running.spawn(async move {
            let resolution = match checker {
                _ if open.contains(&id) => Some(Resolution::Unknown),
                Some(checker) => look_up(&*checker, check, timeout).await,
                None => None,
            };
            if let Some(mut resolution) = resolution {
                // A question may overtake the answer to prepare; what was looked up then is too old.
                if open.contains(&id) {
                    resolution = Resolution::Unknown;
                }
                let Some(answer) = answer(&id, resolution) else { return id };
                if answers.send(answer).await.is_err() {
                    tracing::debug!(%id, "the stream ended before the answer; the coordinator asks again");
                }
            }
            id
        });
    }
}

impl Session {
    fn forget(&mut self, finished: Result<TransactionId, tokio::task::JoinError>) {
        match finished {
            Ok(id) => {
                self.asked.remove(&id);
            }
            // Checkers are caught; this is a bug of ours. The id stays asked until the stream ends.
            Err(error) => tracing::error!(%error, "a check broke"),
        }
    }
}

/// A checker that panics or hangs has said nothing, so nothing is answered. UNKNOWN would be counted:
/// while a database hangs, or after a bad deployment, it would push every open transaction in doubt, and
/// the in-doubt policy would decide what nobody knows. Unanswered, the question costs nothing and goes to
/// other producers of the group too.
async fn look_up(checker: &dyn BoxedChecker, check: Check, timeout: Duration) -> Option<Resolution> {
    let id = check.transaction_id.clone();
    let caught = AssertUnwindSafe(async { checker.check_boxed(check).await }).catch_unwind();
    match tokio::time::timeout(timeout, caught).await {
        Ok(Ok(resolution)) => Some(resolution),
        Ok(Err(_panic)) => {
            tracing::error!(%id, "the transaction checker panicked; the check stays unanswered");
            None
        }
        Err(_elapsed) => {
            tracing::error!(%id, ?timeout, "the transaction checker took too long; the check stays unanswered");
            None
        }
    }
}

fn answer(id: &TransactionId, resolution: Resolution) -> Option<v1::ChecksRequest> {
    let answer = wire::check_answer(id.to_string(), resolution)?;
    Some(v1::ChecksRequest { kind: Some(checks_request::Kind::Answer(answer)) })
}
