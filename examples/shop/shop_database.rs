//! The shop's database: stock, orders, and the log that tells what became of a transaction.
//!
//! The whole secret of a check that never contradicts the database is one unique key:
//! ```text
//!   local transaction:  INSERT INTO transaction_log (id, 'committed')   ─┐ the same key: only one
//!   check:              INSERT INTO transaction_log (id, 'rolled back') ─┘ of the two can be there
//! ```
//! Whoever comes second gives way. A check that comes second reads COMMIT; a local transaction that
//! comes second fails on the key, so the rollback that the check announced stays true.

use std::path::Path;

use halfmq_client::{LocalOutcome, Resolution};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::database;
use crate::order::{Order, stock_for};

const SCHEMA: &str = "
    CREATE TABLE stock (item TEXT PRIMARY KEY, pieces INTEGER NOT NULL CHECK (pieces >= 0));
    CREATE TABLE orders (
        number INTEGER PRIMARY KEY,
        item TEXT NOT NULL,
        cents INTEGER NOT NULL,
        transaction_id TEXT NOT NULL UNIQUE
    );
    CREATE TABLE transaction_log (
        transaction_id TEXT PRIMARY KEY,
        outcome TEXT NOT NULL CHECK (outcome IN ('committed', 'rolled back'))
    );";

/// Why an order is not in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotPlaced {
    SoldOut,
    /// The transaction's id was taken: a check came first and rolled it back.
    TooLate,
    Database(String),
}

impl From<rusqlite::Error> for NotPlaced {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}

pub(crate) fn create(file: &Path, orders: u32) -> rusqlite::Result<()> {
    let shop = database::create(file, SCHEMA)?;
    for (item, pieces) in stock_for(orders) {
        shop.execute("INSERT INTO stock VALUES (?1, ?2)", params![item, pieces])?;
    }
    Ok(())
}

/// The local transaction: its id, one piece less, one order more; or nothing at all.
pub(crate) fn place(
    shop: &mut Connection,
    order: &Order,
    transaction_id: &str,
) -> LocalOutcome<(), NotPlaced> {
    match insert(shop, order, transaction_id) {
        // An answer to COMMIT that got lost tells nothing, so the coordinator had better ask.
        Ok(transaction) => transaction.commit().map_or(LocalOutcome::Unknown, LocalOutcome::Commit),
        Err(reason) => LocalOutcome::Rollback(reason),
    }
}

/// Everything but the commit. A transaction that is dropped rolls back.
fn insert<'c>(
    shop: &'c mut Connection,
    order: &Order,
    transaction_id: &str,
) -> Result<rusqlite::Transaction<'c>, NotPlaced> {
    let transaction = shop.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let logged = transaction.execute(
        "INSERT INTO transaction_log VALUES (?1, 'committed') ON CONFLICT DO NOTHING",
        params![transaction_id],
    )?;
    if logged == 0 {
        return Err(NotPlaced::TooLate);
    }
    let taken = transaction.execute(
        "UPDATE stock SET pieces = pieces - 1 WHERE item = ?1 AND pieces > 0",
        params![order.item],
    )?;
    if taken == 0 {
        return Err(NotPlaced::SoldOut);
    }
    transaction.execute(
        "INSERT INTO orders VALUES (?1, ?2, ?3, ?4)",
        params![order.number, order.item, order.cents, transaction_id],
    )?;
    Ok(transaction)
}

/// What a check learns: the outcome that stands, or the rollback that stands from now on.
pub(crate) fn resolve(shop: &mut Connection, transaction_id: &str) -> rusqlite::Result<Resolution> {
    let transaction = shop.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO transaction_log VALUES (?1, 'rolled back') ON CONFLICT DO NOTHING",
        params![transaction_id],
    )?;
    let outcome = outcome(&transaction, transaction_id)?;
    transaction.commit()?;
    Ok(match outcome.as_deref() {
        Some("committed") => Resolution::Commit,
        Some(_) => Resolution::Rollback,
        None => Resolution::Unknown,
    })
}

/// What the log says of a transaction.
pub(crate) fn outcome(shop: &Connection, transaction_id: &str) -> rusqlite::Result<Option<String>> {
    shop.query_row(
        "SELECT outcome FROM transaction_log WHERE transaction_id = ?1",
        params![transaction_id],
        |row| row.get(0),
    )
    .optional()
}

/// Whether an order is placed already: its customer may not have heard of it.
pub(crate) fn is_placed(shop: &Connection, number: u32) -> rusqlite::Result<bool> {
    shop.query_row("SELECT EXISTS (SELECT 1 FROM orders WHERE number = ?1)", params![number], |row| {
        row.get(0)
    })
}
