//! Consumers: a loop that calls a handler, or deliveries in the caller's hands.
//!
//! ```text
//! receive ──► handler ──► Ok ──► acks: everything that waits, in one call
//!    ▲           │  └─ lease extended at half of the invisible duration while it runs
//!    │           └─ Err, panic, too long ──► retry later
//!    └── as many as there is room for
//! ```

mod acks;
mod handler;
mod options;
mod pull;
mod push;
mod retry;
mod topic;
mod work;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use handler::{Handler, HandlerOutcome, RetryLater};
pub use options::{ConsumerOptions, Start};
pub use pull::PullConsumer;
pub use retry::RetrySchedule;

use crate::client::Client;
use crate::error::Error;

/// Calls a handler for every message of some topics, on behalf of a consumer group.
///
/// A delivery is acked only after its handler returned `Ok`; after an `Err`, a panic or a crash it comes
/// again. So a handler may see a message twice and should be idempotent by
/// [`Delivery::message_id`](crate::Delivery::message_id).
///
/// ```no_run
/// use std::sync::Arc;
/// use halfmq_client::{Client, Consumer, Delivery, RetryLater};
///
/// # async fn example(client: Client) -> Result<(), halfmq_client::Error> {
/// let consumer = Consumer::new(&client, ["orders"], "shipping");
/// let stop = consumer.stop_handle();
/// tokio::spawn(async move {
///     wait_for_signal().await;
///     stop.stop();
/// });
/// consumer
///     .run(|delivery: Arc<Delivery>| async move {
///         ship(&delivery.message.body).await?;
///         Ok::<_, RetryLater>(())
///     })
///     .await
/// # }
/// # async fn wait_for_signal() {}
/// # async fn ship(_: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
/// ```
pub struct Consumer {
    client: Client,
    topics: Vec<String>,
    group: String,
    options: Arc<ConsumerOptions>,
    stop: CancellationToken,
}

/// Ends [`Consumer::run`] from elsewhere.
#[derive(Debug, Clone)]
pub struct StopHandle {
    stop: CancellationToken,
}

impl StopHandle {
    /// Stops receiving. What is in flight is finished, or given back after
    /// [`ConsumerOptions::stop_timeout`]; then `run` returns.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Consumer {
    /// A consumer of these topics with default options.
    pub fn new<T: Into<String>>(
        client: &Client,
        topics: impl IntoIterator<Item = T>,
        group: impl Into<String>,
    ) -> Self {
        Self::with_options(client, topics, group, ConsumerOptions::default())
    }

    /// A consumer of these topics with these options.
    pub fn with_options<T: Into<String>>(
        client: &Client,
        topics: impl IntoIterator<Item = T>,
        group: impl Into<String>,
        options: ConsumerOptions,
    ) -> Self {
        Self {
            client: client.clone(),
            topics: topics.into_iter().map(Into::into).collect(),
            group: group.into(),
            options: Arc::new(options),
            stop: CancellationToken::new(),
        }
    }

    /// What ends [`run`](Self::run).
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { stop: self.stop.clone() }
    }

    /// Consumes until it is stopped. A coordinator that is away is waited for, without end.
    ///
    /// Fails when the coordinator refuses to serve one of the topics, such as an unknown one; the others
    /// are then stopped in good order too. Dropped, it cancels its handlers at once, and what they had
    /// comes again when its lease ends.
    pub async fn run(self, handler: impl Handler) -> Result<(), Error> {
        let handler = Arc::new(handler);
        let mut topics = JoinSet::new();
        for topic in &self.topics {
            let pull = PullConsumer::new(&self.client, topic, &self.group, (*self.options).clone());
            topics.spawn(topic::consume(pull, Arc::clone(&handler), self.stop.clone()));
        }
        let mut result = Ok(());
        while let Some(ended) = topics.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(Error::Unexpected(format!("a bug: {error}"))));
            if ended.is_err() {
                self.stop.cancel();
                result = result.and(ended);
            }
        }
        result
    }
}
