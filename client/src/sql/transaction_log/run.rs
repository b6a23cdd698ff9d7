//! The local transaction from begin to commit, with the log in it.

use sqlx::{Pool, Transaction};

use super::{LogError, TransactionLog};
use crate::producer::{LocalOutcome, LocalTransaction};
use crate::sql::dialect::Dialect;

impl<DB: Dialect> TransactionLog<DB> {
    /// Begins a local transaction, records it, runs the closure in it, commits, and says what the
    /// coordinator must be told: exactly what
    /// [`TransactionProducer::transaction`](crate::TransactionProducer::transaction) wants to hear.
    ///
    /// An `Err` of the closure rolls back. A lost answer to COMMIT is
    /// [`Unknown`](LocalOutcome::Unknown), so that the coordinator asks.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")] mod example {
    /// # use halfmq_client::{Message, TransactionProducer, sql::{LogError, TransactionLog}};
    /// # use sqlx::{Sqlite, SqlitePool};
    /// # async fn sell(producer: TransactionProducer, log: TransactionLog<Sqlite>, pool: SqlitePool) {
    /// let sold = producer
    ///     .transaction([Message::new("orders", "42")], |tx| async move {
    ///         log.run(&pool, &tx, async |sql| {
    ///             sqlx::query("INSERT INTO orders VALUES (42)").execute(&mut **sql).await?;
    ///             Ok::<_, LogError>(())
    ///         })
    ///         .await
    ///     })
    ///     .await;
    /// # drop(sold);
    /// # }
    /// # }
    /// ```
    pub async fn run<T, E, F>(&self, pool: &Pool<DB>, tx: &LocalTransaction, local: F) -> LocalOutcome<T, E>
    where
        E: From<LogError>,
        F: AsyncFnOnce(&mut Transaction<'_, DB>) -> Result<T, E>,
    {
        let mut sql = match pool.begin().await {
            Ok(sql) => sql,
            Err(error) => return LocalOutcome::Rollback(LogError::from(error).into()),
        };
        if let Err(error) = self.record(&mut sql, tx.id()).await {
            return LocalOutcome::Rollback(error.into());
        }
        let value = match local(&mut sql).await {
            Ok(value) => value,
            Err(error) => return LocalOutcome::Rollback(error),
        };
        match self.is_recorded(&mut sql, tx.id()).await {
            Ok(true) => {}
            Ok(false) => {
                return LocalOutcome::Rollback(LogError::Gone { transaction_id: tx.id().clone() }.into());
            }
            Err(error) => return LocalOutcome::Rollback(LogError::from(error).into()),
        }
        match sql.commit().await {
            Ok(()) => LocalOutcome::Commit(value),
            Err(error) if DB::commit_was_refused(&error) => {
                LocalOutcome::Rollback(LogError::from(error).into())
            }
            Err(error) => {
                tracing::warn!(id = %tx.id(), %error, "the answer to COMMIT was lost; a check will tell");
                LocalOutcome::Unknown
            }
        }
    }
}
