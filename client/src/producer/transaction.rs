//! A transaction in the caller's hands, for local transactions that do not fit into a closure.

use std::sync::Arc;

use crate::error::DecisionError;
use crate::ids::{MessageId, TransactionId};
use crate::message::Replacement;
use crate::producer::decide;
use crate::producer::local::LocalTransaction;
use crate::producer::open::Open;
use crate::producer::transactional::Inner;
use crate::receipt::DecisionReceipt;

/// Half messages that wait for a decision. Made by
/// [`TransactionProducer::begin`](crate::TransactionProducer::begin).
///
/// Dropped without a decision it sends nothing, because the local transaction may have committed:
/// the coordinator will check.
///
/// ```no_run
/// # use halfmq_client::{Message, TransactionProducer};
/// # async fn example(producer: TransactionProducer) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = producer.begin([Message::new("orders", "42")]).await?;
/// // ... the local transaction stores transaction.id() and commits ...
/// let receipt = transaction.commit().await?;
/// # Ok(()) }
/// ```
#[must_use = "undecided it waits for a check"]
pub struct Transaction {
    pub(super) producer: Arc<Inner>,
    pub(super) local: LocalTransaction,
    pub(super) warnings: Vec<Warning>,
    /// None if its local part does not run here.
    pub(super) open: Option<Open>,
}

/// Something that succeeded but should worry its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// Nobody who could answer a check of this producer group is connected or registered.
    NoResolver,
}

impl Transaction {
    /// Its id, to be stored in the local transaction.
    pub fn id(&self) -> &TransactionId {
        &self.local.id
    }

    /// One id for each message, in order; they never change. Empty after
    /// [`resume`](crate::TransactionProducer::resume).
    pub fn message_ids(&self) -> &[MessageId] {
        &self.local.message_ids
    }

    /// What prepare warned of.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Releases the messages. After [`DecisionError::Unconfirmed`] the coordinator will check; the same
    /// decision may be sent again through [`resume`](crate::TransactionProducer::resume).
    pub async fn commit(self) -> Result<DecisionReceipt, DecisionError> {
        self.commit_with(Vec::new()).await
    }

    /// Releases the messages with new content for some of them.
    pub async fn commit_with(
        self,
        replacements: impl IntoIterator<Item = Replacement>,
    ) -> Result<DecisionReceipt, DecisionError> {
        let (id, replacements) = (self.local.id.clone(), replacements.into_iter().collect());
        let decided = decide::commit(&self.producer.client, self.producer.interceptors(), id, replacements);
        let result = decided.await;
        drop(self.open);
        result
    }

    /// Drops the messages. Only for a local transaction that cannot commit any more.
    pub async fn rollback(self) -> Result<DecisionReceipt, DecisionError> {
        let (id, reason) = (self.local.id.clone(), String::new());
        let decided = decide::rollback(&self.producer.client, self.producer.interceptors(), id, reason);
        let result = decided.await;
        drop(self.open);
        result
    }
}
