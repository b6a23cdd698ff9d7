//! The relay: lanes with waiting rows, one after the other, until it is stopped.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Pool, Transaction};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sending::{Fate, Row, Sender};
use super::{LANES, Outbox, QUARANTINED, SENT, WAITING};
use crate::client::{Backoff, Client};
use crate::sql::dialect::{Dialect, Value, free, markers, own_connections};

/// Waits for locks of others, which hold them briefly.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How a [`Relay`] works.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// How often it looks without being woken: 500 ms. Where the database wakes it, this only matters when
    /// a notice was lost.
    pub poll: Duration,
    /// Rows that one look at a lane takes at most: 256.
    pub batch_max: u32,
    /// Messages on their way to the coordinator at most: 128.
    pub in_flight_max: usize,
    /// Lanes that are worked on at the same time at most, each with a connection of its own: 4.
    pub lanes_max: u32,
    /// After so many answers that should not be, a row is quarantined: 8. An absent or full coordinator
    /// does not count.
    pub attempts_max: u32,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            batch_max: 256,
            in_flight_max: 128,
            lanes_max: 4,
            attempts_max: 8,
        }
    }
}

/// Sends what waits in an [`Outbox`]. Made by [`Outbox::relay`]; any number of them may run.
pub struct Relay<DB: Dialect> {
    outbox: Outbox<DB>,
    /// As the service connects, for its wake-up calls.
    service: Pool<DB>,
    pool: Pool<DB>,
    sender: Sender,
    options: RelayOptions,
    stop: CancellationToken,
}

/// Ends [`Relay::run`] from elsewhere.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    stop: CancellationToken,
}

impl RelayHandle {
    /// Stops after the batches that are on their way.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// What one look at a lane brought.
enum Look {
    /// No lane has waiting rows that nobody else works on.
    Idle,
    /// There may be more.
    Busy,
    /// The coordinator is away or full.
    Away,
}

impl<DB: Dialect> Outbox<DB> {
    /// A relay that sends as this producer group, with connections of its own to the database of this pool.
    pub fn relay(
        &self,
        client: &Client,
        producer_group: &str,
        pool: &Pool<DB>,
        options: RelayOptions,
    ) -> Relay<DB> {
        Relay {
            outbox: self.clone(),
            service: pool.clone(),
            pool: own_connections(pool, options.lanes_max.max(1), LOCK_WAIT_MAX),
            sender: Sender {
                client: client.clone(),
                producer_group: producer_group.into(),
                in_flight: Arc::new(Semaphore::new(options.in_flight_max.max(1))),
            },
            options,
            stop: CancellationToken::new(),
        }
    }
}

impl<DB: Dialect> Relay<DB> {
    /// What ends [`run`](Self::run).
    pub fn handle(&self) -> RelayHandle {
        RelayHandle { stop: self.stop.clone() }
    }

    /// Sends until it is stopped. A database or a coordinator that is away is waited for, without end.
    pub async fn run(self) {
        let relay = Arc::new(self);
        let mut wake = None;
        let mut backoff = Backoff::new(relay.sender.client.options().backoff);
        while !relay.stop.is_cancelled() {
            // Listening before looking, so that nothing is missed in between.
            if wake.is_none() {
                wake = DB::listen(&relay.service, &relay.outbox.channel()).await.ok();
            }
            let pause = match relay.drain().await {
                Ok(Look::Away) => backoff.pause(),
                Ok(Look::Idle | Look::Busy) => {
                    backoff.reset();
                    relay.options.poll
                }
                Err(error) => {
                    let pause = backoff.pause();
                    tracing::warn!(%error, ?pause, "the outbox cannot be read, trying again");
                    pause
                }
            };
            let woken = async {
                match &mut wake {
                    Some(wake) => DB::woken(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = relay.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                listening = woken => if !listening { wake = None; },
            }
        }
    }

    /// Sends everything that waits and can be sent now.
    async fn drain(self: &Arc<Self>) -> Result<Look, sqlx::Error> {
        let mut lanes = JoinSet::new();
        for worker in 0..u64::from(self.options.lanes_max.max(1)) {
            let relay = Arc::clone(self);
            lanes.spawn(async move {
                let mut start = worker * LANES / u64::from(relay.options.lanes_max.max(1));
                loop {
                    // Somebody's lock in the way: what was sent is sent again later, and not doubled.
                    match free::<DB, _>(relay.look(&mut start).await)? {
                        Some(Look::Busy) if !relay.stop.is_cancelled() => {}
                        Some(look) => return Ok(look),
                        None => return Ok(Look::Away),
                    }
                }
            });
        }
        let mut result = Ok(Look::Idle);
        while let Some(lane) = lanes.join_next().await {
            let lane = lane.unwrap_or_else(|error| Err(sqlx::Error::Io(std::io::Error::other(error))));
            if !matches!((&result, &lane), (Err(_), _) | (_, Ok(Look::Idle | Look::Busy))) {
                result = lane;
            }
        }
        result
    }

    /// Takes the next lane with waiting rows, sends a batch of it, and settles what was confirmed.
    async fn look(&self, start: &mut u64) -> Result<Look, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        // The lock on the lane lasts until its rows are settled.
        if !DB::TAKE_FREE_ROWS.is_empty() {
            let mut sql = DB::begin_impatient(&mut connection, LOCK_WAIT_MAX).await?;
            let Some(lane) = self.take_lane(&mut sql, start).await? else { return Ok(Look::Idle) };
            let (fates, look) = self.send_batch(&mut sql, lane).await?;
            self.settle(&mut sql, lane, fates).await?;
            sql.commit().await?;
            return Ok(look);
        }
        // Where a lock would hold up everybody, relays may meet, and the coordinator tells doubles apart.
        let Some(lane) = self.take_lane(&mut connection, start).await? else { return Ok(Look::Idle) };
        let (fates, look) = self.send_batch(&mut connection, lane).await?;
        self.settle_alone(&mut connection, lane, fates).await?;
        Ok(look)
    }

    /// A lane with waiting rows that nobody else works on. Lanes take turns.
    async fn take_lane(
        &self,
        connection: &mut DB::Connection,
        start: &mut u64,
    ) -> Result<Option<i64>, sqlx::Error> {
        let (lanes, rows) = (self.outbox.lanes_table(), self.outbox.table());
        let waiting = format!(
            "SELECT lane FROM {lanes} WHERE EXISTS (SELECT 1 FROM {rows} \
             WHERE {rows}.state = {WAITING} AND {rows}.lane = {lanes}.lane) \
             ORDER BY CASE WHEN lane < {} THEN 1 ELSE 0 END, lane",
            DB::marker(1)
        );
        // Locked one by one, because some databases lock every row that a query looks at.
        let take = format!("SELECT lane FROM {lanes} WHERE lane = {}{}", DB::marker(1), DB::TAKE_FREE_ROWS);
        let first = i64::try_from(*start).unwrap_or_default();
        for row in DB::fetch(connection, &waiting, vec![Value::Integer(first)]).await? {
            let lane = DB::integer(&row, 0)?;
            if !DB::fetch(connection, &take, vec![Value::Integer(lane)]).await?.is_empty() {
                *start = (u64::try_from(lane).unwrap_or_default() + 1) % LANES;
                return Ok(Some(lane));
            }
        }
        Ok(None)
    }

    async fn send_batch(
        &self,
        connection: &mut DB::Connection,
        lane: i64,
    ) -> Result<(Vec<(Row, Fate)>, Look), sqlx::Error> {
        let query = format!(
            "SELECT number, id, attempts, message FROM {} WHERE state = {WAITING} AND lane = {} \
             ORDER BY number LIMIT {}",
            self.outbox.table(),
            DB::marker(1),
            self.options.batch_max
        );
        let rows = DB::fetch(connection, &query, vec![Value::Integer(lane)]).await?;
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| {
                Ok(Row {
                    number: DB::integer(row, 0)?,
                    id: DB::text(row, 1)?,
                    attempts: DB::integer(row, 2)?,
                    message: DB::bytes(row, 3)?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()?;
        let fates = self.sender.send_all(rows).await;
        let mut look = Look::Busy;
        for (row, fate) in &fates {
            match fate {
                Fate::Sent(_) => {}
                Fate::Poison(reason) => {
                    tracing::error!(row.id, reason, "an outbox message is quarantined");
                }
                Fate::Strange(reason) => {
                    tracing::warn!(row.id, reason, "an outbox message is tried again");
                    look = Look::Away;
                }
                Fate::Later(error) => {
                    tracing::debug!(row.id, %error, "the coordinator is away or full, trying again");
                    look = Look::Away;
                }
            }
        }
        Ok((fates, look))
    }

    /// In a transaction of its own, which is short.
    async fn settle_alone(
        &self,
        connection: &mut PoolConnection<DB>,
        lane: i64,
        fates: Vec<(Row, Fate)>,
    ) -> Result<(), sqlx::Error> {
        let mut sql = DB::begin_impatient(connection, LOCK_WAIT_MAX).await?;
        self.settle(&mut sql, lane, fates).await?;
        sql.commit().await
    }

    async fn settle(
        &self,
        sql: &mut Transaction<'_, DB>,
        lane: i64,
        fates: Vec<(Row, Fate)>,
    ) -> Result<(), sqlx::Error> {
        let table = self.outbox.table();
        let (mut sent, mut newest) = (Vec::new(), String::new());
        for (row, fate) in fates {
            let number = Value::Integer(row.number);
            match fate {
                Fate::Sent(message_id) => {
                    sent.push(number);
                    newest = newest.max(message_id);
                }
                Fate::Later(_) => {}
                Fate::Strange(reason) if row.attempts + 1 < i64::from(self.options.attempts_max) => {
                    let again = format!(
                        "UPDATE {table} SET attempts = attempts + 1, reason = {} WHERE number = {}",
                        DB::marker(1),
                        DB::marker(2)
                    );
                    DB::execute(sql, &again, vec![Value::Text(reason), number]).await?;
                }
                Fate::Poison(reason) | Fate::Strange(reason) => {
                    let quarantine = format!(
                        "UPDATE {table} SET state = {QUARANTINED}, attempts = attempts + 1, reason = {} \
                         WHERE number = {} AND state = {WAITING}",
                        DB::marker(1),
                        DB::marker(2)
                    );
                    DB::execute(sql, &quarantine, vec![Value::Text(reason), number]).await?;
                }
            }
        }
        if sent.is_empty() {
            return Ok(());
        }
        let remember = format!(
            "UPDATE {} SET message_id = {} WHERE lane = {} AND message_id < {}",
            self.outbox.newest_table(),
            DB::marker(1),
            DB::marker(2),
            DB::marker(3)
        );
        DB::execute(
            sql,
            &remember,
            vec![newest.as_str().into(), Value::Integer(lane), newest.as_str().into()],
        )
        .await?;
        let numbers = markers::<DB>(sent.len(), 1);
        let settle = if self.outbox.options.keep_sent {
            format!("UPDATE {table} SET state = {SENT} WHERE number IN {numbers} AND state = {WAITING}")
        } else {
            format!("DELETE FROM {table} WHERE number IN {numbers} AND state = {WAITING}")
        };
        DB::execute(sql, &settle, sent).await.map(drop)
    }
}
