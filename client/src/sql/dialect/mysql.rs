//! MySQL and MariaDB, with InnoDB.
//!
//! An insert waits for a transaction in flight on the same key, as long as `innodb_lock_wait_timeout`
//! allows, at least a second; but what is in flight can be seen by a dirty read, which waits for nobody.
//! REPEATABLE READ, the default, keeps its first snapshot for plain reads; locking reads see what is
//! committed now.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, MySql, Pool, Transaction};

use super::{ConnectOptions, Dialect, Value, bound, markers, padded, statements};
use crate::sql::table::TableName;

bound!(MySql);

impl Dialect for MySql {
    const QUOTE: char = '`';
    const KEY: &'static str = "VARCHAR(190) CHARACTER SET ascii COLLATE ascii_bin";
    const TEXT: &'static str = "LONGTEXT CHARACTER SET utf8mb4";
    const BYTES: &'static str = "LONGBLOB";
    const NUMBER: &'static str = "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY";
    const TAKE_FREE_ROWS: &'static str = " FOR UPDATE SKIP LOCKED";

    fn marker(_number: usize) -> String {
        "?".to_owned()
    }

    /// An update that changes nothing takes the lock that an insert needs anyway. `INSERT IGNORE` takes a
    /// weaker one first, on which two checks and a rollback deadlock; it hides other errors, too.
    fn or_keep(table: &str, key: &str) -> String {
        format!("ON DUPLICATE KEY UPDATE {key} = {table}.{key}")
    }

    fn delete_some(table: &str, condition: &str, order: &str, max: usize) -> String {
        format!("DELETE FROM {table} WHERE {condition} ORDER BY {order} LIMIT {max}")
    }

    /// Lock wait timeout, deadlock, NOWAIT, record has changed since last read.
    fn is_contended(error: &sqlx::Error) -> bool {
        let database = error.as_database_error().and_then(|error| error.try_downcast_ref());
        database.is_some_and(|error: &MySqlDatabaseError| matches!(error.number(), 1205 | 1213 | 3572 | 1020))
    }

    /// ER_NO_SUCH_TABLE.
    fn is_missing_table(error: &sqlx::Error) -> bool {
        let database = error.as_database_error().and_then(|error| error.try_downcast_ref());
        database.is_some_and(|error: &MySqlDatabaseError| error.number() == 1146)
    }

    /// A deadlock of certification in a cluster.
    fn commit_was_refused(error: &sqlx::Error) -> bool {
        let database = error.as_database_error().and_then(|error| error.try_downcast_ref());
        database.is_some_and(|error: &MySqlDatabaseError| error.number() == 1213)
    }

    fn patience(options: ConnectOptions<Self>, _wait_max: Duration) -> ConnectOptions<Self> {
        options
    }

    /// The connection is ours alone, so settings of its session harm nobody.
    async fn begin_impatient(
        connection: &mut PoolConnection<Self>,
        wait_max: Duration,
    ) -> Result<Transaction<'_, Self>, sqlx::Error> {
        let wait_s = wait_max.as_millis().div_ceil(1_000).max(1);
        let settings = format!("SET SESSION innodb_lock_wait_timeout = {wait_s}");
        Self::execute(connection, &settings, Vec::new()).await?;
        let isolation = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
        Self::execute(connection, isolation, Vec::new()).await?;
        connection.begin().await
    }

    async fn in_flight(
        connection: &mut Self::Connection,
        table: &TableName,
        keys: &[String],
    ) -> Result<BTreeSet<String>, sqlx::Error> {
        let isolation = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED";
        Self::execute(connection, isolation, Vec::new()).await?;
        let (table, keys) = (table.quoted(Self::QUOTE), padded(keys));
        let markers = markers::<Self>(keys.len(), 1);
        let dirty = format!("SELECT transaction_id FROM {table} WHERE transaction_id IN {markers}");
        let rows = Self::fetch(connection, &dirty, keys).await?;
        rows.iter().map(|row| Self::text(row, 0)).collect()
    }

    async fn current(
        connection: &mut Self::Connection,
        query: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Self::Row>, sqlx::Error> {
        Self::fetch(connection, &format!("{query} LOCK IN SHARE MODE"), values).await
    }

    /// A writer that queued would hold up every reader behind it until the readers before it are done.
    async fn lock_row(connection: &mut Self::Connection, query: &str) -> Result<(), sqlx::Error> {
        Self::execute(connection, &format!("{query} FOR UPDATE NOWAIT"), Vec::new()).await.map(drop)
    }

    /// A key that is taken fails the statement and nothing else.
    async fn insert_new(
        connection: &mut Self::Connection,
        insert: &str,
        values: Vec<Value>,
    ) -> Result<bool, sqlx::Error> {
        match Self::execute(connection, insert, values).await {
            Ok(_inserted) => Ok(true),
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
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

    statements!(try_get_unchecked);
}
