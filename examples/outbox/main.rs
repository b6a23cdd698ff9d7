//! A service that must sell while the coordinator is away: the message is a row of the order's transaction, and
//! a relay sends it when it can.
//!
//! ```text
//! cargo run --example outbox -- --database postgres://… --orders 100
//! cargo run --release --example outbox -- --database postgres://… --orders 20000 --finished 16000000
//! ```
//! The second one measures: orders first, then the relay alone, beside rows that were sent long ago.

use std::time::Duration;

use clap::Parser;
use halfmq_client::sql::{Outbox, OutboxOptions, RelayOptions};
use halfmq_client::{Client, Message};
use sqlx::{PgPool, Postgres};
use tokio::time::Instant;
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
    /// Orders to place
    #[arg(long, default_value_t = 100)]
    orders: u64,
    /// Measure beside so many rows that were sent before
    #[arg(long, value_name = "ROWS")]
    finished: Option<i64>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let pool = PgPool::connect(&arguments.database).await?;
    // Kept, to show that they do not matter. Otherwise a row goes when its message is confirmed.
    let keep_sent = arguments.finished.is_some();
    let outbox = Outbox::<Postgres>::new(OutboxOptions { keep_sent, ..OutboxOptions::default() });
    outbox.migrate(&pool).await?;
    let orders = "CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, cents BIGINT NOT NULL)";
    sqlx::query(orders).execute(&pool).await?;
    if let Some(finished) = arguments.finished {
        add_finished(&pool, finished).await?;
    }
    let client = Client::connect(arguments.endpoint)?;
    let relay = outbox.relay(&client, "shop", &pool, RelayOptions::default());
    let (stop, mut relay) = (relay.handle(), Some(relay));
    let mut relaying = None;
    if !keep_sent {
        relaying = relay.take().map(|relay| tokio::spawn(relay.run()));
    }

    for count in 0..arguments.orders {
        let (number, cents) =
            (Uuid::new_v4().to_string(), 100 + i64::try_from(count % 900).unwrap_or_default());
        let mut sql = pool.begin().await?;
        let insert = sqlx::query("INSERT INTO orders (number, cents) VALUES ($1, $2)");
        insert.bind(&number).bind(cents).execute(&mut *sql).await?;
        // The orders of one customer leave in their order.
        let customer = format!("customer-{}", count % 10);
        let message = Message::new("orders", format!("{number} {cents}")).message_group(customer);
        outbox.insert(&mut sql, message).await?;
        sql.commit().await?;
    }
    let begun = Instant::now();
    let relaying = relaying.or_else(|| relay.take().map(|relay| tokio::spawn(relay.run())));
    while outbox.backlog(&pool).await?.waiting > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.stop();
    if let Some(relaying) = relaying {
        relaying.await?;
    }
    say(&format!("{} orders are placed and sent", arguments.orders));
    if let (Some(finished), orders) = (arguments.finished, arguments.orders) {
        say(&format!("beside {finished} finished rows: {orders} messages relayed in {seconds:.1} s"));
    }
    Ok(())
}

/// Rows as a relay leaves them.
async fn add_finished(pool: &PgPool, rows: i64) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO halfmq_outbox (id, lane, state, message) \
                  SELECT 'finished-' || n, n % 16, 1, 'sent long ago' FROM generate_series(1, $1) AS n";
    sqlx::query(insert).bind(rows).execute(pool).await?;
    sqlx::query("ANALYZE halfmq_outbox").execute(pool).await.map(drop)
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
