//! The local transaction as a closure: what it may return, and what comes of it.

use crate::error::{DecisionError, Error};
use crate::ids::{MessageId, TransactionId};
use crate::message::Replacement;
use crate::producer::Transaction;
use crate::receipt::DecisionReceipt;

/// What the closure of [`TransactionProducer::transaction`](crate::TransactionProducer::transaction)
/// gets to know: the id to store in the local transaction, so that a check finds it.
#[derive(Debug, Clone)]
pub struct LocalTransaction {
    pub(super) id: TransactionId,
    pub(super) message_ids: Vec<MessageId>,
}

impl LocalTransaction {
    /// The id of the transaction.
    pub fn id(&self) -> &TransactionId {
        &self.id
    }

    /// One id for each message, in order; they never change.
    pub fn message_ids(&self) -> &[MessageId] {
        &self.message_ids
    }
}

/// What became of the local transaction. A plain `Result` says `Commit` or `Rollback`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalOutcome<T, E> {
    /// It committed.
    Commit(T),
    /// It committed, and these messages got their content only now.
    CommitWith(T, Vec<Replacement>),
    /// It rolled back and cannot commit any more.
    Rollback(E),
    /// It cannot be told, as when the database's answer to COMMIT was lost: the coordinator will check.
    Unknown,
}

/// What a closure may return: `Result<T, E>` or [`LocalOutcome<T, E>`].
pub trait LocalResult {
    /// What a commit is worth.
    type Value;
    /// Why it rolled back.
    type Error;

    /// The outcome.
    fn into_outcome(self) -> LocalOutcome<Self::Value, Self::Error>;
}

impl<T, E> LocalResult for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_outcome(self) -> LocalOutcome<T, E> {
        match self {
            Ok(value) => LocalOutcome::Commit(value),
            Err(error) => LocalOutcome::Rollback(error),
        }
    }
}

impl<T, E> LocalResult for LocalOutcome<T, E> {
    type Value = T;
    type Error = E;

    fn into_outcome(self) -> Self {
        self
    }
}

/// A local transaction that committed.
#[derive(Debug, Clone)]
pub struct Committed<T> {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// What the closure returned.
    pub value: T,
    /// Whether the messages are known to be released.
    pub confirmation: Confirmation,
}

/// Whether the coordinator is known to have taken a decision.
#[derive(Debug, Clone)]
pub enum Confirmation {
    /// It stands, durable.
    Confirmed(DecisionReceipt),
    /// No answer arrived in time. Nothing is lost: it stands already, or the coordinator will check.
    Pending(Error),
}

impl Confirmation {
    /// The receipt, if it is known.
    pub fn receipt(&self) -> Option<&DecisionReceipt> {
        match self {
            Self::Confirmed(receipt) => Some(receipt),
            Self::Pending(_) => None,
        }
    }
}

/// Why a transaction did not commit, or its commit does not stand.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The local transaction was not run. A half message that was kept unheard will be checked.
    #[error("nothing was done, the half messages are not confirmed: {0}")]
    NotPrepared(Error),
    /// The local transaction rolled back, and no message will be released.
    #[error("{transaction_id} rolled back: {error}")]
    RolledBack {
        /// The transaction.
        transaction_id: TransactionId,
        /// What the closure returned.
        error: E,
        /// Whether the coordinator knows.
        confirmation: Confirmation,
    },
    /// The closure could not tell: the coordinator will check.
    #[error("{transaction_id} is undecided, the coordinator will check")]
    Undecided {
        /// The transaction.
        transaction_id: TransactionId,
    },
    /// The local transaction committed, but the coordinator refused: a person must look at it.
    #[error("committed locally, but: {0}")]
    CommitRefused(DecisionError),
    /// The local transaction rolled back, but the coordinator refused: a person must look at it.
    #[error("rolled back locally ({error}), but: {cause}")]
    RollbackRefused {
        /// What the closure returned.
        error: E,
        /// Why it was refused.
        cause: DecisionError,
    },
}

/// Tells the coordinator what became of the local transaction.
pub(super) async fn conclude<T, E>(
    transaction: Transaction,
    outcome: LocalOutcome<T, E>,
) -> Result<Committed<T>, TransactionError<E>> {
    let transaction_id = transaction.id().clone();
    match outcome {
        LocalOutcome::Commit(value) => committed(transaction, value, Vec::new()).await,
        LocalOutcome::CommitWith(value, replacements) => committed(transaction, value, replacements).await,
        LocalOutcome::Rollback(error) => match confirmation(transaction.rollback().await) {
            Ok(confirmation) => Err(TransactionError::RolledBack { transaction_id, error, confirmation }),
            Err(cause) => Err(TransactionError::RollbackRefused { error, cause }),
        },
        LocalOutcome::Unknown => Err(TransactionError::Undecided { transaction_id }),
    }
}

async fn committed<T, E>(
    transaction: Transaction,
    value: T,
    replacements: Vec<Replacement>,
) -> Result<Committed<T>, TransactionError<E>> {
    let transaction_id = transaction.id().clone();
    match confirmation(transaction.commit_with(replacements).await) {
        Ok(confirmation) => Ok(Committed { transaction_id, value, confirmation }),
        Err(refused) => Err(TransactionError::CommitRefused(refused)),
    }
}

fn confirmation(decided: Result<DecisionReceipt, DecisionError>) -> Result<Confirmation, DecisionError> {
    match decided {
        Ok(receipt) => Ok(Confirmation::Confirmed(receipt)),
        Err(DecisionError::Unconfirmed { cause, .. }) => Ok(Confirmation::Pending(cause)),
        Err(refused @ (DecisionError::Conflict { .. } | DecisionError::Refused { .. })) => Err(refused),
    }
}
