//! The thread that writes the index, some time behind the journal.
//!
//! ```text
//!   writer ─► inbox: a lock, a pointer, no wake-up
//!               └─ every GATHER: chunks to a file
//!                    └─ every SYNC_EVERY, or TELL_AT decisions: sync it, then tell the tree, then sync that
//! ```
//!
//! Nobody asks for what the tree does not say yet: a decision stays in memory until
//! [`Index::through`](super::Index::through) has come to it. The sync of the tree is `flush` and then `sync_data` on
//! its files, since `flush` of sled 0.34.7 alone does not reach the disk on Linux.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halfmq_core::{DecidedTransaction, Timestamp, TransactionId};

use super::keys::{FILES, FILES_END, MARK, damaged_key, file_key, file_number, put_mark};
use super::receipts::{Filled, Growing, Place, Receipts, is_damage};
use super::requests::{self, Requests};
use super::{chunk, remember_damage};
use crate::clock::Clock;

/// How long decisions are gathered: nobody waits for them.
const GATHER: Duration = Duration::from_millis(20);
/// How long the tree is not told, at most, while there is something to tell.
const SYNC_EVERY: Duration = Duration::from_millis(500);
/// Decisions at which nothing more is gathered: more at once would take processor and disk from callers.
const GATHER_MAX: usize = 256;
/// Decisions at which it is told sooner: the fewer there are in memory, the nearer they are to the processor.
const TELL_AT: usize = 4_096;
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
    transaction: Arc<DecidedTransaction>,
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

    pub(super) fn add(&self, sequence: u64, id: TransactionId, transaction: Arc<DecidedTransaction>) {
        let mut waiting = self.waiting_mut();
        if !waiting.open {
            return;
        }
        waiting.decided.push(Decided { sequence, id, transaction });
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
    pub(super) receipts: Receipts,
    pub(super) path: PathBuf,
    pub(super) identity: u64,
    pub(super) through: Arc<AtomicU64>,
    pub(super) inbox: Arc<Inbox>,
    /// Nothing is missing that is older than what comes next: the index may say how much it has.
    pub(super) complete: bool,
    /// Keys of damaged chunks whose receipts come from the journal again; known until all of them have come.
    pub(super) mended: Vec<Vec<u8>>,
    pub(super) file: Option<Growing>,
    pub(super) unpublished: Unpublished,
}

/// What the tree does not say yet.
#[derive(Default)]
pub(super) struct Unpublished {
    since: Option<Instant>,
    /// Decisions in it.
    decided: usize,
    chunks: BTreeMap<Vec<u8>, Place>,
    requests: Vec<(Vec<u8>, TransactionId)>,
    through: Option<u64>,
    /// Files that nothing in the tree needs any more.
    unneeded: Vec<u32>,
}

impl Unpublished {
    fn is_empty(&self) -> bool {
        let Self { since: _, decided: _, chunks, requests, through, unneeded } = self;
        chunks.is_empty() && requests.is_empty() && through.is_none() && unneeded.is_empty()
    }
}

impl Keeper {
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            let patience = self.unpublished.since.map(|since| SYNC_EVERY.saturating_sub(since.elapsed()));
            let Some(taken) = self.inbox.take(patience) else { return self.publish() };
            if !taken.is_empty() {
                self.write(&taken)?;
                self.unpublished.since.get_or_insert_with(Clock::stopwatch);
            }
            if let Some(before) = taken.prune {
                self.publish()?;
                self.prune(before)?;
            }
            let due = self.unpublished.since.is_some_and(|since| since.elapsed() >= SYNC_EVERY);
            // Before it is complete nothing leaves memory for it.
            if due || self.complete && self.unpublished.decided >= TELL_AT {
                self.publish()?;
            }
        }
    }

    fn write(&mut self, taken: &Waiting) -> io::Result<()> {
        let request = |Decided { id, transaction, .. }: &Decided| {
            let request_id = transaction.request_id.as_ref()?;
            Some((requests::whole(&transaction.producer_group, request_id), *id))
        };
        self.unpublished.requests.extend(taken.decided.iter().filter_map(request));
        let mut records: Vec<_> =
            taken.decided.iter().map(|it| (it.id, chunk::record(&it.transaction))).collect();
        self.unpublished.decided += records.len();
        let mut chunks = Vec::new();
        chunk::make(&mut records, |key, value| chunks.push((key, value)));
        for (key, chunk) in chunks {
            self.add(key, chunk)?;
        }
        if let Some(file) = &mut self.file {
            file.write()?;
        }
        self.complete |= taken.complete.is_some();
        // The last frame may have more decisions than were taken: only frames before it are complete.
        let last = taken.decided.last().map(|last| last.sequence.saturating_sub(1));
        self.unpublished.through = last.max(taken.complete).max(self.unpublished.through);
        Ok(())
    }

    fn add(&mut self, key: Vec<u8>, chunk: Vec<u8>) -> io::Result<()> {
        let there = match self.unpublished.chunks.get(&key) {
            Some(place) => Some(*place),
            None => self.tree.get(&key)?.map(|place| Place::take(&place)).transpose()?,
        };
        if self.file.as_ref().is_none_or(Growing::is_full) {
            // All that is in a full file, while it is still open to be synced.
            self.publish()?;
            let number = self.receipts.numbers()?.into_iter().max().map_or(0, |last| last + 1);
            self.file = Some(Growing::begin(&self.receipts, number)?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let chunk = match there {
            Some(place) => {
                file.write()?;
                let there = self.receipts.read(place);
                let there = there.inspect_err(|error| remember_damage(&self.tree, &key, error))?;
                chunk::union(&there, &chunk).map_err(io::Error::other)?
            }
            None => chunk,
        };
        let span = chunk::first(&key).map_or(0, chunk::span_of);
        self.unpublished.chunks.insert(key, file.add(span, &chunk));
        Ok(())
    }

    /// Tells the tree what stands in files, all of it synced when this returns. One by one: a batch would lock
    /// everybody out who looks for a request id meanwhile, and everything before the mark is there whenever the
    /// mark is.
    fn publish(&mut self) -> io::Result<()> {
        let unpublished = std::mem::take(&mut self.unpublished);
        if unpublished.is_empty() {
            return Ok(());
        }
        let Unpublished { since: _, decided: _, chunks, requests, through, unneeded } = unpublished;
        if let Some(file) = &mut self.file {
            let filled = file.sync()?;
            self.tree.insert(file_key(file.number), filled.put())?;
        }
        for (key, place) in chunks {
            self.tree.insert(key, place.put())?;
        }
        self.requests.add(requests)?;
        let through = through.filter(|_| self.complete);
        if let Some(through) = through {
            self.tree.insert(MARK, &put_mark(self.identity, through))?;
            for chunk in std::mem::take(&mut self.mended) {
                self.tree.remove(damaged_key(&chunk))?;
            }
        }
        self.sync()?;
        if let Some(through) = through {
            self.through.store(through, Ordering::Release);
        }
        // Only now that the tree has let go of them for good: otherwise the next start would miss them.
        unneeded.into_iter().for_each(|number| self.receipts.remove(number));
        Ok(())
    }

    fn prune(&mut self, before: Timestamp) -> io::Result<()> {
        let end = chunk::span_begin(TransactionId::from_u128(u128::from(before.as_micros() / 1_000) << 80));
        let mut old = self.tree.range(chunk::FIRST.to_vec()..chunk::key(end)).peekable();
        while old.peek().is_some() {
            let mut batch = sled::Batch::default();
            let mut requests = Vec::new();
            for entry in old.by_ref().take(PRUNE_MAX) {
                let (key, place) = entry?;
                batch.remove(damaged_key(&key));
                batch.remove(key);
                let chunk = match Place::take(&place).and_then(|place| self.receipts.read(place)) {
                    Ok(chunk) => chunk,
                    // What would be removed besides stays, and finds nothing any more.
                    Err(error) if is_damage(&error) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "old receipts could not be pruned yet");
                        return Ok(());
                    }
                };
                for decided in chunk::Entries::of(&chunk) {
                    let (id, decided) = decided.map_err(io::Error::other)?;
                    let request = decided.request_id.as_ref();
                    requests.extend(
                        request.map(|request| (requests::whole(&decided.producer_group, request), id)),
                    );
                }
            }
            self.requests.prune(requests, |id| id < end)?;
            self.tree.apply_batch(batch)?;
        }
        self.forget_files(chunk::span_of(end))
    }

    /// Lets go of files in which all transactions were made in spans before this.
    fn forget_files(&mut self, end: u64) -> io::Result<()> {
        for entry in self.tree.range(FILES..FILES_END) {
            let (key, filled) = entry?;
            let grows = self.file.as_ref().map(|file| file.number);
            let number = file_number(&key).filter(|number| Some(*number) != grows);
            if let Some(number) = number.filter(|_| Filled::take(&filled).is_ok_and(|it| it.youngest < end)) {
                self.tree.remove(key)?;
                self.unpublished.unneeded.push(number);
                self.unpublished.since.get_or_insert_with(Clock::stopwatch);
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.tree.flush()?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_data()?;
            }
        }
        Ok(())
    }
}
