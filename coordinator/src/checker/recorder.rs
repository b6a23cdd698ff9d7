//! Takes answers to the store, as many at once as wait.

use std::sync::Arc;

use halfmq_core::{Receipt, Rejection, TransactionId};
use tokio::sync::{mpsc, oneshot};

use crate::store::{CheckAnswer, Refused, Store, Unavailable};

/// Answers in one call of the store.
const BATCH_MAX: usize = 1_024;

/// Who is told of each receipt that an answer brought.
pub(super) type Decided = Arc<dyn Fn(&Receipt) + Send + Sync>;

/// An answer on its way to the store.
pub(super) struct Submitted {
    pub(super) answer: CheckAnswer,
    pub(super) recorded: oneshot::Sender<Result<(), Refused>>,
}

/// Records answers until `stop` resolves, and then those that had come before.
pub(super) async fn record(
    mut inbox: mpsc::Receiver<Submitted>,
    store: &dyn Store,
    decided: &Decided,
    mut stop: oneshot::Receiver<()>,
) {
    let mut batch = Vec::new();
    let mut stopping = false;
    loop {
        let received = tokio::select! {
            received = inbox.recv_many(&mut batch, BATCH_MAX) => received,
            _ = &mut stop, if !stopping => {
                stopping = true;
                inbox.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        record_batch(std::mem::take(&mut batch), store, decided).await;
    }
}

async fn record_batch(batch: Vec<Submitted>, store: &dyn Store, decided: &Decided) {
    let results = store.record_answers(batch.iter().map(|item| item.answer.clone()).collect()).await;
    let results = match results {
        Ok(results) => results.into_iter().map(|result| result.map_err(Refused::Rejected)).collect(),
        Err(unavailable) => {
            tracing::error!(%unavailable, answers = batch.len(), "answers not recorded; they are asked for again");
            vec![Err(Refused::Unavailable(unavailable)); batch.len()]
        }
    };
    for (submitted, result) in batch.into_iter().zip(results) {
        let result = result.map(|receipt| {
            if let Some(receipt) = receipt {
                decided(&receipt);
            }
        });
        if let Err(Refused::Rejected(rejection)) = &result {
            report(submitted.answer.transaction, &submitted.answer.reason, rejection);
        }
        // Whoever answered may have gone away; the answer counts all the same.
        drop(submitted.recorded.send(result));
    }
}

fn report(transaction: TransactionId, reason: &str, rejection: &Rejection) {
    if let Rejection::DecisionConflict { stands, asked, .. } = rejection {
        tracing::warn!(
            %transaction, stands = %stands.decision, by = ?stands.by, because = stands.reason,
            answered = %asked, answer_because = reason,
            "a producer answered a check with the opposite of the decision that stands"
        );
    } else {
        tracing::info!(%transaction, %rejection, "the answer to a check was not taken");
    }
}

/// The coordinator stops before the answer is recorded.
pub(super) const STOPPING: Refused = Refused::Unavailable(Unavailable::Stopping);
