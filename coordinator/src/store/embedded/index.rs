//! What outlives memory: decided transactions, kept in sled. Disposable: the journal can make it again.
//!
//! ```text
//! t <transaction id, 16 bytes>                    ► decided transaction (record.rs)
//! r <producer group> 0 <request id>               ► transaction id, 16 bytes
//! m                                               ► identity u64 BE of the journal, sequence u64 BE
//! f                                               ► microseconds u64 BE: receipts of transactions that were
//!                                                   made before are not all kept
//! ```
//!
//! `m` says: every decision in frames up to this sequence is in here. It is written in the same batch, so
//! it is true whenever the index is readable at all. Absence of a `t` key at or below it: the transaction
//! is not decided.
//!
//! A thread of its own writes; the sync is `flush` and then `sync_data` on the files, since `flush` of sled
//! 0.34.7 alone does not reach the disk on Linux. Losing the last seconds only means work at the next start.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use halfmq_core::{DecidedTransaction, ProducerGroup, RequestId, State, Timestamp, TransactionId};

use super::record::{put_decided, take_decided};
use crate::store::{ListTransactions, Unavailable};

/// Decisions written in one batch.
const BATCH_MAX: usize = 1_024;
/// How often the index is synced while there is something to write.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Decisions that wait while an index is rebuilt.
const WAITING_MAX: u64 = 65_536;
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// The index.
pub struct Index {
    tree: sled::Db,
    path: PathBuf,
    through: std::sync::Arc<AtomicU64>,
    /// Decisions that were added and are not written yet.
    waiting: std::sync::Arc<AtomicU64>,
    floor: AtomicU64,
    broken: std::sync::Arc<AtomicBool>,
    keeper: Mutex<Option<Keeper>>,
}

struct Keeper {
    work: Sender<Job>,
    thread: JoinHandle<()>,
}

enum Job {
    Add(Decided),
    Prune(Timestamp),
}

struct Decided {
    sequence: u64,
    id: TransactionId,
    transaction: DecidedTransaction,
}

impl Index {
    /// Opens the index in this directory; a damaged one is thrown away.
    ///
    /// # Errors
    /// When not even an empty one can be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let tree = match open_tree(path) {
            Ok(tree) => tree,
            Err(error) => {
                tracing::warn!(%error, "the index is damaged; it will be rebuilt from the journal");
                fs::remove_dir_all(path)?;
                open_tree(path)?
            }
        };
        Ok(Self {
            tree,
            path: path.to_owned(),
            through: std::sync::Arc::default(),
            waiting: std::sync::Arc::default(),
            floor: AtomicU64::default(),
            broken: std::sync::Arc::default(),
            keeper: Mutex::new(None),
        })
    }

    /// Starts with the journal of this identity. Returns up to which frame the index has everything; `None`:
    /// it has nothing and is made anew.
    pub fn begin(&self, identity: u64) -> Option<u64> {
        let mark = guarded(|| self.tree.get(MARK)).ok().flatten().and_then(|mark| take_mark(&mark));
        let known = mark.filter(|(of, _)| *of == identity).map(|(_, through)| through);
        if known.is_none() {
            self.clear();
        }
        let floor = guarded(|| self.tree.get(FLOOR)).ok().flatten();
        let floor = floor.and_then(|floor| <[u8; 8]>::try_from(&*floor).ok()).map_or(0, u64::from_be_bytes);
        self.floor.store(floor, Ordering::Release);
        let through = known.unwrap_or(0);
        self.through.store(through, Ordering::Release);
        let (work, jobs) = channel();
        let writer = Writer {
            tree: self.tree.clone(),
            path: self.path.clone(),
            identity,
            through: std::sync::Arc::clone(&self.through),
            waiting: std::sync::Arc::clone(&self.waiting),
        };
        let broken = std::sync::Arc::clone(&self.broken);
        let thread = std::thread::Builder::new().name("halfmq-index".into()).spawn(move || {
            if let Err(error) =
                catch_unwind(AssertUnwindSafe(|| writer.run(&jobs))).unwrap_or_else(|_| Err(panicked()))
            {
                tracing::error!(%error, "the index cannot be written; it will be rebuilt at the next start");
                broken.store(true, Ordering::Release);
            }
        });
        match thread {
            Ok(thread) => *self.keeper() = Some(Keeper { work, thread }),
            Err(error) => {
                tracing::error!(%error, "the index has no thread");
                self.broken.store(true, Ordering::Release);
            }
        }
        known
    }

    /// Throws everything away; [`Index::begin`] starts it anew.
    pub fn clear(&self) {
        self.close();
        if !self.tree.is_empty() {
            tracing::warn!("the index belongs to another journal; it will be rebuilt");
        }
        self.broken.fetch_or(guarded(|| self.tree.clear()).is_err(), Ordering::AcqRel);
    }

    /// Waits until what was added is not too much to hold in memory.
    pub fn wait_for_room(&self) {
        while self.waiting.load(Ordering::Acquire) > WAITING_MAX && !self.broken.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes a decision that is durable in the frame of this sequence.
    pub fn add(&self, sequence: u64, id: TransactionId, transaction: DecidedTransaction) {
        if let Some(keeper) = &*self.keeper() {
            // A keeper that has given up marked the index as broken; memory keeps the decision then.
            self.waiting.fetch_add(1, Ordering::AcqRel);
            drop(keeper.work.send(Job::Add(Decided { sequence, id, transaction })));
        }
    }

    /// Receipts of transactions that were made before this are not all kept.
    #[must_use]
    pub fn floor(&self) -> Timestamp {
        Timestamp::from_micros(self.floor.load(Ordering::Acquire))
    }

    /// Says that receipts of transactions that were made before this are not all there.
    pub fn raise_floor(&self, floor: Timestamp) {
        self.floor.fetch_max(floor.as_micros(), Ordering::AcqRel);
        let floor = self.floor().as_micros().to_be_bytes().to_vec();
        self.broken.fetch_or(guarded(|| self.tree.insert(FLOOR, floor)).is_err(), Ordering::AcqRel);
    }

    /// Lets go of receipts of transactions that were made before this, in the background.
    pub fn prune(&self, before: Timestamp) {
        let oldest = guarded(|| self.tree.range(b"t".to_vec()..).next().transpose()).ok().flatten();
        let oldest = oldest.and_then(|(key, _)| id_of(&key)).map(TransactionId::made_at);
        if oldest.is_none_or(|oldest| oldest >= before) {
            return;
        }
        self.raise_floor(before);
        if let Some(keeper) = &*self.keeper() {
            drop(keeper.work.send(Job::Prune(before)));
        }
    }

    /// Every decision up to this frame is in the index, and synced.
    #[must_use]
    pub fn through(&self) -> u64 {
        self.through.load(Ordering::Acquire)
    }

    /// A decided transaction.
    ///
    /// # Errors
    /// [`Unavailable::Failed`] when the index cannot be read: then nobody may say "unknown".
    pub fn transaction(&self, id: TransactionId) -> Result<Option<DecidedTransaction>, Unavailable> {
        let found = self.read(|| self.tree.get(transaction_key(id)))?;
        found.map(|bytes| take_decided(&bytes).map_err(|error| failed(&error))).transpose()
    }

    /// The decided transaction that this request id brought.
    ///
    /// # Errors
    /// As [`Index::transaction`].
    pub fn request(
        &self,
        group: &ProducerGroup,
        request_id: &RequestId,
    ) -> Result<Option<(TransactionId, DecidedTransaction)>, Unavailable> {
        let Some(id) = self.read(|| self.tree.get(request_key(group, request_id)))? else { return Ok(None) };
        let id = <[u8; 16]>::try_from(&*id).map_err(|error| failed(&error))?;
        let id = TransactionId::from_u128(u128::from_be_bytes(id));
        Ok(self.transaction(id)?.map(|decided| (id, decided)))
    }

    /// Decided transactions in the order of their ids.
    ///
    /// # Errors
    /// As [`Index::transaction`].
    pub fn list(
        &self,
        list: &ListTransactions,
    ) -> Result<Vec<(TransactionId, DecidedTransaction)>, Unavailable> {
        let from = transaction_key(list.after.unwrap_or(TransactionId::from_u128(0)));
        let mut found = Vec::new();
        let mut entries = self.tree.range(from..=[b"t", &[0xff; 16][..]].concat());
        while found.len() < list.max {
            let Some((key, value)) = self.read(|| entries.next().transpose())? else { break };
            let id = id_of(&key).ok_or_else(|| failed(&"a key"))?;
            let decided = take_decided(&value).map_err(|error| failed(&error))?;
            let wanted = list.state.is_none_or(|state| state == State::from(decided.verdict.decision))
                && list.producer_group.as_ref().is_none_or(|group| *group == decided.producer_group);
            if wanted && list.after != Some(id) {
                found.push((id, decided));
            }
        }
        Ok(found)
    }

    /// Writes what is left and stops.
    pub fn close(&self) {
        if let Some(Keeper { work, thread }) = self.keeper().take() {
            drop(work);
            drop(thread.join());
        }
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce() -> sled::Result<T>) -> Result<T, Unavailable> {
        if self.broken.load(Ordering::Acquire) {
            return Err(failed(&"it could not be written"));
        }
        guarded(read).map_err(|error| failed(&error))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

struct Writer {
    tree: sled::Db,
    path: PathBuf,
    identity: u64,
    through: std::sync::Arc<AtomicU64>,
    waiting: std::sync::Arc<AtomicU64>,
}

impl Writer {
    fn run(&self, work: &Receiver<Job>) -> io::Result<()> {
        use std::sync::mpsc::RecvTimeoutError;
        let mut unsynced = None;
        loop {
            // Woken by the next decision, or after a while to sync what has been written.
            let first = match work.recv_timeout(SYNC_EVERY) {
                Ok(Job::Add(decided)) => decided,
                Ok(Job::Prune(before)) => {
                    self.prune(before)?;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.sync(&mut unsynced)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return self.sync(&mut unsynced),
            };
            let mut written = 0_u64;
            let mut batch = sled::Batch::default();
            let mut last = first.sequence;
            let mut prune = None;
            let more = work.try_iter().take(BATCH_MAX).filter_map(|job| match job {
                Job::Add(decided) => Some(decided),
                Job::Prune(before) => {
                    prune = Some(before);
                    None
                }
            });
            for decided in std::iter::once(first).chain(more) {
                last = decided.sequence;
                put(&mut batch, &decided);
                written += 1;
            }
            // The last frame may have more decisions than this batch: only frames before it are complete.
            batch.insert(MARK, put_mark(self.identity, last.saturating_sub(1)).to_vec());
            self.tree.apply_batch(batch)?;
            self.waiting.fetch_sub(written, Ordering::AcqRel);
            unsynced = Some(last.saturating_sub(1));
            if let Some(before) = prune {
                self.prune(before)?;
            }
            if written < BATCH_MAX as u64 {
                self.sync(&mut unsynced)?;
            }
        }
    }

    fn prune(&self, before: Timestamp) -> io::Result<()> {
        let end = transaction_key(TransactionId::from_u128(u128::from(before.as_micros() / 1_000) << 80));
        let mut old = self.tree.range(b"t".to_vec()..end).peekable();
        while old.peek().is_some() {
            let mut batch = sled::Batch::default();
            for entry in old.by_ref().take(BATCH_MAX) {
                let (key, value) = entry?;
                let decided = take_decided(&value).map_err(io::Error::other)?;
                if let Some(request_id) = &decided.request_id {
                    let request = request_key(&decided.producer_group, request_id);
                    // By now it may have brought another one.
                    if self.tree.get(&request)?.as_deref() == key.get(1..) {
                        batch.remove(request);
                    }
                }
                batch.remove(key);
            }
            self.tree.apply_batch(batch)?;
        }
        Ok(())
    }

    fn sync(&self, unsynced: &mut Option<u64>) -> io::Result<()> {
        let Some(through) = unsynced.take() else { return Ok(()) };
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

const MARK: &[u8] = b"m";
const FLOOR: &[u8] = b"f";

fn put(batch: &mut sled::Batch, decided: &Decided) {
    batch.insert(transaction_key(decided.id), put_decided(&decided.transaction));
    if let Some(request_id) = &decided.transaction.request_id {
        let key = request_key(&decided.transaction.producer_group, request_id);
        batch.insert(key, decided.id.as_u128().to_be_bytes().to_vec());
    }
}

fn id_of(key: &[u8]) -> Option<TransactionId> {
    let id = key.strip_prefix(b"t")?.try_into().ok()?;
    Some(TransactionId::from_u128(u128::from_be_bytes(id)))
}

fn transaction_key(id: TransactionId) -> Vec<u8> {
    [b"t", &id.as_u128().to_be_bytes()[..]].concat()
}

fn request_key(group: &ProducerGroup, request_id: &RequestId) -> Vec<u8> {
    [b"r", group.as_str().as_bytes(), &[0], request_id.as_str().as_bytes()].concat()
}

fn put_mark(identity: u64, through: u64) -> [u8; 16] {
    ((u128::from(identity) << 64) | u128::from(through)).to_be_bytes()
}

fn take_mark(bytes: &[u8]) -> Option<(u64, u64)> {
    let mark = u128::from_be_bytes(bytes.try_into().ok()?);
    Some(((mark >> 64) as u64, (mark & u128::from(u64::MAX)) as u64))
}

fn open_tree(path: &Path) -> io::Result<sled::Db> {
    let open = || sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
    Ok(guarded(open)?)
}

/// sled panics on much of the damage that it meets; for us that is an error like any other.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(sled::Error::Io(panicked())))
}

fn panicked() -> io::Error {
    io::Error::other("it panicked")
}

fn failed(error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::Failed(format!("the index cannot be read ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_of_ids() {
        let keys: Vec<_> =
            [0, 1, 255, 256, u128::MAX].map(|id| transaction_key(TransactionId::from_u128(id))).into();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_mark_survives_its_bytes() {
        assert_eq!(take_mark(&put_mark(u64::MAX, 7)), Some((u64::MAX, 7)));
        assert_eq!(take_mark(b"short"), None);
    }
}
