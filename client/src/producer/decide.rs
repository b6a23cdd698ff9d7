//! Commit and rollback on the wire.

use std::sync::Arc;

use halfmq_proto::v1;

use crate::client::Client;
use crate::error::{DecisionError, Error};
use crate::ids::TransactionId;
use crate::interceptor::ProducerInterceptor;
use crate::message::Replacement;
use crate::receipt::{Decision, DecisionReceipt};

pub(super) async fn commit(
    client: &Client,
    interceptors: &[Arc<dyn ProducerInterceptor>],
    id: TransactionId,
    replacements: Vec<Replacement>,
) -> Result<DecisionReceipt, DecisionError> {
    let request = v1::CommitRequest {
        transaction_id: id.to_string(),
        replacements: replacements.into_iter().map(v1::Replacement::from).collect(),
        reason: String::new(),
    };
    let answer = client.retry(|| client.commit(request.clone())).await;
    confirmed(interceptors, id, Decision::Commit, answer)
}

pub(super) async fn rollback(
    client: &Client,
    interceptors: &[Arc<dyn ProducerInterceptor>],
    id: TransactionId,
    reason: String,
) -> Result<DecisionReceipt, DecisionError> {
    let request = v1::RollbackRequest { transaction_id: id.to_string(), reason };
    let answer = client.retry(|| client.rollback(request.clone())).await;
    confirmed(interceptors, id, Decision::Rollback, answer)
}

/// What stands must be what was asked: a receipt of the opposite is a conflict, however it came.
fn confirmed(
    interceptors: &[Arc<dyn ProducerInterceptor>],
    id: TransactionId,
    asked: Decision,
    answer: Result<v1::DecisionReceipt, Error>,
) -> Result<DecisionReceipt, DecisionError> {
    let receipt = answer.and_then(DecisionReceipt::try_from);
    let result = match receipt {
        Ok(receipt) if receipt.decision == asked => Ok(receipt),
        Ok(receipt) => Err(DecisionError::Conflict {
            transaction_id: id.clone(),
            asked,
            message: format!("{:?} stands", receipt.decision),
        }),
        Err(cause) => Err(DecisionError::from_call(id.clone(), asked, cause)),
    };
    for interceptor in interceptors.iter().rev() {
        interceptor.after_decision(&id, result.as_ref());
    }
    result
}
