//! The check-transaction callback.

use std::pin::Pin;
use std::time::SystemTime;

use crate::ids::TransactionId;
use crate::message::{Message, Replacement};

/// The coordinator's question: what became of this local transaction?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// The producer group that is asked.
    pub producer_group: String,
    /// The instance that prepared it, not necessarily the one that is asked.
    pub producer_instance: String,
    /// When it was prepared, on the coordinator's clock.
    pub prepared_at: SystemTime,
    /// UNKNOWN answers so far.
    pub checks_answered: u32,
    /// As given with prepare, such as by this SDK; empty for none.
    pub request_id: String,
    /// The half messages, as they were prepared.
    pub messages: Vec<Message>,
}

/// The answer to a [`Check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The local transaction committed: release the messages.
    Commit,
    /// It committed, and the messages whose content was born in it are these.
    CommitWith(Vec<Replacement>),
    /// It rolled back, and cannot commit any more: drop the messages.
    Rollback,
    /// It is still running, or cannot be told yet: ask again later. Counted: after some of these the
    /// transaction is in doubt.
    Unknown,
    /// It cannot be looked up here and now, as when the database is away: nothing is answered, nothing is
    /// counted, others are asked.
    NoAnswer,
}

/// Answers checks by looking at what the local transaction left behind, usually a row that it wrote.
///
/// It may be asked about a transaction that another instance of its group prepared, that it never heard
/// of, or that is still running elsewhere: an absent row means [`Resolution::Rollback`] only if the
/// local transaction cannot commit any more. Async closures work as well.
///
/// A checker that panics or takes longer than [`TransactionOptions::check_timeout`] answers nothing.
///
/// ```
/// use halfmq_client::{Check, Resolution, TransactionChecker};
///
/// struct Orders;
///
/// impl TransactionChecker for Orders {
///     async fn check(&self, check: Check) -> Resolution {
///         match find_order(check.transaction_id.as_str()).await {
///             Some(_) => Resolution::Commit,
///             None => Resolution::Unknown,
///         }
///     }
/// }
/// # async fn find_order(_: &str) -> Option<()> { None }
/// ```
///
/// [`TransactionOptions::check_timeout`]: crate::TransactionOptions::check_timeout
pub trait TransactionChecker: Send + Sync + 'static {
    /// Looks the local transaction up.
    fn check(&self, check: Check) -> impl Future<Output = Resolution> + Send;
}

impl<F, Fut> TransactionChecker for F
where
    F: Fn(Check) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Resolution> + Send,
{
    fn check(&self, check: Check) -> impl Future<Output = Resolution> + Send {
        self(check)
    }
}

/// The same with a boxed future, so that producers need no type parameter.
pub(super) trait BoxedChecker: Send + Sync {
    fn check_boxed(&self, check: Check) -> Pin<Box<dyn Future<Output = Resolution> + Send + '_>>;
}

impl<C: TransactionChecker> BoxedChecker for C {
    fn check_boxed(&self, check: Check) -> Pin<Box<dyn Future<Output = Resolution> + Send + '_>> {
        Box::pin(self.check(check))
    }
}
