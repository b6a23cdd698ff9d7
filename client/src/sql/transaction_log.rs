//! The transaction log: the check nobody has to write.
//!
//! ```text
//!   local transaction:  INSERT (id, 'committed')    ─┐ the same unique key: only one
//!   check:              INSERT (id, 'rolled back')  ─┘ of the two can be there
//! ```
//! Whoever comes second gives way. A check that finds the local transaction in flight says UNKNOWN; one
//! that finds its row says COMMIT; one that finds nothing leaves a *tombstone* and says ROLLBACK, and from
//! then on the local transaction fails on the key and rolls back. So an answer can never contradict the
//! database.
//!
//! Rows are pruned below a *watermark*: an id below which rows may be missing although they were there.
//! What is missing below it is UNKNOWN, never ROLLBACK, and cannot be recorded any more. The coordinator
//! says how far that is safe: below the oldest transaction that it may still ask about.
//!
//! Deliberately absent: clocks, and answers made of the absence of a row.

mod check;
mod prune;
mod run;

use std::time::Duration;

use sqlx::{Pool, Transaction};

pub use check::LogChecker;
pub use prune::Pruned;

use super::dialect::{Dialect, Value};
use super::table::TableName;
use crate::ids::TransactionId;

/// How a [`TransactionLog`] works.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Its table; a second one beside it ends in `_watermark`: `halfmq_transaction_log`.
    pub table: TableName,
    /// How long a check waits for a local transaction in flight before it says UNKNOWN: 100 ms. MySQL and
    /// MariaDB wait for whole seconds, but see most of what is in flight without waiting.
    pub lock_wait_max: Duration,
    /// Connections that checks may use, besides those of the service: 2.
    pub check_connections_max: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            table: TableName::own("halfmq_transaction_log"),
            lock_wait_max: Duration::from_millis(100),
            check_connections_max: 2,
        }
    }
}

/// Remembers in the service's own database which local transactions committed.
///
/// All processes of a producer group use one database and one table.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")] mod example {
/// use halfmq_client::sql::TransactionLog;
/// use halfmq_client::{Client, Message, TransactionProducer};
/// use sqlx::{Sqlite, SqlitePool};
///
/// async fn sell(client: Client, pool: SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
///     let log = TransactionLog::<Sqlite>::default();
///     log.migrate(&pool).await?;
///     let producer = TransactionProducer::new(&client, "shop", log.checker(&pool));
///     producer
///         .transaction([Message::new("orders", "42")], |tx| async move {
///             let mut sql = pool.begin().await?;
///             log.record(&mut sql, tx.id()).await?;
///             sqlx::query("INSERT INTO orders VALUES (42)").execute(&mut *sql).await?;
///             sql.commit().await?;
///             Ok::<_, Box<dyn std::error::Error>>(())
///         })
///         .await
///         .map(drop)
///         .map_err(|error| error.to_string().into())
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct TransactionLog<DB> {
    options: LogOptions,
    statements: Statements,
    database: std::marker::PhantomData<fn() -> DB>,
}

/// Why a local transaction must not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The id is taken: a check came first and said ROLLBACK, or the same transaction committed before. Or
    /// it is so old that the log may have forgotten it. Roll the local transaction back.
    #[error("{transaction_id} is decided already; the local transaction comes too late and must roll back")]
    TooLate {
        /// The transaction.
        transaction_id: TransactionId,
    },
    /// The database rolled the local transaction back by itself, after an error that was passed over.
    #[error("the database rolled {transaction_id} back by itself")]
    Gone {
        /// The transaction.
        transaction_id: TransactionId,
    },
    /// The database failed. Roll the local transaction back.
    #[error("the transaction log cannot be written: {0}")]
    Database(#[from] sqlx::Error),
}

#[derive(Debug, Clone)]
struct Statements {
    record: String,
    recorded: String,
    watermark: String,
}

const COLUMNS: [&str; 2] = ["transaction_id", "outcome"];
const COMMITTED: &str = "committed";
const ROLLED_BACK: &str = "rolled back";

impl<DB> Clone for TransactionLog<DB> {
    fn clone(&self) -> Self {
        let (options, statements) = (self.options.clone(), self.statements.clone());
        Self { options, statements, database: std::marker::PhantomData }
    }
}

impl<DB: Dialect> Default for TransactionLog<DB> {
    fn default() -> Self {
        Self::new(LogOptions::default())
    }
}

impl<DB: Dialect> TransactionLog<DB> {
    /// A log with these options. Nothing is sent to the database.
    pub fn new(options: LogOptions) -> Self {
        let (table, watermark) =
            (options.table.quoted(DB::QUOTE), options.table.beside("_watermark").quoted(DB::QUOTE));
        let statements = Statements {
            record: format!(
                "INSERT INTO {table} (transaction_id, outcome) VALUES ({}, '{COMMITTED}')",
                DB::marker(1)
            ),
            recorded: format!(
                "SELECT outcome FROM {table} WHERE transaction_id = {} AND outcome = '{COMMITTED}'",
                DB::marker(1)
            ),
            watermark: format!("SELECT watermark FROM {watermark} WHERE one = 1"),
        };
        Self { options, statements, database: std::marker::PhantomData }
    }

    /// The statements that make the tables, for a service that keeps its migrations itself. They may run
    /// any number of times.
    pub fn migration(&self) -> Vec<String> {
        let (table, watermark) = (self.table(), self.watermark_table());
        let (key, text) = (DB::KEY, DB::KEY);
        vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {table} (transaction_id {key} NOT NULL PRIMARY KEY, \
                 outcome {text} NOT NULL CHECK (outcome IN ('{COMMITTED}', '{ROLLED_BACK}')), \
                 recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {watermark} (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), \
                 watermark {key} NOT NULL)"
            ),
            format!(
                "INSERT INTO {watermark} (one, watermark) VALUES (1, '') {}",
                DB::or_keep(&watermark, "one")
            ),
        ]
    }

    /// Makes the tables, if they are not there.
    pub async fn migrate(&self, pool: &Pool<DB>) -> Result<(), sqlx::Error> {
        super::migrate(pool, &self.migration()).await
    }

    /// Notes in the local transaction that it commits, if it does. Best called first: from then on a check
    /// waits or says UNKNOWN. An error means that the local transaction must roll back.
    pub async fn record(&self, sql: &mut Transaction<'_, DB>, id: &TransactionId) -> Result<(), LogError> {
        let too_late = || LogError::TooLate { transaction_id: id.clone() };
        match DB::execute(sql, &self.statements.record, vec![id.as_str().into()]).await {
            Ok(_inserted) => {}
            Err(error) if is_duplicate(&error) => return Err(too_late()),
            Err(error) => return Err(error.into()),
        }
        // After the insert, and as it is now: a tombstone that was pruned a moment ago left this trace.
        if id.as_str() < self.watermark(sql).await?.as_str() {
            return Err(too_late());
        }
        Ok(())
    }

    /// Whether the row is there, seen by the local transaction itself. It is not, or this fails, when the
    /// database has rolled back by itself and the error was passed over: a COMMIT would still say Ok.
    async fn is_recorded(
        &self,
        sql: &mut Transaction<'_, DB>,
        id: &TransactionId,
    ) -> Result<bool, sqlx::Error> {
        let rows = DB::fetch(sql, &self.statements.recorded, vec![id.as_str().into()]).await?;
        Ok(!rows.is_empty())
    }

    async fn watermark(&self, connection: &mut DB::Connection) -> Result<String, sqlx::Error> {
        let rows = DB::current(connection, &self.statements.watermark, Vec::new()).await?;
        DB::text(rows.first().ok_or(sqlx::Error::RowNotFound)?, 0)
    }

    fn table(&self) -> String {
        self.options.table.quoted(DB::QUOTE)
    }

    fn watermark_table(&self) -> String {
        self.options.table.beside("_watermark").quoted(DB::QUOTE)
    }
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// An id as a value of a statement.
fn value(id: &str) -> Value {
    id.into()
}
