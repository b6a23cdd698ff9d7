//! The inbox in Redis, for effects that are in no SQL database.
//!
//! What it promises, and what not:
//! - A message whose effect is *recorded as done* has no second one, as long as Redis keeps what it was told.
//! - Two processes do not work on the same message at the same time while both keep their leases.
//! - The effect and its record are **not** one transaction. A process that dies between them, or that sleeps
//!   longer than its lease, lets the effect happen again. Only its target can prevent that: it gets a *fencing
//!   token* that rises with every try, and must refuse a token below the highest one it has seen.
//! - A Redis that forgets (a fail-over before replication, `appendfsync everysec` and a power cut) lets recent
//!   effects happen again.
//!
//! Where the effect is in SQL, the inbox of the module `sql` has none of these gaps.
//!
//! Pruned as that one is: below floors that the coordinator supplies, never by age.

mod scripts;

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::ConnectionManager;
use ::redis::{AsyncCommands, RedisError};

use crate::client::Client;
use crate::consumer::{ConsumerOptions, Handler, PullConsumer, RetryLater};
use crate::delivery::Delivery;
use crate::receipt::Place;
use scripts::Scripts;

/// Records that one step of a prune deletes.
const BATCH: isize = 1_000;
/// How long the lease of a message below the watermark is extended when it is confirmed.
const CONFIRMED_FOR: Duration = Duration::from_secs(30);

/// Remembers in Redis which messages had their effect, for one consumer group.
#[derive(Clone)]
pub struct RedisInbox {
    connection: ConnectionManager,
    group: String,
    prefix: String,
    lease: Duration,
    scripts: Arc<Scripts>,
}

/// Rises with every try of a consumer group to have an effect. A target that refuses tokens below the highest
/// it has seen shuts out whoever slept through the end of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(
    /// From 1.
    pub u64,
);

enum Taken {
    First(FencingToken),
    Again,
    Busy,
    Pruned,
}

impl RedisInbox {
    /// The inbox of a consumer group at this URL, with keys that begin with `halfmq:inbox`.
    pub async fn connect(url: &str, group: impl Into<String>) -> Result<Self, RedisError> {
        let connection = ConnectionManager::new(::redis::Client::open(url)?).await?;
        Ok(Self::over(connection, group, "halfmq:inbox", Duration::from_secs(30)))
    }

    /// The same over a connection that exists, with another prefix and another lease: how long a process
    /// that died while it handled a message keeps others from it. A living one renews it.
    pub fn over(
        connection: ConnectionManager,
        group: impl Into<String>,
        prefix: &str,
        lease: Duration,
    ) -> Self {
        let group = group.into();
        // One hash tag, so that all keys of a group are in one slot of a cluster.
        let prefix = format!("{{{prefix}:{group}}}");
        Self { connection, group, prefix, lease, scripts: Arc::default() }
    }

    /// A handler for [`Consumer::run`](crate::Consumer::run) of this group.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use halfmq_client::redis_inbox::{FencingToken, RedisInbox};
    /// use halfmq_client::{Client, Consumer, Delivery, RetryLater};
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let inbox = RedisInbox::connect("redis://127.0.0.1/", "mailer").await?;
    /// let handler = inbox.handler(&client, |delivery: Arc<Delivery>, token: FencingToken| async move {
    ///     send_mail(&delivery.message.body, token.0).await?;
    ///     Ok::<_, RetryLater>(())
    /// });
    /// Consumer::new(&client, ["orders"], "mailer").run(handler).await?;
    /// # Ok(()) }
    /// # async fn send_mail(_: &[u8], _: u64) -> Result<(), std::io::Error> { Ok(()) }
    /// ```
    pub fn handler<H, Fut>(&self, client: &Client, effect: H) -> impl Handler + use<H, Fut>
    where
        H: Fn(Arc<Delivery>, FencingToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RetryLater>> + Send + 'static,
    {
        Fenced { inbox: self.clone(), client: client.clone(), effect }
    }

    /// Forgets what this group has settled in all its queues, as far as the coordinator says now. How many.
    pub async fn prune_settled(&self, client: &Client) -> Result<u64, RedisPruneError> {
        let group = client.admin().describe_group(&self.group).await?;
        let mut pruned = 0;
        for backlog in group.topics {
            for queue in backlog.queues {
                let floor = Place { topic: backlog.topic.clone(), queue: queue.queue, offset: queue.floor };
                pruned += self.prune(&floor).await?;
            }
        }
        Ok(pruned)
    }

    /// Forgets all messages of a queue below this place, a floor that the coordinator supplied. How many.
    pub async fn prune(&self, floor: &Place) -> Result<u64, RedisError> {
        let mut redis = self.connection.clone();
        let (field, settled) = (field(floor), self.settled_key(floor));
        // Nothing is deleted before the watermark stands.
        let mut raise = self.scripts.raise.key(self.watermark_key());
        raise.arg(&field).arg(floor.offset).invoke_async::<()>(&mut redis).await?;
        let mut pruned = 0;
        loop {
            let below = format!("({}", floor.offset);
            let ids: Vec<String> = redis.zrangebyscore_limit(&settled, "-inf", below, 0, BATCH).await?;
            if ids.is_empty() {
                return Ok(pruned);
            }
            pruned += ids.len() as u64;
            let keys: Vec<String> = ids.iter().map(|id| self.message_key(id)).collect();
            let mut step = ::redis::pipe();
            step.atomic().unlink(keys).ignore().zrem(&settled, ids).ignore();
            step.query_async::<()>(&mut redis).await?;
        }
    }

    /// Prunes for ever, with this pause in between. What fails is logged and tried again.
    pub async fn keep_pruned(&self, client: &Client, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            match self.prune_settled(client).await {
                Ok(pruned) => tracing::debug!(group = self.group, pruned, "the inbox is pruned"),
                Err(error) => tracing::warn!(group = self.group, %error, "the inbox is not pruned"),
            }
        }
    }

    async fn take(&self, delivery: &Delivery, confirmed: bool) -> Result<Taken, RetryLater> {
        let mut redis = self.connection.clone();
        let mut take = self.scripts.take.key(self.message_key(delivery.message_id.as_str()));
        take.key(self.watermark_key()).key(self.fence_key());
        take.arg(field(&delivery.place)).arg(delivery.place.offset).arg(self.lease_ms());
        let (state, token): (String, u64) = take.arg(u8::from(confirmed)).invoke_async(&mut redis).await?;
        match state.as_str() {
            "first" => Ok(Taken::First(FencingToken(token))),
            "again" => Ok(Taken::Again),
            "busy" => Ok(Taken::Busy),
            "pruned" => Ok(Taken::Pruned),
            other => Err(format!("a script of the inbox answered {other:?}").into()),
        }
    }

    /// Whether the message is still ours, with a new lease.
    async fn renew(&self, delivery: &Delivery, token: FencingToken) -> Result<bool, RedisError> {
        let mut redis = self.connection.clone();
        let mut renew = self.scripts.renew.key(self.message_key(delivery.message_id.as_str()));
        renew.arg(token.0).arg(self.lease_ms()).invoke_async(&mut redis).await
    }

    /// Records that the effect is there, unless somebody else took the message over.
    async fn finish(&self, delivery: &Delivery, token: FencingToken) -> Result<bool, RedisError> {
        let mut redis = self.connection.clone();
        let id = delivery.message_id.as_str();
        let mut finish = self.scripts.finish.key(self.message_key(id));
        finish.key(self.settled_key(&delivery.place)).key(self.watermark_key());
        finish.arg(token.0).arg(field(&delivery.place)).arg(delivery.place.offset).arg(id);
        finish.invoke_async(&mut redis).await
    }

    /// Lets others try at once.
    async fn release(&self, delivery: &Delivery, token: FencingToken) -> Result<(), RedisError> {
        let mut redis = self.connection.clone();
        let mut release = self.scripts.release.key(self.message_key(delivery.message_id.as_str()));
        release.arg(token.0).invoke_async(&mut redis).await
    }

    fn message_key(&self, id: &str) -> String {
        format!("{}:message:{id}", self.prefix)
    }

    fn settled_key(&self, place: &Place) -> String {
        format!("{}:settled:{}", self.prefix, field(place))
    }

    fn watermark_key(&self) -> String {
        format!("{}:watermark", self.prefix)
    }

    fn fence_key(&self) -> String {
        format!("{}:fence", self.prefix)
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// A queue as a field of the watermark. Names of topics have no colon.
fn field(place: &Place) -> String {
    format!("{}:{}", place.topic, place.queue)
}

/// A handler behind a [`RedisInbox`].
struct Fenced<H> {
    inbox: RedisInbox,
    client: Client,
    effect: H,
}

impl<H, Fut> Handler for Fenced<H>
where
    H: Fn(Arc<Delivery>, FencingToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), RetryLater>> + Send + 'static,
{
    async fn handle(&self, delivery: Arc<Delivery>) -> Result<(), RetryLater> {
        let mut taken = self.inbox.take(&delivery, false).await?;
        if matches!(taken, Taken::Pruned) {
            self.confirm(&delivery).await?;
            taken = self.inbox.take(&delivery, true).await?;
        }
        let token = match taken {
            Taken::First(token) => token,
            Taken::Again => return Ok(()),
            Taken::Busy => return Err("another process handles the same message".into()),
            Taken::Pruned => return Err("confirmed, and refused all the same: a bug".into()),
        };
        let effect = (self.effect)(Arc::clone(&delivery), token);
        let done = tokio::select! {
            done = effect => done,
            lost = self.keep_lease(&delivery, token) => return Err(lost),
        };
        match done {
            Ok(()) if self.inbox.finish(&delivery, token).await? => Ok(()),
            Ok(()) => Err("the lease was lost before the effect was recorded; it may happen again".into()),
            Err(retry) => {
                if let Err(error) = self.inbox.release(&delivery, token).await {
                    tracing::debug!(%error, "not released; its lease ends by itself");
                }
                Err(retry)
            }
        }
    }
}

impl<H> Fenced<H> {
    /// Renews at every third of the lease; returns only when the message is somebody else's.
    async fn keep_lease(&self, delivery: &Delivery, token: FencingToken) -> RetryLater {
        loop {
            tokio::time::sleep(self.inbox.lease / 3).await;
            match self.inbox.renew(delivery, token).await {
                Ok(true) => {}
                Ok(false) => return "the lease was lost, another process has the message".into(),
                Err(error) => tracing::warn!(%error, "the lease is not renewed, trying again"),
            }
        }
    }

    /// Below the watermark only a delivery whose lease at the coordinator is alive may have an effect.
    async fn confirm(&self, delivery: &Delivery) -> Result<(), RetryLater> {
        let (topic, group) = (&delivery.place.topic, &self.inbox.group);
        let consumer = PullConsumer::new(&self.client, topic, group, ConsumerOptions::default());
        let until = consumer.extend(&delivery.receipt_handle, CONFIRMED_FOR).await?;
        tracing::info!(id = %delivery.message_id, ?until, "settled before, and given back by an operator");
        Ok(())
    }
}

/// Why an inbox could not be pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisPruneError {
    /// The coordinator did not supply its floors.
    #[error("no floor is known: {0}")]
    Coordinator(#[from] crate::Error),
    /// Redis failed.
    #[error("Redis failed: {0}")]
    Redis(#[from] RedisError),
}
