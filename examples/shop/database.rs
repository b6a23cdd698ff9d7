//! A SQLite file, and calls to it that do not hold up the runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// One connection, used by one task at a time.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    connection: Arc<Mutex<Connection>>,
}

impl Database {
    /// Opens a file that [`create`] made. `patience` is how long a call waits for another process's lock.
    pub(crate) fn open(file: &Path, patience: Duration) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(patience)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// The connection for this task alone, until it is dropped.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<Connection> {
        Arc::clone(&self.connection).lock_owned().await
    }
}

/// Makes a file with these tables.
pub(crate) fn create(file: &Path, schema: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(schema)?;
    Ok(connection)
}

/// Runs SQL on a thread that may block, and gives the connection back with the result.
pub(crate) async fn run<T: Send + 'static>(
    mut connection: OwnedMutexGuard<Connection>,
    work: impl FnOnce(&mut Connection) -> T + Send + 'static,
) -> (OwnedMutexGuard<Connection>, T) {
    let work = move || {
        let result = work(&mut connection);
        (connection, result)
    };
    tokio::task::spawn_blocking(work).await.expect("SQL reports errors and does not panic")
}

/// Whether somebody else holds the lock.
pub(crate) fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
