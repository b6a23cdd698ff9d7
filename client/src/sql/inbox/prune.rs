//! Pruning: what the group has settled, as the coordinator says.

use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolConnection;

use super::{Inbox, number};
use crate::client::Client;
use crate::receipt::Place;
use crate::sql::Pruned;
use crate::sql::dialect::{Dialect, Value, free, own_connections};

/// Rows that one transaction deletes.
const BATCH: usize = 1_000;
/// How often the watermark's lock is tried before a prune gives way, and how long it pauses in between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);
const LOCK_WAIT_MAX: Duration = Duration::from_millis(100);

impl<DB: Dialect> Inbox<DB> {
    /// Forgets all messages of a queue below this place, in small steps.
    ///
    /// The place must be a floor that the coordinator supplied
    /// ([`QueueBacklog::floor`](crate::QueueBacklog::floor)).
    pub async fn prune(&self, pool: &Pool<DB>, floor: &Place) -> Result<Pruned, sqlx::Error> {
        let own = own_connections(pool, 1, LOCK_WAIT_MAX);
        let pruned = self.prune_on(&mut own.acquire().await?, floor).await;
        own.close().await;
        pruned
    }

    /// Prunes all queues that this group reads, as far as the coordinator says now.
    pub async fn prune_settled(&self, client: &Client, pool: &Pool<DB>) -> Result<Pruned, PruneError> {
        let group = client.admin().describe_group(self.group()).await?;
        let own = own_connections(pool, 1, LOCK_WAIT_MAX);
        let mut connection = own.acquire().await?;
        let mut pruned = Pruned { rows: 0, gave_way: false };
        for backlog in group.topics {
            for queue in backlog.queues {
                let floor = Place { topic: backlog.topic.clone(), queue: queue.queue, offset: queue.floor };
                let one = self.prune_on(&mut connection, &floor).await?;
                pruned.rows += one.rows;
                pruned.gave_way |= one.gave_way;
            }
        }
        drop(connection);
        own.close().await;
        Ok(pruned)
    }

    /// Prunes for ever, with this pause in between. What fails is logged and tried again. For a task of its
    /// own, in one or in every process of the service.
    pub async fn keep_pruned(&self, client: &Client, pool: &Pool<DB>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            match self.prune_settled(client, pool).await {
                Ok(pruned) => tracing::debug!(group = self.group(), ?pruned, "the inbox is pruned"),
                Err(error) => tracing::warn!(group = self.group(), %error, "the inbox is not pruned"),
            }
        }
    }

    async fn prune_on(
        &self,
        connection: &mut PoolConnection<DB>,
        floor: &Place,
    ) -> Result<Pruned, sqlx::Error> {
        let mut raised = false;
        for _try in 0..TRIES {
            raised = free::<DB, _>(self.raise(connection, floor).await)?.is_some();
            if raised {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let mut pruned = Pruned { rows: 0, gave_way: !raised };
        while !pruned.gave_way {
            match free::<DB, _>(self.delete_batch(connection, floor).await)? {
                Some(deleted) => {
                    pruned.rows += deleted;
                    if deleted < BATCH as u64 {
                        break;
                    }
                }
                None => pruned.gave_way = true,
            }
        }
        Ok(pruned)
    }

    /// Nothing is deleted before this is committed. A watermark that stands higher stays.
    async fn raise(&self, connection: &mut PoolConnection<DB>, floor: &Place) -> Result<(), sqlx::Error> {
        let table = self.table.beside("_watermark").quoted(DB::QUOTE);
        let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(DB::marker);
        let (key, offset) = (self.key(floor), Value::Integer(number(floor.offset)?));
        let mut sql = DB::begin_impatient(connection, LOCK_WAIT_MAX).await?;
        DB::lock_row(&mut sql, &format!("SELECT watermark FROM {table} WHERE consumer_group = ''")).await?;
        let create = format!(
            "INSERT INTO {table} (consumer_group, topic, queue, watermark) VALUES ({one}, {two}, {three}, 0) {}",
            DB::or_keep(&table, "consumer_group")
        );
        DB::execute(&mut sql, &create, key.clone()).await?;
        let raise = format!(
            "UPDATE {table} SET watermark = {one} \
             WHERE consumer_group = {two} AND topic = {three} AND queue = {four} AND watermark < {five}"
        );
        let mut values = vec![offset.clone()];
        values.extend(key);
        values.push(offset);
        DB::execute(&mut sql, &raise, values).await?;
        let notice = format!("UPDATE {table} SET watermark = watermark + 1 WHERE consumer_group = ''");
        DB::execute(&mut sql, &notice, Vec::new()).await?;
        sql.commit().await
    }

    async fn delete_batch(
        &self,
        connection: &mut PoolConnection<DB>,
        floor: &Place,
    ) -> Result<u64, sqlx::Error> {
        let [one, two, three, four] = [1, 2, 3, 4].map(DB::marker);
        let below = format!(
            "consumer_group = {one} AND topic = {two} AND queue = {three} AND kept = 0 AND place < {four}"
        );
        let delete = DB::delete_some(&self.table.quoted(DB::QUOTE), &below, "place", BATCH);
        let mut values = self.key(floor);
        values.push(Value::Integer(number(floor.offset)?));
        let mut sql = DB::begin_impatient(connection, LOCK_WAIT_MAX).await?;
        let deleted = DB::execute(&mut sql, &delete, values).await?;
        sql.commit().await?;
        Ok(deleted)
    }

    fn key(&self, place: &Place) -> Vec<Value> {
        vec![self.group.as_str().into(), place.topic.as_str().into(), Value::Integer(place.queue.into())]
    }
}

/// Why an inbox could not be pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The coordinator did not supply its floors.
    #[error("no floor is known: {0}")]
    Coordinator(#[from] crate::Error),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}
