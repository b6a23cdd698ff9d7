//! `halfmq audit --database`: the transaction log of a service against the coordinator, in both directions.
//!
//! | log | coordinator | what it means | repair |
//! |---|---|---|---|
//! | committed | open | its commit got lost, and no check has asked yet | commit |
//! | tombstone | open | a check's answer got lost | rollback |
//! | committed | rolled back | somebody decided against the database | none: send again by hand |
//! | committed | unknown | the message is lost, or another coordinator has it | none |
//! | tombstone | committed | somebody decided against the database | none |
//! | no row | committed | somebody decided without the database | none |
//!
//! Rows below the log's watermark may be pruned, so nothing is said about them. Neither is anything said about
//! a committed row whose receipt the coordinator may have pruned: it is counted as not checked.

use std::collections::BTreeMap;

use halfmq_client::TransactionId;
use halfmq_proto::v1::{
    CommitRequest, DescribeTransactionRequest, Reason, RollbackRequest, TransactionState,
    transactions_client::TransactionsClient,
};
use serde_json::json;
use tonic::transport::Channel;

use super::super::{consent, failure::Failure, output::Output, text};
use super::account::Accounts;
use crate::resolver::{Database, Log};

/// Rows of one page.
const PAGE_MAX: u32 = 1_000;
/// Differences that are written out; more are counted.
const SHOWN_MAX: usize = 20;

/// The coordinator knows nothing of a committed row.
const UNKNOWN: &str = "committed in the database, and without a message";

/// What is compared, and what is done about it.
pub(super) struct Reconcile<'a> {
    pub(super) url: &'a str,
    pub(super) table: &'a str,
    /// Whether it is an error that there is no such table.
    pub(super) must_be_there: bool,
    pub(super) group: &'a str,
    pub(super) repair: bool,
    pub(super) yes: bool,
}

/// What came of a comparison that found no difference, or mended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Agreed,
    /// There is no transaction log in this database.
    NoTable,
}

/// A transaction of which log and coordinator say different things.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    id: String,
    what: &'static str,
    repair: Repair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    Commit,
    Rollback,
    /// Only a person can.
    None,
}

impl Reconcile<'_> {
    pub(super) async fn run(
        &self,
        accounts: &Accounts,
        mut client: TransactionsClient<Channel>,
        output: Output,
    ) -> Result<Compared, Failure> {
        let log = Log::open(&Database {
            url: self.url.to_owned(),
            password: None,
            table: self.table.to_owned(),
            producer_groups: vec![self.group.to_owned()],
            connections_max: 1,
        });
        let log = log.map_err(|error| Failure::Usage(error.to_string()))?;
        let unreadable = |error| Failure::Partly(format!("the transaction log cannot be read: {error}"));
        let rows = match rows(&log).await {
            Err(error) if !self.must_be_there && log.is_missing_table(&error) => {
                return Ok(Compared::NoTable);
            }
            rows => rows.map_err(unreadable)?,
        };
        let watermark = log.watermark().await.map_err(unreadable)?;
        let mut states: BTreeMap<&str, (TransactionState, bool)> = BTreeMap::new();
        for (id, known) in &accounts.transactions {
            states.insert(id, (known.state, known.sent));
        }
        let (may_differ, pruned): (Vec<_>, Vec<_>) = compare(&rows, &states, &watermark)
            .into_iter()
            .partition(|difference| difference.what != UNKNOWN || !accounts.may_be_pruned(&difference.id));
        let mut not_checked = pruned.len();
        // What was decided between the two looks is no difference.
        let mut still = Vec::new();
        for difference in may_differ {
            let row = rows.get(&difference.id).copied();
            match state(&mut client, &difference.id).await? {
                Found::Pruned => not_checked += 1,
                Found::State(state) => {
                    if look(row, state).is_some_and(|(what, _)| what == difference.what) {
                        still.push(difference);
                    }
                }
            }
        }
        self.report(rows.len(), not_checked, &still, output)?;
        if self.repair {
            return self.mend(&still, client, output).await.map(|()| Compared::Agreed);
        }
        match still.len() {
            0 => Ok(Compared::Agreed),
            count => Err(Failure::Partly(format!("log and coordinator differ in {count} transactions"))),
        }
    }

    fn report(
        &self,
        rows: usize,
        not_checked: usize,
        found: &[Difference],
        output: Output,
    ) -> Result<(), Failure> {
        let line = |difference: &Difference| {
            let repair = match difference.repair {
                Repair::Commit => "--repair would commit it",
                Repair::Rollback => "--repair would roll it back",
                Repair::None => "a person must look at it",
            };
            format!("{}: {}; {repair}", difference.id, difference.what)
        };
        output.answer(
            || {
                let mut lines = vec![format!(
                    "Compared {} rows of the transaction log with the coordinator: {} differences.",
                    rows,
                    found.len()
                )];
                if not_checked > 0 {
                    lines.push(format!(
                        "{} not checked: committed before the receipts' floor, and receipts from then are not all kept.",
                        text::count(not_checked as u64, "row")
                    ));
                }
                lines.extend(found.iter().take(SHOWN_MAX).map(line));
                lines.join("\n")
            },
            || json!({ "rows": rows, "not_checked": not_checked, "differences": found.iter().map(line).collect::<Vec<_>>() }),
        )
    }

    async fn mend(
        &self,
        found: &[Difference],
        mut client: TransactionsClient<Channel>,
        output: Output,
    ) -> Result<(), Failure> {
        let mendable = found.iter().filter(|difference| difference.repair != Repair::None).count();
        if mendable > 0 && !self.yes {
            consent::obtain(&format!("Decide {mendable} open transactions as the log says?"))?;
        }
        let reason = "halfmq audit --repair: as the transaction log says".to_owned();
        for Difference { id, repair, .. } in found {
            let transaction_id = id.clone();
            match repair {
                Repair::Commit => {
                    let request =
                        CommitRequest { transaction_id, replacements: Vec::new(), reason: reason.clone() };
                    client.commit(request).await?;
                }
                Repair::Rollback => {
                    client.rollback(RollbackRequest { transaction_id, reason: reason.clone() }).await?;
                }
                Repair::None => {}
            }
        }
        output.note(&format!("{mendable} transactions are decided as the log says."))?;
        match found.len() - mendable {
            0 => Ok(()),
            left => Err(Failure::Partly(format!("{left} differences are left for a person"))),
        }
    }
}

async fn rows(log: &Log) -> Result<BTreeMap<String, bool>, sqlx::Error> {
    let mut rows = BTreeMap::new();
    let mut after: Option<TransactionId> = None;
    loop {
        let page = log.rows_after(after.as_ref(), PAGE_MAX).await?;
        after = page.last().map(|(id, _)| id.clone());
        let full = page.len() >= PAGE_MAX as usize;
        rows.extend(page.into_iter().map(|(id, committed)| (String::from(id), committed)));
        if !full {
            return Ok(rows);
        }
    }
}

/// What the coordinator says of a transaction.
pub(super) enum Found {
    /// `None`: it does not know it.
    State(Option<TransactionState>),
    /// It may have known it once.
    Pruned,
}

/// Asks the coordinator.
pub(super) async fn state(client: &mut TransactionsClient<Channel>, id: &str) -> Result<Found, Failure> {
    let request = DescribeTransactionRequest { transaction_id: id.to_owned() };
    match client.describe_transaction(request).await.map_err(Failure::from) {
        Ok(found) => Ok(Found::State(Some(found.into_inner().state()))),
        Err(failure) if failure.is(Reason::ReceiptPruned) => Ok(Found::Pruned),
        Err(failure) if failure.is(Reason::UnknownTransaction) => Ok(Found::State(None)),
        Err(failure) => Err(failure),
    }
}

fn compare(
    rows: &BTreeMap<String, bool>,
    states: &BTreeMap<&str, (TransactionState, bool)>,
    watermark: &str,
) -> Vec<Difference> {
    let known = rows.keys().map(String::as_str).chain(states.keys().copied());
    let ids: std::collections::BTreeSet<&str> = known.filter(|id| *id >= watermark).collect();
    let differences = ids.into_iter().filter_map(|id| {
        let (state, sent) = states.get(id).map_or((None, false), |(state, sent)| (Some(*state), *sent));
        if sent {
            return None;
        }
        let (what, repair) = look(rows.get(id).copied(), state)?;
        Some(Difference { id: id.to_owned(), what, repair })
    });
    differences.collect()
}

/// What a row (true: committed) and a state say together; `None`: the same.
fn look(row: Option<bool>, state: Option<TransactionState>) -> Option<(&'static str, Repair)> {
    use TransactionState::{Committed, InDoubt, Prepared, RolledBack, Unspecified};
    match (row, state) {
        (Some(true), Some(Committed)) | (Some(false), Some(RolledBack)) => None,
        (None, Some(Prepared | InDoubt | RolledBack | Unspecified) | None) => None,
        // A tombstone that nobody knows harms nothing.
        (Some(false), None) => None,
        (Some(true), Some(Prepared | InDoubt | Unspecified)) => {
            Some(("committed in the database, and open", Repair::Commit))
        }
        (Some(false), Some(Prepared | InDoubt | Unspecified)) => {
            Some(("rolled back in the database, and open", Repair::Rollback))
        }
        (Some(true), Some(RolledBack)) => {
            Some(("committed in the database, and its messages are dropped", Repair::None))
        }
        (Some(true), None) => Some((UNKNOWN, Repair::None)),
        (Some(false), Some(Committed)) => {
            Some(("rolled back in the database, and its messages are released", Repair::None))
        }
        (None, Some(Committed)) => Some(("released without a row in the database", Repair::None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told_and_nothing_below_the_watermark() {
        use TransactionState::{Committed, Prepared, RolledBack};
        let rows = [("b", true), ("c", true), ("d", false), ("e", true), ("f", true), ("g", false)];
        let rows: BTreeMap<String, bool> = rows.into_iter().map(|(id, row)| (id.to_owned(), row)).collect();
        let states = BTreeMap::from([
            ("a", (Committed, false)),
            ("b", (Committed, false)),
            ("c", (Prepared, false)),
            ("d", (RolledBack, false)),
            ("e", (RolledBack, false)),
            ("g", (Prepared, false)),
            ("h", (Committed, false)),
            ("i", (Committed, true)),
            ("j", (Prepared, false)),
        ]);
        let found: Vec<_> = compare(&rows, &states, "b").into_iter().map(|d| (d.id, d.repair)).collect();
        let expected = [
            ("c", Repair::Commit),
            ("e", Repair::None),
            ("f", Repair::None),
            ("g", Repair::Rollback),
            ("h", Repair::None),
        ];
        assert_eq!(found, expected.map(|(id, repair)| (id.to_owned(), repair)));
    }
}
