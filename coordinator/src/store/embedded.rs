//! The default engine: one process, one directory, the journal is the truth.
//!
//! ```text
//!   calls ──► queue ──► writer thread: take what waits ─► verbs ─► journal thread: one frame, one sync ─► answers
//!                          │                                        │
//!                        Ledger (hot state in memory)            Journal ──► readers fetch messages
//!                          └── decided transactions ──► Index (sled, in the background, disposable)
//! ```
//!
//! `DIR/lock` keeps a second process out, `DIR/journal` is the journal, `DIR/index` the index.

pub(crate) mod checksum;
pub mod disk;
mod engine;
mod index;
pub mod journal;
pub mod record;
pub mod repair;
mod shelf;
mod standing;
mod verbs;
mod writer;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use halfmq_core::{Extent, Message};
use tokio::sync::{mpsc, oneshot};

pub use engine::{Engine, EngineOptions, Progress, Sealed, Turn, Work};
pub use index::Index;
pub use journal::{Damage, JournalOptions, OpenError, Recovered};

use super::{Reply, Unavailable};
use disk::Directory;
use journal::Segments;
use standing::Standing;
pub(crate) use writer::GROUP_BYTES_MAX;
use writer::{Shared, Writer};

/// Calls that wait for the writer; more wait in their own tasks.
const QUEUE_MAX: usize = 8_192;
/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("the data directory {path} cannot be used: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {0} is in use by another process; stop that one first, or choose another with --data"
    )]
    InUse(PathBuf),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
}

/// The embedded engine, shared by all APIs.
pub struct Embedded {
    open: Mutex<Option<Open>>,
    segments: Segments,
    standing: Standing,
    failed: Arc<OnceLock<Unavailable>>,
    stopped: tokio::sync::watch::Receiver<bool>,
}

/// What a store that is closed has let go of.
struct Open {
    jobs: mpsc::Sender<Job>,
    index: Arc<Index>,
}

/// A call on its way to the writer. It is run once, with a turn or with the reason why there is none,
/// and leaves behind what is to be said once its group is durable.
struct Job {
    work: Work,
    run: Verb,
}

type Verb = Box<dyn FnOnce(Result<&mut Turn<'_>, Unavailable>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

impl Embedded {
    /// Opens the store in this directory, made if it is not there.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn open(path: &Path, options: EngineOptions) -> Result<(Self, Recovered), Error> {
        let directory = |error| Error::Directory { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(directory)?;
        let lock = lock(path)?;
        let index = Arc::new(Index::open(&path.join("index")).map_err(directory)?);
        let disk = Arc::new(Directory::new(path.join("journal")).map_err(directory)?);
        let (engine, recovered) = Engine::open(disk, options, Some(Arc::clone(&index)))?;
        let segments = engine.segments();
        let failed = Arc::new(OnceLock::new());
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (stopping, stopped) = tokio::sync::watch::channel(false);
        let standing = Standing::default();
        let shared =
            Shared { standing: standing.clone(), failed: Arc::clone(&failed), index: Arc::clone(&index) };
        Writer::start(engine, queue, shared, lock, stopping).map_err(directory)?;
        let open = Mutex::new(Some(Open { jobs, index }));
        Ok((Self { open, segments, standing, failed, stopped }, recovered))
    }

    fn turn<T: Send + 'static>(
        &self,
        work: Work,
        verb: impl FnOnce(&mut Turn<'_>) -> T + Send + 'static,
    ) -> Reply<T> {
        Box::pin(on_writer(self.jobs(), work, verb))
    }

    fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.opened().as_ref().map(|open| open.jobs.clone())
    }

    fn index(&self) -> Result<Arc<Index>, Unavailable> {
        self.opened().as_ref().map(|open| Arc::clone(&open.index)).ok_or(Unavailable::Stopping)
    }

    fn opened(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads messages back, each answered by itself. Most were written a moment ago and come from the page
    /// cache, so that a thread of its own for each read would cost more than it saves.
    fn messages(
        segments: &Segments,
        extents: &[Extent],
    ) -> impl Iterator<Item = Result<Message, Unavailable>> {
        let read = journal::read_all(segments, extents).into_iter();
        read.zip(extents).map(|(bytes, extent)| parsed(bytes, *extent))
    }

    fn message(segments: &Segments, extent: Extent) -> Result<Message, Unavailable> {
        parsed(journal::read(segments, extent.position, extent.length), extent)
    }

    fn closed(&self) -> Reply<()> {
        drop(self.opened().take());
        let mut stopped = self.stopped.clone();
        Box::pin(async move {
            drop(stopped.wait_for(|stopped| *stopped).await);
            Ok(())
        })
    }
}

fn parsed(bytes: io::Result<Bytes>, extent: Extent) -> Result<Message, Unavailable> {
    let damaged = |error: &dyn std::fmt::Display| {
        Unavailable::Damaged(format!("the message at journal address {}: {error}", extent.position))
    };
    let bytes = bytes.map_err(|error| damaged(&error))?;
    record::message(&bytes).map_err(|error| damaged(&error))
}

/// Runs a verb on the writer, and answers when what it wrote and what it saw is durable.
async fn on_writer<T: Send + 'static>(
    jobs: Option<mpsc::Sender<Job>>,
    work: Work,
    verb: impl FnOnce(&mut Turn<'_>) -> T + Send + 'static,
) -> Result<T, Unavailable> {
    let (answer, answered) = oneshot::channel();
    enqueue(jobs, work, move |turn| {
        let outcome = turn.map(verb);
        // Whoever asked may have gone away; the call took effect all the same.
        Box::new(move |durable| drop(answer.send(durable.and(outcome))))
    })
    .await?;
    answered.await.unwrap_or(Err(Unavailable::Stopping))
}

/// Has something run on the writer.
async fn enqueue(
    jobs: Option<mpsc::Sender<Job>>,
    work: Work,
    run: impl FnOnce(Result<&mut Turn<'_>, Unavailable>) -> Answer + Send + 'static,
) -> Result<(), Unavailable> {
    let jobs = jobs.ok_or(Unavailable::Stopping)?;
    jobs.send(Job { work, run: Box::new(run) }).await.map_err(|_| Unavailable::Stopping)
}

fn lock(path: &Path) -> Result<File, Error> {
    let directory = |error| Error::Directory { path: path.to_owned(), error };
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("lock"))
        .map_err(directory)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(directory(error)),
    }
}
