//! Checks: what became of local transactions, and tombstones for those that never came.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::pool::PoolConnection;
use sqlx::{Pool, Transaction};

use super::{COLUMNS, COMMITTED, ROLLED_BACK, TransactionLog, value};
use crate::ids::TransactionId;
use crate::producer::{Check, Resolution, TransactionChecker};
use crate::sql::dialect::{Dialect, free, insert_or_keep, markers, own_connections, padded};

/// Ids that one statement asks about.
const BATCH_MAX: usize = 500;
/// Transactions in flight that one batch waits for; what is left then stays unanswered.
const WAITS_MAX: usize = 20;

/// Answers checks out of a [`TransactionLog`]. Made by [`TransactionLog::checker`]; clones share their
/// connections.
///
/// A database that cannot be asked answers nothing, which costs nothing; only a local transaction in
/// flight, or a row that was pruned, is UNKNOWN.
#[derive(Debug)]
pub struct LogChecker<DB: Dialect> {
    log: TransactionLog<DB>,
    pool: Pool<DB>,
}

impl<DB: Dialect> TransactionLog<DB> {
    /// The check-transaction callback. It connects to the database of this pool with connections of its
    /// own, so that checks get through when the service is busy.
    pub fn checker(&self, pool: &Pool<DB>) -> LogChecker<DB> {
        let options = &self.options;
        let pool = own_connections(pool, options.check_connections_max, options.lock_wait_max);
        LogChecker { log: self.clone(), pool }
    }
}

impl<DB: Dialect> Clone for LogChecker<DB> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), pool: self.pool.clone() }
    }
}

impl<DB: Dialect> TransactionChecker for LogChecker<DB> {
    async fn check(&self, check: Check) -> Resolution {
        let id = check.transaction_id;
        match self.resolve(std::slice::from_ref(&id)).await {
            Ok(answers) => answers.into_iter().next().map_or(Resolution::NoAnswer, |(_, answer)| answer),
            Err(error) => {
                tracing::warn!(%id, %error, "the transaction log cannot be asked; the check stays unanswered");
                Resolution::NoAnswer
            }
        }
    }
}

impl<DB: Dialect> LogChecker<DB> {
    /// What became of these transactions: COMMIT, ROLLBACK or UNKNOWN for each, ordered by id. Those that
    /// never came cannot come any more. Left out is what would take too long to find out.
    ///
    /// # Errors
    /// The database cannot be asked, or its answer was lost: nothing is known.
    pub async fn resolve(
        &self,
        ids: &[TransactionId],
    ) -> Result<Vec<(TransactionId, Resolution)>, sqlx::Error> {
        let ids: BTreeSet<&str> = ids.iter().map(TransactionId::as_str).collect();
        let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
        let mut answers = BTreeMap::new();
        for batch in ids.chunks(BATCH_MAX) {
            answers.append(&mut self.resolve_batch(batch).await?);
        }
        Ok(answers.into_iter().map(|(id, answer)| (TransactionId::from(id), answer)).collect())
    }

    /// Rows behind this id, in the order of ids: whether each committed, or is a tombstone. For audits.
    pub async fn rows_after(
        &self,
        after: Option<&TransactionId>,
        max: u32,
    ) -> Result<Vec<(TransactionId, bool)>, sqlx::Error> {
        let query = format!(
            "SELECT transaction_id, outcome FROM {} WHERE transaction_id > {} ORDER BY transaction_id LIMIT {max}",
            self.log.table(),
            DB::marker(1)
        );
        let mut connection = self.pool.acquire().await?;
        let after = value(after.map_or("", TransactionId::as_str));
        let rows = DB::fetch(&mut connection, &query, vec![after]).await?;
        rows.iter().map(|row| Ok((DB::text(row, 0)?.into(), DB::text(row, 1)? == COMMITTED))).collect()
    }

    /// The id below which rows may be pruned; empty if none was ever.
    pub async fn watermark(&self) -> Result<String, sqlx::Error> {
        self.log.watermark(&mut *self.pool.acquire().await?).await
    }

    async fn resolve_batch(&self, ids: &[String]) -> Result<BTreeMap<String, Resolution>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let mut answers = self.rows(&mut connection, ids).await?;
        let watermark = self.log.watermark(&mut connection).await?;
        let missing = |answers: &BTreeMap<_, _>| -> Vec<String> {
            ids.iter().filter(|id| !answers.contains_key(*id)).cloned().collect()
        };
        for id in missing(&answers) {
            if id < watermark {
                answers.insert(id, Resolution::Unknown);
            }
        }
        let absent = missing(&answers);
        if absent.is_empty() {
            return Ok(answers);
        }
        for id in DB::in_flight(&mut connection, &self.log.options.table, &absent).await? {
            // It may have committed since; then the next check says so.
            answers.entry(id).or_insert(Resolution::Unknown);
        }
        let absent = missing(&answers);
        match self.bury(&mut connection, &absent).await? {
            Some(mut buried) => answers.append(&mut buried),
            None if absent.len() > 1 => answers.append(&mut self.bury_each(&mut connection, absent).await?),
            None => answers.extend(absent.into_iter().flat_map(unknown)),
        }
        Ok(answers)
    }

    /// Somebody is in flight. Each by itself, so that nobody waits for a stranger.
    async fn bury_each(
        &self,
        connection: &mut PoolConnection<DB>,
        ids: Vec<String>,
    ) -> Result<BTreeMap<String, Resolution>, sqlx::Error> {
        let mut answers = BTreeMap::new();
        let mut waited = 0;
        for id in ids {
            match self.bury(connection, std::slice::from_ref(&id)).await? {
                Some(mut buried) => answers.append(&mut buried),
                None => {
                    answers.append(&mut unknown(id));
                    waited += 1;
                }
            }
            if waited == WAITS_MAX {
                break;
            }
        }
        Ok(answers)
    }

    /// Leaves tombstones where nothing stands, and reads what stands then. `None`: a lock was not free.
    async fn bury(
        &self,
        connection: &mut PoolConnection<DB>,
        ids: &[String],
    ) -> Result<Option<BTreeMap<String, Resolution>>, sqlx::Error> {
        if ids.is_empty() {
            return Ok(Some(BTreeMap::new()));
        }
        let begun = DB::begin_impatient(connection, self.log.options.lock_wait_max).await;
        let Some(mut sql) = free::<DB, _>(begun)? else {
            // The whole database is somebody's: asking for each id by itself would not help.
            return Ok(Some(ids.iter().cloned().flat_map(unknown).collect()));
        };
        let buried = free::<DB, _>(self.insert_tombstones(&mut sql, ids).await)?;
        let Some((answers, watermark)) = buried else {
            sql.rollback().await?;
            return Ok(None);
        };
        // Pruned while we looked: our own tombstone proves nothing and must not stay.
        if ids.iter().any(|id| *id < watermark) {
            sql.rollback().await?;
            return Ok(Some(ids.iter().cloned().flat_map(unknown).collect()));
        }
        match free::<DB, _>(sql.commit().await)? {
            Some(()) => Ok(Some(answers)),
            None => Ok(None),
        }
    }

    async fn insert_tombstones(
        &self,
        sql: &mut Transaction<'_, DB>,
        ids: &[String],
    ) -> Result<(BTreeMap<String, Resolution>, String), sqlx::Error> {
        let insert = insert_or_keep::<DB>(&self.log.table(), &COLUMNS, ids.len());
        let values = ids.iter().flat_map(|id| [value(id), value(ROLLED_BACK)]).collect();
        DB::execute(sql, &insert, values).await?;
        let answers = self.rows(sql, ids).await?;
        let watermark = self.log.watermark(sql).await?;
        Ok((answers, watermark))
    }

    /// What the table says.
    async fn rows(
        &self,
        connection: &mut DB::Connection,
        ids: &[String],
    ) -> Result<BTreeMap<String, Resolution>, sqlx::Error> {
        let (table, keys) = (self.log.table(), padded(ids));
        let markers = markers::<DB>(keys.len(), 1);
        let query = format!("SELECT transaction_id, outcome FROM {table} WHERE transaction_id IN {markers}");
        let mut answers = BTreeMap::new();
        for row in DB::fetch(connection, &query, keys).await? {
            let answer = match DB::text(&row, 1)?.as_str() {
                COMMITTED => Resolution::Commit,
                ROLLED_BACK => Resolution::Rollback,
                other => {
                    let message = format!("outcome {other:?} in {}", self.log.options.table);
                    return Err(sqlx::Error::Decode(message.into()));
                }
            };
            answers.insert(DB::text(&row, 0)?, answer);
        }
        Ok(answers)
    }
}

fn unknown(id: String) -> BTreeMap<String, Resolution> {
    BTreeMap::from([(id, Resolution::Unknown)])
}
