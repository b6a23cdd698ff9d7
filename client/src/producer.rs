//! Producers: messages at once, or half messages around a local transaction.

mod checker;
mod checks;
mod decide;
mod local;
mod open;
mod options;
mod transaction;
mod transactional;

use std::sync::Arc;

use halfmq_proto::v1;
use uuid::Uuid;

pub use checker::{Check, Resolution, TransactionChecker};
pub use local::{Committed, Confirmation, LocalOutcome, LocalResult, LocalTransaction, TransactionError};
pub use options::{CheckSettings, InDoubtPolicy, TransactionOptions};
pub use transaction::{Transaction, Warning};
pub use transactional::TransactionProducer;

use crate::client::Client;
use crate::error::Error;
use crate::interceptor::ProducerInterceptor;
use crate::message::Message;
use crate::receipt::Receipt;
use crate::wire;

/// Sends messages that need no transaction.
///
/// Every send carries an id of its own, so a repetition after a lost answer does not double it.
///
/// ```no_run
/// # async fn example(client: halfmq_client::Client) -> Result<(), halfmq_client::Error> {
/// use halfmq_client::{Message, Producer};
///
/// let producer = Producer::new(&client, "shop");
/// let receipt = producer.send(Message::new("orders", "hello").key("42")).await?;
/// println!("{:?}", receipt.released);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    client: Client,
    group: String,
    interceptors: Vec<Arc<dyn ProducerInterceptor>>,
}

impl Producer {
    /// A producer of this group.
    pub fn new(client: &Client, group: impl Into<String>) -> Self {
        Self::with_interceptors(client, group, Vec::new())
    }

    /// A producer whose sends pass these interceptors.
    pub fn with_interceptors(
        client: &Client,
        group: impl Into<String>,
        interceptors: Vec<Arc<dyn ProducerInterceptor>>,
    ) -> Self {
        Self { client: client.clone(), group: group.into(), interceptors }
    }

    /// Sends one message.
    pub async fn send(&self, message: Message) -> Result<Receipt, Error> {
        let mut receipts = self.send_all([message]).await?;
        wire::present("receipt", receipts.pop())
    }

    /// Sends 1 to 256 messages, all or none.
    pub async fn send_all(&self, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Receipt>, Error> {
        let mut messages: Vec<Message> = messages.into_iter().collect();
        for interceptor in &self.interceptors {
            interceptor.before_send(&mut messages);
        }
        let request = v1::SendRequest {
            producer_group: self.group.clone(),
            request_id: Uuid::now_v7().to_string(),
            messages: wire::messages_to_wire(messages),
        };
        let result = self.client.retry(|| self.client.send(request.clone())).await;
        let result = result.and_then(|response| wire::receipts(response.messages));
        for interceptor in self.interceptors.iter().rev() {
            interceptor.after_send(result.as_deref());
        }
        result
    }
}
