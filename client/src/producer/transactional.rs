//! The transaction producer: prepare, local transaction, decision; and a stream for checks.

use std::sync::Arc;

use halfmq_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::checker::{BoxedChecker, TransactionChecker};
use super::checks::Checks;
use super::local::{self, Committed, LocalResult, LocalTransaction, TransactionError};
use super::open::{OpenTransactions, Room};
use super::options::TransactionOptions;
use super::transaction::{Transaction, Warning};
use crate::client::{Client, call};
use crate::error::{Error, Reason};
use crate::ids::TransactionId;
use crate::interceptor::ProducerInterceptor;
use crate::message::Message;
use crate::wire;

/// Sends messages that exist if and only if a local transaction commits.
///
/// In the background it keeps a stream open on which the coordinator asks about transactions that were
/// not decided in time; it reconnects by itself. Clones share it; when the last clone and the last
/// [`Transaction`] are gone it closes, and open questions go to other producers of the group.
///
/// ```no_run
/// use halfmq_client::{Check, Client, Message, Resolution, TransactionProducer};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let producer = TransactionProducer::new(&client, "shop", |check: Check| async move {
///     match order_exists(check.transaction_id.as_str()).await {
///         Ok(true) => Resolution::Commit,
///         Ok(false) => Resolution::Rollback,
///         Err(_) => Resolution::NoAnswer,
///     }
/// });
/// let committed = producer
///     .transaction([Message::new("orders", "42")], |tx| async move {
///         insert_order_and(tx.id().as_str()).await
///     })
///     .await?;
/// println!("order {} is sold", committed.value);
/// # Ok(()) }
/// # async fn order_exists(_: &str) -> Result<bool, std::io::Error> { Ok(true) }
/// # async fn insert_order_and(_: &str) -> Result<u64, std::io::Error> { Ok(42) }
/// ```
#[derive(Clone)]
pub struct TransactionProducer {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    group: String,
    instance: String,
    options: TransactionOptions,
    open: Arc<OpenTransactions>,
    registered: watch::Receiver<bool>,
    /// Closes the stream when the last producer or transaction is dropped.
    _close: DropGuard,
}

impl TransactionProducer {
    /// A producer of this group that answers checks. Must be called in a Tokio runtime.
    pub fn new(client: &Client, group: impl Into<String>, checker: impl TransactionChecker) -> Self {
        Self::with_options(client, group, checker, TransactionOptions::default())
    }

    /// A producer with these options that answers checks. Must be called in a Tokio runtime.
    pub fn with_options(
        client: &Client,
        group: impl Into<String>,
        checker: impl TransactionChecker,
        options: TransactionOptions,
    ) -> Self {
        Self::start(client, group.into(), Some(Arc::new(checker)), options)
    }

    /// A producer whose checks others answer: another producer of the group, a callback URL or a
    /// person. Must be called in a Tokio runtime.
    pub fn without_checker(client: &Client, group: impl Into<String>, options: TransactionOptions) -> Self {
        Self::start(client, group.into(), None, options)
    }

    fn start(
        client: &Client,
        group: String,
        checker: Option<Arc<dyn BoxedChecker>>,
        options: TransactionOptions,
    ) -> Self {
        let instance = Uuid::new_v4().to_string();
        let open = Arc::new(OpenTransactions::new(options.open_max));
        let (announce, registered) = watch::channel(false);
        let close = CancellationToken::new();
        let checks = Checks {
            client: client.clone(),
            registration: v1::Registration {
                producer_group: group.clone(),
                producer_instance: instance.clone(),
                has_checker: checker.is_some(),
            },
            checker,
            open: Arc::clone(&open),
            in_flight_max: options.checks_in_flight_max.max(1),
            timeout: options.check_timeout,
            registered: announce,
        };
        tokio::spawn(close.clone().run_until_cancelled_owned(checks.run()));
        let client = client.clone();
        let _close = close.drop_guard();
        Self { inner: Arc::new(Inner { client, group, instance, options, open, registered, _close }) }
    }

    /// The producer group.
    pub fn group(&self) -> &str {
        &self.inner.group
    }

    /// The random name of this very producer.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Waits until the coordinator knows this producer, so that it can be asked. Nothing needs this
    /// but a test, or a start-up that wants to be sure.
    pub async fn registered(&self) {
        let mut registered = self.inner.registered.clone();
        // It fails only if the background task is gone, which a dropped runtime alone brings about.
        if registered.wait_for(|known| *known).await.is_err() {
            tracing::warn!(group = self.inner.group, "the check stream is closed");
        }
    }

    /// Prepares the messages, runs the local transaction, and decides as it says.
    ///
    /// The closure gets the transaction's id, which the local transaction should store for checks. It
    /// returns a `Result` (`Ok` commits, `Err` rolls back) or a [`LocalOutcome`](crate::LocalOutcome).
    ///
    /// A commit that could not be confirmed is no error: the local transaction did commit and nothing is
    /// lost, see [`Committed::confirmation`]. If the closure panics, or this future is dropped while it
    /// runs, nothing is sent, because the local transaction may have committed: the coordinator will check.
    pub async fn transaction<R, F, Fut>(
        &self,
        messages: impl IntoIterator<Item = Message>,
        local: F,
    ) -> Result<Committed<R::Value>, TransactionError<R::Error>>
    where
        F: FnOnce(LocalTransaction) -> Fut,
        Fut: Future<Output = R>,
        R: LocalResult,
    {
        let transaction = self.begin(messages).await.map_err(TransactionError::NotPrepared)?;
        let outcome = local(transaction.local.clone()).await.into_outcome();
        local::conclude(transaction, outcome).await
    }

    /// Makes 1 to 256 half messages durable; they are released together or not at all.
    pub async fn begin(&self, messages: impl IntoIterator<Item = Message>) -> Result<Transaction, Error> {
        let room = self.inner.open.room()?;
        let mut messages: Vec<Message> = messages.into_iter().collect();
        for interceptor in self.inner.interceptors() {
            interceptor.before_prepare(&mut messages);
        }
        let request = v1::PrepareRequest {
            producer_group: self.inner.group.clone(),
            producer_instance: self.inner.instance.clone(),
            request_id: Uuid::now_v7().to_string(),
            messages: wire::messages_to_wire(messages),
            check: Some(self.inner.options.check.to_wire()),
        };
        self.prepare(room, request).await
    }

    async fn prepare(&self, room: Room, request: v1::PrepareRequest) -> Result<Transaction, Error> {
        let client = &self.inner.client;
        let mut attempts = 0;
        let prepare = client.retry(|| {
            attempts += 1;
            client.prepare(request.clone())
        });
        let answer = prepare.await?;
        let id = TransactionId::from(answer.transaction_id.clone());
        // From here on this producer answers checks of it with UNKNOWN.
        let open = room.open(id.clone());
        if attempts > 1 {
            self.ensure_undecided(&id).await?;
        }
        let warnings = warnings(&self.inner.group, &answer);
        let message_ids = answer.message_ids.into_iter().map(Into::into).collect();
        let local = LocalTransaction { id, message_ids };
        Ok(Transaction { producer: Arc::clone(&self.inner), local, warnings, open: Some(open) })
    }

    /// A prepare whose first answer was lost may have been checked, found without a trace of a local
    /// transaction, and rolled back, all before the repetition was answered. A local transaction that
    /// ran now would commit for a message that is gone already.
    async fn ensure_undecided(&self, id: &TransactionId) -> Result<(), Error> {
        let request = v1::DescribeTransactionRequest { transaction_id: id.to_string() };
        let found = call!(self.inner.client, transactions.describe_transaction, request)?;
        match found.state() {
            v1::TransactionState::Prepared | v1::TransactionState::InDoubt => Ok(()),
            v1::TransactionState::Committed | v1::TransactionState::RolledBack => Err(Error::rejected(
                Reason::DecisionConflict,
                format!("{id} was decided by a check before its prepare was answered; begin again"),
            )),
            v1::TransactionState::Unspecified => {
                Err(Error::Unexpected("the answer lacks transaction.state".into()))
            }
        }
    }

    /// A transaction that somebody prepared earlier, to decide it by its id: after a restart, from
    /// another process, or once more after [`DecisionError::Unconfirmed`](crate::DecisionError).
    pub fn resume(&self, id: TransactionId) -> Transaction {
        let local = LocalTransaction { id, message_ids: Vec::new() };
        Transaction { producer: Arc::clone(&self.inner), local, warnings: Vec::new(), open: None }
    }
}

impl Inner {
    pub(super) fn interceptors(&self) -> &[Arc<dyn ProducerInterceptor>] {
        &self.options.interceptors
    }
}

fn warnings(group: &str, answer: &v1::PrepareResponse) -> Vec<Warning> {
    let known = |warning| match warning {
        v1::Warning::NoResolver => {
            tracing::warn!(group, id = answer.transaction_id, "nobody can answer a check of it");
            Some(Warning::NoResolver)
        }
        v1::Warning::Unspecified => None,
    };
    answer.warnings().filter_map(known).collect()
}
