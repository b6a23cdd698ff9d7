//! What an outbox holds: how much waits, and what needs a person.

use halfmq_proto::v1;
use prost::Message as _;
use sqlx::Pool;

use super::{Outbox, OutboxId, QUARANTINED, SENT, WAITING};
use crate::ids::MessageId;
use crate::message::Message;
use crate::sql::dialect::{Dialect, Value, free, own_connections};

/// Rows that one transaction deletes.
const BATCH: usize = 1_000;
const LOCK_WAIT_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// How much is in an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBacklog {
    /// Messages that wait to be sent.
    pub waiting: u64,
    /// Messages that need a person.
    pub quarantined: u64,
}

/// A message that is out of the way because it cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its row.
    pub id: OutboxId,
    /// Why.
    pub reason: String,
    /// The message; `None` if it cannot be read.
    pub message: Option<Message>,
}

impl<DB: Dialect> Outbox<DB> {
    /// How much waits, and how much is quarantined.
    pub async fn backlog(&self, pool: &Pool<DB>) -> Result<OutboxBacklog, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let mut counts = [0; 2];
        for (count, state) in counts.iter_mut().zip([WAITING, QUARANTINED]) {
            let query = format!("SELECT COUNT(*) FROM {} WHERE state = {state}", self.table());
            let rows = DB::fetch(&mut connection, &query, Vec::new()).await?;
            let number = DB::integer(rows.first().ok_or(sqlx::Error::RowNotFound)?, 0)?;
            *count = u64::try_from(number).unwrap_or_default();
        }
        let [waiting, quarantined] = counts;
        Ok(OutboxBacklog { waiting, quarantined })
    }

    /// The newest message that the coordinator has confirmed, for each lane that ever sent one. The coordinator
    /// must know them as long as it keeps their receipts; if it does not, it has lost what it was sent last. For
    /// audits.
    pub async fn newest_sent(&self, pool: &Pool<DB>) -> Result<Vec<MessageId>, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let query =
            format!("SELECT message_id FROM {} WHERE message_id > '' ORDER BY lane", self.newest_table());
        let rows = DB::fetch(&mut connection, &query, Vec::new()).await?;
        rows.iter().map(|row| Ok(DB::text(row, 0)?.into())).collect()
    }

    /// The oldest messages in quarantine.
    pub async fn quarantined(&self, pool: &Pool<DB>, max: u32) -> Result<Vec<Quarantined>, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let query = format!(
            "SELECT id, reason, message FROM {} WHERE state = {QUARANTINED} ORDER BY lane, number LIMIT {max}",
            self.table()
        );
        let rows = DB::fetch(&mut connection, &query, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                let message = v1::Message::decode(&*DB::bytes(row, 2)?).ok();
                Ok(Quarantined {
                    id: OutboxId(DB::text(row, 0)?),
                    reason: DB::text(row, 1)?,
                    message: message.and_then(|message| Message::try_from(message).ok()),
                })
            })
            .collect()
    }

    /// Gives a message back to the relays, in its old place. False: it is not in quarantine.
    pub async fn release(&self, pool: &Pool<DB>, id: &OutboxId) -> Result<bool, sqlx::Error> {
        let release = format!(
            "UPDATE {} SET state = {WAITING}, attempts = 0, reason = NULL WHERE id = {} AND state = {QUARANTINED}",
            self.table(),
            DB::marker(1)
        );
        let mut sql = pool.begin().await?;
        let released = DB::execute(&mut sql, &release, vec![id.as_str().into()]).await?;
        DB::notify(&mut sql, &self.channel()).await?;
        sql.commit().await?;
        Ok(released > 0)
    }

    /// Drops a message that is in quarantine, for good. False: it is not in quarantine.
    pub async fn discard(&self, pool: &Pool<DB>, id: &OutboxId) -> Result<bool, sqlx::Error> {
        let discard =
            format!("DELETE FROM {} WHERE id = {} AND state = {QUARANTINED}", self.table(), DB::marker(1));
        let mut connection = pool.acquire().await?;
        Ok(DB::execute(&mut connection, &discard, vec![id.as_str().into()]).await? > 0)
    }

    /// Deletes rows that were sent, but for those among the `keep` newest rows of all, in small steps that
    /// hold nobody up. How many. Only with [`OutboxOptions::keep_sent`](super::OutboxOptions::keep_sent) is
    /// there anything to do.
    pub async fn prune_sent(&self, pool: &Pool<DB>, keep: u64) -> Result<u64, sqlx::Error> {
        let own = own_connections(pool, 1, LOCK_WAIT_MAX);
        let mut connection = own.acquire().await?;
        let newest = format!("SELECT COALESCE(MAX(number), 0) FROM {}", self.table());
        let rows = DB::fetch(&mut connection, &newest, Vec::new()).await?;
        let newest = DB::integer(rows.first().ok_or(sqlx::Error::RowNotFound)?, 0)?;
        let below = newest.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX)).saturating_add(1);
        let condition = format!("state = {SENT} AND number < {}", DB::marker(1));
        let delete = DB::delete_some(&self.table(), &condition, "state, lane, number", BATCH);
        let mut pruned = 0;
        loop {
            let mut sql = DB::begin_impatient(&mut connection, LOCK_WAIT_MAX).await?;
            let deleted = DB::execute(&mut sql, &delete, vec![Value::Integer(below)]).await;
            let Some(deleted) = free::<DB, _>(deleted)? else { break };
            sql.commit().await?;
            pruned += deleted;
            if deleted < BATCH as u64 {
                break;
            }
        }
        drop(connection);
        own.close().await;
        Ok(pruned)
    }
}
