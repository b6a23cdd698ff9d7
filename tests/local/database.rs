//! A database of its own for each test, and what a test does to it besides the SDK.

use std::future::Future;

use halfmq_client::sql::Dialect;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, MySql, Pool, Postgres, Sqlite};
use tempfile::TempDir;
use uuid::Uuid;

use crate::server;

/// Connections of one test.
const CONNECTIONS_MAX: u32 = 40;

/// A database, empty at first. A file of it goes with it.
pub(crate) struct Fresh<DB: Dialect> {
    pub(crate) pool: Pool<DB>,
    /// Where others connect to it.
    pub(crate) url: String,
    _home: Option<TempDir>,
}

/// Statements of tests that databases write differently, and connections to a new database.
pub(crate) trait TestDatabase: Dialect {
    /// As stories call it.
    const TITLE: &'static str;
    /// Statements that begin a transaction in which every read shows the first snapshot.
    const BEGIN_SNAPSHOT: &'static [&'static str];

    /// How a plan says that it reads every row of the outbox.
    const WHOLE_TABLE: &'static str;
    /// How the database would run a query, in its words.
    async fn plan(pool: &Pool<Self>, query: &str) -> String;

    fn fresh() -> impl Future<Output = Option<Fresh<Self>>> + Send;

    /// Runs a statement without values.
    fn run(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send {
        Self::execute(connection, sql, Vec::new())
    }

    /// The number that a query returns.
    async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
        let mut connection = pool.acquire().await.expect("the database takes connections");
        let rows =
            Self::fetch(&mut connection, sql, Vec::new()).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        Self::integer(rows.first().expect("one row"), 0).expect("a number")
    }

    /// Runs statements without values on any connection.
    async fn setup(pool: &Pool<Self>, statements: &[&str]) {
        let mut connection = pool.acquire().await.expect("the database takes connections");
        for sql in statements {
            Self::run(&mut connection, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
}

/// A column of texts.
async fn texts<DB: Dialect>(pool: &Pool<DB>, query: &str, column: usize) -> String {
    let mut connection = pool.acquire().await.expect("the database takes connections");
    let rows = DB::fetch(&mut connection, query, Vec::new()).await.expect("a plan");
    let texts: Vec<String> = rows.iter().map(|row| DB::text(row, column).expect("a text")).collect();
    // With single blanks, and one behind each word.
    texts.iter().flat_map(|text| text.split_whitespace()).map(|word| format!("{word} ")).collect()
}

fn new_name() -> String {
    format!("test_{}", Uuid::new_v4().simple())
}

fn options<DB: Dialect>() -> PoolOptions<DB> {
    PoolOptions::new().max_connections(CONNECTIONS_MAX)
}

impl TestDatabase for Postgres {
    const TITLE: &'static str = "postgres";
    const BEGIN_SNAPSHOT: &'static [&'static str] = &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"];
    const WHOLE_TABLE: &'static str = "Seq Scan on halfmq_outbox ";

    async fn plan(pool: &Pool<Self>, query: &str) -> String {
        texts(pool, &format!("EXPLAIN {query}"), 0).await
    }

    async fn fresh() -> Option<Fresh<Self>> {
        let url = server::url("postgres").await?;
        let admin: PgConnectOptions = url.parse().expect("tests/server prints a URL");
        let name = new_name();
        let mut connection = admin.connect().await.expect("it has just started");
        Self::run(&mut connection, &format!("CREATE DATABASE {name}")).await.expect("a new name");
        let options_of_it = admin.database(&name);
        let url = options_of_it.to_url_lossy().to_string();
        let pool = options().connect_lazy_with(options_of_it);
        Some(Fresh { pool, url, _home: None })
    }
}

impl TestDatabase for MySql {
    const TITLE: &'static str = "mysql";
    // The default, so it needs no words.
    const BEGIN_SNAPSHOT: &'static [&'static str] = &[];
    const WHOLE_TABLE: &'static str = "\"table_name\": \"halfmq_outbox\", \"access_type\": \"ALL\"";

    async fn plan(pool: &Pool<Self>, query: &str) -> String {
        texts(pool, &format!("EXPLAIN FORMAT=JSON {query}"), 0).await
    }

    async fn fresh() -> Option<Fresh<Self>> {
        let url = server::url("mariadb").await?;
        let admin: MySqlConnectOptions = url.parse().expect("tests/server prints a URL");
        let name = new_name();
        let mut connection = admin.connect().await.expect("it has just started");
        Self::run(&mut connection, &format!("CREATE DATABASE {name}")).await.expect("a new name");
        let options_of_it = admin.database(&name);
        let url = options_of_it.to_url_lossy().to_string();
        let pool = options().connect_lazy_with(options_of_it);
        Some(Fresh { pool, url, _home: None })
    }
}

impl TestDatabase for Sqlite {
    const TITLE: &'static str = "sqlite";
    const BEGIN_SNAPSHOT: &'static [&'static str] = &[];
    const WHOLE_TABLE: &'static str = "SCAN halfmq_outbox ";

    async fn plan(pool: &Pool<Self>, query: &str) -> String {
        texts(pool, &format!("EXPLAIN QUERY PLAN {query}"), 3).await
    }

    async fn fresh() -> Option<Fresh<Self>> {
        let home = TempDir::with_prefix("halfmq-test-").expect("a temporary folder can be made");
        let file = SqliteConnectOptions::new().filename(home.path().join("local.db")).create_if_missing(true);
        let pool = options().connect_lazy_with(file.journal_mode(SqliteJournalMode::Wal));
        // The file is made and its journal mode set once, before others open it.
        drop(pool.acquire().await.expect("a new file"));
        let url = format!("sqlite:{}", home.path().join("local.db").display());
        Some(Fresh { pool, url, _home: Some(home) })
    }
}

/// The same test on every database.
macro_rules! on_every_database {
    ($($test:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $test() { super::$test::<sqlx::Postgres>().await; })+
        }
        mod mysql {
            $(#[tokio::test]
            async fn $test() { super::$test::<sqlx::MySql>().await; })+
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $test() { super::$test::<sqlx::Sqlite>().await; })+
        }
    };
}

pub(crate) use on_every_database;
