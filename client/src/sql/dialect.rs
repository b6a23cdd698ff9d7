//! What databases do differently. Everything else is written once, in the rooms beside this one.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{Connection, Database, Pool, Transaction};

use super::table::TableName;

/// How long a connection of our own may take to come.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// One value of a statement.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bytes(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

mod sealed {
    pub trait Sealed {}
    #[cfg(feature = "postgres")]
    impl Sealed for sqlx::Postgres {}
    #[cfg(feature = "mysql")]
    impl Sealed for sqlx::MySql {}
    #[cfg(feature = "sqlite")]
    impl Sealed for sqlx::Sqlite {}
}

/// Options of a connection to a database.
pub(super) type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A database that the local side runs on: [`sqlx::Postgres`], [`sqlx::MySql`] (MariaDB too) or
/// [`sqlx::Sqlite`], each behind the feature of its name. Nobody else can implement it.
#[doc(hidden)]
pub trait Dialect: Database + sealed::Sealed {
    /// Around names.
    const QUOTE: char;
    /// Type of a key column: compared byte by byte, whatever the database's collation.
    const KEY: &'static str;
    /// Type of a column for text of any length.
    const TEXT: &'static str;
    /// Type of a column for bytes.
    const BYTES: &'static str;
    /// A column that numbers rows by insertion, and is the primary key.
    const NUMBER: &'static str;
    /// Behind a query: rows another transaction works on are left out, and these are ours until the end.
    const TAKE_FREE_ROWS: &'static str;

    /// The placeholder of the n-th value, from 1.
    fn marker(number: usize) -> String;
    /// Behind an insert: a row of the same key stays as it is. The insert waits for a transaction in
    /// flight on that key.
    fn or_keep(table: &str, key: &str) -> String;
    /// Deletes at most `max` rows that meet a condition, in this order.
    fn delete_some(table: &str, condition: &str, order: &str, max: usize) -> String;

    /// Wakes whoever listens on this channel, when the transaction commits; nobody where the database cannot.
    fn notify(
        connection: &mut Self::Connection,
        channel: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// What wakes a listener.
    type Wake: Send;
    /// Listens from now on.
    fn listen(
        pool: &Pool<Self>,
        channel: &str,
    ) -> impl Future<Output = Result<Self::Wake, sqlx::Error>> + Send;
    /// Waits to be woken; false: it does not listen any more.
    fn woken(wake: &mut Self::Wake) -> impl Future<Output = bool> + Send;

    /// Somebody else holds a lock, or came first: nothing is known, the same may succeed later.
    fn is_contended(error: &sqlx::Error) -> bool;
    /// There is no such table.
    fn is_missing_table(error: &sqlx::Error) -> bool;
    /// A COMMIT that was answered like this certainly did not happen.
    fn commit_was_refused(error: &sqlx::Error) -> bool;

    /// Options for connections of our own, whose waits for locks are short.
    fn patience(options: ConnectOptions<Self>, wait_max: Duration) -> ConnectOptions<Self>;
    /// Begins a transaction in which each statement sees what is committed when it starts, that waits
    /// for locks no longer than this (databases round up to their unit), and whose commit is durable.
    fn begin_impatient(
        connection: &mut PoolConnection<Self>,
        wait_max: Duration,
    ) -> impl Future<Output = Result<Transaction<'_, Self>, sqlx::Error>> + Send;
    /// Which of these keys are being inserted right now, where the database can tell without waiting.
    fn in_flight(
        connection: &mut Self::Connection,
        table: &TableName,
        keys: &[String],
    ) -> impl Future<Output = Result<BTreeSet<String>, sqlx::Error>> + Send;
    /// A query of a few rows as they are committed now, even in a transaction that reads an older snapshot.
    /// Fails where the database would not show it to that transaction.
    fn current(
        connection: &mut Self::Connection,
        query: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;
    /// Inserts a row unless its key is taken, and says whether it did; a taken key leaves the transaction
    /// alive. It waits for a transaction in flight on that key.
    fn insert_new(
        connection: &mut Self::Connection,
        insert: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
    /// Locks the one row of a table for writing, and does not queue for it.
    fn lock_row(
        connection: &mut Self::Connection,
        query: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs a statement; how many rows it touched.
    fn execute(
        connection: &mut Self::Connection,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// Runs a query.
    fn fetch(
        connection: &mut Self::Connection,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;
    /// A text of a row.
    fn text(row: &Self::Row, column: usize) -> Result<String, sqlx::Error>;
    /// A number of a row.
    fn integer(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error>;
    /// Bytes of a row.
    fn bytes(row: &Self::Row, column: usize) -> Result<Vec<u8>, sqlx::Error>;
}

/// How statements run: the same words for every database, but sqlx has no type that says so.
/// A text column whose collation compares bytes looks like bytes to sqlx's MySQL, so texts are read as the
/// database's file says.
macro_rules! statements {
    ($read_text:ident) => {
        async fn execute(
            connection: &mut Self::Connection,
            sql: &str,
            values: Vec<Value>,
        ) -> Result<u64, sqlx::Error> {
            Ok(bound(sql, values).execute(connection).await?.rows_affected())
        }

        async fn fetch(
            connection: &mut Self::Connection,
            sql: &str,
            values: Vec<Value>,
        ) -> Result<Vec<Self::Row>, sqlx::Error> {
            bound(sql, values).fetch_all(connection).await
        }

        fn text(row: &Self::Row, column: usize) -> Result<String, sqlx::Error> {
            sqlx::Row::$read_text(row, column)
        }

        fn integer(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error> {
            sqlx::Row::try_get(row, column)
        }

        fn bytes(row: &Self::Row, column: usize) -> Result<Vec<u8>, sqlx::Error> {
            sqlx::Row::try_get(row, column)
        }
    };
}

/// A statement with its values.
macro_rules! bound {
    ($database:ty) => {
        fn bound(
            sql: &str,
            values: Vec<Value>,
        ) -> sqlx::query::Query<'_, $database, <$database as sqlx::Database>::Arguments<'_>> {
            values.into_iter().fold(sqlx::query(sql), |query, value| match value {
                Value::Text(text) => query.bind(text),
                Value::Integer(number) => query.bind(number),
                Value::Bytes(bytes) => query.bind(bytes),
            })
        }
    };
}

use {bound, statements};

/// `(?, ?), (?, ?)` for so many rows of so many columns, in the markers of the database.
pub(super) fn markers<DB: Dialect>(columns: usize, rows: usize) -> String {
    let mut numbers = 1..;
    let rows: Vec<String> = (0..rows)
        .map(|_| {
            let row: Vec<String> = numbers.by_ref().take(columns).map(DB::marker).collect();
            format!("({})", row.join(", "))
        })
        .collect();
    rows.join(", ")
}

/// An insert of rows that leaves rows of the same key, the first column, as they are.
pub(super) fn insert_or_keep<DB: Dialect>(table: &str, columns: &[&str], rows: usize) -> String {
    let (names, values) = (columns.join(", "), markers::<DB>(columns.len(), rows));
    let key = columns.first().copied().unwrap_or_default();
    format!("INSERT INTO {table} ({names}) VALUES {values} {}", DB::or_keep(table, key))
}

/// Keys for an `IN (…)` whose length is one of a few, so that few statements are prepared: the last key
/// is repeated.
pub(super) fn padded(keys: &[String]) -> Vec<Value> {
    let length = [1, 8, 64, 512].into_iter().find(|length| *length >= keys.len()).unwrap_or(keys.len());
    let last = keys.last().cloned().unwrap_or_default();
    let padding = std::iter::repeat_n(last, length - keys.len());
    keys.iter().cloned().chain(padding).map(Value::Text).collect()
}

/// Connections of our own to the database of this pool: nobody else waits for them, and settings of their
/// sessions harm nobody.
pub(super) fn own_connections<DB: Dialect>(pool: &Pool<DB>, max: u32, lock_wait_max: Duration) -> Pool<DB> {
    let options = DB::patience((*pool.connect_options()).clone(), lock_wait_max);
    PoolOptions::new().max_connections(max).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(options)
}

/// `None` instead of an error that says: somebody holds a lock, or came first.
pub(super) fn free<DB: Dialect, T>(result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if DB::is_contended(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
