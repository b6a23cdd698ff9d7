//! A payment service: each order is booked once, however often its message comes.
//!
//! With `--database` the booking and the message id are one transaction in PostgreSQL. With `--redis` the
//! booking is in Redis, which has no such transaction: its account refuses an old fencing token instead.
//!
//! ```text
//! cargo run --example idempotent_consumer -- --database postgres://…
//! cargo run --example idempotent_consumer -- --redis redis://…
//! ```

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use halfmq_client::redis_inbox::{FencingToken, RedisInbox};
use halfmq_client::sql::Inbox;
use halfmq_client::{Client, Consumer, ConsumerOptions, Delivery, RetryLater};
use redis::aio::ConnectionManager;
use sqlx::{PgPool, Postgres};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// The coordinator
    #[arg(long, default_value = "http://127.0.0.1:8081", env = "HALFMQ_ENDPOINT")]
    endpoint: String,
    /// The payment service's database
    #[arg(long, required_unless_present = "redis", conflicts_with = "redis")]
    database: Option<String>,
    /// Its Redis, in place of a database
    #[arg(long)]
    redis: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let client = Client::connect(arguments.endpoint)?;
    match (arguments.database, arguments.redis) {
        (Some(database), _) => in_sql(&client, &database).await,
        (None, Some(redis)) => in_redis(&client, &redis).await,
        (None, None) => Err("a database or a Redis is needed".into()),
    }
}

/// Short leases, so that what a killed process held comes again soon.
fn consumer(client: &Client, group: &str) -> Consumer {
    let options = ConsumerOptions {
        invisible: Duration::from_secs(2),
        wait: Duration::from_secs(2),
        in_flight_max: 8,
        ..ConsumerOptions::default()
    };
    Consumer::with_options(client, ["orders"], group, options)
}

async fn in_sql(client: &Client, database: &str) -> Result<(), Failure> {
    let pool = PgPool::connect(database).await?;
    let inbox = Inbox::<Postgres>::new("payment");
    inbox.migrate(&pool).await?;
    // Doubles would show: nothing but the inbox keeps an order from being booked twice.
    let payments = "CREATE TABLE IF NOT EXISTS payments (number TEXT NOT NULL, cents BIGINT NOT NULL)";
    if sqlx::query(payments).execute(&pool).await.is_err() {
        sqlx::query(payments).execute(&pool).await?;
    }
    let pruning = (inbox.clone(), client.clone(), pool.clone());
    tokio::spawn(async move { pruning.0.keep_pruned(&pruning.1, &pruning.2, Duration::from_secs(1)).await });
    let handler = inbox.handler(client, &pool, |sql, delivery| {
        Box::pin(async move {
            let (number, cents) = order(delivery)?;
            let insert = sqlx::query("INSERT INTO payments (number, cents) VALUES ($1, $2)");
            insert.bind(number).bind(cents).execute(&mut **sql).await?;
            Ok(())
        })
    });
    Ok(consumer(client, "payment").run(handler).await?)
}

async fn in_redis(client: &Client, url: &str) -> Result<(), Failure> {
    let redis = ConnectionManager::new(redis::Client::open(url)?).await?;
    let inbox = RedisInbox::over(redis.clone(), "payment-redis", "halfmq:inbox", Duration::from_secs(2));
    let pruning = (inbox.clone(), client.clone());
    tokio::spawn(async move { pruning.0.keep_pruned(&pruning.1, Duration::from_secs(1)).await });
    let handler = inbox.handler(client, move |delivery: Arc<Delivery>, token: FencingToken| {
        let redis = redis.clone();
        async move {
            let (number, cents) = order(&delivery)?;
            book(redis, number, cents, token).await
        }
    });
    Ok(consumer(client, "payment-redis").run(handler).await?)
}

/// Books an order under its number, and only with a token that is not older than the one that booked it: the
/// same order booked again is the same booking.
async fn book(
    mut redis: ConnectionManager,
    number: &str,
    cents: i64,
    token: FencingToken,
) -> Result<(), RetryLater> {
    let book = redis::Script::new(
        "local booked = redis.call('HGET', KEYS[2], ARGV[1])
         if booked and tonumber(booked) > tonumber(ARGV[3]) then return 0 end
         redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
         redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
         return 1",
    );
    let mut booking = book.key("{payments}:cents");
    let booking = booking.key("{payments}:tokens").arg(number).arg(cents).arg(token.0);
    match booking.invoke_async::<bool>(&mut redis).await? {
        true => Ok(()),
        false => Err("somebody with a newer token has booked it".into()),
    }
}

fn order(delivery: &Delivery) -> Result<(&str, i64), RetryLater> {
    let text = std::str::from_utf8(&delivery.message.body)?;
    let (number, cents) = text.split_once(' ').ok_or("an order is a number and cents")?;
    Ok((number, cents.parse()?))
}
