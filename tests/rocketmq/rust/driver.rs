//! A driver around the Rust library; see ../README.md. It has transactions, normal, FIFO and delay messages and
//! simple consumers, and no more.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ClientError;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{Message, MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
}

fn text<'a>(command: &'a Value, field: &str) -> &'a str {
    command[field].as_str().unwrap_or_default()
}

fn shown(view: &MessageView) -> Value {
    let body = view.body();
    let mut keys = view.keys().to_vec();
    keys.sort();
    json!({
        "body": (body.len() < 1000).then(|| String::from_utf8_lossy(body)),
        "size": body.len(),
        "md5": format!("{:x}", md5::compute(body)),
        "tag": view.tag(),
        "keys": keys,
        "properties": view.properties(),
        "message_id": view.message_id(),
        "attempt": view.delivery_attempt(),
    })
}

fn option(command: &Value) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(text(command, "endpoint"));
    if !text(command, "access").is_empty() {
        option.set_access_key(text(command, "access"));
        option.set_secret_key(text(command, "secret"));
    }
    option.set_long_polling_timeout(Duration::from_secs(command["await_s"].as_u64().unwrap_or(5)));
    option
}

fn message(command: &Value, transactional: bool) -> Result<impl Message + use<>, ClientError> {
    let body = match command["size"].as_u64() {
        Some(size) => vec![b'x'; size as usize],
        None => text(command, "body").as_bytes().to_vec(),
    };
    let topic = text(command, "topic");
    let now = (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as u64;
    let mut builder = match (transactional, command["group"].as_str(), command["delay_ms"].as_u64()) {
        (true, ..) => MessageBuilder::transaction_message_builder(topic, body),
        (_, Some(group), _) => MessageBuilder::fifo_message_builder(topic, body, group),
        (_, None, Some(delay)) => {
            MessageBuilder::delay_message_builder(topic, body, ((now + delay) / 1000 + 1) as i64)
        }
        (_, None, None) => MessageBuilder::builder().set_topic(topic).set_body(body),
    };
    if let Some(tag) = command["tag"].as_str() {
        builder = builder.set_tag(tag);
    }
    if let Some(keys) = command["keys"].as_array() {
        builder = builder.set_keys(keys.iter().filter_map(Value::as_str).collect());
    }
    if let Some(properties) = command["properties"].as_object() {
        let pair =
            |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap_or_default().to_owned());
        builder = builder.set_properties(properties.iter().map(pair).collect::<HashMap<_, _>>());
    }
    builder.build()
}

struct Reader {
    consumer: SimpleConsumer,
    topic: String,
    filter: FilterExpression,
}

/// How to end a transaction that was begun; its type has no name.
type End = Box<dyn FnOnce(bool) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ClientError>>>>>;

#[derive(Default)]
struct Driver {
    answer: Arc<Mutex<String>>,
    producers: HashMap<String, Producer>,
    readers: HashMap<String, Reader>,
    transactions: HashMap<String, End>,
    deliveries: HashMap<String, (String, MessageView)>,
    numbers: u64,
}

impl Driver {
    async fn run(&mut self, command: &Value) -> Result<Value, Failure> {
        match text(command, "op") {
            "producer" => self.producer(command).await,
            "answer" => {
                *self.answer.lock().expect("nobody panics") = text(command, "value").to_owned();
                Ok(json!({}))
            }
            "send" => {
                let producer = self.producers.get(text(command, "producer")).ok_or("no such producer")?;
                let receipt = producer.send(message(command, false)?).await?;
                Ok(json!({ "message_id": receipt.message_id() }))
            }
            "half" => self.half(command).await,
            "end" => {
                let end =
                    self.transactions.remove(text(command, "tx")).ok_or("the library ends it only once")?;
                end(text(command, "resolution") == "COMMIT").await?;
                Ok(json!({}))
            }
            "simple" => self.simple(command).await,
            "receive" => self.receive(command).await,
            "ack" => {
                let (reader, view) = self.deliveries.get(text(command, "token")).ok_or("no such delivery")?;
                self.readers.get(reader).ok_or("no such consumer")?.consumer.ack(view).await?;
                Ok(json!({}))
            }
            "close" => {
                let name = text(command, "name");
                if let Some(producer) = self.producers.remove(name) {
                    producer.shutdown().await?;
                }
                if let Some(reader) = self.readers.remove(name) {
                    reader.consumer.shutdown().await?;
                }
                Ok(json!({}))
            }
            other => Err(format!("the library cannot {other}").into()),
        }
    }

    async fn producer(&mut self, command: &Value) -> Result<Value, Failure> {
        let mut producer = ProducerOption::default();
        let topics: Vec<&str> =
            command["topics"].as_array().ok_or("topics")?.iter().filter_map(Value::as_str).collect();
        producer.set_topics(topics);
        let answer = Arc::clone(&self.answer);
        let check = move |_, view: MessageView| {
            let answer = answer.lock().expect("nobody panics").clone();
            let mut event = shown(&view);
            event["event"] = "check".into();
            event["answer"] = answer.as_str().into();
            say(&event);
            match answer.as_str() {
                "ROLLBACK" => TransactionResolution::ROLLBACK,
                "UNKNOWN" => TransactionResolution::UNKNOWN,
                _ => TransactionResolution::COMMIT,
            }
        };
        let mut producer = Producer::new_transaction_producer(producer, option(command), Box::new(check))?;
        producer.start().await?;
        self.producers.insert(text(command, "name").to_owned(), producer);
        Ok(json!({}))
    }

    async fn half(&mut self, command: &Value) -> Result<Value, Failure> {
        let producer = self.producers.get(text(command, "producer")).ok_or("no such producer")?;
        let transaction = producer.send_transaction_message(message(command, true)?).await?;
        self.numbers += 1;
        let token = self.numbers.to_string();
        let answer = json!({
            "tx": token,
            "message_id": transaction.message_id(),
            "transaction_id": transaction.transaction_id(),
        });
        let end: End = Box::new(|commit| {
            Box::pin(
                async move { if commit { transaction.commit().await } else { transaction.rollback().await } },
            )
        });
        self.transactions.insert(token, end);
        Ok(answer)
    }

    async fn simple(&mut self, command: &Value) -> Result<Value, Failure> {
        let mut simple = SimpleConsumerOption::default();
        simple.set_consumer_group(text(command, "group"));
        simple.set_topics(vec![text(command, "topic")]);
        let mut consumer = SimpleConsumer::new(simple, option(command))?;
        consumer.start().await?;
        let kind = if command["sql"].as_bool() == Some(true) { FilterType::Sql } else { FilterType::Tag };
        let filter = FilterExpression::new(kind, command["filter"].as_str().unwrap_or("*"));
        let reader = Reader { consumer, topic: text(command, "topic").to_owned(), filter };
        self.readers.insert(text(command, "name").to_owned(), reader);
        Ok(json!({}))
    }

    async fn receive(&mut self, command: &Value) -> Result<Value, Failure> {
        let name = text(command, "consumer");
        let Reader { consumer, topic, filter } = self.readers.get(name).ok_or("no such consumer")?;
        let invisible = Duration::from_secs(command["invisible_s"].as_u64().ok_or("invisible_s")?);
        let max = i32::try_from(command["max"].as_i64().ok_or("max")?)?;
        let views = consumer.receive_with(topic, filter, max, invisible).await?;
        let mut messages = Vec::new();
        for view in views {
            self.numbers += 1;
            let token = self.numbers.to_string();
            let mut message = shown(&view);
            message["token"] = token.as_str().into();
            messages.push(message);
            self.deliveries.insert(token, (name.to_owned(), view));
        }
        Ok(json!({ "messages": messages }))
    }
}

#[tokio::main]
async fn main() {
    let mut driver = Driver::default();
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = commands.recv().await {
        let command: Value = serde_json::from_str(&line).expect("commands are JSON");
        let mut answer = match driver.run(&command).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": { "type": "ClientError", "text": format!("{error} {error:?}") } }),
        };
        answer["id"] = command["id"].clone();
        say(&answer);
    }
    std::process::exit(0);
}
