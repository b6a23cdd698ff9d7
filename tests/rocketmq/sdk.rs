//! A driver around our own SDK, so that it can meet the RocketMQ clients; see README.md beside it.

#![expect(clippy::indexing_slicing, reason = "what a JSON object does not have is null")]

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

use halfmq_client::{Client, ConsumerOptions, Delivery, Message, Producer, PullConsumer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Default)]
struct Driver {
    producers: HashMap<String, Producer>,
    consumers: HashMap<String, PullConsumer>,
    deliveries: HashMap<String, (PullConsumer, Delivery)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut driver = Driver::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let mut answer = driver
            .run(&command)
            .await
            .unwrap_or_else(|error| json!({ "error": { "type": "Error", "text": error.to_string() } }));
        answer["id"] = command["id"].clone();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

impl Driver {
    async fn run(&mut self, command: &Value) -> Result<Value, Box<dyn Error>> {
        match text(command, "op") {
            "producer" => {
                let producer = Producer::new(&connect(command)?, "shop");
                self.producers.insert(text(command, "name").to_owned(), producer);
                Ok(json!({}))
            }
            "send" => {
                let producer = self.producers.get(text(command, "producer")).ok_or("no such producer")?;
                let receipt = producer.send(message(command)).await?;
                Ok(json!({ "message_id": receipt.message_id.to_string() }))
            }
            "simple" => {
                let options = ConsumerOptions { wait: Duration::from_secs(5), ..ConsumerOptions::default() };
                let (topic, group) = (text(command, "topic"), text(command, "group"));
                let consumer = PullConsumer::new(&connect(command)?, topic, group, options);
                self.consumers.insert(text(command, "name").to_owned(), consumer);
                Ok(json!({}))
            }
            "receive" => self.receive(command).await,
            "ack" => {
                let (consumer, delivery) =
                    self.deliveries.get(text(command, "token")).ok_or("no such delivery")?;
                consumer.ack(&delivery.receipt_handle).await?;
                Ok(json!({}))
            }
            "close" => {
                self.producers.remove(text(command, "name"));
                self.consumers.remove(text(command, "name"));
                Ok(json!({}))
            }
            other => Err(format!("this driver cannot {other}").into()),
        }
    }

    async fn receive(&mut self, command: &Value) -> Result<Value, Box<dyn Error>> {
        let consumer = self.consumers.get(text(command, "consumer")).ok_or("no such consumer")?;
        let max = u32::try_from(command["max"].as_u64().ok_or("max")?)?;
        let mut messages = Vec::new();
        for delivery in consumer.receive(max).await? {
            let token = delivery.message_id.to_string();
            messages.push(shown(&delivery, &token));
            self.deliveries.insert(token, (consumer.clone(), delivery));
        }
        Ok(json!({ "messages": messages }))
    }
}

fn connect(command: &Value) -> Result<Client, halfmq_client::Error> {
    Client::connect(format!("http://{}", text(command, "endpoint")))
}

fn text<'a>(command: &'a Value, field: &str) -> &'a str {
    command[field].as_str().unwrap_or_default()
}

fn message(command: &Value) -> Message {
    let mut message = Message::new(text(command, "topic"), text(command, "body").to_owned());
    message.tag = text(command, "tag").to_owned();
    for key in command["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        message = message.key(key);
    }
    for (name, value) in command["properties"].as_object().into_iter().flatten() {
        message = message.header(name, value.as_str().unwrap_or_default());
    }
    message
}

/// Without the headers in which a message of RocketMQ carries what our own has no field for.
fn shown(delivery: &Delivery, token: &str) -> Value {
    let message = &delivery.message;
    let own = message.headers.iter().filter(|(name, _)| !name.starts_with("rocketmq."));
    json!({
        "token": token,
        "body": String::from_utf8_lossy(&message.body),
        "tag": (!message.tag.is_empty()).then_some(&message.tag),
        "keys": message.keys,
        "properties": own.collect::<HashMap<_, _>>(),
        "message_id": message.headers.get("rocketmq.id"),
        "attempt": delivery.attempt,
    })
}
