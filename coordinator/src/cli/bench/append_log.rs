//! The least that any store must do, to compare the engine with: append, sync, answer.
//!
//! Once the very groups that the engine wrote, one after the other, as if nobody had to be heard or answered in
//! between; and once the same load, with as many calls at once and as many bytes, each answered when it is durable.

use super::driver::{Prepared, Received};
use super::local::{Door, Reply};
use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::store::embedded::GROUP_BYTES_MAX;
use crate::store::embedded::checksum::crc32c;
use crate::store::embedded::disk::{Directory, Disk, DiskFile, ZEROS_MAX, zeros};
use bytes::Bytes;
use halfmq_core::{MessageId, TransactionId, limits};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Of the one file.
const NAME: &str = "bare-log";
/// Calls that write: prepare, commit, receive, ack.
const STEPS: u64 = 4;
/// Why an append has no answer.
const ENDED: &str = "its thread has ended";
/// At most; it is written over from its beginning when it is full.
const FILE_BYTES: u64 = 256 * 1024 * 1024;

/// So many groups, and their bytes altogether.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Groups {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// Writes and syncs them; how long that took. All are of one size: what a write and a sync take grows evenly with
/// it, so that the sum is the same.
pub(super) fn write(folder: &Path, groups: Groups) -> Result<Duration, Failure> {
    let log = Log::new(folder, groups.bytes + groups.count).map_err(failed)?;
    let group = vec![b'x'; usize::try_from(groups.bytes.div_ceil(groups.count.max(1))).unwrap_or(0)];
    let began = Clock::stopwatch();
    for number in 0..groups.count {
        log.write(&group, number * group.len() as u64).map_err(failed)?;
    }
    Ok(began.elapsed())
}

/// A file filled with zeros, which goes with this.
struct Log {
    disk: Directory,
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl Log {
    fn new(folder: &Path, bytes: u64) -> io::Result<Self> {
        let disk = Directory::new(folder.join("bare"))?;
        let file = disk.open(NAME)?;
        let log = Self { disk, file, bytes: bytes.next_multiple_of(ZEROS_MAX as u64) };
        let mut at = 0;
        while at < log.bytes {
            // Through the memory of the system: the log writes into pages that are there, which is its best.
            log.file.write_at(zeros(ZEROS_MAX), at)?;
            at += ZEROS_MAX as u64;
        }
        log.file.sync()?;
        log.disk.sync_directory()?;
        Ok(log)
    }

    /// Durable when it returns.
    fn write(&self, group: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(group, at)?;
        self.file.sync()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // What stays behind is a file of zeros, in a folder that most often goes as well.
        drop(self.disk.remove(NAME));
    }
}

/// A log that takes the load as a store would: one thread writes what waits as one group, and answers.
#[derive(Clone)]
pub(super) struct AppendLog {
    appends: mpsc::Sender<Append>,
    /// What the engine writes in each step of a transaction besides its body.
    step_bytes: usize,
    transactions: Arc<AtomicU64>,
    /// Committed, and handed to no consumer.
    released: Arc<Mutex<VecDeque<MessageId>>>,
}

/// Bytes on their way to the log, and who waits for them.
struct Append {
    bodies: Vec<Bytes>,
    other_bytes: usize,
    durable: oneshot::Sender<io::Result<()>>,
}

impl AppendLog {
    /// A log for so many transactions, of which the engine wrote so many bytes, those of their bodies included. The
    /// thread ends when nobody can append any more.
    pub(super) fn start(
        folder: &Path,
        transactions: u64,
        bytes: u64,
        body_bytes: u64,
    ) -> Result<(Self, JoinHandle<()>), Failure> {
        let log = Log::new(folder, bytes.min(FILE_BYTES)).map_err(failed)?;
        let (appends, waiting) = mpsc::channel();
        let run = move || write_groups(&log, &waiting);
        let thread = std::thread::Builder::new().name("halfmq-bare-log".into()).spawn(run).map_err(failed)?;
        let step_bytes = usize::try_from(bytes.saturating_sub(body_bytes) / STEPS / transactions.max(1));
        let step_bytes = step_bytes.unwrap_or(0);
        Ok((Self { appends, step_bytes, transactions: Arc::default(), released: Arc::default() }, thread))
    }

    fn append(&self, bodies: Vec<Bytes>, steps: usize) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (durable, answer) = oneshot::channel();
        let append = Append { bodies, other_bytes: steps * self.step_bytes, durable };
        let sent = self.appends.send(append).map_err(|_| failed(ENDED));
        async move {
            sent?;
            answer.await.map_err(|_| failed(ENDED))?.map_err(failed)
        }
    }
}

/// A checksum, and whatever has come while the group before was written.
fn write_groups(log: &Log, waiting: &mpsc::Receiver<Append>) {
    let (mut group, mut answers) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Ok(first) = waiting.recv() {
        group.clear();
        group.extend_from_slice(&[0; size_of::<u32>()]);
        let mut next = Some(first);
        while let Some(Append { bodies, other_bytes, durable }) = next {
            bodies.iter().for_each(|body| group.extend_from_slice(body));
            group.resize(group.len() + other_bytes, b'x');
            answers.push(durable);
            next = if (group.len() as u64) < GROUP_BYTES_MAX { waiting.try_recv().ok() } else { None };
        }
        if let Some((sum, records)) = group.split_at_mut_checked(size_of::<u32>()) {
            sum.copy_from_slice(&crc32c(records).to_le_bytes());
        }
        if at + group.len() as u64 > log.bytes {
            at = 0;
        }
        let written = log.write(&group, at);
        at += group.len() as u64;
        for durable in answers.drain(..) {
            // Whoever asked may have gone away.
            drop(durable.send(written.as_ref().copied().map_err(|error| error.kind().into())));
        }
    }
}

impl Door for AppendLog {
    type Transaction = MessageId;
    type Handle = ();

    fn prepare(&self, messages: Vec<(Bytes, String)>) -> Reply<Vec<Prepared<MessageId>>> {
        let count = messages.len();
        let first = self.transactions.fetch_add(count as u64, Ordering::Relaxed);
        let appended = self.append(messages.into_iter().map(|(body, _)| body).collect(), count);
        Box::pin(async move {
            appended.await?;
            let transactions = (first..).take(count).map(|id| TransactionId::from_u128(id.into()));
            let ids = transactions.map(|transaction| MessageId { transaction, index: 0 });
            Ok(ids.map(|id| Prepared { transaction: id, message: id }).collect())
        })
    }

    fn commit(&self, transactions: Vec<MessageId>) -> Reply<()> {
        let (queue, appended) = (Arc::clone(&self.released), self.append(Vec::new(), transactions.len()));
        Box::pin(async move {
            appended.await?;
            locked(&queue).extend(transactions);
            Ok(())
        })
    }

    fn receive(&self) -> Reply<Vec<Received<()>>> {
        let log = self.clone();
        Box::pin(async move {
            let messages: Vec<MessageId> = {
                let mut queue = locked(&log.released);
                let count = queue.len().min(limits::RECEIVE_MAX);
                queue.drain(..count).collect()
            };
            if !messages.is_empty() {
                log.append(Vec::new(), messages.len()).await?;
            }
            Ok(messages.into_iter().map(|message| Received { message, handle: () }).collect())
        })
    }

    fn ack(&self, handles: Vec<()>) -> Reply<()> {
        Box::pin(self.append(Vec::new(), handles.len()))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Bench(format!("the bare append log could not be measured: {error}"))
}
