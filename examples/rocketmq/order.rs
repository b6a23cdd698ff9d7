//! A transaction with the RocketMQ 5 client for Rust. It needs these dependencies, the second one only because
//! the first uses a feature of it without asking:
//!
//! rocketmq = "=5.0.0"; time = { version = "0.3", features = ["local-offset"] }; tokio = { features = ["full"] }

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::MessageBuilder;
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connect = || {
        let mut option = ClientOption::default();
        option.set_access_url(std::env::args().nth(1).unwrap_or("127.0.0.1:8081".into()));
        option.set_long_polling_timeout(Duration::from_secs(10));
        option
    };
    // Stands for the database of the shop.
    let orders = Arc::new(Mutex::new(HashSet::new()));
    let asked = Arc::clone(&orders);

    let mut option = ProducerOption::default();
    option.set_topics(vec!["rust-orders"]);
    // HalfMQ asks what became of a half message that nobody decided.
    let check = move |_, message: rocketmq::model::message::MessageView| match asked
        .lock()
        .expect("nobody panics")
        .contains(message.body())
    {
        true => TransactionResolution::COMMIT,
        false => TransactionResolution::ROLLBACK,
    };
    let mut producer = Producer::new_transaction_producer(option, connect(), Box::new(check))?;
    producer.start().await?;

    let order = b"order 42".to_vec();
    let half = MessageBuilder::transaction_message_builder("rust-orders", order.clone()).set_tag("placed");
    let transaction = producer.send_transaction_message(half.build()?).await?; // durable, and nobody sees it
    orders.lock().expect("nobody panics").insert(order); // the local transaction
    transaction.commit().await?; // now everybody does

    let mut option = SimpleConsumerOption::default();
    option.set_consumer_group("rust-cart");
    option.set_topics(vec!["rust-orders"]);
    let mut consumer = SimpleConsumer::new(option, connect())?;
    consumer.start().await?;
    let placed = FilterExpression::new(FilterType::Tag, "placed");
    for message in consumer.receive("rust-orders", &placed).await? {
        println!("received {}", String::from_utf8_lossy(message.body()));
        consumer.ack(&message).await?;
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
