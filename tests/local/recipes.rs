//! The recipes of client/README.md for effects that are idempotent by themselves.

use std::sync::Arc;

use halfmq_client::sql::Value;
use halfmq_client::{Delivery, RetryLater};
use sqlx::Pool;

use crate::database::{TestDatabase, on_every_database};
use crate::inbox::delivery;

on_every_database!(unique_business_key_takes_the_first, conditional_update_takes_each_step_once);

/// One shipment for each order: its number is the key, whoever asks however often.
async fn ship<DB: TestDatabase>(pool: &Pool<DB>, order: i64) -> Result<bool, RetryLater> {
    let mut connection = pool.acquire().await?;
    let insert = format!("INSERT INTO shipments (order_number) VALUES ({})", DB::marker(1));
    match DB::execute(&mut connection, &insert, vec![Value::Integer(order)]).await {
        Ok(_) => Ok(true),
        Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn unique_business_key_takes_the_first<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    DB::setup(pool, &["CREATE TABLE shipments (order_number BIGINT NOT NULL PRIMARY KEY)"]).await;
    let mut shipped = Vec::new();
    for order in [7, 8, 7, 7, 8, 9] {
        shipped.push(ship::<DB>(pool, order).await.expect("no other error"));
    }
    assert_eq!(shipped, [true, true, false, false, false, true]);
}

/// Moves an account on by one message: the message says which version it was made for.
async fn apply<DB: TestDatabase>(
    pool: &Pool<DB>,
    delivery: &Arc<Delivery>,
    version: i64,
) -> Result<bool, RetryLater> {
    let mut connection = pool.acquire().await?;
    let cents: i64 = std::str::from_utf8(&delivery.message.body)?.parse()?;
    let update = format!(
        "UPDATE accounts SET cents = cents + {}, version = version + 1 WHERE number = 1 AND version = {}",
        DB::marker(1),
        DB::marker(2)
    );
    let changed =
        DB::execute(&mut connection, &update, vec![Value::Integer(cents), Value::Integer(version)]).await?;
    Ok(changed == 1)
}

async fn conditional_update_takes_each_step_once<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let accounts =
        "CREATE TABLE accounts (number BIGINT PRIMARY KEY, cents BIGINT NOT NULL, version BIGINT NOT NULL)";
    DB::setup(pool, &[accounts, "INSERT INTO accounts VALUES (1, 0, 0)"]).await;
    let mut applied = Vec::new();
    // Twice, too late, and in order: each version is left once.
    for (body, version) in [("10", 0), ("10", 0), ("5", 1), ("10", 0), ("1", 2), ("5", 1)] {
        applied.push(apply::<DB>(pool, &delivery(0, body), version).await.expect("no error"));
    }
    assert_eq!(applied, [true, false, true, false, true, false]);
    assert_eq!(DB::number(pool, "SELECT cents FROM accounts").await, 16);
}
