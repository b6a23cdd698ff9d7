//! `halfmq audit`: is every message accounted for?
//!
//! Every producer group numbers its messages 1, 2, 3, … when they are prepared or sent. Each number must have
//! come to an end that can be named: released at one place, rolled back, or still open. Every consumer group is
//! somewhere in what was released to its topics. With `--database`, the transaction log of a service is compared
//! in both directions.
//!
//! ```text
//!   1 … 70          71 … 98                      99, 100
//!   not checked     come to an end, or missing   given out last, says the coordinator
//!               ▲ prepared before the receipts' floor: their receipts may be gone
//! ```

mod account;
#[cfg(feature = "resolver")]
mod outbox;
#[cfg(feature = "resolver")]
mod reconcile;

use clap::Args;
use halfmq_proto::v1::{
    DescribeFloorRequest, ListGroupsRequest, ListTransactionsRequest, Transaction, TransactionState,
    transactions_client::TransactionsClient,
};
use tonic::transport::Channel;

use super::{endpoint::Endpoint, failure::Failure, output::Output};
use account::Accounts;

/// What one page holds at most.
const PAGE_MAX: u32 = 1_000;

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Only of this producer group
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// Compare with transaction log and outbox in this database too: postgres://, mysql:// or sqlite:
    #[cfg(feature = "resolver")]
    #[arg(long, value_name = "URL", requires = "group", env = "HALFMQ_AUDIT_DATABASE")]
    database: Option<String>,
    /// The log's table [default: halfmq_transaction_log, if there is one]
    #[cfg(feature = "resolver")]
    #[arg(long, value_name = "NAME", requires = "database")]
    table: Option<String>,
    /// The outbox's table [default: halfmq_outbox, if there is one]
    #[cfg(feature = "resolver")]
    #[arg(long, value_name = "NAME", requires = "database")]
    outbox: Option<String>,
    /// Decide open transactions as the log says, after asking
    #[cfg(feature = "resolver")]
    #[arg(long, requires = "database")]
    repair: bool,
    /// Do not ask before repairing
    #[cfg(feature = "resolver")]
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

impl Audit {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let mut transactions = self.endpoint.transactions().await?;
        let group = self.group.clone().unwrap_or_default();
        let mut accounts = Accounts::default();
        // Before the lists: whatever was given out by now is in them, or is missing.
        let request = DescribeFloorRequest { with_last_sequences: true };
        let floor = transactions.describe_floor(request).await?.into_inner();
        let of_this = |producer: &String| group.is_empty() || *producer == group;
        accounts.given_out(floor.last_sequences.into_iter().filter(|(producer, _)| of_this(producer)));
        // Open ones first: what is decided meanwhile is found again among the decided.
        for state in
            [TransactionState::Unspecified, TransactionState::Committed, TransactionState::RolledBack]
        {
            each(&mut transactions, state, &group, |transaction| accounts.add(transaction)).await?;
        }
        // Behind the lists: what was pruned meanwhile lies below it.
        let request = DescribeFloorRequest { with_last_sequences: false };
        accounts.receipts_since(transactions.describe_floor(request).await?.into_inner().receipts_since);
        let groups =
            self.endpoint.admin().await?.list_groups(ListGroupsRequest {}).await?.into_inner().groups;
        let consumers = account::consumers(&groups);
        let wrong = accounts.findings();
        output.answer(
            || {
                let consumers = consumers.render("No consumer groups.");
                format!("{}\n\n{consumers}\n\n{}", accounts.table(), accounts.verdict(&wrong))
            },
            || accounts.json(account::consumers_json(&groups), &wrong),
        )?;
        #[cfg(feature = "resolver")]
        if let Some(url) = &self.database {
            self.compare(url, &accounts, transactions, output).await?;
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::Partly(format!("{} findings; see above", wrong.len())))
        }
    }
}

#[cfg(feature = "resolver")]
impl Audit {
    /// With what the service's database holds. All is looked at before anything that is found fails the audit.
    async fn compare(
        &self,
        url: &str,
        accounts: &Accounts,
        mut transactions: TransactionsClient<Channel>,
        output: Output,
    ) -> Result<(), Failure> {
        let log = reconcile::Reconcile {
            url,
            table: self.table.as_deref().unwrap_or("halfmq_transaction_log"),
            must_be_there: self.table.is_some(),
            group: self.group.as_deref().unwrap_or_default(),
            repair: self.repair,
            yes: self.yes,
        };
        let log = match log.run(accounts, transactions.clone(), output).await {
            // Only what is found leaves something more to look at.
            Err(failure) if !matches!(failure, Failure::Partly(_)) => return Err(failure),
            log => log,
        };
        let no_log = matches!(log, Ok(reconcile::Compared::NoTable));
        if no_log {
            output.note("There is no transaction log in this database.")?;
        }
        let outbox = match outbox::look(url, self.outbox.as_deref().unwrap_or("halfmq_outbox")).await? {
            None if self.outbox.is_some() || no_log => Err(Failure::Partly(
                "there is no such table in this database: nothing was compared".to_owned(),
            )),
            None => outbox::absent(output),
            Some(kept) => outbox::compare(&kept, accounts, &mut transactions, output).await,
        };
        log.and(outbox)
    }
}

/// All transactions in this state, page by page, with their messages.
async fn each(
    client: &mut TransactionsClient<Channel>,
    state: TransactionState,
    group: &str,
    mut look: impl FnMut(Transaction),
) -> Result<(), Failure> {
    let mut request = ListTransactionsRequest {
        state: state.into(),
        producer_group: group.to_owned(),
        page_size: PAGE_MAX,
        with_messages: true,
        ..ListTransactionsRequest::default()
    };
    loop {
        let page = client.list_transactions(request.clone()).await?.into_inner();
        page.transactions.into_iter().for_each(&mut look);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}
