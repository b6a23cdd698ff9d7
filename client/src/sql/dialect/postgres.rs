//! PostgreSQL.
//!
//! An insert waits for a transaction in flight on the same key, as long as `lock_timeout` allows. READ
//! COMMITTED takes a new snapshot for each statement; REPEATABLE READ and SERIALIZABLE keep the first, and
//! fail where a locked row is newer than that.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgListener;
use sqlx::{Connection, Pool, Postgres, Transaction};

use super::{ConnectOptions, Dialect, Value, bound, own_connections, statements};
use crate::sql::table::TableName;

bound!(Postgres);

/// A listener takes no locks.
const LISTEN_LOCK_WAIT: Duration = Duration::from_millis(100);

impl Dialect for Postgres {
    const QUOTE: char = '"';
    const KEY: &'static str = "TEXT COLLATE \"C\"";
    const TEXT: &'static str = "TEXT";
    const BYTES: &'static str = "BYTEA";
    const NUMBER: &'static str = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
    const TAKE_FREE_ROWS: &'static str = " FOR UPDATE SKIP LOCKED";

    fn marker(number: usize) -> String {
        format!("${number}")
    }

    fn or_keep(_table: &str, _key: &str) -> String {
        "ON CONFLICT DO NOTHING".to_owned()
    }

    fn delete_some(table: &str, condition: &str, order: &str, max: usize) -> String {
        format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY \
             (SELECT ctid FROM {table} WHERE {condition} ORDER BY {order} LIMIT {max} FOR UPDATE SKIP LOCKED))"
        )
    }

    /// lock_not_available, deadlock_detected, serialization_failure, query_canceled.
    fn is_contended(error: &sqlx::Error) -> bool {
        has_code(error, &["55P03", "40P01", "40001", "57014"])
    }

    /// undefined_table.
    fn is_missing_table(error: &sqlx::Error) -> bool {
        has_code(error, &["42P01"])
    }

    /// Any error but "statement_completion_unknown": a refused COMMIT has rolled back.
    fn commit_was_refused(error: &sqlx::Error) -> bool {
        let refused = |code: &str| code.starts_with("23") || (code.starts_with("40") && code != "40003");
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| refused(&code))
    }

    /// Nothing of the session: a pooler in between may give each transaction another one.
    fn patience(options: ConnectOptions<Self>, _wait_max: Duration) -> ConnectOptions<Self> {
        options
    }

    async fn begin_impatient(
        connection: &mut PoolConnection<Self>,
        wait_max: Duration,
    ) -> Result<Transaction<'_, Self>, sqlx::Error> {
        let wait_ms = wait_max.as_millis().max(1);
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {wait_ms}; \
             SELECT set_config('synchronous_commit', 'on', true) \
             WHERE current_setting('synchronous_commit') = 'off'"
        );
        connection.begin_with(begin).await
    }

    /// Nothing uncommitted can be seen.
    async fn in_flight(
        _connection: &mut Self::Connection,
        _table: &TableName,
        _keys: &[String],
    ) -> Result<BTreeSet<String>, sqlx::Error> {
        Ok(BTreeSet::new())
    }

    /// A statement of READ COMMITTED sees what is committed when it starts. A kept snapshot does not; there
    /// a lock that an update would wait for fails with serialization_failure if the row has changed since.
    /// FOR KEY SHARE does not: it is granted on the old version.
    async fn current(
        connection: &mut Self::Connection,
        query: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Self::Row>, sqlx::Error> {
        let isolation = "SELECT current_setting('transaction_isolation')";
        let isolation = Self::fetch(connection, isolation, Vec::new()).await?;
        let isolation = isolation.first().map(|row| Self::text(row, 0)).transpose()?;
        match isolation.as_deref() {
            Some("read committed" | "read uncommitted") => Self::fetch(connection, query, values).await,
            Some(_) | None => Self::fetch(connection, &format!("{query} FOR SHARE"), values).await,
        }
    }

    /// Readers of READ COMMITTED hold nothing; others are not waited for long.
    async fn lock_row(connection: &mut Self::Connection, query: &str) -> Result<(), sqlx::Error> {
        Self::execute(connection, &format!("{query} FOR NO KEY UPDATE"), Vec::new()).await.map(drop)
    }

    async fn insert_new(
        connection: &mut Self::Connection,
        insert: &str,
        values: Vec<Value>,
    ) -> Result<bool, sqlx::Error> {
        Ok(Self::execute(connection, &format!("{insert} ON CONFLICT DO NOTHING"), values).await? > 0)
    }

    type Wake = PgListener;

    /// One notice for each transaction, however much it notifies.
    async fn notify(connection: &mut Self::Connection, channel: &str) -> Result<(), sqlx::Error> {
        Self::execute(connection, "SELECT pg_notify($1, '')", vec![channel.into()]).await.map(drop)
    }

    async fn listen(pool: &Pool<Self>, channel: &str) -> Result<Self::Wake, sqlx::Error> {
        let mut listener = PgListener::connect_with(&own_connections(pool, 1, LISTEN_LOCK_WAIT)).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// A lost connection may have lost a notice, so it wakes too.
    async fn woken(wake: &mut Self::Wake) -> bool {
        matches!(wake.try_recv().await, Ok(Some(_)))
    }

    statements!(try_get);
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| codes.contains(&&*code))
}
