//! Prepare, commit, rollback and send, each one try: over the shared stream, or by a unary call.

use halfmq_proto::v1;
use v1::produce_answer::Outcome;
use v1::produce_operation::Verb;

use super::options::Transport;
use super::produce::{Heard, bytes};
use super::{Client, unary};
use crate::error::Error;

/// Larger operations are calls of their own, so that they hold up nobody else.
const STREAM_BYTES_MAX: usize = 1 << 20;

/// `operation!(client, Verb, request, Outcome, stub.method)`: over the stream if it can be, else by a call.
macro_rules! operation {
    ($client:expr, $verb:path, $request:expr, $outcome:path, $stub:ident . $method:ident) => {{
        let (client, request) = ($client, $request);
        match client.streamed(|| $verb(request.clone())).await {
            Some(Ok($outcome(answer))) => Ok(answer),
            Some(Ok(other)) => Err(Error::Unexpected(format!("{other:?} is the answer to something else"))),
            Some(Err(error)) => Err(error),
            None => unary(client.$stub().$method(request)).await,
        }
    }};
}

impl Client {
    pub(crate) async fn prepare(&self, request: v1::PrepareRequest) -> Result<v1::PrepareResponse, Error> {
        operation!(self, Verb::Prepare, request, Outcome::Prepared, transactions.prepare)
    }

    pub(crate) async fn commit(&self, request: v1::CommitRequest) -> Result<v1::DecisionReceipt, Error> {
        operation!(self, Verb::Commit, request, Outcome::Decided, transactions.commit)
    }

    pub(crate) async fn rollback(&self, request: v1::RollbackRequest) -> Result<v1::DecisionReceipt, Error> {
        operation!(self, Verb::Rollback, request, Outcome::Decided, transactions.rollback)
    }

    pub(crate) async fn send(&self, request: v1::SendRequest) -> Result<v1::SendResponse, Error> {
        operation!(self, Verb::Send, request, Outcome::Sent, queues.send)
    }

    /// `None`: not over a stream.
    async fn streamed(&self, verb: impl FnOnce() -> Verb) -> Option<Result<Outcome, Error>> {
        if self.options.transport == Transport::Unary || !self.produce.is_spoken() {
            return None;
        }
        let verb = verb();
        if bytes(&verb) > STREAM_BYTES_MAX {
            return None;
        }
        match self.produce.ask(self, verb).await {
            Heard::Answer(outcome) => Some(Ok(outcome)),
            Heard::Failed(error) => Some(Err(error)),
            Heard::NotSpoken => None,
        }
    }
}
