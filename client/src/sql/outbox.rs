//! The outbox: messages that a local transaction leaves in its own database, and a relay that sends them.
//!
//! ```text
//!   business transaction: INSERT (id, lane, message) ─► COMMIT
//!   relay:                lock a lane ─► send its rows, those of one message group in their order
//!                                     ─► delete what the coordinator confirmed
//! ```
//! A row is sent with its own id as request id, and the coordinator answers the same id with the same receipt,
//! so a relay that dies between sending and deleting doubles nothing. That is also why several relays need no
//! leases: whoever sends a row sends it only after the row before it in its message group was confirmed.
//! Databases with SKIP LOCKED give each lane to one relay at a time, so that none works in vain.
//!
//! A row that is gone leaves no trace, so each lane remembers the newest message that was confirmed: should the
//! coordinator lose the end of what it was sent, an audit finds that it does not know them.
//!
//! What the coordinator will never take, and what cannot be read, is *quarantined*: visible, out of the way,
//! and kept until somebody decides. Deliberately absent: clocks, and rows that disappear because a limit was hit.

mod quarantine;
mod relay;
mod sending;

use halfmq_proto::v1;
use prost::Message as _;
use sqlx::{Pool, Transaction};
use uuid::Uuid;

pub use quarantine::{OutboxBacklog, Quarantined};
pub use relay::{Relay, RelayHandle, RelayOptions};

use super::dialect::{Dialect, Value};
use super::table::TableName;
use crate::message::Message;

/// Rows are spread over so many lanes by their message group; a lane is one relay's at a time.
const LANES: u64 = 16;
/// States of a row.
const WAITING: i64 = 0;
const SENT: i64 = 1;
const QUARANTINED: i64 = 2;

/// How an [`Outbox`] is kept.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// Its table; two others beside it end in `_lanes` and `_newest`: `halfmq_outbox`.
    pub table: TableName,
    /// Keep rows that were sent until [`Outbox::prune_sent`], instead of deleting them at once: no.
    pub keep_sent: bool,
    /// Wake relays by NOTIFY, where the database has it. PostgreSQL lets transactions that notify commit
    /// one after the other, so a service with thousands of them a second may prefer polling: yes.
    pub notify: bool,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self { table: TableName::own("halfmq_outbox"), keep_sent: false, notify: true }
    }
}

/// Names a row of the outbox, and is the request id of its message at the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxId(String);

impl OutboxId {
    /// The id as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Messages that exist if and only if the transaction that inserted them committed.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")] mod example {
/// use halfmq_client::{Client, Message, sql::{Outbox, RelayOptions}};
/// use sqlx::{Sqlite, SqlitePool};
///
/// async fn sell(client: Client, pool: SqlitePool) -> Result<(), sqlx::Error> {
///     let outbox = Outbox::<Sqlite>::default();
///     outbox.migrate(&pool).await?;
///     tokio::spawn(outbox.relay(&client, "shop", &pool, RelayOptions::default()).run());
///
///     let mut sql = pool.begin().await?;
///     sqlx::query("INSERT INTO orders VALUES (42)").execute(&mut *sql).await?;
///     outbox.insert(&mut sql, Message::new("orders", "42").message_group("customer-7")).await?;
///     sql.commit().await
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Outbox<DB> {
    options: OutboxOptions,
    insert: String,
    database: std::marker::PhantomData<fn() -> DB>,
}

impl<DB> Clone for Outbox<DB> {
    fn clone(&self) -> Self {
        let (options, insert) = (self.options.clone(), self.insert.clone());
        Self { options, insert, database: std::marker::PhantomData }
    }
}

impl<DB: Dialect> Default for Outbox<DB> {
    fn default() -> Self {
        Self::new(OutboxOptions::default())
    }
}

impl<DB: Dialect> Outbox<DB> {
    /// An outbox with these options. Nothing is sent to the database.
    pub fn new(options: OutboxOptions) -> Self {
        let [one, two, three] = [1, 2, 3].map(DB::marker);
        let table = options.table.quoted(DB::QUOTE);
        let insert = format!(
            "INSERT INTO {table} (id, lane, state, message) VALUES ({one}, {two}, {WAITING}, {three})"
        );
        Self { options, insert, database: std::marker::PhantomData }
    }

    /// The statements that make the tables, for a service that keeps its migrations itself. They may run
    /// any number of times.
    pub fn migration(&self) -> Vec<String> {
        let (rows, lanes, newest) = (self.table(), self.lanes_table(), self.newest_table());
        let lane_rows: Vec<String> = (0..LANES).map(|lane| format!("({lane})")).collect();
        let newest_rows: Vec<String> = (0..LANES).map(|lane| format!("({lane}, '')")).collect();
        vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {rows} (number {}, id {} NOT NULL UNIQUE, lane BIGINT NOT NULL, \
                 state BIGINT NOT NULL, message {} NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, \
                 reason {}, inserted_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
                 UNIQUE (state, lane, number))",
                DB::NUMBER,
                DB::KEY,
                DB::BYTES,
                DB::TEXT
            ),
            format!("CREATE TABLE IF NOT EXISTS {lanes} (lane BIGINT NOT NULL PRIMARY KEY)"),
            format!(
                "INSERT INTO {lanes} (lane) VALUES {} {}",
                lane_rows.join(", "),
                DB::or_keep(&lanes, "lane")
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {newest} (lane BIGINT NOT NULL PRIMARY KEY, \
                 message_id {} NOT NULL)",
                DB::KEY
            ),
            format!(
                "INSERT INTO {newest} (lane, message_id) VALUES {} {}",
                newest_rows.join(", "),
                DB::or_keep(&newest, "lane")
            ),
        ]
    }

    /// Makes the tables, if they are not there.
    pub async fn migrate(&self, pool: &Pool<DB>) -> Result<(), sqlx::Error> {
        super::migrate(pool, &self.migration()).await
    }

    /// Leaves a message in the business transaction. A relay sends it after the commit; messages of one
    /// message group in the order of their inserts.
    ///
    /// Transactions that insert messages of one group at the same time have no order between them, unless
    /// the service gives them one, such as by a lock on the row that the group stands for.
    pub async fn insert(
        &self,
        sql: &mut Transaction<'_, DB>,
        message: Message,
    ) -> Result<OutboxId, sqlx::Error> {
        let id = Uuid::now_v7().to_string();
        let lane = lane(if message.message_group.is_empty() { &id } else { &message.message_group });
        let message = v1::Message::from(message).encode_to_vec();
        let values = vec![id.as_str().into(), Value::Integer(lane), Value::Bytes(message)];
        DB::execute(sql, &self.insert, values).await?;
        if self.options.notify {
            DB::notify(sql, &self.channel()).await?;
        }
        Ok(OutboxId(id))
    }

    fn table(&self) -> String {
        self.options.table.quoted(DB::QUOTE)
    }

    fn lanes_table(&self) -> String {
        self.options.table.beside("_lanes").quoted(DB::QUOTE)
    }

    fn newest_table(&self) -> String {
        self.options.table.beside("_newest").quoted(DB::QUOTE)
    }

    fn channel(&self) -> String {
        self.options.table.to_string()
    }
}

/// The lane of a message group: the same in every process, whatever its version (FNV-1a).
fn lane(key: &str) -> i64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    i64::try_from(hash % LANES).expect("lanes are few")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_lanes_and_are_spread() {
        assert_eq!([lane("customer-7"), lane("customer-8")], [lane("customer-7"), lane("customer-8")]);
        let lanes: std::collections::BTreeSet<i64> =
            (0..200).map(|n| lane(&format!("customer-{n}"))).collect();
        assert_eq!(lanes.len() as u64, LANES);
        assert_eq!(lane(""), 0xcbf2_9ce4_8422_2325_u64 as i64 & 15, "stored rows rely on it");
    }
}
