//! A handler whose effect and inbox row are one transaction.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Transaction};

use super::{Arrival, Inbox};
use crate::client::Client;
use crate::consumer::{ConsumerOptions, Handler, PullConsumer, RetryLater};
use crate::delivery::Delivery;
use crate::sql::dialect::Dialect;

/// Longest wait for another transaction that handles the same message.
const RECORD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the lease of a message below the watermark is extended when it is confirmed.
const CONFIRMED_FOR: Duration = Duration::from_secs(30);

/// What a service does with a message inside a transaction. Closures that return a boxed future work as well.
///
/// It must not commit: [`Idempotent`] does, together with the inbox row. An `Err` rolls both back.
pub trait SqlHandler<DB: Dialect>: Send + Sync + 'static {
    /// Does the work in this transaction.
    fn handle<'a>(
        &'a self,
        sql: &'a mut Transaction<'static, DB>,
        delivery: &'a Delivery,
    ) -> impl Future<Output = Result<(), RetryLater>> + Send + 'a;
}

impl<DB, F> SqlHandler<DB> for F
where
    DB: Dialect,
    F: for<'a> Fn(&'a mut Transaction<'static, DB>, &'a Delivery) -> BoxedWork<'a> + Send + Sync + 'static,
{
    fn handle<'a>(
        &'a self,
        sql: &'a mut Transaction<'static, DB>,
        delivery: &'a Delivery,
    ) -> impl Future<Output = Result<(), RetryLater>> + Send + 'a {
        self(sql, delivery)
    }
}

/// The future of a closure that works in a transaction.
pub type BoxedWork<'a> = Pin<Box<dyn Future<Output = Result<(), RetryLater>> + Send + 'a>>;

/// A [`Handler`] that runs a [`SqlHandler`] once for each message. Made by [`Inbox::handler`].
pub struct Idempotent<DB: Dialect, H> {
    inbox: Inbox<DB>,
    client: Client,
    pool: Pool<DB>,
    handler: H,
}

impl<DB: Dialect> Inbox<DB> {
    /// A handler for [`Consumer::run`](crate::Consumer::run) of the inbox's consumer group: effect and
    /// message id are one transaction in the database of this pool.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")] mod example {
    /// use halfmq_client::{Client, Consumer, sql::Inbox};
    /// use sqlx::{Sqlite, SqlitePool};
    ///
    /// async fn points(client: Client, pool: SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    ///     let inbox = Inbox::<Sqlite>::new("points-service");
    ///     inbox.migrate(&pool).await?;
    ///     let handler = inbox.handler(&client, &pool, |sql, delivery| {
    ///         Box::pin(async move {
    ///             let order = std::str::from_utf8(&delivery.message.body)?;
    ///             let credit = "INSERT INTO points (order_number, points) VALUES (?, 10)";
    ///             sqlx::query(credit).bind(order).execute(&mut **sql).await?;
    ///             Ok(())
    ///         })
    ///     });
    ///     Consumer::new(&client, ["orders"], "points-service").run(handler).await?;
    ///     Ok(())
    /// }
    /// # }
    /// ```
    pub fn handler<F>(&self, client: &Client, pool: &Pool<DB>, effect: F) -> Idempotent<DB, F>
    where
        F: for<'a> Fn(&'a mut Transaction<'static, DB>, &'a Delivery) -> BoxedWork<'a>
            + Send
            + Sync
            + 'static,
    {
        self.wrap(client, pool, effect)
    }

    /// The same for a type that is a [`SqlHandler`].
    pub fn wrap<H: SqlHandler<DB>>(&self, client: &Client, pool: &Pool<DB>, handler: H) -> Idempotent<DB, H> {
        Idempotent { inbox: self.clone(), client: client.clone(), pool: pool.clone(), handler }
    }
}

impl<DB: Dialect, H: SqlHandler<DB>> Handler for Idempotent<DB, H> {
    async fn handle(&self, delivery: Arc<Delivery>) -> Result<(), RetryLater> {
        let Some(mut sql) = self.arrive(&delivery).await? else {
            tracing::debug!(id = %delivery.message_id, attempt = delivery.attempt, "had its effect already");
            return Ok(());
        };
        self.handler.handle(&mut sql, &delivery).await?;
        self.inbox.ensure_alive(&mut sql, &delivery).await?;
        // A lost answer to COMMIT makes the message come again, and its row says whether that is too late.
        Ok(sql.commit().await?)
    }
}

impl<DB: Dialect, H> Idempotent<DB, H> {
    /// The transaction for the effect, or `None` if there was one already.
    async fn arrive(&self, delivery: &Delivery) -> Result<Option<Transaction<'static, DB>>, RetryLater> {
        let (sql, arrival) = self.record(delivery).await?;
        match arrival {
            Arrival::First => return Ok(Some(sql)),
            Arrival::Again => return Ok(None),
            Arrival::Pruned => sql.rollback().await?,
        }
        self.confirm(delivery).await?;
        let (mut sql, arrival) = self.record(delivery).await?;
        if arrival == Arrival::Again {
            return Ok(None);
        }
        // Its row is the only proof that there will be, whoever else has this message.
        self.inbox.keep(&mut sql, delivery).await?;
        Ok(Some(sql))
    }

    async fn record(&self, delivery: &Delivery) -> Result<(Transaction<'static, DB>, Arrival), RetryLater> {
        let mut sql = self.pool.begin().await?;
        let recording = self.inbox.record(&mut sql, delivery);
        match tokio::time::timeout(RECORD_TIME_MAX, recording).await {
            Ok(arrival) => Ok((sql, arrival?)),
            Err(_elapsed) => Err("another transaction handles the same message".into()),
        }
    }

    /// Below the watermark only a delivery whose lease is alive may have an effect: an operator gave the
    /// message back. One whose lease is over was settled by somebody else.
    async fn confirm(&self, delivery: &Delivery) -> Result<(), RetryLater> {
        let (topic, group) = (&delivery.place.topic, self.inbox.group());
        let consumer = PullConsumer::new(&self.client, topic, group, ConsumerOptions::default());
        let until = consumer.extend(&delivery.receipt_handle, CONFIRMED_FOR).await?;
        tracing::info!(id = %delivery.message_id, ?until, "settled before, and given back by an operator");
        Ok(())
    }
}

impl<DB: Dialect> Inbox<DB> {
    /// A transaction that the database rolled back by itself must not look committed.
    async fn ensure_alive(
        &self,
        sql: &mut Transaction<'static, DB>,
        delivery: &Delivery,
    ) -> Result<(), RetryLater> {
        let query = format!(
            "SELECT message_id FROM {} WHERE consumer_group = {} AND message_id = {}",
            self.table.quoted(DB::QUOTE),
            DB::marker(1),
            DB::marker(2)
        );
        let key = vec![self.group.as_str().into(), delivery.message_id.as_str().into()];
        match DB::fetch(sql, &query, key).await?.is_empty() {
            false => Ok(()),
            true => Err("the database rolled the transaction back by itself".into()),
        }
    }
}
