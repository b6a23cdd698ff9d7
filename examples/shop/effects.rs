//! What the cart service and the points service share: one effect for each message, however often it
//! comes. The message id is recorded in the same local transaction as the effect.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halfmq_client::{Client, Consumer, ConsumerOptions, Delivery, RetryLater};
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::mpsc;

use crate::Failure;
use crate::database::{self, Database};
use crate::fail_point::{FailPoints, Point};
use crate::order::Order;
use crate::pipe::{Report, obey, report};

/// Doubles would show: only the message id is unique, the order number is not.
const SCHEMA: &str = "
    CREATE TABLE effects (message_id TEXT PRIMARY KEY, order_number INTEGER NOT NULL, effect TEXT NOT NULL);
    CREATE TABLE repetitions (message_id TEXT NOT NULL, attempt INTEGER NOT NULL);";

pub(crate) fn create(file: &Path) -> rusqlite::Result<()> {
    database::create(file, SCHEMA).map(drop)
}

/// Consumes one topic until the shop is gone.
pub(crate) async fn run(
    endpoint: &str,
    file: &Path,
    topic: &str,
    effect: fn(&Order) -> String,
) -> Result<(), Failure> {
    let client = Client::connect_with(endpoint, crate::client_options())?;
    let effects = Database::open(file, Duration::from_secs(5))?;
    let points = Arc::new(FailPoints::default());
    let consumer = Consumer::with_options(&client, [topic], format!("{topic}-service"), consumer_options());
    let reached = Arc::clone(&points);
    let handler = move |delivery: Arc<Delivery>| {
        let (effects, points) = (effects.clone(), Arc::clone(&reached));
        async move {
            let order: Order = serde_json::from_slice(&delivery.message.body)?;
            let effect = effect(&order);
            let recorded = Arc::clone(&delivery);
            let connection = effects.lock().await;
            let (connection, result) =
                database::run(connection, move |effects| record(effects, &recorded, &order, &effect)).await;
            drop(connection);
            result?;
            points.reach(Point::AfterDatabase, delivery.message_id.as_str()).await;
            Ok::<_, RetryLater>(())
        }
    };
    report(&Report::Ready);
    let (no_orders, _) = mpsc::unbounded_channel();
    tokio::select! {
        ended = consumer.run(handler) => Ok(ended?),
        () = obey(&points, no_orders) => Ok(()),
    }
}

/// A short lease, so that what a killed consumer held comes again soon.
fn consumer_options() -> ConsumerOptions {
    ConsumerOptions {
        invisible: Duration::from_secs(2),
        wait: Duration::from_secs(2),
        in_flight_max: 8,
        ..ConsumerOptions::default()
    }
}

/// Effect and message id in one local transaction; a message that comes again changes nothing.
fn record(
    effects: &mut Connection,
    delivery: &Delivery,
    order: &Order,
    effect: &str,
) -> rusqlite::Result<()> {
    let id = delivery.message_id.as_str();
    let transaction = effects.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let new = transaction.execute(
        "INSERT INTO effects VALUES (?1, ?2, ?3) ON CONFLICT (message_id) DO NOTHING",
        params![id, order.number, effect],
    )?;
    if new == 0 {
        transaction.execute("INSERT INTO repetitions VALUES (?1, ?2)", params![id, delivery.attempt])?;
    }
    transaction.commit()
}
