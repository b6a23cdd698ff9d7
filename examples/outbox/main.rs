//! A service that must sell while the coordinator is away: the message is a row of the order's transaction, and
//! a relay sends it when it can.
//!
//! ```text
//! cargo run --example outbox -- --database postgres://… --orders 100
//! ```

use std::time::Duration;

use clap::Parser;
use halfmq_client::sql::{Outbox, RelayOptions};
use halfmq_client::{Client, Message};
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
    /// Orders to place
    #[arg(long, default_value_t = 100)]
    orders: u64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let pool = PgPool::connect(&arguments.database).await?;
    let outbox = Outbox::<Postgres>::default();
    outbox.migrate(&pool).await?;
    let orders = "CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, cents BIGINT NOT NULL)";
    sqlx::query(orders).execute(&pool).await?;
    let client = Client::connect(arguments.endpoint)?;
    let relay = outbox.relay(&client, "shop", &pool, RelayOptions::default());
    let (stop, relaying) = (relay.handle(), tokio::spawn(relay.run()));

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
    while outbox.backlog(&pool).await?.waiting > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.stop();
    relaying.await?;
    say(&format!("{} orders are placed and sent", arguments.orders));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
