//! SQLite.
//!
//! There is one writer at a time: who has inserted holds the whole database until the end, sees the newest
//! state, and makes other writers wait as long as their busy timeout allows. A transaction that read
//! before somebody else wrote cannot write any more (SQLITE_BUSY_SNAPSHOT).

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteSynchronous;
use sqlx::{Connection, Pool, Sqlite, Transaction};

use super::{ConnectOptions, Dialect, Value, bound, statements};
use crate::sql::table::TableName;

bound!(Sqlite);

impl Dialect for Sqlite {
    const QUOTE: char = '"';
    const KEY: &'static str = "TEXT";
    const TEXT: &'static str = "TEXT";
    const BYTES: &'static str = "BLOB";
    const NUMBER: &'static str = "INTEGER PRIMARY KEY AUTOINCREMENT";
    const TAKE_FREE_ROWS: &'static str = "";

    fn marker(number: usize) -> String {
        format!("?{number}")
    }

    fn or_keep(_table: &str, _key: &str) -> String {
        "ON CONFLICT DO NOTHING".to_owned()
    }

    fn delete_some(table: &str, condition: &str, order: &str, max: usize) -> String {
        format!(
            "DELETE FROM {table} WHERE rowid IN \
             (SELECT rowid FROM {table} WHERE {condition} ORDER BY {order} LIMIT {max})"
        )
    }

    /// SQLITE_BUSY and SQLITE_LOCKED, with all that extends them.
    fn is_contended(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
    }

    /// SQLITE_ERROR, whose words are all that tells one from another.
    fn is_missing_table(error: &sqlx::Error) -> bool {
        error.as_database_error().is_some_and(|error| error.message().starts_with("no such table"))
    }

    /// A COMMIT that is refused leaves the transaction open.
    fn commit_was_refused(_error: &sqlx::Error) -> bool {
        false
    }

    fn patience(options: ConnectOptions<Self>, wait_max: Duration) -> ConnectOptions<Self> {
        options.busy_timeout(wait_max).synchronous(SqliteSynchronous::Full)
    }

    async fn begin_impatient(
        connection: &mut PoolConnection<Self>,
        _wait_max: Duration,
    ) -> Result<Transaction<'_, Self>, sqlx::Error> {
        connection.begin_with("BEGIN IMMEDIATE").await
    }

    /// Whoever is in flight holds the whole database, and that shows at BEGIN.
    async fn in_flight(
        _connection: &mut Self::Connection,
        _table: &TableName,
        _keys: &[String],
    ) -> Result<BTreeSet<String>, sqlx::Error> {
        Ok(BTreeSet::new())
    }

    async fn current(
        connection: &mut Self::Connection,
        query: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Self::Row>, sqlx::Error> {
        Self::fetch(connection, query, values).await
    }

    /// BEGIN IMMEDIATE has locked everything.
    async fn lock_row(_connection: &mut Self::Connection, _query: &str) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn insert_new(
        connection: &mut Self::Connection,
        insert: &str,
        values: Vec<Value>,
    ) -> Result<bool, sqlx::Error> {
        Ok(Self::execute(connection, &format!("{insert} ON CONFLICT DO NOTHING"), values).await? > 0)
    }

    /// There is nothing to wake anybody with.
    type Wake = std::convert::Infallible;

    async fn notify(_connection: &mut Self::Connection, _channel: &str) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn listen(_pool: &Pool<Self>, _channel: &str) -> Result<Self::Wake, sqlx::Error> {
        Err(sqlx::Error::Configuration("this database does not notify".into()))
    }

    async fn woken(wake: &mut Self::Wake) -> bool {
        match *wake {}
    }

    statements!(try_get);
}
