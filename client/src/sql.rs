//! The local side: tables in the service's own database that close every gap between it and the coordinator.
//!
//! ```text
//!  producer   TransactionLog   one row in the local transaction; checks answer themselves
//!             Outbox           one row for each message; a relay sends it
//!  consumer   Inbox            one row in the handler's transaction; no effect twice
//! ```
//! The rules stand here once, for PostgreSQL, MySQL, MariaDB and SQLite; what databases do differently
//! stands in one small [`Dialect`] each. Nothing here reads a clock: ids of the coordinator are ordered by
//! time, and what may be pruned is what the coordinator says nobody will ask about again.

mod dialect;
mod inbox;
mod outbox;
mod table;
mod transaction_log;

pub use dialect::{Dialect, Value};
pub use inbox::{Arrival, BoxedWork, Idempotent, Inbox, PruneError, SqlHandler};
pub use outbox::{
    Outbox, OutboxBacklog, OutboxId, OutboxOptions, Quarantined, Relay, RelayHandle, RelayOptions,
};
pub use table::{IllegalTableName, TableName};
pub use transaction_log::{LogChecker, LogError, LogOptions, Pruned, TransactionLog};

use std::time::Duration;

use sqlx::Pool;

/// How often a migration is tried: two that run at the same time may get in each other's way.
const MIGRATION_TRIES: u32 = 5;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// Runs statements that may run any number of times.
async fn migrate<DB: Dialect>(pool: &Pool<DB>, statements: &[String]) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    for statement in statements {
        let mut tries = 1;
        while let Err(error) = DB::execute(&mut connection, statement, Vec::new()).await {
            if tries == MIGRATION_TRIES || error.as_database_error().is_none() {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }
    Ok(())
}
