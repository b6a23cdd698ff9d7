//! The HalfMQ SDK: messages that exist if and only if a local transaction committed.
//!
//! ```no_run
//! use std::sync::Arc;
//! use halfmq_client::{Check, Client, Consumer, Delivery, Message, Resolution, RetryLater, TransactionProducer};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:8081")?;
//! client.admin().create_topic("orders", 4).await?;
//!
//! // 1. How the coordinator learns what became of a transaction that nobody decided.
//! let producer = TransactionProducer::new(&client, "shop", |check: Check| async move {
//!     match find_order(check.transaction_id.as_str()).await {
//!         Ok(Some(_order)) => Resolution::Commit,
//!         Ok(None) => Resolution::Rollback,
//!         Err(_database_is_away) => Resolution::NoAnswer,
//!     }
//! });
//!
//! // 2. Half message, local transaction, commit. An Err from the closure rolls back.
//! let order = producer
//!     .transaction([Message::new("orders", "42").key("42")], |tx| async move {
//!         insert_order(tx.id().as_str()).await
//!     })
//!     .await?;
//! println!("order {} is {:?}", order.value, order.confirmation);
//!
//! // 3. The other side: an ack for each Ok, another attempt for each Err.
//! Consumer::new(&client, ["orders"], "shipping")
//!     .run(|delivery: Arc<Delivery>| async move {
//!         println!("ship {:?}, attempt {}", delivery.message.body, delivery.attempt);
//!         Ok::<_, RetryLater>(())
//!     })
//!     .await?;
//! # Ok(()) }
//! # async fn find_order(_: &str) -> Result<Option<u64>, std::io::Error> { Ok(None) }
//! # async fn insert_order(_: &str) -> Result<u64, std::io::Error> { Ok(42) }
//! ```
//!
//! What holds:
//! - An `Ok` of prepare, commit, rollback, send and ack means durable.
//! - Every call may be repeated: prepare and send carry request ids, the first decision stands.
//! - A decision nobody heard of is never guessed: the coordinator [checks](Check) until it knows.
//! - Every queue, retry and wait has a bound, which an options type names.
//!
//! Deliberately absent: clocks (the coordinator's alone decides), storage, and rules of the coordinator.

mod admin;
mod client;
mod consumer;
mod continuity;
mod delivery;
mod error;
mod ids;
mod interceptor;
mod message;
mod producer;
mod receipt;
#[cfg(feature = "redis")]
pub mod redis_inbox;
#[cfg(feature = "sql")]
pub mod sql;
mod wire;

pub use admin::{Admin, Backlog, Group, Queue, QueueBacklog, RetryPolicy, Topic};
pub use client::{BackoffOptions, Client, ClientOptions, Transport};
pub use consumer::{
    Consumer, ConsumerOptions, Handler, HandlerOutcome, PullConsumer, RetryLater, RetrySchedule, Start,
    StopHandle,
};
pub use continuity::{Continuity, ContinuityStatistics, Finding, Seen, Source};
pub use delivery::{DeadLetterOrigin, Delivery, GivenBack};
pub use error::{DecisionError, Error, Reason, Rejection, Unavailable};
pub use ids::{MessageId, ReceiptHandle, TransactionId};
pub use interceptor::{ConsumerInterceptor, ProducerInterceptor};
pub use message::{Message, Replacement, Visibility};
pub use producer::{
    Check, CheckSettings, Committed, Confirmation, InDoubtPolicy, LocalOutcome, LocalResult,
    LocalTransaction, Producer, Resolution, Transaction, TransactionChecker, TransactionError,
    TransactionOptions, TransactionProducer, Warning,
};
pub use receipt::{Decision, DecisionReceipt, Place, Receipt, Released};
