//! `halfmq audit --database`: what the coordinator confirmed to the outbox of a service, against what it knows now.
//!
//! A row that was sent is gone, and holes in the numbers show what is lost between others; but not what was
//! last. So each lane of an outbox remembers the newest message that was confirmed. A coordinator that does not
//! know it has lost the end: its data was put back to an older state, say. As soon as a lane has sent something
//! newer, that is what counts.

use halfmq_client::MessageId;
use halfmq_client::sql::{Dialect, Outbox, OutboxBacklog, OutboxOptions, TableName};
use halfmq_proto::v1::transactions_client::TransactionsClient;
use serde_json::{Value, json};
use sqlx::pool::PoolOptions;
use sqlx::{Connection, MySql, Postgres, Sqlite};
use tonic::transport::Channel;

use super::super::{failure::Failure, output::Output, text};
use super::account::Accounts;
use super::reconcile::{Found, state};
use crate::resolver::Address;

/// What an outbox holds, and what it remembers.
pub(super) struct Kept {
    backlog: OutboxBacklog,
    newest: Vec<MessageId>,
}

/// Looks at the outbox in this table. `None`: there is none.
pub(super) async fn look(url: &str, table: &str) -> Result<Option<Kept>, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let table = TableName::new(table).map_err(|error| usage(&error))?;
    let kept = match Address::of(url, None).map_err(|error| usage(&error))? {
        Address::Postgres(options) => look_at::<Postgres>(options, table).await,
        Address::MySql(options) => look_at::<MySql>(options, table).await,
        Address::Sqlite(options) => look_at::<Sqlite>(options, table).await,
    };
    kept.map_err(|error| Failure::Partly(format!("the outbox cannot be read: {error}; is it migrated?")))
}

async fn look_at<DB: Dialect>(
    options: <DB::Connection as Connection>::Options,
    table: TableName,
) -> Result<Option<Kept>, sqlx::Error> {
    let pool = PoolOptions::new().max_connections(1).connect_lazy_with(options);
    let outbox = Outbox::<DB>::new(OutboxOptions { table, ..OutboxOptions::default() });
    let backlog = match outbox.backlog(&pool).await {
        Ok(backlog) => backlog,
        Err(error) if DB::is_missing_table(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Kept { backlog, newest: outbox.newest_sent(&pool).await? }))
}

/// Asks the coordinator for each message that was confirmed last.
pub(super) async fn compare(
    kept: &Kept,
    accounts: &Accounts,
    client: &mut TransactionsClient<Channel>,
    output: Output,
) -> Result<(), Failure> {
    let (mut unknown, mut not_checked) = (Vec::new(), 0);
    for message in &kept.newest {
        // Behind the last hyphen stands the position in the transaction.
        let id = message.as_str().rsplit_once('-').map_or(message.as_str(), |(transaction, _)| transaction);
        match state(client, id).await? {
            Found::State(Some(_)) => {}
            Found::Pruned => not_checked += 1,
            Found::State(None) if accounts.may_be_pruned(id) => not_checked += 1,
            Found::State(None) => unknown.push(format!(
                "{message}: confirmed to the outbox, and unknown now; it and others before it may be lost"
            )),
        }
    }
    output.answer(
        || in_words(kept, not_checked, &unknown),
        || {
            json!({ "outbox": {
                "waiting": kept.backlog.waiting, "quarantined": kept.backlog.quarantined,
                "newest": kept.newest.len(), "not_checked": not_checked, "differences": unknown,
            } })
        },
    )?;
    match unknown.len() {
        0 => Ok(()),
        lanes => Err(Failure::Partly(format!("the end of {lanes} lanes of the outbox is unknown"))),
    }
}

/// There is none.
pub(super) fn absent(output: Output) -> Result<(), Failure> {
    output.answer(|| "There is no outbox in this database.".to_owned(), || json!({ "outbox": Value::Null }))
}

fn in_words(kept: &Kept, not_checked: u64, unknown: &[String]) -> String {
    let OutboxBacklog { waiting, quarantined } = kept.backlog;
    let mut lines = vec![format!(
        "Compared the newest messages of {} of the outbox: {} unknown. {waiting} wait, {quarantined} in quarantine.",
        text::count(kept.newest.len() as u64, "lane"),
        unknown.len()
    )];
    if not_checked > 0 {
        lines.push(format!("{} not checked: before the receipts' floor.", text::count(not_checked, "lane")));
    }
    lines.extend_from_slice(unknown);
    lines.join("\n")
}
