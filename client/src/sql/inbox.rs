//! The inbox: a message has its effect once, however often it is delivered.
//!
//! ```text
//!   handler's transaction:  INSERT (group, message id) ─┬─ new: the effect ─► COMMIT ─► ack
//!                                                       └─ taken: it had its effect ──► ack
//! ```
//! Rows are pruned below a *watermark* for each queue, up to which the coordinator says that this group has
//! settled everything. What is delivered below it without a row is either an old delivery whose lease is long
//! over, or a message that an operator gave back. Only the coordinator can tell, so [`Idempotent`] asks it to
//! extend the lease; rows of such messages are kept for good.
//!
//! Deliberately absent: ages and time-outs. A guess would one day repeat an effect.

mod handler;
mod prune;

use sqlx::{Pool, Transaction};

pub use handler::{BoxedWork, Idempotent, SqlHandler};
pub use prune::PruneError;

use super::dialect::{Dialect, Value};
use super::table::TableName;
use crate::delivery::Delivery;

/// Remembers in a service's own database which messages had their effect.
///
/// [`Inbox::handler`] wraps a whole handler; [`Inbox::record`] is the part for transactions of one's own.
#[derive(Debug)]
pub struct Inbox<DB> {
    group: String,
    table: TableName,
    statements: Statements,
    database: std::marker::PhantomData<fn() -> DB>,
}

/// What the inbox knows of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// It comes for the first time. Its id is recorded now: do the work in the same transaction.
    First,
    /// It had its effect: only ack it.
    Again,
    /// It is below what was pruned, so it may have had its effect. Roll back; [`Idempotent`] knows what to do.
    Pruned,
}

#[derive(Debug, Clone)]
struct Statements {
    insert: String,
    keep: String,
    watermark: String,
}

impl<DB> Clone for Inbox<DB> {
    fn clone(&self) -> Self {
        let (group, table, statements) = (self.group.clone(), self.table.clone(), self.statements.clone());
        Self { group, table, statements, database: std::marker::PhantomData }
    }
}

impl<DB: Dialect> Inbox<DB> {
    /// The inbox of a consumer group, in the tables `halfmq_inbox` and `halfmq_inbox_watermark`.
    pub fn new(group: impl Into<String>) -> Self {
        Self::with_table(group, TableName::own("halfmq_inbox"))
    }

    /// The same in a table of another name. Groups may share a table.
    pub fn with_table(group: impl Into<String>, table: TableName) -> Self {
        let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(DB::marker);
        let (rows, watermarks) = (table.quoted(DB::QUOTE), table.beside("_watermark").quoted(DB::QUOTE));
        let statements = Statements {
            insert: format!(
                "INSERT INTO {rows} (consumer_group, message_id, topic, queue, place) \
                 VALUES ({one}, {two}, {three}, {four}, {five})"
            ),
            keep: format!("UPDATE {rows} SET kept = 1 WHERE consumer_group = {one} AND message_id = {two}"),
            // The first row changes with every prune, so that an old snapshot notices new rows too.
            watermark: format!(
                "SELECT consumer_group, watermark FROM {watermarks} WHERE consumer_group = '' \
                 OR (consumer_group = {one} AND topic = {two} AND queue = {three})"
            ),
        };
        Self { group: group.into(), table, statements, database: std::marker::PhantomData }
    }

    /// The statements that make the tables, for a service that keeps its migrations itself. They may run
    /// any number of times.
    pub fn migration(&self) -> Vec<String> {
        let (rows, watermarks) =
            (self.table.quoted(DB::QUOTE), self.table.beside("_watermark").quoted(DB::QUOTE));
        let key = DB::KEY;
        vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {rows} (consumer_group {key} NOT NULL, message_id {key} NOT NULL, \
                 topic {key} NOT NULL, queue BIGINT NOT NULL, place BIGINT NOT NULL, \
                 kept BIGINT NOT NULL DEFAULT 0, recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
                 PRIMARY KEY (consumer_group, message_id), \
                 UNIQUE (consumer_group, topic, queue, kept, place, message_id))"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {watermarks} (consumer_group {key} NOT NULL, topic {key} NOT NULL, \
                 queue BIGINT NOT NULL, watermark BIGINT NOT NULL, PRIMARY KEY (consumer_group, topic, queue))"
            ),
            format!(
                "INSERT INTO {watermarks} (consumer_group, topic, queue, watermark) VALUES ('', '', 0, 0) {}",
                DB::or_keep(&watermarks, "consumer_group")
            ),
        ]
    }

    /// Makes the tables, if they are not there.
    pub async fn migrate(&self, pool: &Pool<DB>) -> Result<(), sqlx::Error> {
        super::migrate(pool, &self.migration()).await
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Notes in the handler's transaction that this message has its effect, if it commits. Call it first;
    /// it waits while another transaction handles the same message.
    pub async fn record(
        &self,
        sql: &mut Transaction<'_, DB>,
        delivery: &Delivery,
    ) -> Result<Arrival, sqlx::Error> {
        let place = &delivery.place;
        let values = vec![
            self.group.as_str().into(),
            delivery.message_id.as_str().into(),
            place.topic.as_str().into(),
            Value::Integer(place.queue.into()),
            Value::Integer(number(place.offset)?),
        ];
        if !DB::insert_new(sql, &self.statements.insert, values).await? {
            return Ok(Arrival::Again);
        }
        let queue =
            vec![self.group.as_str().into(), place.topic.as_str().into(), Value::Integer(place.queue.into())];
        for row in DB::current(sql, &self.statements.watermark, queue).await? {
            if DB::text(&row, 0)? == self.group && DB::integer(&row, 1)? > number(place.offset)? {
                return Ok(Arrival::Pruned);
            }
        }
        Ok(Arrival::First)
    }

    /// Keeps the row of this message for good, because nothing else will say that it had its effect.
    async fn keep(&self, sql: &mut Transaction<'_, DB>, delivery: &Delivery) -> Result<(), sqlx::Error> {
        let values = vec![self.group.as_str().into(), delivery.message_id.as_str().into()];
        DB::execute(sql, &self.statements.keep, values).await.map(drop)
    }
}

/// Offsets as databases count.
fn number(offset: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(offset).map_err(|error| sqlx::Error::Encode(error.into()))
}
