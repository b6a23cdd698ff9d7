//! One batch on its way: message groups side by side, the messages of a group one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use halfmq_proto::v1;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Client, attempt};
use crate::error::Error;

/// A row as it was read.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) number: i64,
    pub(super) id: String,
    pub(super) attempts: i64,
    pub(super) message: Vec<u8>,
}

/// What became of a row.
#[derive(Debug)]
pub(super) enum Fate {
    /// The coordinator has confirmed it, as this message.
    Sent(String),
    /// It will never be taken.
    Poison(String),
    /// It was answered with something that should not be; tried again, but not for ever.
    Strange(String),
    /// The coordinator is away or full; rows behind it in its group were not tried.
    Later(Error),
}

/// What a sender needs.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) producer_group: Arc<str>,
    pub(super) in_flight: Arc<Semaphore>,
}

impl Sender {
    /// Sends rows that are in order. Rows without a fate were not tried.
    pub(super) async fn send_all(&self, rows: Vec<Row>) -> Vec<(Row, Fate)> {
        let mut fates = Vec::with_capacity(rows.len());
        let mut groups: BTreeMap<String, Vec<(Row, v1::Message)>> = BTreeMap::new();
        for row in rows {
            match v1::Message::decode(row.message.as_slice()) {
                // A row without a group is a group of its own.
                Ok(message) if message.message_group.is_empty() => {
                    groups.entry(format!("\0{}", row.id)).or_default().push((row, message));
                }
                Ok(message) => groups.entry(message.message_group.clone()).or_default().push((row, message)),
                Err(error) => fates.push((row, Fate::Poison(format!("cannot be read: {error}")))),
            }
        }
        let mut sending = JoinSet::new();
        for group in groups.into_values() {
            sending.spawn(self.clone().send_in_order(group));
        }
        while let Some(sent) = sending.join_next().await {
            match sent {
                Ok(sent) => fates.extend(sent),
                Err(error) => tracing::error!(%error, "a bug: sending a message group ended early"),
            }
        }
        fates
    }

    async fn send_in_order(self, group: Vec<(Row, v1::Message)>) -> Vec<(Row, Fate)> {
        let mut fates = Vec::with_capacity(group.len());
        for (row, message) in group {
            let permit = self.in_flight.acquire().await.expect("the semaphore is never closed");
            let fate = self.send(&row, message).await;
            drop(permit);
            let goes_on = match fate {
                Fate::Sent(_) | Fate::Poison(_) => true,
                Fate::Strange(_) | Fate::Later(_) => false,
            };
            fates.push((row, fate));
            if !goes_on {
                break;
            }
        }
        fates
    }

    async fn send(&self, row: &Row, message: v1::Message) -> Fate {
        let request = v1::SendRequest {
            producer_group: self.producer_group.to_string(),
            request_id: row.id.clone(),
            messages: vec![message],
        };
        match attempt(self.client.options().attempt_timeout, self.client.send(request)).await {
            Ok(receipts) => match receipts.messages.into_iter().next() {
                Some(receipt) => Fate::Sent(receipt.message_id),
                None => Fate::Strange("confirmed without a receipt".to_owned()),
            },
            Err(error) if error.is_retryable() => Fate::Later(error),
            Err(Error::Rejected(rejection)) => Fate::Poison(rejection.to_string()),
            Err(error) => Fate::Strange(error.to_string()),
        }
    }
}
