//! The thread that writes the index, some time behind the journal.
//!
//! ```text
//!   journal thread ──► inbox: a lock, a copy, no wake-up ──► every GATHER: one batch ──► every SYNC_EVERY: sync
//! ```
//!
//! The sync is `flush` and then `sync_data` on the files, since `flush` of sled 0.34.7 alone does not reach
//! the disk on Linux.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halfmq_core::{DecidedTransaction, Timestamp, TransactionId};

use super::requests::{self, Requests};
use super::{MARK, chunk, put_mark};
use crate::clock::Clock;

/// How long decisions are gathered: nobody waits for them.
const GATHER: Duration = Duration::from_millis(20);
/// How often the index is synced while there is something to write.
const SYNC_EVERY: Duration = Duration::from_millis(500);
/// Decisions at which nothing more is gathered: more at once would take processor and disk from callers.
const GATHER_MAX: usize = 256;
/// Chunks that one batch removes.
const PRUNE_MAX: usize = 256;

/// What waits for the keeper.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    come: Condvar,
}

#[derive(Default)]
struct Waiting {
    decided: Vec<Decided>,
    /// Keys and records of them.
    bytes: Vec<u8>,
    prune: Option<Timestamp>,
    /// All up to this frame was added.
    complete: Option<u64>,
    /// The keeper sleeps until it is told.
    asleep: bool,
    open: bool,
}

struct Decided {
    sequence: u64,
    id: TransactionId,
    /// Its whole request id; empty for none.
    request: Range<usize>,
    record: Range<usize>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.decided.is_empty() && self.prune.is_none() && self.complete.is_none()
    }
}

impl Inbox {
    pub(super) fn open(&self) {
        *self.waiting_mut() = Waiting { open: true, ..Waiting::default() };
    }

    /// Nothing more is taken.
    pub(super) fn close(&self) {
        self.waiting_mut().open = false;
        self.come.notify_one();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting_mut().decided.len()
    }

    pub(super) fn add(&self, sequence: u64, id: TransactionId, transaction: &DecidedTransaction) {
        let mut waiting = self.waiting_mut();
        if !waiting.open {
            return;
        }
        let start = waiting.bytes.len();
        if let Some(request_id) = &transaction.request_id {
            waiting.bytes.extend_from_slice(&requests::whole(&transaction.producer_group, request_id));
        }
        let middle = waiting.bytes.len();
        chunk::record(transaction, &mut waiting.bytes);
        let end = waiting.bytes.len();
        waiting.decided.push(Decided { sequence, id, request: start..middle, record: middle..end });
        let wake = std::mem::replace(&mut waiting.asleep, false) || waiting.decided.len() == GATHER_MAX;
        drop(waiting);
        if wake {
            self.come.notify_one();
        }
    }

    pub(super) fn complete(&self, through: u64) {
        let mut waiting = self.waiting_mut();
        waiting.complete = Some(through);
        waiting.asleep = false;
        self.come.notify_one();
    }

    pub(super) fn prune(&self, before: Timestamp) {
        let mut waiting = self.waiting_mut();
        waiting.prune = Some(before);
        waiting.asleep = false;
        self.come.notify_one();
    }

    /// What has come in the meantime; `None` once it is closed and empty. With `patience` an empty inbox is
    /// answered, too, after that time.
    fn take(&self, patience: Option<Duration>) -> Option<Waiting> {
        let mut waiting = self.waiting_mut();
        while waiting.is_empty() && waiting.open {
            waiting.asleep = true;
            let Some(patience) = patience else {
                waiting = self.come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            waiting = self.come.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner).0;
            break;
        }
        let gather = |waiting: &mut Waiting| {
            waiting.open && !waiting.decided.is_empty() && waiting.decided.len() < GATHER_MAX
        };
        let gathered = self.come.wait_timeout_while(waiting, GATHER, gather);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let open = waiting.open;
        let taken = std::mem::replace(&mut *waiting, Waiting { open, ..Waiting::default() });
        (open || !taken.is_empty()).then_some(taken)
    }

    fn waiting_mut(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes and syncs.
pub(super) struct Keeper {
    pub(super) tree: sled::Db,
    pub(super) requests: Requests,
    pub(super) path: PathBuf,
    pub(super) identity: u64,
    pub(super) through: Arc<AtomicU64>,
    pub(super) inbox: Arc<Inbox>,
    /// Nothing is missing that is older than what comes next: the index may say how much it has.
    pub(super) complete: bool,
}

/// Written and not synced yet.
struct Unsynced {
    through: u64,
    since: Instant,
}

impl Keeper {
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut unsynced: Option<Unsynced> = None;
        loop {
            let patience =
                unsynced.as_ref().map(|unsynced| SYNC_EVERY.saturating_sub(unsynced.since.elapsed()));
            let Some(taken) = self.inbox.take(patience) else {
                return unsynced.map_or(Ok(()), |unsynced| self.sync(unsynced.through));
            };
            if let Some(through) = self.write(&taken)? {
                let since = unsynced.map_or_else(Clock::stopwatch, |unsynced| unsynced.since);
                unsynced = Some(Unsynced { through, since });
            }
            if let Some(before) = taken.prune {
                self.prune(before)?;
            }
            if let Some(due) = unsynced.take_if(|unsynced| unsynced.since.elapsed() >= SYNC_EVERY) {
                self.sync(due.through)?;
            }
        }
    }

    /// Returns up to which frame everything is written now. One by one: a batch would lock everybody out who
    /// looks for a request id meanwhile, and everything before the mark is there whenever the mark is.
    fn write(&mut self, taken: &Waiting) -> io::Result<Option<u64>> {
        let bytes = |range: &Range<usize>| taken.bytes.get(range.clone()).unwrap_or_default();
        let with_request = taken.decided.iter().filter(|decided| !decided.request.is_empty());
        self.requests.add(with_request.map(|decided| (bytes(&decided.request).to_vec(), decided.id)))?;
        let mut records: Vec<_> =
            taken.decided.iter().map(|decided| (decided.id, bytes(&decided.record))).collect();
        let mut chunks = Vec::new();
        chunk::make(&mut records, |key, value| chunks.push((key, value)));
        for (key, chunk) in chunks {
            let chunk = match self.tree.get(&key)? {
                Some(there) => chunk::union(&there, &chunk).map_err(io::Error::other)?,
                None => chunk,
            };
            self.tree.insert(key, chunk)?;
        }
        self.complete |= taken.complete.is_some();
        // The last frame may have more decisions than were taken: only frames before it are complete.
        let last = taken.decided.last().map(|last| last.sequence.saturating_sub(1));
        let through = last.max(taken.complete).filter(|_| self.complete);
        if let Some(through) = through {
            self.tree.insert(MARK, &put_mark(self.identity, through))?;
        }
        Ok(through)
    }

    fn prune(&self, before: Timestamp) -> io::Result<()> {
        let end = chunk::span_begin(TransactionId::from_u128(u128::from(before.as_micros() / 1_000) << 80));
        let mut old = self.tree.range(chunk::FIRST.to_vec()..chunk::key(end)).peekable();
        while old.peek().is_some() {
            let mut batch = sled::Batch::default();
            let mut requests = Vec::new();
            for entry in old.by_ref().take(PRUNE_MAX) {
                let (key, value) = entry?;
                for decided in chunk::Entries::of(&value) {
                    let (id, decided) = decided.map_err(io::Error::other)?;
                    let request = decided.request_id.as_ref();
                    requests.extend(
                        request.map(|request| (requests::whole(&decided.producer_group, request), id)),
                    );
                }
                batch.remove(key);
            }
            self.requests.prune(requests.into_iter(), |id| id < end)?;
            self.tree.apply_batch(batch)?;
        }
        Ok(())
    }

    fn sync(&self, through: u64) -> io::Result<()> {
        self.tree.flush()?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_data()?;
            }
        }
        self.through.store(through, Ordering::Release);
        Ok(())
    }
}
