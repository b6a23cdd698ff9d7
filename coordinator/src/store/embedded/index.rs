//! What outlives memory: decided transactions, in files, and found through sled. Disposable: the journal can make it
//! again, as far as that reaches back.
//!
//! ```text
//! c <transaction id, 16 bytes>    ► place of decided transactions, this one first (chunk.rs, receipts.rs)
//! q …  r …                        ► which transaction a request id brought (requests.rs)
//! s <number u32 BE>               ► how much of a file of receipts is filled (receipts.rs)
//! d <key of a chunk>              ► nothing: it cannot be read
//! o                               ► identity u64 BE of the journal, sequence u64 BE
//! f                               ► microseconds u64 BE: receipts of transactions made before are not all kept
//! ```
//!
//! `o` says: every decision in frames up to this sequence is in here. It is written behind them, and sled keeps what
//! it wrote first, so it is true whenever the index is readable at all. Absence from the chunks at or below it: the
//! transaction is not decided. A decision that was written again after a restart may stand in two chunks, the same
//! in both.
//!
//! A thread of its own writes (keeper.rs). Losing the last seconds only means work at the next start. A chunk that
//! is damaged is no answer, never "unknown"; the next start reads its receipts from the journal again.

mod chunk;
mod keeper;
mod keys;
mod receipts;
mod requests;

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use halfmq_core::{DecidedTransaction, ProducerGroup, RequestId, State, Timestamp, TransactionId};

use crate::clock::Clock;
use crate::store::{ListTransactions, Unavailable};
use keeper::{Inbox, Keeper, Unpublished};
use keys::{DAMAGED, DAMAGED_END, FILES, FILES_END, FLOOR, MARK, damaged_key, file_number, take_mark};
use receipts::{Filled, Place, Receipts};
use requests::Requests;

/// Decisions that wait for the keeper; more hold up whoever makes them.
const WAITING_MAX: usize = 65_536;
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// The index.
pub struct Index {
    tree: sled::Db,
    requests: Requests,
    receipts: Receipts,
    path: PathBuf,
    through: Arc<AtomicU64>,
    claimed: AtomicU64,
    floor: AtomicU64,
    broken: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Index {
    /// Opens the index in this directory; a damaged one is thrown away.
    ///
    /// # Errors
    /// When not even an empty one can be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_files_of(path, receipts::FILE_BYTES)
    }

    fn with_files_of(path: &Path, file_bytes: u32) -> io::Result<Self> {
        let tree = match open_tree(path) {
            Ok(tree) => tree,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the index is damaged; it will be rebuilt from the journal");
                fs::remove_dir_all(path)?;
                open_tree(path)?
            }
        };
        Ok(Self {
            requests: Requests::new(tree.clone()),
            receipts: Receipts::open(path, file_bytes)?,
            tree,
            path: path.to_owned(),
            through: Arc::default(),
            claimed: AtomicU64::default(),
            floor: AtomicU64::default(),
            broken: Arc::default(),
            inbox: Arc::default(),
            thread: Mutex::new(None),
        })
    }

    /// Starts with the journal of this identity. Returns up to which frame the index has everything; `None`:
    /// it has nothing, and is made anew until [`Index::complete`].
    pub fn begin(&self, identity: u64) -> Option<u64> {
        let mark = guarded(|| self.tree.get(MARK)).ok().flatten().and_then(|mark| take_mark(&mark));
        let known = mark.filter(|(of, _)| *of == identity).map(|(_, through)| through);
        let known = known.filter(|_| self.tidy_files().is_ok());
        self.claimed.store(known.unwrap_or(0), Ordering::Release);
        let mended = known.and_then(|_| self.let_go_of_damaged().ok());
        let known = known.filter(|_| mended.as_ref().is_some_and(Vec::is_empty));
        let mended = mended.unwrap_or_else(|| {
            self.clear();
            Vec::new()
        });
        let floor = guarded(|| self.tree.get(FLOOR)).ok().flatten();
        let floor = floor.and_then(|floor| <[u8; 8]>::try_from(&*floor).ok()).map_or(0, u64::from_be_bytes);
        self.floor.store(floor, Ordering::Release);
        let through = known.unwrap_or(0);
        self.through.store(through, Ordering::Release);
        self.inbox.open();
        let mut keeper = Keeper {
            tree: self.tree.clone(),
            requests: self.requests.clone(),
            receipts: self.receipts.clone(),
            path: self.path.clone(),
            identity,
            through: Arc::clone(&self.through),
            inbox: Arc::clone(&self.inbox),
            complete: known.is_some(),
            mended,
            file: None,
            unpublished: Unpublished::default(),
        };
        let (broken, inbox) = (Arc::clone(&self.broken), Arc::clone(&self.inbox));
        let thread = std::thread::Builder::new().name("halfmq-index".into()).spawn(move || {
            if let Err(error) =
                catch_unwind(AssertUnwindSafe(|| keeper.run())).unwrap_or_else(|_| Err(panicked()))
            {
                tracing::error!(%error, "the index cannot be written any more; the next start catches up");
                broken.store(true, Ordering::Release);
                inbox.close();
            }
        });
        match thread {
            Ok(thread) => *self.thread() = Some(thread),
            Err(error) => {
                tracing::error!(%error, "the index has no thread");
                self.broken.store(true, Ordering::Release);
                self.inbox.close();
            }
        }
        known
    }

    /// Throws everything away; [`Index::begin`] starts it anew.
    pub fn clear(&self) {
        self.close();
        if !self.tree.is_empty() {
            tracing::warn!("the index is of another journal or not whole; it will be rebuilt");
        }
        // The mark first: nothing may be missing that it speaks of, whenever a power cut comes.
        let cleared = guarded(|| {
            self.tree.remove(MARK)?;
            self.tree.flush()?;
            self.tree.clear()
        });
        self.broken.fetch_or(cleared.is_err(), Ordering::AcqRel);
        self.requests.clear();
        self.broken.fetch_or(self.tidy_files().is_err(), Ordering::AcqRel);
    }

    /// Removes files of which the tree does not know: whoever wrote them died before he could say it.
    ///
    /// # Errors
    /// Of the operating system, and when one is missing that the tree knows of.
    fn tidy_files(&self) -> io::Result<()> {
        let mut unknown = self.receipts.numbers()?;
        let files: Vec<_> = guarded(|| self.tree.range(FILES..FILES_END).collect())?;
        for (key, filled) in files {
            let file = file_number(&key).zip(Filled::take(&filled).ok());
            let Some((number, _)) = file.filter(|(number, filled)| self.receipts.has(*number, *filled))
            else {
                return Err(io::Error::other("receipts are missing"));
            };
            unknown.retain(|it| *it != number);
        }
        unknown.into_iter().for_each(|number| self.receipts.remove(number));
        Ok(())
    }

    /// Chunks that could not be read, by their keys. They are no longer there: their receipts come anew.
    fn let_go_of_damaged(&self) -> sled::Result<Vec<Vec<u8>>> {
        guarded(|| {
            let mut chunks = Vec::new();
            for key in self.tree.range(DAMAGED..DAMAGED_END).keys() {
                let chunk = key?.get(DAMAGED.len()..).unwrap_or_default().to_vec();
                self.tree.remove(&chunk)?;
                chunks.push(chunk);
            }
            Ok(chunks)
        })
    }

    /// Up to which frame it said at its begin that it has everything, even if it has to be mended: a journal that
    /// does not reach so far is an older one.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Acquire)
    }

    /// Waits until what was added is not too much to hold in memory.
    pub fn wait_for_room(&self) {
        while self.inbox.waiting() > WAITING_MAX && !self.broken.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes a decision that is durable in the frame of this sequence.
    pub fn add(&self, sequence: u64, id: TransactionId, transaction: Arc<DecidedTransaction>) {
        // A keeper that has given up takes no more, and marked the index as broken: memory keeps the
        // decision then.
        self.inbox.add(sequence, id, transaction);
    }

    /// Says that everything up to this frame was added. If the process dies before, the index begins anew.
    pub fn complete(&self, through: u64) {
        self.inbox.complete(through);
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
        let oldest = guarded(|| self.tree.range(chunk::FIRST..chunk::END).next().transpose()).ok().flatten();
        let oldest = oldest.and_then(|(key, _)| chunk::first(&key)).map(TransactionId::made_at);
        if oldest.is_none_or(|oldest| oldest >= before) {
            return;
        }
        self.raise_floor(before);
        self.inbox.prune(before);
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
        let mut chunks = self.tree.range(chunk::may_hold(id));
        while let Some((key, place)) = self.read(|| chunks.next_back().transpose())? {
            let chunk = self.chunk(&key, &place)?;
            if let Some(decided) = chunk::find(&chunk, id).map_err(|error| failed(&error))? {
                return Ok(Some(decided));
            }
        }
        Ok(None)
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
        for id in self.read(|| Ok(self.requests.find(group, request_id)?))? {
            if let Some(decided) = self.transaction(id)? {
                return Ok(Some((id, decided)));
            }
        }
        Ok(None)
    }

    /// Decided transactions in the order of their ids.
    ///
    /// # Errors
    /// As [`Index::transaction`].
    pub fn list(
        &self,
        list: &ListTransactions,
    ) -> Result<Vec<(TransactionId, DecidedTransaction)>, Unavailable> {
        let mut found = Vec::new();
        let mut entries = self.tree.range(chunk::from(list.after)..chunk::END.to_vec());
        let mut span = Vec::new();
        loop {
            let entry = self.read(|| entries.next().transpose())?;
            let made_in = entry.as_ref().and_then(|(key, _)| chunk::first(key)).map(chunk::span_of);
            // Chunks of one span overlap; those of different spans do not.
            if span.last().is_some_and(|(id, _)| Some(chunk::span_of(*id)) != made_in) {
                span.sort_by_key(|(id, _): &(TransactionId, _)| *id);
                span.dedup_by_key(|(id, _)| *id);
                found.extend(span.drain(..).filter(|(id, decided)| wanted(list, *id, decided)));
            }
            match entry {
                Some((key, place)) if found.len() < list.max => {
                    for entry in chunk::Entries::of(&self.chunk(&key, &place)?) {
                        span.push(entry.map_err(|error| failed(&error))?);
                    }
                }
                Some(_) | None => break,
            }
        }
        found.truncate(list.max);
        Ok(found)
    }

    /// The chunk of this key; an empty one if it was pruned after its place was read.
    fn chunk(&self, key: &[u8], place: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let error = match Place::take(place).and_then(|place| self.receipts.read(place)) {
            Ok(chunk) => return Ok(chunk),
            Err(error) => error,
        };
        match self.read(|| self.tree.get(key))? {
            None => return Ok(Vec::new()),
            Some(moved) if *moved != *place => return self.chunk(key, &moved),
            Some(_) => remember_damage(&self.tree, key, &error),
        }
        Err(failed(&error))
    }

    /// Writes what is left and stops.
    pub fn close(&self) {
        if let Some(thread) = self.thread().take() {
            self.inbox.close();
            drop(thread.join());
        }
    }

    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
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

fn wanted(list: &ListTransactions, id: TransactionId, decided: &DecidedTransaction) -> bool {
    list.after.is_none_or(|after| after < id)
        && list.state.is_none_or(|state| state == State::from(decided.verdict.decision))
        && list.producer_group.as_ref().is_none_or(|group| *group == decided.producer_group)
}

/// For the next start, if it is damage.
fn remember_damage(tree: &sled::Db, chunk: &[u8], error: &io::Error) {
    if receipts::is_damage(error) {
        let known = guarded(|| tree.insert(damaged_key(chunk), &[]));
        if !matches!(known, Ok(Some(_))) {
            tracing::error!(%error, "receipts are damaged; the next start reads them from the journal again");
        }
    }
}

fn open_tree(path: &Path) -> io::Result<sled::Db> {
    wait_for_threads_of_another(path)?;
    let open = || sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
    Ok(guarded(open)?)
}

/// The data directory is ours alone, but threads of a tree that was open in this process may still be about to
/// end. To sled a file that they have locked is an error like damage.
fn wait_for_threads_of_another(path: &Path) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let file = match File::open(path.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let began = Clock::stopwatch();
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the index is open elsewhere"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
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
    use halfmq_core::{DecidedBy, Decision, Verdict};

    use super::*;

    /// One millisecond apart.
    fn id(number: u64) -> TransactionId {
        TransactionId::from_u128(u128::from(number) << 80)
    }

    fn decided(number: u64) -> DecidedTransaction {
        let at = Timestamp::from_micros(number * 1_000);
        DecidedTransaction {
            verdict: Verdict { decision: Decision::Commit, by: DecidedBy::Call, at, reason: String::new() },
            producer_group: "shop".parse().expect("a legal name"),
            instance: None,
            request_id: Some(format!("{number:016x}").parse().expect("a legal name")),
            fingerprint: number,
            prepared_at: at,
            answered: 0,
            messages: Vec::new(),
        }
    }

    #[test]
    fn receipts_are_found_in_many_files_until_they_are_pruned() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = || Index::with_files_of(directory.path(), 4_096).expect("it opens");
        let (group, mut number) = ("shop".parse().expect("a legal name"), 0);
        for start in 0..3 {
            let index = open();
            assert_eq!(index.begin(7), (start > 0).then_some(number), "start {start}");
            index.complete(number);
            for _ in 0..600 {
                index.add(number + 1, id(number), Arc::new(decided(number)));
                number += 1;
            }
            index.complete(number);
            index.close();
        }
        let index = open();
        assert_eq!(index.begin(7), Some(number));
        let files = || index.receipts.numbers().expect("they are there").len() as u64;
        let before = files();
        assert!((10..200).contains(&before), "{before} files of 4 KiB");
        for number in 0..number {
            let request_id = format!("{number:016x}").parse().expect("a legal name");
            let found = index.request(&group, &request_id).expect("it is readable");
            assert_eq!(found, Some((id(number), decided(number))));
        }
        index.prune(Timestamp::from_micros(number * 500));
        index.close();
        assert!((before / 4..=before * 3 / 4).contains(&files()), "{} of {before} files are left", files());
        for (number, is_there) in
            [(0, false), (number / 2 - 64, false), (number / 2, true), (number - 1, true)]
        {
            let found = index.transaction(id(number)).expect("it is readable");
            assert_eq!(found, is_there.then(|| decided(number)), "transaction {number}");
        }
    }
}
