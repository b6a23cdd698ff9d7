//! The transactions whose local part may be running in this process.
//!
//! Asked about one of these, the producer answers UNKNOWN itself: its checker would look for a row
//! that is not committed yet, and might take its absence for a rollback.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::ids::TransactionId;

#[derive(Debug)]
pub(super) struct OpenTransactions {
    ids: Mutex<HashSet<TransactionId>>,
    room: Arc<Semaphore>,
    open_max: usize,
}

/// Room for one transaction, taken before it is prepared.
#[derive(Debug)]
pub(super) struct Room {
    open: Arc<OpenTransactions>,
    permit: OwnedSemaphorePermit,
}

/// One open transaction; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    open: Arc<OpenTransactions>,
    id: TransactionId,
    _permit: OwnedSemaphorePermit,
}

impl OpenTransactions {
    pub(super) fn new(open_max: usize) -> Self {
        let room = Arc::new(Semaphore::new(open_max.min(Semaphore::MAX_PERMITS)));
        Self { ids: Mutex::default(), room, open_max }
    }

    pub(super) fn room(self: &Arc<Self>) -> Result<Room, Error> {
        let permit = Arc::clone(&self.room).try_acquire_owned();
        let permit = permit.map_err(|_full| Error::TooManyOpen { open_max: self.open_max })?;
        Ok(Room { open: Arc::clone(self), permit })
    }

    pub(super) fn contains(&self, id: &TransactionId) -> bool {
        self.ids().contains(id)
    }

    /// Every change of the set is a single operation, so a panic elsewhere cannot leave it half done.
    fn ids(&self) -> MutexGuard<'_, HashSet<TransactionId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    pub(super) fn open(self, id: TransactionId) -> Open {
        self.open.ids().insert(id.clone());
        Open { open: self.open, id, _permit: self.permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.ids().remove(&self.id);
    }
}
