//! `halfmq tx`: transactions, and deciding those nobody else can decide.

mod timeline;

use super::{endpoint::Endpoint, failure::Failure, json, output::Output, table::Table, text};
use clap::{Subcommand, ValueEnum};
use halfmq_proto::v1::{
    CommitRequest, DecisionReceipt, DescribeTransactionRequest, ListTransactionsRequest, RollbackRequest,
    Transaction, TransactionState,
};
use serde_json::json;

/// What one page holds at most.
const PAGE_MAX: u32 = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Tx {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List transactions, oldest first; the open ones unless told otherwise
    List {
        #[arg(long)]
        state: Option<State>,
        /// Only of this producer group
        #[arg(long, value_name = "G")]
        group: Option<String>,
        /// List at most this many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Tell the story of one transaction
    Show { id: String },
    /// Release its messages; the first decision wins
    Commit {
        id: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Drop its messages; the first decision wins
    Rollback {
        id: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Prepared,
    InDoubt,
    Committed,
    RolledBack,
}

impl From<State> for TransactionState {
    fn from(state: State) -> Self {
        match state {
            State::Prepared => Self::Prepared,
            State::InDoubt => Self::InDoubt,
            State::Committed => Self::Committed,
            State::RolledBack => Self::RolledBack,
        }
    }
}

impl Tx {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let endpoint = &self.endpoint;
        match self.action {
            Action::List { state, group, limit } => {
                let state = state.map_or(TransactionState::Unspecified, TransactionState::from);
                let request = ListTransactionsRequest {
                    state: state.into(),
                    producer_group: group.unwrap_or_default(),
                    ..ListTransactionsRequest::default()
                };
                list(endpoint, output, request, limit).await
            }
            Action::Show { id } => {
                let request = DescribeTransactionRequest { transaction_id: id };
                let transaction =
                    endpoint.transactions().await?.describe_transaction(request).await?.into_inner();
                output.answer(|| timeline::tell(&transaction), || json::transaction(&transaction))
            }
            Action::Commit { id, reason } => {
                let request = CommitRequest {
                    transaction_id: id,
                    replacements: Vec::new(),
                    reason: reason.unwrap_or_default(),
                };
                let receipt = endpoint.transactions().await?.commit(request).await?.into_inner();
                decided(output, "committed", &receipt)
            }
            Action::Rollback { id, reason } => {
                let request = RollbackRequest { transaction_id: id, reason: reason.unwrap_or_default() };
                let receipt = endpoint.transactions().await?.rollback(request).await?.into_inner();
                decided(output, "rolled back", &receipt)
            }
        }
    }
}

async fn list(
    endpoint: &Endpoint,
    output: Output,
    mut request: ListTransactionsRequest,
    limit: u32,
) -> Result<(), Failure> {
    let mut client = endpoint.transactions().await?;
    let mut transactions = Vec::new();
    let mut left = limit;
    while left > 0 {
        request.page_size = left.min(PAGE_MAX);
        let page = client.list_transactions(request.clone()).await?.into_inner();
        left = left.saturating_sub(u32::try_from(page.transactions.len()).unwrap_or(u32::MAX));
        transactions.extend(page.transactions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let more = !request.page_token.is_empty();
    output.answer(
        || listing(&transactions),
        || {
            let transactions: Vec<_> = transactions.iter().map(json::transaction).collect();
            json!({ "transactions": transactions, "more": more })
        },
    )?;
    if more {
        output.note(&format!("There are more; these are the first {limit}. See further with --limit."))?;
    }
    Ok(())
}

fn listing(transactions: &[Transaction]) -> String {
    let mut table = Table::new([
        "TRANSACTION",
        "STATE",
        "PRODUCER GROUP",
        "PREPARED",
        "UNKNOWN",
        "NEXT CHECK",
        "CAN ASK",
    ]);
    for transaction in transactions {
        let open = matches!(transaction.state(), TransactionState::Prepared | TransactionState::InDoubt);
        let can_ask = match (open, transaction.resolver_reachable) {
            (false, _) => "-",
            (true, true) => "yes",
            (true, false) => "nobody",
        };
        table.row([
            transaction.transaction_id.clone(),
            json::state(transaction.state()).to_owned(),
            transaction.producer_group.clone(),
            text::time(transaction.prepared_at.as_ref()),
            transaction.checks_answered.to_string(),
            text::time(transaction.next_check_at.as_ref()),
            can_ask.to_owned(),
        ]);
    }
    table.render("No transactions.")
}

fn decided(output: Output, what: &str, receipt: &DecisionReceipt) -> Result<(), Failure> {
    output.answer(
        || {
            let at = text::time(receipt.decided_at.as_ref());
            let mut lines = vec![format!("Transaction {} {what} at {at}.", receipt.transaction_id)];
            lines.extend(
                receipt
                    .messages
                    .iter()
                    .map(|message| format!("  {}  {}", message.message_id, text::receipt(message))),
            );
            lines.join("\n")
        },
        || json::receipt(receipt),
    )
}
