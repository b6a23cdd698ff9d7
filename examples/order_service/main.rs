//! An order service on PostgreSQL: every order that is in the database has its message, and no other.
//!
//! It can be killed at any moment. What it was doing is decided by its transaction log, through whichever of
//! its processes is asked.
//!
//! ```text
//! cargo run --example order_service -- --database postgres://… --orders 100
//! ```

use std::time::Duration;

use clap::Parser;
use halfmq_client::sql::{LogError, TransactionLog};
use halfmq_client::{Client, Message, TransactionError, TransactionProducer};
use sqlx::{PgPool, Postgres};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// The coordinator
    #[arg(long, default_value = "http://127.0.0.1:8081", env = "HALFMQ_ENDPOINT")]
    endpoint: String,
    /// The shop's database
    #[arg(long)]
    database: String,
    /// Orders to place; without a number it goes on for ever, with 0 it only answers checks
    #[arg(long)]
    orders: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let pool = PgPool::connect(&arguments.database).await?;
    let log = TransactionLog::<Postgres>::default();
    log.migrate(&pool).await?;
    let orders = "CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, cents BIGINT NOT NULL)";
    // Two processes that create a table at the same time may get in each other's way; one of them wins.
    if sqlx::query(orders).execute(&pool).await.is_err() {
        sqlx::query(orders).execute(&pool).await?;
    }
    let client = Client::connect(arguments.endpoint)?;
    let producer = TransactionProducer::new(&client, "shop", log.checker(&pool));
    let pruning = (log.clone(), client.clone(), pool.clone());
    tokio::spawn(async move { pruning.0.keep_pruned(&pruning.1, &pruning.2, Duration::from_secs(60)).await });

    let mut placed = 0;
    while arguments.orders.is_none_or(|orders| placed < orders) {
        match place(&producer, &log, &pool, placed).await {
            Ok(()) => placed += 1,
            // Away, or undecided: whoever ordered tries again, and a check decides what became of this one.
            Err(error) => {
                say(&format!("not placed: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    say(&format!("{placed} orders are placed"));
    if arguments.orders == Some(0) {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// One order: its row and its message, or neither.
async fn place(
    producer: &TransactionProducer,
    log: &TransactionLog<Postgres>,
    pool: &PgPool,
    count: u64,
) -> Result<(), TransactionError<LogError>> {
    let (number, cents) = (Uuid::new_v4().to_string(), 100 + i64::try_from(count % 900).unwrap_or_default());
    let message = Message::new("orders", format!("{number} {cents}")).key(&number);
    let (log, pool) = (log.clone(), pool.clone());
    let placed = producer.transaction([message], |tx| async move {
        log.run(&pool, &tx, async |sql| {
            let insert = sqlx::query("INSERT INTO orders (number, cents) VALUES ($1, $2)");
            insert.bind(&number).bind(cents).execute(&mut **sql).await?;
            Ok::<_, LogError>(())
        })
        .await
    });
    placed.await.map(drop)
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
