//! Pruning: rows go, and a watermark says that they may be gone.

use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolConnection;

use super::{TransactionLog, value};
use crate::client::Client;
use crate::ids::TransactionId;
use crate::sql::dialect::{Dialect, free, own_connections};

/// Rows that one transaction deletes.
const BATCH: usize = 1_000;
/// How often the watermark's lock is tried before a prune gives way, and how long it pauses in between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);
/// Rows of other people's transactions are not waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(100);

/// What a prune did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Rows that are gone.
    pub rows: u64,
    /// Locks were not free, and rows are left: prune again later.
    pub gave_way: bool,
}

impl<DB: Dialect> TransactionLog<DB> {
    /// Forgets all rows below this transaction, in small steps that hold nobody up.
    ///
    /// `floor` must come from the coordinator ([`Admin::transaction_floor`](crate::Admin::transaction_floor)):
    /// the oldest transaction that it may still ask about. The watermark is raised first and for good, so that a row
    /// that is missing is never taken for one that never was.
    pub async fn prune(&self, pool: &Pool<DB>, floor: &TransactionId) -> Result<Pruned, sqlx::Error> {
        let own = own_connections(pool, 1, LOCK_WAIT_MAX);
        let pruned = self.prune_on(&mut own.acquire().await?, floor).await;
        own.close().await;
        pruned
    }

    /// Prunes for ever, with this pause in between, as far as the coordinator of this client says. What
    /// fails is logged and tried again. For a task of its own, in one or in every process of the service.
    pub async fn keep_pruned(&self, client: &Client, pool: &Pool<DB>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            let floor = match client.admin().transaction_floor().await {
                Ok(floor) => floor,
                Err(error) => {
                    tracing::warn!(%error, "the transaction log is not pruned: no floor is known");
                    continue;
                }
            };
            match self.prune(pool, &floor).await {
                Ok(pruned) => tracing::debug!(%floor, ?pruned, "the transaction log is pruned"),
                Err(error) => tracing::warn!(%error, "the transaction log is not pruned"),
            }
        }
    }

    async fn prune_on(
        &self,
        connection: &mut PoolConnection<DB>,
        floor: &TransactionId,
    ) -> Result<Pruned, sqlx::Error> {
        let mut raised = false;
        for _try in 0..TRIES {
            raised = free::<DB, _>(self.raise(connection, floor).await)?.is_some();
            if raised {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if !raised {
            return Ok(Pruned { rows: 0, gave_way: true });
        }
        let mut rows = 0;
        loop {
            let Some(deleted) = free::<DB, _>(self.delete_batch(connection, floor).await)? else {
                return Ok(Pruned { rows, gave_way: true });
            };
            rows += deleted;
            if deleted < BATCH as u64 {
                return Ok(Pruned { rows, gave_way: false });
            }
            tokio::task::yield_now().await;
        }
    }

    /// Nothing is deleted before this is committed.
    async fn raise(
        &self,
        connection: &mut PoolConnection<DB>,
        floor: &TransactionId,
    ) -> Result<(), sqlx::Error> {
        let mut sql = DB::begin_impatient(connection, LOCK_WAIT_MAX).await?;
        DB::lock_row(&mut sql, &self.statements.watermark).await?;
        let raise = format!(
            "UPDATE {} SET watermark = {} WHERE one = 1 AND watermark < {}",
            self.watermark_table(),
            DB::marker(1),
            DB::marker(2)
        );
        DB::execute(&mut sql, &raise, vec![value(floor.as_str()), value(floor.as_str())]).await?;
        sql.commit().await
    }

    async fn delete_batch(
        &self,
        connection: &mut PoolConnection<DB>,
        floor: &TransactionId,
    ) -> Result<u64, sqlx::Error> {
        let mut sql = DB::begin_impatient(connection, LOCK_WAIT_MAX).await?;
        let below = format!("transaction_id < {}", DB::marker(1));
        let delete = DB::delete_some(&self.table(), &below, "transaction_id", BATCH);
        let deleted = DB::execute(&mut sql, &delete, vec![value(floor.as_str())]).await?;
        sql.commit().await?;
        Ok(deleted)
    }
}
