//! The SQL resolver: the coordinator asks a business database itself, so that transactions are resolved while
//! every producer is dead.
//!
//! ```text
//!   checker ──► connection of a producer group, like any producer's ──► up to 500 questions at once
//!                                                                        │ transaction log: rows, tombstones
//!   checker ◄── COMMIT, ROLLBACK, UNKNOWN; nothing when it cannot be asked ◄┘
//! ```
//! The answer is the same that a producer with a transaction log gives, by the same code, and made final by
//! the same tombstone. A live sender is still asked first.
//!
//! Deliberately absent: what an answer means, and any retry; both are the checker's.

use std::sync::Arc;

use halfmq_client::sql::{Dialect, IllegalTableName, LogChecker, LogOptions, TableName, TransactionLog};
use halfmq_client::{Resolution, TransactionId as LogId};
use halfmq_core::{Answer, Decision, ProducerGroup, TransactionId};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, MySql, Postgres, Sqlite};
use tokio::task::JoinSet;

use crate::checker::{Asked, Checker};
use crate::service::CheckAnswer;

/// Questions of one round trip.
const BATCH_MAX: usize = 500;

/// A database to ask.
#[derive(Clone)]
pub struct Database {
    /// `postgres://`, `mysql://` (MariaDB too) or `sqlite:` with everything but perhaps the password.
    pub url: String,
    /// Goes before one in the URL.
    pub password: Option<String>,
    /// The table of its transaction log.
    pub table: String,
    /// Groups whose transactions it knows.
    pub producer_groups: Vec<String>,
    /// Connections at most.
    pub connections_max: u32,
}

/// Why a database cannot be asked, whatever it would say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database that is known.
    #[error("a resolver's URL must begin with postgres://, mysql:// or sqlite:")]
    Scheme,
    /// The URL cannot be understood. It is not shown, for it may hold a password.
    #[error("a resolver's URL cannot be understood: {0}")]
    Url(sqlx::Error),
    /// The table's name is no name.
    #[error(transparent)]
    Table(#[from] IllegalTableName),
    /// A producer group's name is no name.
    #[error("resolver: {0}")]
    Group(#[from] halfmq_core::Rejection),
}

/// Something that answers for one database.
#[derive(Clone)]
pub(crate) enum Log {
    Postgres(LogChecker<Postgres>),
    MySql(LogChecker<MySql>),
    Sqlite(LogChecker<Sqlite>),
}

/// The databases that are asked; dropping it ends that.
pub struct Resolver {
    _asking: JoinSet<()>,
}

impl Resolver {
    /// Connects each group of each database to the checker. Databases themselves are connected when the
    /// first question comes. To be called in a runtime.
    ///
    /// # Errors
    /// A setting that can never work.
    pub fn start(databases: &[Database], checker: &Arc<Checker>) -> Result<Self, Error> {
        let mut asking = JoinSet::new();
        for database in databases {
            let log = Log::open(database)?;
            for group in &database.producer_groups {
                let group: ProducerGroup = group.parse()?;
                asking.spawn(ask(log.clone(), group, Arc::clone(checker)));
            }
        }
        Ok(Self { _asking: asking })
    }
}

/// Where a URL leads.
pub(crate) enum Address {
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
    Sqlite(SqliteConnectOptions),
}

impl Address {
    /// Of a URL, with a password that goes before one in it.
    pub(crate) fn of(url: &str, password: Option<&str>) -> Result<Self, Error> {
        match url.split(':').next().unwrap_or_default() {
            "postgres" | "postgresql" => {
                let options: PgConnectOptions = url.parse().map_err(Error::Url)?;
                Ok(Self::Postgres(password.into_iter().fold(options, PgConnectOptions::password)))
            }
            "mysql" | "mariadb" => {
                let options: MySqlConnectOptions = url.parse().map_err(Error::Url)?;
                Ok(Self::MySql(password.into_iter().fold(options, MySqlConnectOptions::password)))
            }
            "sqlite" => Ok(Self::Sqlite(url.parse().map_err(Error::Url)?)),
            _ => Err(Error::Scheme),
        }
    }
}

impl Log {
    /// Nothing is connected yet.
    pub(crate) fn open(database: &Database) -> Result<Self, Error> {
        Ok(match Address::of(&database.url, database.password.as_deref())? {
            Address::Postgres(options) => Self::Postgres(checker(database, options)?),
            Address::MySql(options) => Self::MySql(checker(database, options)?),
            Address::Sqlite(options) => Self::Sqlite(checker(database, options)?),
        })
    }

    /// Whether the error says that there is no such table.
    pub(crate) fn is_missing_table(&self, error: &sqlx::Error) -> bool {
        match self {
            Self::Postgres(_) => Postgres::is_missing_table(error),
            Self::MySql(_) => MySql::is_missing_table(error),
            Self::Sqlite(_) => Sqlite::is_missing_table(error),
        }
    }

    /// See [`LogChecker::rows_after`].
    pub(crate) async fn rows_after(
        &self,
        after: Option<&LogId>,
        max: u32,
    ) -> Result<Vec<(LogId, bool)>, sqlx::Error> {
        match self {
            Self::Postgres(log) => log.rows_after(after, max).await,
            Self::MySql(log) => log.rows_after(after, max).await,
            Self::Sqlite(log) => log.rows_after(after, max).await,
        }
    }

    /// See [`LogChecker::watermark`].
    pub(crate) async fn watermark(&self) -> Result<String, sqlx::Error> {
        match self {
            Self::Postgres(log) => log.watermark().await,
            Self::MySql(log) => log.watermark().await,
            Self::Sqlite(log) => log.watermark().await,
        }
    }

    async fn resolve(&self, ids: &[LogId]) -> Result<Vec<(LogId, Resolution)>, sqlx::Error> {
        match self {
            Self::Postgres(log) => log.resolve(ids).await,
            Self::MySql(log) => log.resolve(ids).await,
            Self::Sqlite(log) => log.resolve(ids).await,
        }
    }
}

fn checker<DB: Dialect>(
    database: &Database,
    options: <DB::Connection as Connection>::Options,
) -> Result<LogChecker<DB>, Error> {
    let log = LogOptions {
        table: TableName::new(&database.table)?,
        check_connections_max: database.connections_max.max(1),
        ..LogOptions::default()
    };
    // Never connected: the log opens its own connections with the same options.
    let pool = PoolOptions::new().connect_lazy_with(options);
    Ok(TransactionLog::<DB>::new(log).checker(&pool))
}

/// Answers for one group until it is dropped.
async fn ask(log: Log, group: ProducerGroup, checker: Arc<Checker>) {
    let mut connection = checker.connect(group.clone(), None, true);
    let mut batch: Vec<Asked> = Vec::new();
    while connection.questions.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let ids: Vec<LogId> =
            batch.drain(..).map(|asked| asked.question.transaction.to_string().into()).collect();
        let answers = match log.resolve(&ids).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::warn!(%group, questions = ids.len(), %error, "the transaction log cannot be asked");
                continue;
            }
        };
        for (id, resolution) in answers {
            answer(&checker, &id, resolution).await;
        }
    }
}

async fn answer(checker: &Checker, id: &LogId, resolution: Resolution) {
    let answer = match resolution {
        Resolution::Commit | Resolution::CommitWith(_) => Answer::Decided(Decision::Commit),
        Resolution::Rollback => Answer::Decided(Decision::Rollback),
        Resolution::Unknown => Answer::Unknown,
        Resolution::NoAnswer => return,
    };
    let Ok(transaction) = id.as_str().parse::<TransactionId>() else {
        tracing::error!(%id, "a bug: the transaction log answered for an id that was not asked");
        return;
    };
    let reason = "transaction log".to_owned();
    let answered = CheckAnswer { transaction, answer, reason, replacements: Vec::new() };
    if let Err(refused) = checker.answer(answered).await {
        tracing::debug!(%transaction, %refused, "the answer of a transaction log came too late");
    }
}
